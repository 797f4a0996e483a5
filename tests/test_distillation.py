"""Score distillation against priors whose score is known, and both kinds of prior on real classes."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from gen3d.diffusion.distillation import DistillationConfig, pull
from gen3d.diffusion.priors import as_prior
from gen3d.errors import Gen3dError
from gen3d.types import Conditions

SHAPE = (2, 3, 4)
"""Channels and cells of latents in these tests."""


class GaussianPrior:
    """Latents that are normal about a mean that is told, of a deviation s: everything is known of it."""

    channels, cells, size = 2, 4, 32
    knows_cameras = before_white = in_colours = False
    most = math.inf
    guidance = 1.0

    def __init__(self, deviation: float) -> None:
        self.s = deviation

    def conditions(self, prompts: list[str], directions: Tensor | None) -> Conditions:
        return {"mean": torch.tensor([float(prompt or 0) for prompt in prompts])}

    def schedule(self, u: Tensor) -> tuple[Tensor, Tensor]:
        return (1 - u * u).sqrt(), u

    def denoise(self, noisy: Tensor, u: Tensor, conditions: Conditions) -> Tensor:
        alpha, sigma = (each.view(-1, 1, 1, 1) for each in self.schedule(u))
        mean = conditions["mean"].view(-1, 1, 1, 1)
        share = alpha * self.s**2 / (alpha**2 * self.s**2 + sigma**2)
        return mean + share * (noisy - alpha * mean)

    def limited(self, clean: Tensor) -> Tensor:
        return clean.clamp(max=self.most)


def expected(x: float, mean: float, u: float, s: float) -> float:
    """Mean over the noise of w (e(z) - e), by hand: e(z) is linear in z, and its part in e has mean 0."""
    alpha, sigma = math.sqrt(1 - u * u), u
    variance = alpha**2 * s**2 + sigma**2
    return sigma * alpha * (x - mean) / variance


@pytest.mark.parametrize("u", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("weight", ["even", "dreamfusion", "latent_nerf"])
def test_sds_is_the_score_of_the_noised_prior(u: float, weight: Any) -> None:
    prior = GaussianPrior(0.7)
    x = torch.full((4000, 1, 2, 2), 1.3)
    told, untold = prior.conditions(4000 * ["0.4"], None), prior.conditions(4000 * [""], None)
    config = DistillationConfig(weight=weight, guidance=1.0, noise=(u, u))
    found = pull(prior, x, told, untold, config, 0.0, torch.Generator().manual_seed(0))
    abar = 1 - u * u
    factor = {"even": 1.0, "dreamfusion": 1 - abar, "latent_nerf": math.sqrt(abar) * (1 - abar)}[weight]
    want = factor * expected(1.3, 0.4, u, 0.7)
    # Four standard errors of the mean of what is random in it.
    assert found.gradient.mean().item() == pytest.approx(want, abs=4 * factor / math.sqrt(16_000))


def test_guidance_ends_at_what_can_be_seen() -> None:
    """Towards the limit that the prior names, not beyond, in one step as in several."""
    prior = GaussianPrior(0.7)
    prior.most = 2.0
    x = torch.full((2, 1, 2, 2), 1.3)
    told, untold = prior.conditions(2 * ["4"], None), prior.conditions(2 * [""], None)
    for kind, steps in (("targets", 1), ("targets", 3), ("sds", 1)):
        config = DistillationConfig(kind, "even", guidance=50.0, noise=(0.8, 0.8), prior_steps=steps)
        found = pull(prior, x, told, untold, config, 0.0, torch.Generator().manual_seed(0))
        torch.testing.assert_close(found.clean, torch.full_like(x, 2.0))


@pytest.mark.parametrize("u", [0.2, 0.6])
def test_guidance_goes_from_the_unconditional_score_beyond_the_conditional_one(u: float) -> None:
    prior = GaussianPrior(1.0)
    x = torch.zeros(4000, 1, 2, 2)
    told, untold = prior.conditions(4000 * ["1"], None), prior.conditions(4000 * [""], None)
    for guidance in (0.0, 1.0, 10.0):
        config = DistillationConfig(weight="even", guidance=guidance, noise=(u, u))
        found = pull(prior, x, told, untold, config, 0.0, torch.Generator().manual_seed(0))
        want = expected(0, 0, u, 1) + guidance * (expected(0, 1, u, 1) - expected(0, 0, u, 1))
        assert found.gradient.mean().item() == pytest.approx(want, abs=4 / math.sqrt(16_000))


def test_csd_has_no_noise_of_its_own() -> None:
    prior = GaussianPrior(1.0)
    x = torch.zeros(64, 1, 2, 2)
    told, untold = prior.conditions(64 * ["1"], None), prior.conditions(64 * [""], None)
    generator = torch.Generator().manual_seed(0)
    config = DistillationConfig("csd", "even", 1.0, (0.5, 0.5))
    found = pull(prior, x, told, untold, config, 0.0, generator).gradient
    assert torch.allclose(found, torch.full_like(found, expected(0, 1, 0.5, 1)), atol=1e-6)
    noisy = pull(prior, x, told, untold, DistillationConfig("sds", "even", 1.0, (0.5, 0.5)), 0.0, generator)
    assert noisy.gradient.std() > 0.1


def test_sdi_varies_less_than_sds_and_points_the_same_way() -> None:
    prior = GaussianPrior(0.5)
    x = 1.5 + 0.1 * torch.randn(256, 1, 2, 2, generator=torch.Generator().manual_seed(1))
    told, untold = prior.conditions(256 * ["0"], None), prior.conditions(256 * [""], None)
    made = {
        kind: pull(
            prior,
            x,
            told,
            untold,
            DistillationConfig(kind, "even", 1.0, (0.5, 0.5), prior_steps=10),  # type: ignore[arg-type]
            0.0,
            torch.Generator().manual_seed(0),
        ).gradient
        for kind in ("sds", "sdi")
    }
    assert made["sdi"].std() < 0.3 * made["sds"].std()
    assert made["sdi"].mean() > 0.2 * made["sds"].mean() > 0


def test_targets_are_samples_of_the_prior() -> None:
    """Along the path of a normal distribution z becomes m + s (z - alpha m) / sqrt(alpha^2 s^2 + sigma^2)."""
    prior, u = GaussianPrior(0.7), 0.99
    x = torch.zeros(2000, 1, 2, 2)
    told, untold = prior.conditions(2000 * ["2"], None), prior.conditions(2000 * [""], None)
    alpha, sigma = math.sqrt(1 - u * u), u
    scale = 0.7 / math.sqrt(alpha**2 * 0.49 + sigma**2)
    config = DistillationConfig("targets", "even", 1.0, (u, u), prior_steps=100)
    found = pull(prior, x, told, untold, config, 0.0, torch.Generator().manual_seed(0))
    assert found.clean.mean().item() == pytest.approx(2 - 2 * scale * alpha, abs=0.05)
    assert found.clean.std().item() == pytest.approx(scale * sigma, abs=0.02)
    assert torch.allclose(found.gradient, -found.clean)
    # One step sees but the mean of what may be.
    config = DistillationConfig("targets", "even", 1.0, (u, u), prior_steps=1)
    found = pull(prior, x, told, untold, config, 0.0, torch.Generator().manual_seed(0))
    assert found.clean.std().item() < 0.1


@pytest.mark.parametrize("kind", ["sds", "csd", "sdi", "targets"])
def test_descent_ends_at_the_mode_that_is_told(kind: Any) -> None:
    prior = GaussianPrior(0.3)
    x = torch.zeros(1, *SHAPE[:1], 4, 4, requires_grad=True)
    told, untold = prior.conditions(["2"], None), prior.conditions([""], None)
    config = DistillationConfig(kind, "even", 1.0)
    generator, optimizer = torch.Generator().manual_seed(0), torch.optim.Adam([x], lr=0.05)
    for step in range(300):
        optimizer.zero_grad()
        pull(prior, x, told, untold, config, step / 300, generator).loss(x).backward()
        optimizer.step()
    # The classifier's score alone never comes to rest: it goes on past the mode.
    assert x.mean().item() == pytest.approx(2, abs=0.2) if kind != "csd" else x.mean().item() > 1.8


def test_the_loss_has_the_gradient_that_was_found() -> None:
    prior = GaussianPrior(1.0)
    x = torch.randn(3, 2, 4, 4, requires_grad=True)
    told, untold = prior.conditions(3 * ["1"], None), prior.conditions(3 * [""], None)
    found = pull(prior, x, told, untold, DistillationConfig(), 0.0, torch.Generator().manual_seed(0))
    found.loss(x).backward()
    assert torch.allclose(x.grad, found.gradient / 3)


def test_noise_levels_fall_as_published() -> None:
    """Vox-E's table: from step 4,000 of 8,000, at multiples of 600, times 0.75, down to 0.22."""
    config = DistillationConfig(anneal="voxe")
    steps = {
        4199: 0.98,
        4200: 0.735,
        4800: 0.551,
        5400: 0.413,
        6000: 0.310,
        6600: 0.233,
        7200: 0.22,
        8000: 0.22,
    }
    for step, level in steps.items():
        assert config.levels(step / 8000)[1] == pytest.approx(level, abs=6e-4), step
    linear = DistillationConfig(anneal="linear")
    assert linear.levels(0.5) == (0.02, 0.5)


def test_bad_values_are_named() -> None:
    with pytest.raises(ValueError, match=r"noise is \(0.0, 0.9\)"):
        DistillationConfig(noise=(0.0, 0.9))
    with pytest.raises(ValueError, match="guidance is -1"):
        DistillationConfig(guidance=-1.0)
    with pytest.raises(ValueError, match="prior_steps is 0"):
        DistillationConfig(prior_steps=0)
    prior = GaussianPrior(1.0)
    told = prior.conditions(["1"], None)
    bad = torch.full((1, 1, 2, 2), math.nan)
    with pytest.raises(Gen3dError, match="not finite"):
        pull(prior, bad, told, told, DistillationConfig(), 0.0, torch.Generator())
    with pytest.raises(Gen3dError, match="no prior of pictures"):
        as_prior(None)


class TestStableDiffusion:
    @pytest.fixture(scope="class", params=["epsilon", "v_prediction"])
    def folder(self, request: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
        from tiny_diffusion import save_pipeline

        return save_pipeline(tmp_path_factory.mktemp("sd"), request.param)

    def test_its_clean_latents_are_those_of_the_scheduler(self, folder: Path) -> None:
        from diffusers import DDIMScheduler

        from gen3d.diffusion.stable import StableDiffusionPrior

        prior = StableDiffusionPrior.from_pretrained(folder)
        noisy = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
        told = prior.conditions(["a cat", "a dog"], None)
        u = torch.tensor([0.4, 0.4])
        made = prior.unet(noisy, torch.tensor([400, 400]), encoder_hidden_states=told["text"]).sample
        scheduler = DDIMScheduler.from_pretrained(folder / "scheduler")
        scheduler.set_timesteps(1000)
        want = scheduler.step(made, 400, noisy).pred_original_sample
        assert torch.allclose(prior.denoise(noisy, u, told), want, atol=1e-4)
        alpha, sigma = prior.schedule(u)
        assert torch.allclose(alpha**2 + sigma**2, torch.ones(2))

    def test_pictures_go_through_its_autoencoder_with_a_gradient(self, folder: Path) -> None:
        from gen3d.diffusion.stable import StableDiffusionPrior

        prior = StableDiffusionPrior.from_pretrained(folder)
        assert (prior.cells, prior.size, prior.channels) == (8, 16, 4)
        pictures = torch.rand(1, 3, 16, 16, requires_grad=True)
        latents = prior.encode(pictures)
        want = prior.vae.encode(2 * pictures - 1).latent_dist.mode() * prior.vae.config.scaling_factor
        assert torch.allclose(latents, want)
        latents.sum().backward()
        assert pictures.grad is not None
        assert pictures.grad.abs().sum() > 0
        assert prior.decode(latents.detach()).shape == (1, 3, 16, 16)

    def test_reading_attention_changes_nothing_and_adds_up_to_one(self, folder: Path) -> None:
        from gen3d.diffusion.stable import StableDiffusionPrior

        prior = StableDiffusionPrior.from_pretrained(folder)
        noisy, u = torch.randn(1, 4, 8, 8), torch.tensor([0.2])
        told = prior.conditions(["a cat"], None)
        before = prior.denoise(noisy, u, told)
        maps = prior.attention(noisy, u, told)
        assert maps.shape == (1, 16, 8, 8)
        assert torch.allclose(maps.sum(1), torch.ones(1, 8, 8), atol=1e-4)
        assert torch.allclose(prior.denoise(noisy, u, told), before, atol=1e-5)
        assert len(prior.pieces("a cat")) == 16

    def test_what_is_no_pipeline_is_refused(self, tmp_path: Path) -> None:
        from gen3d.diffusion.stable import StableDiffusionPrior

        with pytest.raises(Gen3dError, match="cannot load a pipeline of diffusers"):
            StableDiffusionPrior.from_pretrained(tmp_path)
        (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "NoSuchPipeline"}))
        with pytest.raises(Gen3dError, match="cannot load a pipeline of diffusers"):
            StableDiffusionPrior.from_pretrained(tmp_path)
