"""How far generated molecules lie from reference ones: Wasserstein-1 distances of local geometry and content.

Zero means equal distributions. Two finite draws from one distribution are not at zero: compare with the
value of held-out data of the same size.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np

from gen3d.metrics import Metric

if TYPE_CHECKING:
    from rdkit.Chem import Mol

CITATION = "Wasserstein-1 as in Vignac et al., ECML 2023 (MiDi)"
SYMBOLS = {1.0: "-", 1.5: ":", 2.0: "=", 3.0: "#"}
"""Bond order to SMILES symbol."""
BOND_TYPES = 6
"""Number of bond types, the most frequent ones of the reference, with a distance of their own."""


@dataclass(frozen=True)
class LocalGeometry:
    """Bonds and angles of one molecule.

    Attributes:
        lengths: bond lengths in angstrom by bond type: elements in alphabetical order around the SMILES
            symbol of the bond, as in "C-H", "C=O", "C#N" and, aromatic, "C:C".
        angles: (K,) angles in degrees between all pairs of bonds at an atom.
    """

    lengths: Mapping[str, np.ndarray]
    angles: np.ndarray


def local_geometry(mol: "Mol") -> LocalGeometry:
    """Measure the bonds and angles of a molecule with one conformer."""
    positions = mol.GetConformer().GetPositions()
    lengths: dict[str, list[float]] = {}
    for bond in mol.GetBonds():
        first, second = sorted((bond.GetBeginAtom().GetSymbol(), bond.GetEndAtom().GetSymbol()))
        length = np.linalg.norm(positions[bond.GetBeginAtomIdx()] - positions[bond.GetEndAtomIdx()])
        key = first + SYMBOLS.get(bond.GetBondTypeAsDouble(), "~") + second
        lengths.setdefault(key, []).append(float(length))
    triples = [
        (a.GetIdx(), atom.GetIdx(), b.GetIdx())
        for atom in mol.GetAtoms()
        for a, b in combinations(atom.GetNeighbors(), 2)
    ]
    return LocalGeometry({k: np.array(v) for k, v in lengths.items()}, _angles(positions, triples))


def geometry_metrics(samples: Sequence[LocalGeometry], reference: Sequence[LocalGeometry]) -> list[Metric]:
    """Distances of bond lengths, overall and for the most frequent types, and of bond angles."""
    ours, theirs = _by_type(samples), _by_type(reference)
    frequent = [key for key, _ in Counter({k: v.size for k, v in theirs.items()}).most_common(BOND_TYPES)]
    metrics = [
        _distance(
            "bond_lengths_w1",
            _joined(list(ours.values())),
            _joined(list(theirs.values())),
            "W1 of all bond lengths (angstrom), bonds of valid samples against the reference",
        )
    ]
    for key in frequent:
        definition = f"W1 of the lengths of {key} bonds (angstrom) of valid samples against the reference"
        metrics.append(
            _distance(f"bond_lengths_w1[{key}]", ours.get(key, np.zeros(0)), theirs[key], definition)
        )
    metrics.append(
        _distance(
            "bond_angles_w1",
            _joined([g.angles for g in samples]),
            _joined([g.angles for g in reference]),
            "W1 of all angles between two bonds at an atom (degrees), valid samples against the reference",
        )
    )
    return metrics


def content_metrics(samples: Sequence[np.ndarray], reference: Sequence[np.ndarray]) -> list[Metric]:
    """Distances of the number of atoms and of the composition.

    Args:
        samples: (N,) atomic numbers of every generated molecule, valid or not.
        reference: the same of the reference.
    """
    counts = _distance(
        "atom_counts_w1",
        np.array([len(n) for n in samples]),
        np.array([len(n) for n in reference]),
        "W1 of the number of atoms of generated molecules, valid or not, against the reference",
    )
    definition = (
        "W1 of the fraction of a molecule's atoms that an element makes up, summed over elements, "
        "generated molecules, valid or not, against the reference"
    )
    ours, theirs = _fractions(samples), _fractions(reference)
    value = None
    if len(ours) and len(theirs):
        present = np.flatnonzero(ours.any(0) | theirs.any(0))
        value = sum(_wasserstein(ours[:, z], theirs[:, z]) for z in present)
    return [counts, Metric("composition_w1", value, definition, "lower", CITATION)]


def _angles(positions: np.ndarray, triples: list[tuple[int, int, int]]) -> np.ndarray:
    a, centre, b = np.array(triples, dtype=np.int64).reshape(-1, 3).T
    u, v = positions[a] - positions[centre], positions[b] - positions[centre]
    # the arctangent keeps its precision near 0 and 180 degrees
    sine = np.linalg.norm(np.cross(u, v), axis=1)
    return np.degrees(np.arctan2(sine, (u * v).sum(1)))


def _by_type(geometries: Sequence[LocalGeometry]) -> dict[str, np.ndarray]:
    gathered: dict[str, list[np.ndarray]] = {}
    for geometry in geometries:
        for key, lengths in geometry.lengths.items():
            gathered.setdefault(key, []).append(lengths)
    return {key: np.concatenate(parts) for key, parts in gathered.items()}


def _joined(parts: Sequence[np.ndarray]) -> np.ndarray:
    return np.concatenate(parts) if parts else np.zeros(0)


def _fractions(molecules: Sequence[np.ndarray]) -> np.ndarray:
    """(M, 119) share of every element in every molecule."""
    table = np.zeros((len(molecules), 119))
    for row, numbers in zip(table, molecules, strict=True):
        row += np.bincount(numbers, minlength=119) / len(numbers)
    return table


def _distance(name: str, ours: np.ndarray, theirs: np.ndarray, definition: str) -> Metric:
    value = _wasserstein(ours, theirs) if ours.size and theirs.size else None
    return Metric(name, value, definition, "lower", CITATION)


def _wasserstein(ours: np.ndarray, theirs: np.ndarray) -> float:
    from scipy.stats import wasserstein_distance

    return float(wasserstein_distance(ours, theirs))
