"""Validity, uniqueness, novelty and distributions of generated crystals, and structure prediction.

Shares are in percent of all samples, failed ones included, unless the definition says otherwise.

Validity follows CDVAE (Xie et al., ICLR 2022) and DiffCSP (Jiao et al., NeurIPS 2023), with two differences.
An atom's distance to its own periodic images counts, too. And the CrystalNN fingerprint, which those
evaluators also need for coverage, does not have to succeed. Their SMACT test used the oxidation states that
came as default with smact 2, which smact 4 calls "smact14" (its own default is "icsd24"); 89 % of real
Materials Project crystals pass.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path

import numpy as np

from gen3d.domains.atoms.metrics.crystal_energy import energy_metrics
from gen3d.domains.atoms.metrics.matching import (
    Formula,
    match_all,
    minkowski_cell,
    reduced_formula,
    rms_distances,
    tolerances,
)
from gen3d.domains.atoms.system import AtomicSystem
from gen3d.errors import Gen3dError, require
from gen3d.metrics import Estimate, Metric, percentage
from gen3d.parallel import guarded_map

CDVAE = "Xie et al., ICLR 2022 (CDVAE); Jiao et al., NeurIPS 2023 (DiffCSP)"
SMACT = f"Davies et al., Chem 1, 617 (2016) (SMACT), as in {CDVAE}"
ADIT = "Joshi et al., ICML 2025 (ADiT)"

MIN_DISTANCE = 0.5
"""Smallest distance of two atoms in a valid structure, angstrom."""
MIN_VOLUME = 0.1
"""Smallest volume of a valid cell, cubic angstrom."""
MAX_LENGTH = 1e4
"""Longest lattice vector that still counts as a crystal's, angstrom: beyond it double precision fails."""
MAX_COMBINATIONS = 10_000_000
"""Assignments of oxidation states beyond which a composition counts as invalid, as in DiffCSP."""
OXIDATION_STATES = "smact14"
ANGLES = (50.0, 130.0)
"""Open interval of the lattice angles of ADiT's check, degrees."""
GRAMS_PER_CM3 = 1.66053906892
"""One dalton per cubic angstrom."""


@dataclass(frozen=True)
class Inspection:
    """What one sample passes.

    Attributes:
        structure: the structural validity of `structure_valid`.
        composition: the SMACT validity of `composition_valid`.
        angles: all lattice angles as given lie within `ANGLES`.
    """

    structure: bool = False
    composition: bool = False
    angles: bool = False


def crystal_metrics(
    samples: Sequence[AtomicSystem | None],
    reference: Sequence[AtomicSystem],
    *,
    workers: int | None = None,
    matcher: str = "mattergen",
    chgnet: int = 0,
    energy_cache: Path | None = None,
    progress: bool = False,
) -> list[Metric]:
    """Measure generated crystals against a reference set, usually the training data.

    Args:
        samples: crystals; None where generation failed.
        reference: known crystals.
        workers: processes, all cores by default; 0 computes in this one (see `guarded_map`).
        matcher: tolerances of uniqueness and novelty, key of `matching.MATCHERS`.
        chgnet: number of samples to relax by CHGNet, some seconds each; 0 leaves the energies out.
        energy_cache: .npz file that keeps CHGNet energies of the reference between calls.
        progress: show bars.

    Raises:
        Gen3dError: there is nothing to measure or to compare with, or the matcher is unknown.
        MissingExtra: a package is not installed.
    """
    if not len(samples) or not len(reference):
        raise Gen3dError(
            f"{len(samples)} samples against {len(reference)} reference crystals: both must be there"
        )
    citation = tolerances(matcher).citation
    inspections = _inspect_all(samples, workers, progress)
    sound = [s if i.structure else None for s, i in zip(samples, inspections, strict=True)]
    valid = np.array([i.structure and i.composition for i in inspections])
    matches = match_all(sound, reference, matcher=matcher, workers=workers, progress=progress)

    compared = matches.first >= 0
    novel = compared & ~matches.known
    leads = matches.first == np.arange(len(samples))  # the first of each class of equal crystals
    formulas = {reduced_formula(s.numbers) for s in sound if s is not None}
    total, same = len(samples), f'the same by StructureMatcher with tolerances "{matcher}"'
    metrics: list[Metric] = [
        *_validity_metrics(inspections),
        _plain_percentage(
            "uniqueness",
            leads.sum(),
            total,
            f"% of all samples: distinct structurally valid crystals / all samples; {same}",
            citation,
        ),
        percentage(
            "novelty",
            int(novel.sum()),
            total,
            f"% of all samples that are structurally valid and that the reference does not hold; {same}",
            citation=citation,
        ),
        _plain_percentage(
            "valid_uniqueness",
            (leads & valid).sum(),
            valid.sum(),
            f"% of valid samples: distinct valid crystals / valid samples; {same}",
            citation,
        ),
        percentage(
            "valid_novelty",
            int((novel & valid).sum()),
            int(valid.sum()),
            f"% of valid samples that the reference does not hold; {same}",
            citation=citation,
        ),
        _plain_percentage(
            "valid_unique_novel",
            (leads & novel & valid).sum(),
            total,
            f"% of all samples: distinct valid crystals that the reference lacks / all samples; {same}",
            citation,
        ),
        _plain_percentage(
            "composition_uniqueness",
            len(formulas),
            total,
            "% of all samples: distinct reduced formulas of structurally valid samples / all samples",
            "xtalmet, arXiv 2510.12405",
        ),
        *_distribution_metrics([s for s in sound if s is not None], reference),
    ]
    if chgnet:
        metrics += energy_metrics(
            sound, reference, limit=chgnet, cache=energy_cache, workers=workers, progress=progress
        )
    return metrics


def structure_prediction_metrics(
    predictions: Sequence[AtomicSystem | None],
    targets: Sequence[AtomicSystem],
    *,
    matcher: str = "cdvae",
    workers: int | None = None,
    progress: bool = False,
) -> list[Metric]:
    """Measure predicted structures, one for each target of known composition.

    Papers differ in whether a match must be valid; both are reported.

    Args:
        predictions: in the order of the targets; None where prediction failed.
        targets: the true structures.
        matcher: key of `matching.MATCHERS`.
        workers: see `guarded_map`.
        progress: show bars.

    Raises:
        Gen3dError: unequal numbers or none, or the matcher is unknown.
        MissingExtra: a package is not installed.
    """
    if not len(targets):
        raise Gen3dError("0 targets; at least one is needed")
    citation = tolerances(matcher).citation
    distances = rms_distances(predictions, targets, matcher=matcher, workers=workers, progress=progress)
    inspections = _inspect_all([*predictions, *targets], workers, progress)
    valid = np.array([i.structure and i.composition for i in inspections])
    both = valid[: len(targets)] & valid[len(targets) :]
    matched = np.isfinite(distances)
    metrics: list[Metric] = []
    for suffix, counted, which in (
        ("", matched, ""),
        ("_valid", matched & both, " with prediction and target both valid"),
    ):
        metrics += [
            percentage(
                f"match_rate{suffix}",
                int(counted.sum()),
                len(targets),
                f'% of all targets that the prediction matches{which}; tolerances "{matcher}"',
                citation=citation,
            ),
            Metric(
                f"rmse{suffix}",
                float(distances[counted].mean()) if counted.any() else None,
                f"mean over the matches{which} of the sites' RMS displacement / (volume per atom)^(1/3)",
                "lower",
                citation,
            ),
        ]
    return metrics


def inspect_crystal(system: AtomicSystem) -> Inspection:
    """Test one sample."""
    structure = structure_valid(system)
    low, high = ANGLES
    angles = structure and all(low < angle < high for angle in lattice_angles(system))
    return Inspection(structure, composition_valid(system.numbers), angles)


def structure_valid(system: AtomicSystem) -> bool:
    """Whether the cell has at least 0.1 angstrom^3 and its atoms are at least 0.5 angstrom apart.

    Values that are not finite, atoms of no element and lattice vectors beyond `MAX_LENGTH` are not valid.
    """
    if system.cell is None or not _elements_known(system.numbers):
        return False
    if not (np.isfinite(system.cell).all() and np.isfinite(system.positions).all()):
        return False
    if np.abs(system.cell).max() > MAX_LENGTH or np.abs(np.linalg.det(system.cell)) < MIN_VOLUME:
        return False
    return minimum_distance(system) >= MIN_DISTANCE


def minimum_distance(system: AtomicSystem) -> float:
    """Smallest distance between two atoms, or an atom and its own image, in angstrom; exact in skewed cells.

    In a Minkowski-reduced cell the nearest image is one of the 27 around the wrapped difference. 0 when
    the cell cannot be reduced.

    Args:
        system: a crystal whose cell has a volume.
    """
    cell = minkowski_cell(system)
    if cell is None:
        return 0.0
    nearest = float(np.linalg.norm(cell, axis=1).min())  # an atom and its own image
    fractional = np.linalg.solve(cell.T, system.positions.T).T
    first, second = np.triu_indices(len(system), k=1)
    difference = fractional[first] - fractional[second]
    difference -= np.round(difference)
    for shift in np.ndindex(3, 3, 3):
        squared = (((difference + np.array(shift) - 1) @ cell) ** 2).sum(-1)
        nearest = min(nearest, float(np.sqrt(squared.min(initial=np.inf))))
    return nearest


def lattice_angles(system: AtomicSystem) -> np.ndarray:
    """(3,) alpha, beta, gamma in degrees, of the cell as it is given."""
    assert system.cell is not None
    a, b, c = system.cell / np.linalg.norm(system.cell, axis=1, keepdims=True)
    return np.degrees(np.arccos(np.clip([b @ c, a @ c, a @ b], -1.0, 1.0)))


def composition_valid(numbers: np.ndarray) -> bool:
    """Whether SMACT finds the composition plausible.

    It is when some choice of one oxidation state per element, from smact's set "smact14", is neutral and
    gives anions a higher Pauling electronegativity than cations; or when it is one element, or all are
    metals. Elements without oxidation states and compositions with more than 10^7 choices are not.

    Args:
        numbers: (N,) atomic numbers.
    """
    return _elements_known(numbers) and _formula_valid(reduced_formula(numbers))


def density(system: AtomicSystem) -> float:
    """Mass density in g/cm^3."""
    assert system.cell is not None
    volume = abs(float(np.linalg.det(system.cell)))
    return float(_masses()[system.numbers].sum()) * GRAMS_PER_CM3 / volume


def _elements_known(numbers: np.ndarray) -> bool:
    return bool(len(numbers) and ((numbers >= 1) & (numbers <= 118)).all())


def _inspect_all(
    samples: Sequence[AtomicSystem | None], workers: int | None, progress: bool
) -> list[Inspection]:
    require("smact", "eval")
    present = [i for i, s in enumerate(samples) if s is not None]
    # ten million oxidation states take smact a minute
    found = guarded_map(
        inspect_crystal,
        [samples[i] for i in present],
        workers=workers,
        timeout=300.0,
        description="validity" if progress else None,
    )
    inspections = [Inspection()] * len(samples)
    for i, inspection in zip(present, found, strict=True):
        inspections[i] = inspection or Inspection()
    return inspections


def _validity_metrics(inspections: Sequence[Inspection]) -> list[Metric]:
    low, high = ANGLES
    tests = [
        (
            "validity",
            [i.structure and i.composition for i in inspections],
            "% of all samples with valid structure and valid composition",
            CDVAE,
        ),
        (
            "structure_validity",
            [i.structure for i in inspections],
            f"% of all samples: atoms >= {MIN_DISTANCE} angstrom apart, volume >= {MIN_VOLUME} angstrom^3",
            CDVAE,
        ),
        (
            "composition_validity",
            [i.composition for i in inspections],
            f'% of all samples that SMACT finds neutral with oxidation states "{OXIDATION_STATES}" and that '
            "pass the Pauling test; single elements and alloys of metals pass",
            SMACT,
        ),
        (
            "angles_in_range",
            [i.angles for i in inspections],
            f"% of all samples, structurally valid, with lattice angles within ({low:g}, {high:g}) degrees; "
            "no part of the validity",
            ADIT,
        ),
    ]
    return [
        percentage(name, sum(passed), len(passed), text, citation=source)
        for name, passed, text, source in tests
    ]


def _distribution_metrics(samples: Sequence[AtomicSystem], reference: Sequence[AtomicSystem]) -> list[Metric]:
    """Wasserstein-1 distances; CDVAE takes the valid samples, here the composition need not be valid."""
    stats = require("scipy.stats", "atoms")
    metrics: list[Metric] = []
    for name, measure, what in (
        ("density_w1", density, "mass density (g/cm^3)"),
        ("element_count_w1", _element_count, "number of elements in a crystal"),
    ):
        theirs = [measure(s) for s in reference]
        ours = [measure(s) for s in samples]
        value = float(stats.wasserstein_distance(ours, theirs)) if ours else None
        text = f"Wasserstein-1 distance of the {what}, structurally valid samples against the reference"
        metrics.append(Metric(name, value, text, "lower", CDVAE))
    return metrics


def _element_count(system: AtomicSystem) -> float:
    return float(len(np.unique(system.numbers)))


def _plain_percentage(name: str, count: int, total: int, definition: str, citation: str) -> Estimate:
    """A count of distinct items is no binomial count, so it has no interval."""
    return Estimate(
        name, 100 * float(count) / float(total) if total else None, definition, "higher", citation
    )


@lru_cache(maxsize=100_000)
def _formula_valid(formula: Formula) -> bool:
    smact, screening = require("smact", "eval"), require("smact.screening", "eval")
    table = require("pymatgen.core", "atoms").Element
    symbols = [table.from_Z(number).symbol for number, _ in formula]
    try:
        states = [smact.Element(symbol).oxidation_states_smact14 or () for symbol in symbols]
    except KeyError:  # smact ends with lawrencium
        return len(symbols) == 1
    alloy = all(symbol in smact.metals for symbol in symbols)
    if not alloy and math.prod(len(s) for s in states) > MAX_COMBINATIONS:
        return False
    text = "".join(f"{symbol}{count}" for symbol, (_, count) in zip(symbols, formula, strict=True))
    return bool(screening.smact_validity(text, oxidation_states_set=OXIDATION_STATES))


@cache
def _masses() -> np.ndarray:
    """(119,) atomic mass in dalton by atomic number."""
    table = require("pymatgen.core", "atoms").Element
    return np.array([0.0, *(float(table.from_Z(z).atomic_mass) for z in range(1, 119))])
