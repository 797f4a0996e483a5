"""How far conditions explain samples: closed forms of Gaussians, and the choice among candidates by hand."""

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor
from toy_domain import ENTRY, RingOptions

from gen3d import domains
from gen3d.diffusion.evidence import REPEATS, TIMES, evidence
from gen3d.diffusion.paths import LinearPath, Path, VariancePreservingPath
from gen3d.diffusion.samplers import SamplingConfig
from gen3d.domains.base import Layout
from gen3d.draws import Draws
from gen3d.errors import Gen3dError
from gen3d.generator import Generator
from gen3d.generator_config import GeneratorConfig
from gen3d.nn.transformer import TransformerConfig
from gen3d.tokens import Tokens

WIDE, MEAN, NARROW = 2.0, 1.5, 0.5
"""Of data N(0, WIDE^2) untold, N(MEAN, NARROW^2) told."""


@dataclasses.dataclass(frozen=True)
class Wiener:
    """The posterior mean of Gaussian data from data with noise."""

    path: Path
    mean: float
    deviation: float

    def gain(self, t: Tensor) -> Tensor:
        alpha, sigma = self.path.alpha(t), self.path.sigma(t)
        return alpha * self.deviation**2 / (alpha**2 * self.deviation**2 + sigma**2)

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        gain, alpha = (each[:, None, None] for each in (self.gain(t), self.path.alpha(t)))
        return self.mean + gain * (x - alpha * self.mean)

    def error(self, x: Tensor, time: float) -> Tensor:
        """Expected over the noise."""
        t = torch.tensor([time])
        gain, alpha, sigma = self.gain(t), self.path.alpha(t), self.path.sigma(t)
        return (1 - gain * alpha) ** 2 * (self.mean - x) ** 2 + gain**2 * sigma**2


@pytest.mark.parametrize("path", [LinearPath(), VariancePreservingPath()])
class TestGaussians:
    def found(self, path: Path, x: Tensor, mask: Tensor, deviation: float = NARROW) -> Tensor:
        draws = Draws(0, torch.zeros(len(x), dtype=torch.int64))
        told, untold = Wiener(path, MEAN, deviation), Wiener(path, 0.0, WIDE)
        return evidence(told, untold, x, mask, path, lambda name: draws.normal(name, *x.shape[1:]))

    def test_it_is_the_difference_of_expected_errors(self, path: Path) -> None:
        values = torch.linspace(-3, 4, 8)
        x = values[:, None, None].expand(8, 400, 5)
        mask = torch.ones(8, 400, dtype=torch.bool)
        told, untold = Wiener(path, MEAN, NARROW), Wiener(path, 0.0, WIDE)
        expected = sum(untold.error(values, t) - told.error(values, t) for t in TIMES) / len(TIMES)
        # The noise left in a mean over so many draws.
        assert torch.allclose(self.found(path, x, mask), expected, atol=20 / (400 * 5 * REPEATS) ** 0.5)

    def test_it_orders_samples_as_densities_do(self, path: Path) -> None:
        """Where both deviate alike: else noise levels weigh differently, and few of them are looked at."""
        values = torch.linspace(-3, 4, 8)[torch.randperm(8, generator=torch.Generator().manual_seed(1))]
        ratio = stats.norm(MEAN, WIDE).logpdf(values) - stats.norm(0, WIDE).logpdf(values)
        mask = torch.ones(8, 400, dtype=torch.bool)
        found = self.found(path, values[:, None, None].expand(8, 400, 5), mask, WIDE)
        assert found.argsort().tolist() == ratio.argsort().tolist()

    def test_padding_counts_for_nothing(self, path: Path) -> None:
        x = torch.randn(3, 20, 5, generator=torch.Generator().manual_seed(0))
        mask = torch.arange(20) < torch.tensor([20, 12, 1])[:, None]
        other = torch.where(mask[..., None], x, 100.0)
        assert torch.equal(self.found(path, x, mask), self.found(path, other, mask))


@pytest.fixture
def rings(monkeypatch: pytest.MonkeyPatch) -> Generator:
    """A generator whose weights mean nothing, but answer to conditions."""
    monkeypatch.setitem(domains.TABLE, "toy-ring", ENTRY)
    torch.manual_seed(0)
    model = TransformerConfig(3, 32, 2, 2, classes={"parity": 2}, scalars=("size",), self_conditioning=True)
    made = Generator(GeneratorConfig("toy-ring", model, sampling=SamplingConfig(steps=4))).eval()
    with torch.no_grad():
        for parameter in made.core.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return made


class TestBest:
    @torch.no_grad()
    def test_the_candidate_with_the_smallest_errors_is_kept(self, rings: Generator) -> None:
        count, seed = 6, 3
        got = rings.sample(count, seed=seed, best_of=4)
        draws = Draws(seed, torch.arange(count))
        layout = rings.domain.layout(RingOptions(), draws)
        rows = torch.arange(count)
        candidates, scores = [], []
        for number in range(4):
            own = Draws(seed, draws.index + number * (1 << 40))
            tokens = rings._drawn(layout, rows, own, rings.config.sampling, lambda state: None)
            candidates.append(rings.finish(tokens, layout, rows))
            x = rings.normalise(tokens.x) * layout.mask[..., None]
            score = torch.zeros(count)
            for time in TIMES:
                for repeat in range(REPEATS):
                    noise = draws.normal(f"evidence/{time}/{repeat}", *x.shape[1:]) * layout.mask[..., None]
                    noisy, t = time * x + (1 - time) * noise, torch.full((count,), time)
                    told = rings.core(noisy, t, mask=layout.mask, cond=layout.conditions)
                    untold = rings.core(noisy, t, mask=layout.mask, cond={})
                    squares = (untold - x).square() - (told - x).square()
                    score += squares.mean(-1).sum(1) / layout.mask.sum(1)
            scores.append(score)
        best = torch.stack(scores).argmax(0).tolist()
        assert len(set(best)) > 1
        for number, (made, chosen) in enumerate(zip(got, best, strict=True)):
            np.testing.assert_allclose(made, candidates[chosen][number], atol=1e-4)

    def test_one_candidate_is_the_sample(self, rings: Generator) -> None:
        for a, b in zip(rings.sample(3, seed=1), rings.sample(3, seed=1, best_of=1), strict=True):
            np.testing.assert_array_equal(a, b)

    def test_samples_do_not_depend_on_batch_or_shard(self, rings: Generator) -> None:
        whole = rings.sample(5, seed=2, best_of=3)
        parts = [made for part in (0, 1) for made in rings.sample(5, seed=2, best_of=3, shard=(part, 2))]
        small = rings.sample(5, seed=2, best_of=3, batch_size=2)
        for a, b, c in zip(whole, parts, small, strict=True):
            np.testing.assert_allclose(a, b, atol=1e-4)
            np.testing.assert_allclose(a, c, atol=1e-4)

    def test_what_diverged_is_not_kept(self, rings: Generator, monkeypatch: pytest.MonkeyPatch) -> None:
        drawn = rings._drawn

        def diverged(layout: Layout, rows: Tensor, draws: Draws, *more: Any) -> Tokens:
            tokens = drawn(layout, rows, draws, *more)
            first = draws.index < (1 << 40)
            return tokens.with_values(torch.where(first[:, None, None], torch.nan, tokens.x))

        monkeypatch.setattr(rings, "_drawn", diverged)
        assert all(np.isfinite(made).all() for made in rings.sample(3, seed=1, best_of=2))

    def test_what_nothing_is_asked_of_cannot_be_chosen_among(self, rings: Generator) -> None:
        with pytest.raises(Gen3dError, match="best_of is 0; at least 1"):
            rings.sample(1, best_of=0)
        with torch.no_grad():  # a network that does not listen
            for parameter in rings.core.conditions.parameters():
                parameter.zero_()
        with pytest.raises(Gen3dError, match="best_of is 2; it needs what the model can be told"):
            rings.sample(1, best_of=2)
