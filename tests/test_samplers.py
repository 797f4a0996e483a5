"""Samplers on Gaussian data, whose denoiser and flow are known in closed form."""

import math

import numpy as np
import pytest
import torch

from gen3d.diffusion.paths import LinearPath, VariancePreservingPath
from gen3d.diffusion.samplers import (
    SAMPLERS,
    KnownRegion,
    ModelDenoiser,
    ancestral,
    ddim,
    euler,
    heun,
    invert,
    partial_start,
    schedule,
)
from gen3d.draws import Draws
from gen3d.errors import Gen3dError
from gen3d.nn.transformer import DiffusionTransformer, TransformerConfig

PATHS = {
    "linear": LinearPath(),
    "vp-linear": VariancePreservingPath(schedule="linear"),
    "vp-cosine": VariancePreservingPath(schedule="cosine"),
}
MEAN = torch.tensor([1.0, -0.5], dtype=torch.float64)
COVARIANCE = torch.tensor([[0.5, 0.3], [0.3, 0.8]], dtype=torch.float64)


class GaussianDenoiser:
    """E[x1 | x_t] for data N(MEAN, COVARIANCE), and the exact flow map."""

    def __init__(self, path):
        self.path = path
        self.variances, self.axes = torch.linalg.eigh(COVARIANCE)

    def __call__(self, x, t):
        alpha, sigma = self.path.alpha(t)[:, None, None], self.path.sigma(t)[:, None, None]
        gain = alpha * self.variances / (alpha**2 * self.variances + sigma**2)
        return MEAN + (((x - alpha * MEAN) @ self.axes) * gain) @ self.axes.T

    def flow(self, x, t, s):
        """Along every principal axis the flow rescales deviations by the ratio of standard deviations."""

        def spread(u):
            u = torch.tensor(u, dtype=torch.float64)
            return (self.path.alpha(u) ** 2 * self.variances + self.path.sigma(u) ** 2).sqrt()

        def alpha(u):
            return self.path.alpha(torch.tensor(u, dtype=torch.float64))

        scaled = ((x - alpha(t) * MEAN) @ self.axes) * (spread(s) / spread(t))
        return alpha(s) * MEAN + scaled @ self.axes.T


@pytest.fixture(params=PATHS)
def path(request):
    return PATHS[request.param]


def noise(count: int, tokens: int = 4) -> torch.Tensor:
    return Draws(0, torch.arange(count)).normal("start", tokens, 2).double()


def grid(start: float, end: float, steps: int) -> torch.Tensor:
    return torch.linspace(start, end, steps + 1, dtype=torch.float64)


@pytest.mark.parametrize("name", SAMPLERS)
def test_samples_have_the_mean_and_covariance_of_the_data(name, path):
    count = 4000
    x = SAMPLERS[name](
        GaussianDenoiser(path),
        noise(count),
        path,
        schedule(2 if name == "adaptive" else 200).double(),
        draws=Draws(1, torch.arange(count)),
    )
    samples = x.reshape(-1, 2)
    error = 4 / math.sqrt(len(samples))
    torch.testing.assert_close(samples.mean(0), MEAN, rtol=0, atol=0.01 + error)
    torch.testing.assert_close(samples.T.cov(), COVARIANCE, rtol=0, atol=0.01 + 1.5 * error)


@pytest.mark.parametrize("name", ["euler", "heun", "ddim", "adaptive"])
def test_ode_samplers_follow_the_exact_flow(name, path):
    denoise, x0 = GaussianDenoiser(path), noise(20)
    times = grid(0.05, 0.9, 2 if name == "adaptive" else 400)
    x = SAMPLERS[name](denoise, x0, path, times)
    torch.testing.assert_close(x, denoise.flow(x0, 0.05, 0.9), rtol=0, atol=0.02)


@pytest.mark.parametrize(("sampler", "order"), [(euler, 1), (ddim, 1), (heun, 2)])
def test_order_of_accuracy(sampler, order, path):
    """Halving the step divides the error by 2 to the order."""
    denoise, x0 = GaussianDenoiser(path), noise(20)
    exact = denoise.flow(x0, 0.1, 0.9)
    errors = [(sampler(denoise, x0, path, grid(0.1, 0.9, n)) - exact).norm().item() for n in (40, 80, 160)]
    measured = np.log2(np.divide(errors[:-1], errors[1:]))
    np.testing.assert_allclose(measured, order, atol=0.15)


def test_heun_keeps_its_order_up_to_the_data():
    path = LinearPath()
    denoise, x0 = GaussianDenoiser(path), noise(20)
    exact = denoise.flow(x0, 0.0, 1.0)
    errors = [(heun(denoise, x0, path, grid(0, 1, n)) - exact).norm().item() for n in (20, 40, 80)]
    np.testing.assert_allclose(np.log2(np.divide(errors[:-1], errors[1:])), 2, atol=0.2)


def test_ddim_is_euler_on_the_linear_path():
    path, times = LinearPath(), grid(0, 1, 10)
    denoise, x0 = GaussianDenoiser(path), noise(5)
    torch.testing.assert_close(ddim(denoise, x0, path, times), euler(denoise, x0, path, times))


def test_ancestral_without_fresh_noise_is_ddim(path):
    times, draws = grid(0, 1, 10), Draws(0, torch.arange(5))
    denoise, x0 = GaussianDenoiser(path), noise(5)
    result = ancestral(denoise, x0, path, times, draws=draws, eta=0.0)
    torch.testing.assert_close(result, ddim(denoise, x0, path, times), rtol=1e-4, atol=1e-4)


def test_ancestral_step_is_the_posterior_of_ddpm():
    """Against mean and standard deviation of eq. 6-7 of DDPM, for one step of the discrete process."""
    path = VariancePreservingPath()
    t, s = torch.tensor(0.4, dtype=torch.float64), torch.tensor(0.5, dtype=torch.float64)
    bar_t, bar_s = path.alpha(t) ** 2, path.alpha(s) ** 2
    beta = 1 - bar_t / bar_s
    x_t, x_0 = 0.7, -0.2
    mean = bar_s.sqrt() * beta / (1 - bar_t) * x_0 + (1 - beta).sqrt() * (1 - bar_s) / (1 - bar_t) * x_t
    std = ((1 - bar_s) / (1 - bar_t) * beta).sqrt()
    count = 50_000
    start = torch.full((count, 1, 1), x_t, dtype=torch.float64)
    result = ancestral(
        lambda x, _: torch.full_like(x, x_0),
        start,
        path,
        torch.stack([t, s]),
        draws=Draws(0, torch.arange(count)),
    )
    assert result.mean().item() == pytest.approx(mean.item(), abs=4 * std.item() / math.sqrt(count))
    assert result.std().item() == pytest.approx(std.item(), rel=0.02)


def test_ancestral_samples_do_not_depend_on_the_batch(path):
    denoise, times = GaussianDenoiser(path), grid(0, 1, 5)
    draws = Draws(2, torch.tensor([4, 9, 1]))
    x0 = noise(3)
    together = ancestral(denoise, x0, path, times, draws=draws)
    alone = ancestral(denoise, x0[1:2], path, times, draws=Draws(2, torch.tensor([9])))
    torch.testing.assert_close(together[1:2], alone)
    with pytest.raises(Gen3dError, match="draws"):
        ancestral(denoise, x0, path, times)


@pytest.mark.parametrize("name", SAMPLERS)
def test_callback_sees_every_step(name, path):
    states = []
    times = grid(0, 1, 5)
    x = SAMPLERS[name](
        GaussianDenoiser(path),
        noise(2),
        path,
        times,
        callback=states.append,
        draws=Draws(0, torch.arange(2)),
    )
    assert [s.step for s in states] == [1, 2, 3, 4, 5]
    assert {s.steps for s in states} == {5}
    np.testing.assert_allclose([s.t for s in states], times[1:])
    assert torch.equal(states[-1].x, x)
    torch.testing.assert_close(states[-1].denoised, x)


@pytest.mark.parametrize("name", SAMPLERS)
def test_known_values_are_kept_and_the_rest_follows_them(name, path):
    """Channel 0 known: the last state has it exactly, and midway it lies on its own path."""
    count = 6
    known = torch.full((count, 4, 2), 0.3, dtype=torch.float64)
    known_mask = torch.tensor([True, False]).expand(count, 4, 2)
    states, x0 = [], noise(count)
    denoise = KnownRegion(GaussianDenoiser(path), known, known_mask)
    x = SAMPLERS[name](
        denoise,
        x0,
        path,
        grid(0, 1, 50),
        callback=states.append,
        draws=Draws(0, torch.arange(count)),
    )
    assert torch.equal(x[known_mask], known[known_mask])
    assert x[~known_mask].std() > 0.1
    if name not in ("ancestral", "euler"):
        halfway = path.interpolate(known, x0, torch.full((count,), states[24].t, dtype=torch.float64))
        torch.testing.assert_close(states[24].x[..., 0], halfway[..., 0], rtol=0, atol=0.02)


def test_partial_start_stands_on_the_path(path):
    draws = Draws(0, torch.arange(3))
    x1 = torch.ones(3, 5, 2)
    x0 = draws.normal("noise", 5, 2)
    t = torch.tensor(0.6)
    expected = path.alpha(t) * x1 + path.sigma(t) * x0
    torch.testing.assert_close(partial_start(x1, path, 0.6, draws), expected)


def test_editing_from_late_stays_closer_to_the_data(path):
    """Noise to t and back: the later the start, the closer the result; close to 1 it is the data."""
    denoise = GaussianDenoiser(path)
    x1 = denoise.flow(noise(200), 0.0, 1.0)
    distances = []
    for start in (0.2, 0.7, 0.999):
        x = partial_start(x1, path, start, Draws(3, torch.arange(200)))
        edited = heun(denoise, x, path, schedule(50, start=start).double())
        distances.append((edited - x1).square().mean().sqrt().item())
    assert distances[0] > distances[1] > distances[2]
    assert distances[2] < 0.05


def test_inversion_undoes_sampling(path):
    denoise, x0, times = GaussianDenoiser(path), noise(20), schedule(300).double()
    data = heun(denoise, x0, path, times)
    inverted = invert(denoise, data, path, times)
    again = heun(denoise, inverted, path, times)
    assert (again - data).abs().max() < 0.03
    assert (inverted - x0).abs().max() < 0.1
    assert (data - x0).abs().mean() > 0.3


def test_schedules():
    torch.testing.assert_close(schedule(4), torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0]))
    shifted = schedule(4, shift=3.0)
    torch.testing.assert_close((1 - shifted[1:4]) / shifted[1:4], 3 * torch.tensor([3.0, 1.0, 1 / 3]))
    late = schedule(5, spacing="log", start=0.5)
    torch.testing.assert_close(late[[0, -1]], torch.tensor([0.5, 1.0]))
    ratio = (1 - late[1:-1]) / (1 - late[:-2])
    torch.testing.assert_close(ratio, torch.full((4,), 0.01**0.25))
    torch.testing.assert_close(schedule(6, shift=2.0, start=0.4)[0], torch.tensor(0.4))
    for arguments in ({"steps": 0}, {"steps": 4, "start": 1.0}, {"steps": 4, "spacing": "even"}):
        with pytest.raises(Gen3dError):
            schedule(**arguments)


@pytest.mark.parametrize("prediction", ["x", "v", "eps"])
def test_model_denoiser_converts_masks_and_remembers(prediction, path):
    config = TransformerConfig(2, 16, 2, 2, self_conditioning=True, classes={"kind": 2})
    torch.manual_seed(0)
    model = DiffusionTransformer(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    mask = torch.tensor([[True, True, True], [True, False, False]])
    cond = {"kind": torch.tensor([0, 1])}
    denoise = ModelDenoiser(model, path, prediction, mask, cond=cond)
    x, t = torch.randn(2, 3, 2), torch.full((2,), 0.4)
    expected = None
    for _ in range(2):
        output = model(x, t, mask=mask, cond=cond, self_cond=expected)
        expected = path.convert(output, prediction, "x", x, t) * mask[..., None]
        torch.testing.assert_close(denoise(x, t), expected)


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_network_runs_through_every_sampler(name, path):
    """An untrained x-predictor returns zero, so that every sampler must end at zero."""
    model = DiffusionTransformer(TransformerConfig(2, 16, 1, 2, self_conditioning=True))
    x = SAMPLERS[name](
        ModelDenoiser(model, path),
        noise(3).float(),
        path,
        schedule(4),
        draws=Draws(0, torch.arange(3)),
    )
    torch.testing.assert_close(x, torch.zeros_like(x))
