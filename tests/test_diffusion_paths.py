"""Paths, conversions and the training objective, against closed forms and brute force."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import stats

from gen3d.config import from_dict, to_dict
from gen3d.diffusion.objective import (
    DiffusionConfig,
    VelocityDirection,
    diffusion_loss,
    optimal_coupling,
    sample_times,
    shift_times,
)
from gen3d.diffusion.paths import LinearPath, VariancePreservingPath
from gen3d.draws import Draws
from gen3d.errors import Gen3dError, MissingExtra
from gen3d.nn.transformer import DiffusionTransformer, TransformerConfig
from gen3d.tokens import Tokens

PATHS = {
    "linear": LinearPath(),
    "vp-linear": VariancePreservingPath(schedule="linear"),
    "vp-cosine": VariancePreservingPath(schedule="cosine"),
}
KINDS = ("x", "eps", "v", "score")


@pytest.fixture(params=PATHS)
def path(request):
    return PATHS[request.param]


@pytest.fixture
def pair():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, 5, 4, 3, dtype=torch.float64, generator=generator)


def batch(sizes=(4, 2, 3), channels=3) -> Tokens:
    generator = torch.Generator().manual_seed(1)
    mask = torch.arange(max(sizes))[None] < torch.tensor(sizes)[:, None]
    return Tokens(torch.randn(*mask.shape, channels, generator=generator) * mask[..., None], mask)


# Paths


def test_paths_run_from_noise_to_data(path):
    ends = torch.tensor([0.0, 1.0])
    assert path.alpha(ends)[1] == 1
    assert path.sigma(ends)[1] == 0
    assert path.sigma(ends)[0] == pytest.approx(1, abs=1e-4)
    assert path.alpha(ends)[0] == pytest.approx(0, abs=0.01)
    t = torch.linspace(0, 1, 101)
    assert (path.alpha(t).diff() > 0).all()
    assert (path.sigma(t).diff() < 0).all()


def test_derivatives_are_those_of_autograd(path):
    t = torch.linspace(0.01, 0.99, 50, dtype=torch.float64, requires_grad=True)
    for value, derivative in [(path.alpha, path.alpha_dot), (path.sigma, path.sigma_dot)]:
        (expected,) = torch.autograd.grad(value(t).sum(), t, allow_unused=True, retain_graph=True)
        torch.testing.assert_close(derivative(t).detach(), expected)


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_variance_is_preserved(schedule):
    path, t = VariancePreservingPath(schedule=schedule), torch.linspace(0, 1, 30, dtype=torch.float64)
    torch.testing.assert_close(path.alpha(t) ** 2 + path.sigma(t) ** 2, torch.ones_like(t))


def test_linear_schedule_is_the_limit_of_ddpm():
    """Against the cumulative product over ever finer discrete steps of DDPM's schedule."""
    noisiness = np.array([0.1, 0.3, 0.5, 0.7, 0.9, 1.0])
    alpha = VariancePreservingPath(steps=1000).alpha(1 - torch.from_numpy(noisiness)).numpy()
    for finer, tolerance in [(1, 0.08), (10, 0.008), (100, 0.0008)]:
        products = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000 * finer) / finer)
        steps = (noisiness * 1000 * finer).round().astype(int)
        np.testing.assert_allclose(alpha**2, products[steps - 1], rtol=tolerance)


def test_cosine_schedule_is_that_of_improved_ddpm():
    s = torch.linspace(0, 0.95, 20, dtype=torch.float64)
    f = torch.cos((s + 0.008) / 1.008 * math.pi / 2) ** 2
    expected = f / math.cos(0.008 / 1.008 * math.pi / 2) ** 2
    torch.testing.assert_close(VariancePreservingPath(schedule="cosine").alpha(1 - s) ** 2, expected)


# Conversions


def test_conversions_of_a_known_pair(path, pair):
    """Every kind, made from x1 and x0 by its definition, converts into every other."""
    x1, x0 = pair
    t = torch.tensor([0.02, 0.3, 0.5, 0.8, 0.98], dtype=torch.float64)
    s = t[:, None, None]
    x_t = path.alpha(s) * x1 + path.sigma(s) * x0
    step = 1e-6
    slope = path.interpolate(x1, x0, t + step) - path.interpolate(x1, x0, t - step)
    truth = {
        "x": x1,
        "eps": x0,
        "v": slope / (2 * step),
        "score": -(x_t - path.alpha(s) * x1) / path.sigma(s) ** 2,
    }
    for source, target in itertools.product(KINDS, KINDS):
        converted = path.convert(truth[source], source, target, x_t, t)
        torch.testing.assert_close(converted, truth[target], rtol=1e-4, atol=1e-4, msg=f"{source}->{target}")


@pytest.mark.parametrize(("source", "target"), list(itertools.permutations(KINDS, 2)))
def test_conversions_round_trip(path, pair, source, target):
    value, x_t = pair
    t = torch.tensor([0.05, 0.3, 0.5, 0.8, 0.99], dtype=torch.float64)
    there = path.convert(value, source, target, x_t, t)
    torch.testing.assert_close(path.convert(there, target, source, x_t, t), value)
    per_token = t[:, None].expand(5, 4)
    torch.testing.assert_close(path.convert(value, source, target, x_t, per_token), there)


def test_conversions_are_finite_at_both_ends(path):
    x_t, t = torch.ones(2, 1, 1), torch.tensor([0.0, 1.0])
    for source, target in itertools.permutations(KINDS, 2):
        assert path.convert(0.5 * x_t, source, target, x_t, t).isfinite().all(), (source, target)


def test_unknown_predictions_are_named(path, pair):
    with pytest.raises(Gen3dError, match="'epsilon'"):
        path.convert(pair[0], "epsilon", "x", pair[1], torch.full((5,), 0.5))
    with pytest.raises(Gen3dError, match="'noise'"):
        path.convert(pair[0], "x", "noise", pair[1], torch.full((5,), 0.5))


def test_sensitivity_is_the_slope_of_the_conversion(path, pair):
    x, x_t = pair
    t = torch.tensor([0.05, 0.3, 0.5, 0.8, 0.97], dtype=torch.float64)
    for kind in ("x", "eps", "v"):
        change = path.convert(x + 1, "x", kind, x_t, t) - path.convert(x, "x", kind, x_t, t)
        torch.testing.assert_close(change.abs(), path.sensitivity(kind, t)[:, None, None].expand_as(x))


# Objective


@pytest.mark.parametrize("prediction", ["x", "v", "eps"])
@pytest.mark.parametrize("loss", ["x", "v", "eps"])
def test_loss_of_the_untrained_network_is_the_mean_square_of_the_target(path, prediction, loss):
    """A network that predicts zero is wrong by the target, seen in the kind that the loss compares."""
    tokens = batch()
    config = DiffusionConfig(
        path, prediction, loss, min_noise=1e-3, self_condition_rate=0.0, time_mean=0.2, time_std=0.5
    )
    model = DiffusionTransformer(TransformerConfig(3, width=8, depth=1, heads=2))
    draws = Draws(0, torch.arange(3))
    value, logs = diffusion_loss(model, tokens, {}, config, draws)

    t, x0 = sample_times(config, draws), draws.normal("noise", 4, 3)
    x_t = path.interpolate(tokens.x, x0, t)
    truth = path.convert(tokens.x, "x", loss, x_t, t)
    guess = path.convert(torch.zeros_like(x0), prediction, loss, x_t, t)
    squares = ((guess - truth) ** 2).mean(-1)
    expected = [squares[b, : int(tokens.mask[b].sum())].mean() for b in range(3)]
    torch.testing.assert_close(logs["per_sample"], torch.stack(expected), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(value, torch.stack(expected).mean(), rtol=1e-3, atol=1e-4)


def test_weight_of_the_clean_prediction_is_bounded():
    """JiT: |x - x^|^2 / max(1 - t, 0.05)^2."""
    config = DiffusionConfig(time_mean=4.0, time_std=1.0, self_condition_rate=0.0)
    tokens, draws = batch(sizes=(2,) * 64), Draws(0, torch.arange(64))
    _, logs = diffusion_loss(lambda x, t, **_: torch.zeros_like(x), tokens, {}, config, draws)
    t = sample_times(config, draws)
    assert (t > 0.95).any()
    expected = tokens.x.square().mean((1, 2)) / (1 - t).clamp(min=0.05) ** 2
    torch.testing.assert_close(logs["per_sample"], expected)


@pytest.mark.parametrize("coupling", ["independent", "optimal"])
def test_a_samples_loss_does_not_depend_on_its_batch(coupling):
    torch.manual_seed(0)
    config = DiffusionConfig(coupling=coupling, condition_dropout=0.3)
    model = DiffusionTransformer(
        TransformerConfig(3, 8, 1, 2, self_conditioning=True, classes={"kind": 4}, scalars=("gap",))
    )
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    tokens = batch(sizes=(4, 2, 3, 4, 1, 2))
    cond = {"kind": torch.tensor([0, 1, 2, 3, 0, 1]), "gap": torch.linspace(-1, 1, 6)}
    draws = Draws(7, torch.tensor([3, 10, 4, 5, 900, 6]))
    _, together = diffusion_loss(model, tokens, cond, config, draws)
    order = torch.tensor([4, 0, 2])
    part = Tokens(tokens.x[order], tokens.mask[order])
    _, apart = diffusion_loss(
        model, part, {k: v[order] for k, v in cond.items()}, config, draws.select(order)
    )
    torch.testing.assert_close(apart["per_sample"], together["per_sample"][order], rtol=1e-4, atol=1e-5)


def test_times_follow_their_law():
    draws = Draws(0, torch.arange(20_000))
    t = sample_times(DiffusionConfig(time_mean=-0.8, time_std=0.8), draws)
    assert stats.kstest(torch.logit(t.double()), "norm", args=(-0.8, 0.8)).pvalue > 1e-3
    assert stats.kstest(sample_times(DiffusionConfig(time="uniform"), draws), "uniform").pvalue > 1e-3


def test_times_stay_in_their_range():
    draws = Draws(0, torch.arange(4000))
    t = sample_times(DiffusionConfig(time="uniform", time_range=(0.2, 0.7)), draws)
    assert stats.kstest(t, stats.uniform(0.2, 0.5).cdf).pvalue > 1e-3
    with pytest.raises(ValueError, match=r"time_range is \(0.5, 0.5\)"):
        DiffusionConfig(time_range=(0.5, 0.5))


def test_centred_noise_has_no_mean_over_the_real_tokens():
    draws = Draws(0, torch.arange(2000))
    mask = torch.arange(5) < torch.arange(2000)[:, None] % 5 + 1
    tokens = Tokens(torch.zeros(2000, 5, 2), mask)
    seen = []

    def network(x, t, **_):
        seen.append(x / (1 - t)[:, None, None])  # the data are zero: this is the noise
        return torch.zeros_like(x)

    diffusion_loss(network, tokens, {}, DiffusionConfig(self_condition_rate=0, centred_noise=True), draws)
    (noise,) = seen
    assert (noise * mask[..., None]).sum(1).abs().max() < 1e-5
    several = mask.sum(1) == 5
    # Taking out the mean leaves (n - 1) / n of the variance.
    assert noise[several].var().item() == pytest.approx(4 / 5, rel=0.05)


def test_shift_multiplies_the_noise_to_data_ratio():
    """t' = s t / (1 + (s-1) t) in noise time is the odds times s."""
    t = torch.linspace(0.1, 0.9, 9)
    odds = (1 - shift_times(t, 3.0)) / shift_times(t, 3.0)
    torch.testing.assert_close(odds, 3 * (1 - t) / t)
    torch.testing.assert_close(shift_times(t, 1.0), t)


def test_optimal_coupling_against_all_permutations():
    generator = torch.Generator().manual_seed(0)
    x0, x1 = torch.randn(2, 3, 5, 2, generator=generator)
    mask = torch.arange(5)[None] < torch.tensor([5, 3, 4])[:, None]
    coupled = optimal_coupling(x0, x1, mask)
    for b, size in enumerate([5, 3, 4]):
        best = min(
            ((x1[b, :size] - x0[b, list(order)]) ** 2).sum() for order in itertools.permutations(range(size))
        )
        torch.testing.assert_close(((x1[b, :size] - coupled[b, :size]) ** 2).sum(), best)
        assert torch.equal(coupled[b, size:], x0[b, size:])


def test_conditions_are_dropped_independently():
    seen = {}

    def model(x, t, **inputs):
        seen.update(inputs["cond"])
        return torch.zeros_like(x)

    count = 4000
    tokens, draws = batch(sizes=(1,) * count), Draws(0, torch.arange(count))
    cond = {
        "kind": torch.ones(count, dtype=torch.long),
        "gap": torch.ones(count),
        "text": torch.ones(count, 2, 3),
        "text_mask": torch.ones(count, 2, dtype=torch.bool),
    }
    config = DiffusionConfig(condition_dropout=0.2, self_condition_rate=0.0)
    diffusion_loss(model, tokens, cond, config, draws)
    dropped = torch.stack([seen["kind"] == -1, seen["gap"].isnan(), ~seen["text_mask"].any(1)])
    assert torch.equal(seen["kind"] == 1, ~dropped[0])
    for row in dropped:
        assert stats.binomtest(int(row.sum()), count, 0.2).pvalue > 1e-3
    for a, b in itertools.combinations(dropped, 2):
        assert stats.binomtest(int((a & b).sum()), count, 0.04).pvalue > 1e-3


@pytest.mark.parametrize("prediction", ["x", "v"])
def test_some_samples_are_shown_a_first_clean_prediction(prediction):
    calls = []

    def model(x, t, *, self_cond=None, **_):
        calls.append((x, t, self_cond, torch.is_grad_enabled()))
        return x.tanh()

    count = 2000
    tokens, draws = batch(sizes=(2,) * count), Draws(0, torch.arange(count))
    config = DiffusionConfig(prediction=prediction, self_condition_rate=0.3)
    diffusion_loss(model, tokens, {}, config, draws)
    (first_x, first_t, nothing, first_grad), (x, _, shown, grad) = calls
    rows = shown.abs().sum((1, 2)) > 0
    assert nothing is None
    assert (first_grad, grad) == (False, True)
    assert stats.binomtest(int(rows.sum()), count, 0.3).pvalue > 1e-3
    assert torch.equal(first_x, x[rows])
    clean = LinearPath().convert(first_x.tanh(), prediction, "x", first_x, first_t)
    torch.testing.assert_close(shown[rows], clean)


def test_velocity_direction_is_one_minus_the_cosine():
    tokens, draws = batch(), Draws(0, torch.arange(3))
    config = DiffusionConfig(prediction="v", self_condition_rate=0.0)
    x0 = draws.normal("noise", 4, 3)
    velocity = tokens.x - x0
    for factor, expected in [(2.0, 0.0), (-1.0, 2.0)]:
        plain, _ = diffusion_loss(lambda *_, f=factor, **__: f * velocity, tokens, {}, config, draws)
        loss, logs = diffusion_loss(
            lambda *_, f=factor, **__: f * velocity, tokens, {}, config, draws, [VelocityDirection(0.5)]
        )
        assert logs["velocity_direction"].item() == pytest.approx(expected, abs=1e-5)
        assert (loss - plain).item() == pytest.approx(0.5 * expected, abs=1e-5)


def test_self_conditioning_must_be_configured_on_both_sides():
    model = DiffusionTransformer(TransformerConfig(3, 8, 1, 2))
    with pytest.raises(Gen3dError, match="self_conditioning"):
        diffusion_loss(model, batch(), {}, DiffusionConfig(), Draws(0, torch.arange(3)))


def test_configuration_survives_json(path):
    config = DiffusionConfig(path=path, prediction="eps", loss="eps")
    assert from_dict(DiffusionConfig, to_dict(config)) == config


def test_missing_scipy_names_the_extra(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "scipy.optimize", None)
    with pytest.raises(MissingExtra, match="atoms"):
        optimal_coupling(torch.zeros(1, 2, 1), torch.zeros(1, 2, 1), torch.ones(1, 2, dtype=torch.bool))
