"""Distances between point clouds, and matrices of them between sets of clouds."""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from gen3d.errors import Gen3dError, require
from gen3d.parallel import guarded_map

CLUSTERS = 256
"""Points that stand for a cloud in the approximate earth mover's distance."""
PAIRS_PER_ITEM = 1000
"""Pairs of clouds that a worker takes at a time."""
TIMEOUT = 3600.0
"""Seconds for one item: it only guards against a hang."""


def chamfer(a: np.ndarray, b: np.ndarray) -> float:
    """mean_x min_y |x - y|^2 + mean_y min_x |y - x|^2 of clouds (P, 3) and (Q, 3).

    Squared distances, as in PointFlow (arXiv 1906.12320) and what is compared with it.
    """
    return _chamfer(_Cloud(a), _Cloud(b))


def earth_mover(a: np.ndarray, b: np.ndarray, method: str = "exact") -> float:
    """Mean distance of the best one-to-one assignment between clouds of equal size (P, 3).

    "exact" solves the assignment (scipy), 4 s for 2,048 points. "approximate" solves it between CLUSTERS
    means of equal parts of either cloud, found by halving along the longest side: 0.016 s. On 28 pairs of
    furniture of 2,048 points it is 2.4% above the exact one, deviation 2.1%; the correlation is 0.9997.

    Raises:
        Gen3dError: clouds of different sizes, or an unknown method.
    """
    if method not in ("exact", "approximate"):
        raise Gen3dError(f"earth mover's distance {method!r} is unknown; allowed: exact, approximate")
    if len(a) != len(b):
        raise Gen3dError(f"clouds have {len(a)} and {len(b)} points; an assignment needs equally many")
    if method == "approximate":
        a, b = representatives(a), representatives(b)
    return _assignment(a, b)


def chamfer_matrix(
    a: Sequence[np.ndarray],
    b: Sequence[np.ndarray] | None = None,
    *,
    workers: int | None = None,
    progress: bool = False,
) -> np.ndarray:
    """Chamfer distances (len(a), len(b)) between two sets of clouds; of `a` within itself without `b`."""
    return _matrix(_Cloud, _chamfer, "Chamfer", a, b, workers, progress)


def earth_mover_matrix(
    a: Sequence[np.ndarray],
    b: Sequence[np.ndarray] | None = None,
    *,
    method: str = "approximate",
    workers: int | None = None,
    progress: bool = False,
) -> np.ndarray:
    """Earth mover's distances (len(a), len(b)) between two sets; of `a` within itself without `b`.

    Raises:
        Gen3dError: clouds of different sizes, or an unknown method.
    """
    sizes = {len(cloud) for clouds in (a, b or ()) for cloud in clouds}
    if len(sizes) > 1:
        raise Gen3dError(f"clouds have {min(sizes)} to {max(sizes)} points; an assignment needs equally many")
    if method not in ("exact", "approximate"):
        raise Gen3dError(f"earth mover's distance {method!r} is unknown; allowed: exact, approximate")
    reduce = representatives if method == "approximate" else np.asarray
    return _matrix(reduce, _assignment, "EMD", a, b, workers, progress)


def representatives(cloud: np.ndarray, count: int = CLUSTERS) -> np.ndarray:
    """Means (count, 3) of equal parts of a cloud (P, 3), halved along the longest side again and again.

    Clouds of `count` points or fewer, or that cannot be halved so often into equal parts, stay as they are.
    """
    if len(cloud) <= count or len(cloud) % count:
        return np.asarray(cloud)
    parts = np.asarray(cloud)[None]
    while len(parts) < count:
        axis = np.ptp(parts, axis=1).argmax(1)
        along = np.take_along_axis(parts, axis[:, None, None], 2)[..., 0]
        order = np.argpartition(along, parts.shape[1] // 2, axis=1)
        parts = np.take_along_axis(parts, order[..., None], 1).reshape(2 * len(parts), -1, 3)
    return parts.mean(1)


class _Cloud:
    """Points with the tree that finds their neighbours."""

    def __init__(self, points: np.ndarray) -> None:
        self.points = np.asarray(points)
        self.tree = require("scipy.spatial", "shapes").cKDTree(self.points)


def _chamfer(a: _Cloud, b: _Cloud) -> float:
    to_b, _ = b.tree.query(a.points)
    to_a, _ = a.tree.query(b.points)
    return float(np.square(to_b).mean() + np.square(to_a).mean())


def _assignment(a: np.ndarray, b: np.ndarray) -> float:
    spatial = require("scipy.spatial.distance", "shapes")
    optimize = require("scipy.optimize", "shapes")
    costs = spatial.cdist(a, b)
    return float(costs[optimize.linear_sum_assignment(costs)].mean())


def _matrix(
    make: Callable[[np.ndarray], object],
    distance: Callable[..., float],
    title: str,
    a: Sequence[np.ndarray],
    b: Sequence[np.ndarray] | None,
    workers: int | None,
    progress: bool,
) -> np.ndarray:
    """distance(make(x), make(y)) of all pairs; both functions are importable by name."""
    other = a if b is None else b
    rows = max(1, PAIRS_PER_ITEM // max(len(other), 1))
    starts = range(0, len(a), rows)
    # Within one set, a block of rows needs the columns from its own on: the rest is mirrored.
    items = [(list(a[s : s + rows]), list(other[s if b is None else 0 :])) for s in starts]
    compute = partial(_block, make, distance)
    description = f"{title} distances" if progress else None
    blocks = guarded_map(compute, items, workers=workers, timeout=TIMEOUT, description=description)
    if any(block is None for block in blocks):
        raise Gen3dError(f"a process that computed {title} distances died; is there enough memory?")
    matrix = np.zeros((len(a), len(other)))
    for start, block in zip(starts, blocks, strict=True):
        matrix[start : start + len(block), len(other) - block.shape[1] :] = block
    return matrix if b is not None else np.triu(matrix) + np.triu(matrix, 1).T


def _block(
    make: Callable[[np.ndarray], object],
    distance: Callable[..., float],
    item: tuple[list[np.ndarray], list[np.ndarray]],
) -> np.ndarray:
    left, right = ([make(cloud) for cloud in clouds] for clouds in item)
    return np.array([[distance(x, y) for y in right] for x in left]).reshape(len(left), len(right))
