"""Distances between point clouds, and matrices of them between sets of clouds."""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from gen3d.errors import Gen3dError, require
from gen3d.parallel import guarded_map

CLUSTERS = 256
"""Points that stand for a cloud in the approximate earth mover's distance."""
LEAF = 32
"""Points in a leaf of the search tree; with 8 a search takes 1.4 times as long."""
TILE = 8
"""Clouds along either side of the part of a matrix that a worker computes at a time."""
TIMEOUT = 3600.0
"""Seconds for one item: it only guards against a hang."""


def chamfer(a: np.ndarray, b: np.ndarray) -> float:
    """mean_x min_y |x - y|^2 + mean_y min_x |y - x|^2 of clouds (P, 3) and (Q, 3).

    Squared distances, as in PointFlow (arXiv 1906.12320) and what is compared with it.

    Raises:
        Gen3dError: not a cloud (see `checked`).
    """
    return _chamfer(_Cloud(a), _Cloud(b))


def earth_mover(a: np.ndarray, b: np.ndarray, method: str = "exact") -> float:
    """Mean distance of the best one-to-one assignment between clouds of equal size (P, 3).

    "exact" solves the assignment (scipy), 4 s for 2,048 points. "approximate" solves it between CLUSTERS
    means of equal parts of either cloud, found by halving along the longest side: 0.01 s. On 80 pairs
    of furniture of 2,048 points it is 1.4% above the exact one on average, 10% at most, 22% between two draws
    of one surface; the rank correlation is 0.9996 and 17 of 18 nearest neighbours among 8 to 10 are the same.

    Raises:
        Gen3dError: not clouds (see `checked`) of one size, or an unknown method.
    """
    return float(earth_mover_matrix([a], [b], method=method, workers=0)[0, 0])


def chamfer_matrix(
    a: Sequence[np.ndarray],
    b: Sequence[np.ndarray] | None = None,
    *,
    workers: int | None = None,
    progress: bool = False,
) -> np.ndarray:
    """Chamfer distances (len(a), len(b)) between two sets of clouds; of `a` within itself without `b`.

    Raises:
        Gen3dError: not clouds (see `checked`).
    """
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
        Gen3dError: not clouds (see `checked`) of one size, or an unknown method.
    """
    sizes = {len(cloud) for clouds in (a, () if b is None else b) for cloud in clouds}
    if len(sizes) > 1:
        raise Gen3dError(f"clouds have {min(sizes)} to {max(sizes)} points; an assignment needs equally many")
    if method not in ("exact", "approximate"):
        raise Gen3dError(f"earth mover's distance {method!r} is unknown; allowed: exact, approximate")
    reduce = representatives if method == "approximate" else checked
    first, second = ([reduce(x) for x in a], None if b is None else [reduce(y) for y in b])
    return _matrix(np.asarray, _assignment, "EMD", first, second, workers, progress)


def representatives(cloud: np.ndarray, count: int = CLUSTERS) -> np.ndarray:
    """Means (count, 3) of equal parts of a cloud (P, 3), halved along the longest side again and again.

    Clouds of `count` points or fewer, or that cannot be halved so often into equal parts, stay as they are.
    """
    cloud = checked(cloud)
    if len(cloud) <= count or len(cloud) % count:
        return cloud
    parts = cloud[None]
    while len(parts) < count:
        axis = np.ptp(parts, axis=1).argmax(1)
        along = np.take_along_axis(parts, axis[:, None, None], 2)[..., 0]
        order = np.argpartition(along, parts.shape[1] // 2, axis=1)
        parts = np.take_along_axis(parts, order[..., None], 1).reshape(2 * len(parts), -1, 3)
    return parts.mean(1)


def checked(cloud: np.ndarray, name: str = "a cloud") -> np.ndarray:
    """The cloud (P, 3), float64, P >= 1, all finite.

    Raises:
        Gen3dError: it is anything else; the message calls it by `name`.
    """
    points = np.asarray(cloud, dtype=np.float64)
    if points.ndim != 2 or points.shape[1] != 3 or not len(points):
        raise Gen3dError(f"{name} has shape {points.shape}; allowed: (P, 3) with at least one point")
    if not np.isfinite(points).all():
        raise Gen3dError(f"{name} has coordinates that are not finite")
    return points


class _Cloud:
    """Points with the tree that finds their neighbours."""

    def __init__(self, points: np.ndarray) -> None:
        self.tree = require("scipy.spatial", "shapes").cKDTree(checked(points), leafsize=LEAF)
        self.points = self.tree.data[self.tree.indices]  # neighbours in a row: faster to look up


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
    """distance(make(x), make(y)) of all pairs; both functions are importable by name.

    In tiles, so that a worker holds few clouds whatever the sets' sizes, and no item takes long: 64 exact
    assignments of 2,048 points take 4 minutes. Within one set distances are symmetric, 0 to itself.
    """
    other = a if b is None else b
    tiles = [
        (row, column)
        for row in range(0, len(a), TILE)
        for column in range(0 if b is not None else row, len(other), TILE)
    ]
    items = [
        (a[r : r + TILE], None if b is None and r == c else other[c : c + TILE])  # None: with itself
        for r, c in tiles
    ]
    description = f"{title} distances" if progress else None
    if len(items) == 1:
        workers = 0
    compute = partial(_tile, make, distance)
    blocks = guarded_map(compute, items, workers=workers, timeout=TIMEOUT, description=description)
    if any(block is None for block in blocks):
        raise Gen3dError(f"a process that computed {title} distances died; is there enough memory?")
    matrix = np.zeros((len(a), len(other)))
    for (r, c), block in zip(tiles, blocks, strict=True):
        matrix[r : r + TILE, c : c + TILE] = block
    return matrix if b is not None else matrix + matrix.T


def _tile(
    make: Callable[[np.ndarray], object],
    distance: Callable[..., float],
    item: tuple[Sequence[np.ndarray], Sequence[np.ndarray] | None],
) -> np.ndarray:
    """All pairs of two lists, or those above the diagonal of one."""
    left = [make(cloud) for cloud in item[0]]
    right = left if item[1] is None else [make(cloud) for cloud in item[1]]
    block = np.zeros((len(left), len(right)))
    for i, j in np.ndindex(block.shape):
        if item[1] is not None or i < j:
            block[i, j] = distance(left[i], right[j])
    return block
