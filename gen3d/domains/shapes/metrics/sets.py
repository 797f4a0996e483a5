"""How a set of samples compares with a set of references, from the distances between and within them.

Definitions of PointFlow (arXiv 1906.12320). Matrices are (references, references) "rr", (references, samples)
"rs" and (samples, samples) "ss". Failed samples have infinite distances to everything.
"""

from collections.abc import Sequence

import numpy as np


def nearest_neighbour_correct(rr: np.ndarray, rs: np.ndarray, ss: np.ndarray) -> np.ndarray:
    """For every reference, then every sample: how far its nearest neighbour tells which set it is from.

    1 where the nearest of all others is of its own set, 0 where of the other; equally near ones share. The
    mean in percent is 1-NNA, the accuracy of the leave-one-out nearest-neighbour classifier: 50 for sets that
    cannot be told apart. A sample that failed counts 1.
    """
    own_rr = rr + np.diag(np.full(len(rr), np.inf))
    own_ss = ss + np.diag(np.full(len(ss), np.inf))
    references = _shared(own_rr, rs)
    samples = _shared(own_ss, rs.T)
    failed = ~np.isfinite(rs).any(0)
    return np.concatenate([references, np.where(failed, 1.0, samples)])


def coverage(rs: np.ndarray) -> np.ndarray:
    """For every reference: 1 where it is the nearest one of some sample, else 0. The mean is COV."""
    covered = np.zeros(len(rs))
    made = np.isfinite(rs).any(0)
    covered[np.unique(rs[:, made].argmin(0))] = 1
    return covered


def least_distances(rs: np.ndarray) -> np.ndarray:
    """For every reference: the distance of the nearest sample. The mean is MMD."""
    return rs.min(1)


def legacy(rr: np.ndarray, rs: np.ndarray, ss: np.ndarray, batch: int = 64) -> tuple[float, float]:
    """1-NNA and COV in percent, averaged over batches of as many references as samples.

    What some published code computes. Smaller sets are harder to tell apart and easier to cover, so that both
    come out better than of the whole sets; a last batch that is not full is left out, unless it is the only.
    """
    size = min(batch, len(rr), len(ss))
    accuracies, covers = [], []
    for start in range(0, min(len(rr), len(ss)) - size + 1, size):
        part = slice(start, start + size)
        accuracies.append(nearest_neighbour_correct(rr[part, part], rs[part, part], ss[part, part]).mean())
        covers.append(coverage(rs[part, part]).mean())
    return 100 * float(np.mean(accuracies)), 100 * float(np.mean(covers))


def bootstrap(values: np.ndarray, seed: int = 0, rounds: int = 2000) -> tuple[float, float]:
    """95 % interval of the mean of `values`, by drawing them again with replacement.

    The values belong to single clouds, each with its neighbours as found in the whole sets: drawing clouds
    again and looking for neighbours anew would put copies of one cloud beside each other.
    """
    index = np.random.default_rng(seed).integers(len(values), size=(rounds, len(values)))
    low, high = np.percentile(values[index].mean(1), [2.5, 97.5])
    return float(low), float(high)


def jensen_shannon(
    samples: Sequence[np.ndarray], references: Sequence[np.ndarray], resolution: int = 28
) -> float:
    """Jensen-Shannon divergence, in nats, 0 to log 2, of where the points of two sets lie.

    All points of a set together, counted in `resolution`^3 cells of the smallest cube around the origin that
    holds the references; points beyond it count in its outermost cells (Achlioptas et al., arXiv 1707.02392).
    """
    edge = max(float(np.abs(cloud).max()) for cloud in references)

    def histogram(clouds: Sequence[np.ndarray]) -> np.ndarray:
        counts = np.zeros(resolution**3)
        for cloud in clouds:
            cells = ((np.asarray(cloud) / edge + 1) * (resolution / 2)).astype(np.int64)
            cells = cells.clip(0, resolution - 1)
            flat = (cells[:, 0] * resolution + cells[:, 1]) * resolution + cells[:, 2]
            counts += np.bincount(flat, minlength=len(counts))
        return counts / counts.sum()

    p, q = histogram(samples), histogram(references)
    middle = (p + q) / 2
    return _divergence(p, middle) / 2 + _divergence(q, middle) / 2


def _divergence(p: np.ndarray, q: np.ndarray) -> float:
    """Kullback-Leibler divergence of p from q, which is positive where p is."""
    some = p > 0
    return float((p[some] * np.log(p[some] / q[some])).sum())


def _shared(own: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Share of a row's nearest neighbours that is in `own` (n, n) and not in `other` (n, m)."""
    least = np.minimum(own.min(1), other.min(1))[:, None]
    in_own, in_other = (own == least).sum(1), (other == least).sum(1)
    return in_own / (in_own + in_other)
