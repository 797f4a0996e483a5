"""When two crystals are the same: pymatgen's StructureMatcher by named tolerances, fast over large sets.

The matcher compares primitive Niggli cells, so that supercells, other choices of cell or origin, and rotated
or mirrored copies are the same crystal, and scales both to one volume per atom. Only crystals of one
reduced formula are ever compared.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from gen3d.domains.atoms.native import to_structure
from gen3d.domains.atoms.system import AtomicSystem
from gen3d.errors import Gen3dError, require
from gen3d.parallel import guarded_map

if TYPE_CHECKING:
    from pymatgen.analysis.structure_matcher import StructureMatcher
    from pymatgen.core import Structure


@dataclass(frozen=True)
class Tolerances:
    """What StructureMatcher lets pass as the same.

    Attributes:
        ltol: relative difference of the lattice lengths.
        stol: root mean square displacement of the sites, in units of (volume per atom)^(1/3).
        angle_tol: difference of the lattice angles in degrees.
        citation: who uses them.
    """

    ltol: float
    stol: float
    angle_tol: float
    citation: str


MATCHERS = {
    "mattergen": Tolerances(
        0.2,
        0.3,
        5.0,
        "pymatgen's defaults; Zeni et al., Nature 2025 (MatterGen), Miller et al., ICML 2024 (FlowMM)",
    ),
    "cdvae": Tolerances(0.3, 0.5, 10.0, "Xie et al., ICLR 2022 (CDVAE); Jiao et al., NeurIPS 2023 (DiffCSP)"),
}
MAX_ELONGATION = 1e3
"""Longest vector of the reduced cell, cubed, over the volume: beyond it pymatgen's lattice search explodes.
A layered crystal of 4 x 4 x 100 angstrom has 625."""
PAIR_SECONDS = 0.5
"""What one crystal may add to the time limit of its formula."""

Formula = tuple[tuple[int, int], ...]
"""Reduced composition: (atomic number, count) in ascending order of atomic number."""


@dataclass(frozen=True)
class Matches:
    """Which samples are the same crystal, and which the reference holds.

    Attributes:
        first: (n,) index of the first sample that is the same crystal, its own where there is none before;
            -1 for a sample that is None or that could not be compared.
        known: (n,) True where the reference holds the crystal. False where `first` is -1.
    """

    first: np.ndarray
    known: np.ndarray


def tolerances(name: str) -> Tolerances:
    """The tolerances called `name`.

    Raises:
        Gen3dError: there are none of that name.
    """
    if name not in MATCHERS:
        raise Gen3dError(f"unknown matcher {name!r}; allowed: {', '.join(MATCHERS)}")
    return MATCHERS[name]


def reduced_formula(numbers: np.ndarray) -> Formula:
    """The composition of atomic numbers (N,), divided by the greatest common divisor of its counts."""
    elements, counts = np.unique(numbers, return_counts=True)
    return tuple(zip(elements.tolist(), (counts // np.gcd.reduce(counts)).tolist(), strict=True))


def match_all(
    samples: Sequence[AtomicSystem | None],
    reference: Sequence[AtomicSystem],
    *,
    matcher: str,
    workers: int | None = None,
    progress: bool = False,
) -> Matches:
    """Sort samples into classes of equal crystals and look each up in the reference.

    As in pymatgen's `group_structures`, a sample is compared with the first member of each class, in order:
    sameness within tolerances is not transitive, so the classes depend a little on the order.

    Args:
        samples: structurally valid crystals; None is left out.
        reference: known crystals.
        matcher: key of `MATCHERS`.
        workers: see `guarded_map`.
        progress: show a bar.

    Raises:
        Gen3dError: unknown matcher.
    """
    tolerances(matcher)
    first = np.full(len(samples), -1)
    known = np.zeros(len(samples), dtype=bool)
    members: dict[Formula, list[int]] = {}
    for i, sample in enumerate(samples):
        if sample is not None:
            members.setdefault(reduced_formula(sample.numbers), []).append(i)
    relatives: dict[Formula, list[AtomicSystem]] = {formula: [] for formula in members}
    for system in reference:
        formula = reduced_formula(system.numbers)
        if formula in relatives:
            relatives[formula].append(system)

    jobs, places = [], []
    for formula, indices in members.items():
        if len(indices) == 1 and not relatives[formula]:
            first[indices] = indices  # alone with its formula
            continue
        jobs.append(([samples[i] for i in indices], relatives[formula], matcher))
        places.append(np.array(indices))
    largest = max((len(job[0]) + len(job[1]) for job in jobs), default=0)
    results = guarded_map(
        sort_formula,
        jobs,
        workers=workers,
        timeout=60.0 + PAIR_SECONDS * largest,
        description="matching" if progress else None,
    )
    for place, result in zip(places, results, strict=True):
        if result is not None:
            leads, familiar = result
            first[place] = np.where(leads < 0, -1, place[leads])
            known[place] = familiar
    return Matches(first, known)


def sort_formula(
    job: tuple[list[AtomicSystem], list[AtomicSystem], str],
) -> tuple[np.ndarray, np.ndarray]:
    """`Matches.first` (counted within the samples) and `Matches.known` for crystals of one formula.

    Args:
        job: samples, reference and the name of the tolerances.
    """
    samples, reference, name = job
    matcher = _matcher(name)
    cells = [primitive_cell(s) for s in samples]
    relatives = [primitive_cell(r) for r in reference]
    first = np.full(len(samples), -1)
    known = np.zeros(len(samples), dtype=bool)
    for i, cell in enumerate(cells):
        if cell is None:
            continue
        # a class shows itself by its first member, whose index is its own
        earlier = (j for j in range(i) if first[j] == j and _same(matcher, cells[j], cell))
        first[i] = next(earlier, i)
        known[i] = any(_same(matcher, relative, cell) for relative in relatives)
    return first, known


def rms_distances(
    predictions: Sequence[AtomicSystem | None],
    targets: Sequence[AtomicSystem],
    *,
    matcher: str,
    workers: int | None = None,
    progress: bool = False,
) -> np.ndarray:
    """Displacement between each prediction and its target.

    Returns:
        (n,) root mean square displacement of the sites in units of (volume per atom)^(1/3); NaN where the two
        do not match, or the prediction is None or degenerate.

    Raises:
        Gen3dError: unknown matcher, or unequal numbers.
    """
    tolerances(matcher)
    if len(predictions) != len(targets):
        raise Gen3dError(f"{len(predictions)} predictions for {len(targets)} targets; one for each is needed")
    distances = np.full(len(targets), np.nan)
    places = [
        i
        for i, (p, t) in enumerate(zip(predictions, targets, strict=True))
        if p is not None and reduced_formula(p.numbers) == reduced_formula(t.numbers)
    ]
    results = guarded_map(
        rms_distance,
        [(predictions[i], targets[i], matcher) for i in places],
        workers=workers,
        description="matching" if progress else None,
    )
    for i, result in zip(places, results, strict=True):
        distances[i] = np.nan if result is None else result
    return distances


def rms_distance(job: tuple[AtomicSystem, AtomicSystem, str]) -> float:
    """One element of `rms_distances`; the job is prediction, target and the name of the tolerances."""
    prediction, target, name = job
    a, b = primitive_cell(prediction), primitive_cell(target)
    if a is None or b is None or len(a) != len(b):
        return float("nan")
    try:
        found = _matcher(name).get_rms_dist(a, b)
    except Exception:  # as in `primitive_cell`
        return float("nan")
    return float("nan") if found is None else float(found[0])


def primitive_cell(system: AtomicSystem) -> "Structure | None":
    """The primitive Niggli cell, or None when there is none to be compared."""
    cell = minkowski_cell(system)
    if cell is None:
        return None
    longest, volume = np.linalg.norm(cell, axis=1).max(), abs(np.linalg.det(cell))
    if not longest**3 <= MAX_ELONGATION * volume:
        return None
    try:
        return to_structure(system).get_reduced_structure("niggli").get_primitive_structure()
    except Exception:  # whatever pymatgen raises on a degenerate cell, it is not one that can be compared
        return None


def minkowski_cell(system: AtomicSystem) -> np.ndarray | None:
    """(3, 3) the shortest lattice vectors that span the same lattice, in rows; None where there are none."""
    reduction = require("ase.geometry.minkowski_reduction", "atoms")
    if system.cell is None or not np.isfinite(system.cell).all() or not np.linalg.det(system.cell):
        return None
    try:
        return reduction.minkowski_reduce(system.cell)[0]
    except RuntimeError:  # it does not come to an end on a degenerate cell
        return None


def _matcher(name: str) -> "StructureMatcher":
    """For primitive Niggli cells, as `primitive_cell` makes them."""
    tolerance = tolerances(name)
    module = require("pymatgen.analysis.structure_matcher", "atoms")
    return module.StructureMatcher(
        ltol=tolerance.ltol,
        stol=tolerance.stol,
        angle_tol=tolerance.angle_tol,
        primitive_cell=False,
        scale=True,
    )


def _same(matcher: "StructureMatcher", a: "Structure | None", b: "Structure | None") -> bool:
    if a is None or b is None or len(a) != len(b):
        return False
    try:
        return bool(matcher.fit(a, b, skip_structure_reduction=True))
    except Exception:  # as in `primitive_cell`
        return False
