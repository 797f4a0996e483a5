"""Guidance wrappers: identities, closed forms on Gaussians, and composition."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from gen3d.diffusion.guidance import AttentionPerturbation, Autoguidance, ClassifierFree
from gen3d.diffusion.paths import LinearPath, VariancePreservingPath
from gen3d.diffusion.samplers import KnownRegion, ModelDenoiser, euler, schedule
from gen3d.nn.transformer import DiffusionTransformer, TransformerConfig

PATH = LinearPath()


def network(depth: int = 2, seed: int = 0) -> DiffusionTransformer:
    torch.manual_seed(seed)
    model = DiffusionTransformer(TransformerConfig(3, 16, depth, 2, classes={"kind": 2}))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model.eval().requires_grad_(False)


@pytest.fixture
def noise():
    return torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def t():
    return torch.tensor([0.2, 0.7])


def denoisers() -> tuple[ModelDenoiser, ModelDenoiser]:
    model = network()
    cond = {"kind": torch.tensor([0, 1])}
    return ModelDenoiser(model, PATH, cond=cond), ModelDenoiser(model, PATH)


def test_scale_one_is_the_conditional_model(noise):
    cond, uncond = denoisers()
    times = schedule(5)
    guided = euler(ClassifierFree(cond, uncond, 1.0), noise, PATH, times)
    assert torch.equal(guided, euler(cond, noise, PATH, times))
    assert not torch.allclose(guided, euler(uncond, noise, PATH, times), atol=1e-2)


def test_scale_zero_is_the_unconditional_model(noise, t):
    cond, uncond = denoisers()
    torch.testing.assert_close(ClassifierFree(cond, uncond, 0.0)(noise, t), uncond(noise, t))


@pytest.mark.parametrize("path", [LinearPath(), VariancePreservingPath()])
@pytest.mark.parametrize("kind", ["v", "eps", "score"])
def test_guiding_the_clean_prediction_guides_every_kind(path, kind, noise, t):
    cond, uncond = denoisers()
    guided = path.convert(ClassifierFree(cond, uncond, 2.5)(noise, t), "x", kind, noise, t)
    a = path.convert(cond(noise, t), "x", kind, noise, t)
    b = path.convert(uncond(noise, t), "x", kind, noise, t)
    torch.testing.assert_close(guided, b + 2.5 * (a - b), rtol=1e-3, atol=1e-3)


def test_guided_gaussians_are_a_product_of_powers(t):
    """Scores of p(x|c)^w p(x)^(1-w) for Gaussians: precisions and weighted means add."""

    def gaussian(mean: float, variance: float):
        def denoise(x, t):
            s = t[:, None, None]
            gain = s * variance / (s**2 * variance + (1 - s) ** 2)
            return mean + gain * (x - s * mean)

        return denoise

    x = torch.linspace(-2, 2, 8).reshape(2, 4, 1)
    (m1, v1), (m2, v2), w = (1.0, 0.5), (-0.5, 2.0), 1.5
    guided = ClassifierFree(gaussian(m1, v1), gaussian(m2, v2), w)(x, t)
    s = t[:, None, None]
    p1, p2 = 1 / (s**2 * v1 + (1 - s) ** 2), 1 / (s**2 * v2 + (1 - s) ** 2)
    score = -w * p1 * (x - s * m1) - (1 - w) * p2 * (x - s * m2)
    torch.testing.assert_close(PATH.convert(guided, "x", "score", x, t), score)


def test_interval_limits_guidance_per_sample(noise, t):
    cond, uncond = denoisers()
    everywhere = ClassifierFree(cond, uncond, 3.0)(noise, t)
    late = ClassifierFree(cond, uncond, 3.0, interval=(0.5, 0.9))(noise, t)
    torch.testing.assert_close(late[0], cond(noise, t)[0])
    torch.testing.assert_close(late[1], everywhere[1])

    def forbidden(x, t):
        raise AssertionError("evaluated outside the interval")

    never = ClassifierFree(cond, forbidden, 3.0, interval=(0.8, 0.9))(noise, t)
    assert torch.equal(never, cond(noise, t))


def test_autoguidance_leaves_the_weak_network_behind(noise, t):
    main, weak = ModelDenoiser(network(), PATH), ModelDenoiser(network(depth=1, seed=1), PATH)
    good, bad = main(noise, t), weak(noise, t)
    torch.testing.assert_close(Autoguidance(main, weak, 2.0)(noise, t), 2 * good - bad)


def test_autoguidance_away_from_not_remembering(noise):
    """Euler written out: the better prediction is shown the one before it, the worse never is."""
    torch.manual_seed(0)
    model = DiffusionTransformer(TransformerConfig(3, 16, 2, 2, self_conditioning=True))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    model.requires_grad_(False)
    times = schedule(4)
    x, previous = noise, None
    for t, s in pairwise(times):
        now = t.expand(2)
        good, bad = model(x, now, self_cond=previous), model(x, now)
        previous, clean = good, bad + 1.7 * (good - bad)
        x = clean if s == 1 else x + (s - t) * (clean - x) / (1 - t)
    main = ModelDenoiser(model, PATH)
    guided = Autoguidance(main, replace(main, remember=False), 1.7)
    torch.testing.assert_close(euler(guided, noise, PATH, times), x)
    assert not torch.allclose(euler(ModelDenoiser(model, PATH), noise, PATH, times), x, atol=1e-3)


def test_attention_perturbation(noise, t):
    model, plain = network(), ModelDenoiser(network(), PATH)
    good = plain(noise, t)
    untouched = AttentionPerturbation(plain, {0: {0: 0.0, 1: 0.0}}, 3.0)(noise, t)
    torch.testing.assert_close(untouched, good, rtol=1e-4, atol=1e-4)
    bad = model(noise, t, perturb={1: {0: 0.8}})
    guided = AttentionPerturbation(plain, {1: {0: 0.8}}, 3.0)(noise, t)
    torch.testing.assert_close(guided, bad + 3 * (good - bad))
    assert not torch.allclose(guided, good, atol=1e-3)


def test_wrappers_nest(noise, t):
    cond, uncond = denoisers()
    weak = ModelDenoiser(network(depth=1, seed=1), PATH)
    inner = ClassifierFree(cond, uncond, 2.0)
    outer = KnownRegion(Autoguidance(inner, weak, 1.5), torch.zeros_like(noise), noise > 0)
    c, u, w = (d(noise, t) for d in (cond, uncond, weak))
    expected = w + 1.5 * (u + 2 * (c - u) - w)
    torch.testing.assert_close(outer(noise, t), expected.masked_fill(noise > 0, 0.0))
    assert euler(outer, noise, PATH, schedule(5)).isfinite().all()
