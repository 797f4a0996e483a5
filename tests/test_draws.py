"""Random streams: the right distributions, independent, and the same in any company."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from gen3d.draws import Draws

INDEX = torch.arange(2000)


@pytest.mark.parametrize("seed", [0, 1, 2**40 + 7])
@pytest.mark.parametrize("axis", ["one sample", "many samples", "both"])
def test_distributions(seed, axis):
    """Kolmogorov-Smirnov against the exact laws, along a stream, across samples, and over both."""
    shape = {"one sample": (1, 50_000), "many samples": (50_000, 1), "both": (250, 200)}[axis]
    draws = Draws(seed, torch.arange(shape[0]))
    assert stats.kstest(draws.uniform("u", shape[1]).flatten(), "uniform").pvalue > 1e-3
    assert stats.kstest(draws.normal("n", shape[1]).flatten(), "norm").pvalue > 1e-3


def test_moments_and_tails():
    x = Draws(3, torch.arange(1000)).normal("tail", 2000).double().numpy().ravel()
    assert abs(x.mean()) < 4 / np.sqrt(x.size)
    assert abs(x.var() - 1) < 4 * np.sqrt(2 / x.size)
    assert abs((x**4).mean() - 3) < 4 * np.sqrt(96 / x.size)
    beyond = (np.abs(x) > 4).sum()
    assert stats.binomtest(int(beyond), x.size, 2 * stats.norm.sf(4)).pvalue > 1e-3


@pytest.mark.parametrize("law", ["normal", "uniform"])
def test_streams_samples_seeds_and_elements_are_uncorrelated(law):
    def values(seed: int, stream: str, index: torch.Tensor) -> np.ndarray:
        return getattr(Draws(seed, index), law)(stream, 64).double().numpy()

    base = values(0, "noise", INDEX)
    others = {
        "another stream": values(0, "time", INDEX),
        "the next seed": values(1, "noise", INDEX),
        "the next sample": values(0, "noise", INDEX + 1),
        "the next element": np.roll(base, 1, axis=1),
    }
    limit = 4.5 / np.sqrt(base.size)
    for name, other in others.items():
        assert abs(np.corrcoef(base.ravel(), other.ravel())[0, 1]) < limit, name
        assert abs(np.corrcoef(base.ravel() ** 2, other.ravel() ** 2)[0, 1]) < limit, name


def test_nothing_repeats():
    bits = Draws(0, torch.arange(500)).normal("noise", 500).double()
    # Float32 values collide by chance; whole rows must not.
    assert len(torch.unique(bits, dim=0)) == 500
    assert len(torch.unique(bits, dim=1).T) == 500


def test_uniform_excludes_both_ends():
    u = Draws(0, torch.arange(1000)).uniform("u", 1000)
    assert u.min() > 0
    assert u.max() < 1


@pytest.mark.parametrize("bits", [0, 0xFFFFFF])
def test_uniform_excludes_both_ends_at_the_last_bit(monkeypatch, bits):
    monkeypatch.setattr(Draws, "_bits", lambda self, stream, shape: torch.full((1,), bits))
    assert 0 < Draws(0, torch.arange(1)).uniform("u").item() < 1


@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, 2**62),
    st.lists(st.integers(0, 2**62), min_size=1, max_size=8, unique=True),
    st.randoms(use_true_random=False),
)
def test_a_sample_is_the_same_in_any_batch(seed, index, random):
    alone = {i: Draws(seed, torch.tensor([i])).normal("noise", 3, 2)[0] for i in index}
    random.shuffle(index)
    together = Draws(seed, torch.tensor(index)).normal("noise", 3, 2)
    for row, i in enumerate(index):
        assert torch.equal(together[row], alone[i])
    chosen = Draws(seed, torch.tensor(index)).select(slice(0, 1)).normal("noise", 3, 2)
    assert torch.equal(chosen[0], alone[index[0]])


def test_a_longer_draw_begins_like_a_shorter_one():
    """So padding a batch to more tokens changes no token's noise."""
    draws = Draws(5, torch.arange(4))
    assert torch.equal(draws.normal("noise", 9, 3)[:, :4], draws.normal("noise", 4, 3))
