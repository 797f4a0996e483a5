"""Which grid points belong to an edit: the least cut between those that surely do and those that surely do
not.

Vox-E (arXiv 2303.12048), section 3.3. The paper weighs grid points by how likely they are in the edit (unary
terms) and neighbours by how alike they look; its code leaves the unary terms out. Both are here.
"""

from dataclasses import dataclass

import numpy as np

from gen3d.errors import Gen3dError, require

SURE = 0.992
"""Of the largest probability of the edit: from here on a grid point is surely part of it."""
SEEDS, FEWEST, MOST_LIKELY = 5000, 300, (300, 200)
"""Grid points of the object that are taken for sure; with fewer sure ones of the edit than FEWEST, so many
of the likeliest of the edit and of the object are."""
ALIKE, APART = 5.0, 0.1
"""K and sigma of K exp(-|c_p - c_q| / sigma), the strength with which neighbours hold together."""
UNIT = 1000
"""Strengths are whole numbers of thousandths."""
KEPT = 0.05
"""Separate parts of the edit with less than this share of its largest are given up."""


@dataclass(frozen=True)
class CutConfig:
    """How an edit is cut out."""

    unary: bool = True
    """Whether every grid point counts how likely it is in the edit, as in the paper; False as in its code."""
    strength: float = 1.0
    """Of that, against the neighbours."""
    clean: bool = True
    """Whether small separate parts are given up."""


def cut(
    probability: np.ndarray,
    colours: np.ndarray,
    shape: tuple[int, int, int],
    filled: np.ndarray,
    config: CutConfig,
) -> np.ndarray:
    """(P,) bool, the grid points of the edit.

    Args:
        probability: (P,) of being part of the edit, against the object.
        colours: (P, 3) in [0, 1].
        shape: grid points along each axis; P is their product.
        filled: (P,) bool, grid points where there is something; others are in neither part.
        config: how.

    Raises:
        Gen3dError: nothing is filled.
    """
    if not filled.any():
        raise Gen3dError("nothing is left to cut an edit from; the edited scene is empty")
    nodes = filled.nonzero()[0]
    number = np.full(len(filled), -1)
    number[nodes] = np.arange(len(nodes))
    p, colour = probability[nodes], colours[nodes]
    edit, rest = _seeds(p)
    first, second = _neighbours(number.reshape(shape))
    away = np.linalg.norm(colour[first] - colour[second], axis=1)
    hold = ALIKE * np.exp(-away / APART)
    to_edit = np.zeros(len(nodes))
    to_rest = np.zeros(len(nodes))
    if config.unary:
        safe = p.clip(1e-4, 1 - 1e-4)
        to_edit, to_rest = -config.strength * np.log(1 - safe), -config.strength * np.log(safe)
    sure = 1e6
    to_edit[edit], to_rest[edit] = sure, 0
    to_rest[rest], to_edit[rest] = sure, 0
    chosen = least_cut(first, second, hold, to_edit, to_rest)
    found = np.zeros(len(filled), bool)
    found[nodes[chosen]] = True
    return _largest_parts(found.reshape(shape)).reshape(-1) if config.clean else found


def least_cut(
    first: np.ndarray, second: np.ndarray, hold: np.ndarray, to_source: np.ndarray, to_sink: np.ndarray
) -> np.ndarray:
    """(N,) bool: nodes on the source's side of the least cut of a graph.

    Args:
        first, second: (E,) ends of edges, held together by `hold` (E,) both ways.
        to_source, to_sink: (N,) strengths of the edges to the source and to the sink.
    """
    sparse, graph = require("scipy.sparse", "scenes"), require("scipy.sparse.csgraph", "scenes")
    count = len(to_source)
    source, sink = count, count + 1
    node = np.arange(count)
    rows = np.concatenate([first, second, np.full(count, source), node])
    columns = np.concatenate([second, first, node, np.full(count, sink)])
    strengths = np.concatenate([hold, hold, to_source, to_sink])
    whole = np.minimum(np.rint(strengths * UNIT), 2**30 - 1).astype(np.int32)
    capacity = sparse.csr_matrix((whole, (rows, columns)), shape=(count + 2, count + 2))
    flow = graph.maximum_flow(capacity, source, sink).flow
    left = capacity - flow
    left.eliminate_zeros()
    left.data = (left.data > 0).astype(np.int8)
    left.eliminate_zeros()
    reached = graph.breadth_first_order(left, source, return_predecessors=False)
    side = np.zeros(count + 2, bool)
    side[reached] = True
    return side[:count]


def _seeds(p: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of the nodes that are surely in the edit, and surely not."""
    edit = (p >= SURE * p.max()).nonzero()[0]
    rest = (p < 0.5).nonzero()[0]
    if len(edit) < FEWEST:
        order = np.argsort(-p)
        most, least = (min(count, len(p) // 4) for count in MOST_LIKELY)
        edit = order[:most]
        rest = order[len(order) - max(least, 1) :]
    if len(rest) > SEEDS:
        rest = np.random.default_rng(0).choice(rest, SEEDS, replace=False)
    return edit, np.setdiff1d(rest, edit)


def _neighbours(number: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of nodes that are next to each other along an axis of a grid of their numbers, -1 for none."""
    first, second = [], []
    for axis in range(3):
        a = np.take(number, range(number.shape[axis] - 1), axis).reshape(-1)
        b = np.take(number, range(1, number.shape[axis]), axis).reshape(-1)
        both = (a >= 0) & (b >= 0)
        first.append(a[both])
        second.append(b[both])
    return np.concatenate(first), np.concatenate(second)


def _largest_parts(found: np.ndarray) -> np.ndarray:
    measure = require("scipy.ndimage", "scenes")
    labels, count = measure.label(found)
    if not count:
        return found
    sizes = np.bincount(labels.reshape(-1))[1:]
    return np.isin(labels, 1 + (sizes >= KEPT * sizes.max()).nonzero()[0])
