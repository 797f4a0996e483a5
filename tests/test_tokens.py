"""Ties between tokens, against loops."""

import pytest
import torch

from gen3d.diffusion.objective import DiffusionConfig, diffusion_loss
from gen3d.diffusion.samplers import Tied
from gen3d.draws import Draws
from gen3d.tokens import Ties, Tokens

SOURCE = torch.tensor([[0, 1, 0, 1, 0], [0, 1, 2, 2, 4]])
GROUPS = [[(0, 2, 4), (1, 3)], [(0,), (1,), (2, 3), (4,)]]


@pytest.fixture
def values() -> torch.Tensor:
    return torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(0))


def test_same_and_mean_and_without(values: torch.Tensor) -> None:
    ties = Ties(SOURCE, slice(1, 3))
    expected = {name: values.clone() for name in ("same", "mean", "without")}
    for row, groups in enumerate(GROUPS):
        for group in groups:
            for token in group:
                expected["same"][row, token, 1:3] = values[row, group[0], 1:3]
                expected["mean"][row, token, 1:3] = values[row, list(group), 1:3].mean(0)
                expected["without"][row, token, 1:3] = 0
    before = values.clone()
    for name, result in expected.items():
        torch.testing.assert_close(getattr(ties, name)(values), result)
    assert torch.equal(values, before)


@pytest.mark.parametrize("coupling", ["independent", "optimal"])
def test_tied_tokens_share_their_noise_in_training(values: torch.Tensor, coupling: str) -> None:
    """Noise as the network meets it, (x_t - t x) / (1 - t): the same in tied channels, of unit variance, and
    reordered but otherwise untouched in the others."""
    ties = Ties(SOURCE.repeat(2000, 1), slice(1, 3))
    clean = ties.same(values.repeat(2000, 1, 1))
    tokens = Tokens(clean, torch.ones(4000, 5, dtype=torch.bool), ties=ties)
    met = []

    def network(x: torch.Tensor, t: torch.Tensor, **_: object) -> torch.Tensor:
        met.append((x - t[:, None, None] * clean) / (1 - t)[:, None, None])
        return torch.zeros_like(x)

    config = DiffusionConfig(coupling=coupling, self_condition_rate=0.0)  # type: ignore[arg-type]
    draws = Draws(0, torch.arange(4000))
    diffusion_loss(network, tokens, {}, config, draws)
    noise = met[0]
    torch.testing.assert_close(ties.same(noise), noise, rtol=1e-3, atol=1e-3)
    raw = draws.normal("noise", 5, 4)
    free = [0, 3]
    torch.testing.assert_close(noise[..., free].sum(1), raw[..., free].sum(1), rtol=1e-3, atol=2e-3)
    torch.testing.assert_close(noise[..., 1:3], ties.same(raw)[..., 1:3], rtol=1e-3, atol=2e-3)


def test_what_is_tied_is_predicted_as_one(values: torch.Tensor) -> None:
    ties = Ties(SOURCE, slice(1, 3))
    weights = torch.randn(2, 5, 1, generator=torch.Generator().manual_seed(1))
    seen = []

    def denoise(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        seen.append(x)
        return x * weights

    t = torch.full((2,), 0.5)
    result = Tied(denoise, ties)(values, t)
    assert torch.equal(seen[0], ties.same(values))
    torch.testing.assert_close(result, ties.mean(ties.same(values) * weights))
