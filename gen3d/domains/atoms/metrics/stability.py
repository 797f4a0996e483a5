"""Atom and molecule stability by the distance lookup of EDM (protocol "edm").

A pair of atoms is bonded with order 1, 2 or 3 when its distance is below the typical length of such a bond
plus a margin. An atom is stable when its bond orders add up to an allowed valence, a molecule when all of its
atoms are. Lengths, margins and valences: Hoogeboom et al., "Equivariant Diffusion for Molecule Generation
in 3D", ICML 2022, appendix C, with the C#O entry without which validity falls by a point.

The verdict depends strongly on these conventions: one set of samples can score 38 % by this rule and above
80 % by rules that let an atom have fewer bonds. Compare numbers of this protocol only with each other.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from gen3d.domains.atoms.system import AtomicSystem
from gen3d.metrics import Z95, Estimate, percentage

CITATION = "Hoogeboom et al., ICML 2022 (EDM)"

_ELEMENTS = {
    "H": 1, "B": 5, "C": 6, "N": 7, "O": 8, "F": 9, "Al": 13, "Si": 14, "P": 15, "S": 16, "Cl": 17,
    "As": 33, "Br": 35, "I": 53, "Hg": 80, "Bi": 83,
}  # fmt: skip

_VALENCES: dict[str, tuple[int, ...]] = {
    "H": (1,), "B": (3,), "C": (4,), "N": (3,), "O": (2,), "F": (1,), "Al": (3,), "Si": (4,), "P": (3, 5),
    "S": (4,), "Cl": (1,), "As": (3,), "Br": (1,), "I": (1,), "Hg": (1, 2), "Bi": (3, 5),
}  # fmt: skip

# Typical bond lengths in pm, each pair once.
_SINGLE = {
    "H": {"H": 74, "B": 119, "C": 109, "N": 101, "O": 96, "F": 92, "Si": 148, "P": 144, "S": 134, "Cl": 127,
          "As": 152, "Br": 141, "I": 161},
    "B": {"Cl": 175},
    "C": {"C": 154, "N": 147, "O": 143, "F": 135, "Si": 185, "P": 184, "S": 182, "Cl": 177, "Br": 194,
          "I": 214},
    "N": {"N": 145, "O": 140, "F": 136, "P": 177, "S": 168, "Cl": 175, "Br": 214, "I": 222},
    "O": {"O": 148, "F": 142, "Si": 163, "P": 163, "S": 151, "Cl": 164, "Br": 172, "I": 194},
    "F": {"F": 142, "Si": 160, "P": 156, "S": 158, "Cl": 166, "Br": 178, "I": 187},
    "Si": {"Si": 233, "S": 200, "Cl": 202, "Br": 215, "I": 243},
    "P": {"P": 221, "S": 210, "Cl": 203, "Br": 222},
    "S": {"S": 204, "Cl": 207, "Br": 225, "I": 234},
    "Cl": {"Cl": 199, "Br": 214},
    "Br": {"Br": 228},
    "I": {"I": 266},
}  # fmt: skip
_DOUBLE = {
    "C": {"C": 134, "N": 129, "O": 120, "S": 160},
    "N": {"N": 125, "O": 121},
    "O": {"O": 121, "P": 150},
    "P": {"S": 186},
}
_TRIPLE = {"C": {"C": 120, "N": 116, "O": 113}, "N": {"N": 110}}

_LARGEST = max(_ELEMENTS.values())


def bond_orders(system: AtomicSystem) -> np.ndarray:
    """(N, N) int64 bond orders 0 to 3 by the distance lookup; pairs of elements not in it have none."""
    kinds = np.where(system.numbers <= _LARGEST, system.numbers, 0)
    with np.errstate(invalid="ignore", over="ignore"):  # exploded samples hold infinities
        difference = system.positions[:, None] - system.positions[None]
        distances = 100 * np.sqrt(np.einsum("ija,ija->ij", difference, difference))
    np.fill_diagonal(distances, np.inf)
    return (distances < _THRESHOLDS[:, kinds[:, None], kinds[None]]).sum(0)


def stable_atoms(system: AtomicSystem) -> np.ndarray:
    """(N,) True where the bond orders of an atom add up to an allowed valence of its element."""
    valence = np.minimum(bond_orders(system).sum(1), _ALLOWED.shape[1] - 1)
    return _ALLOWED[np.minimum(system.numbers, _LARGEST + 1), valence]


def stability_metrics(samples: Sequence[AtomicSystem | None]) -> list[Estimate]:
    """Atom and molecule stability in percent; None is a sample that failed."""
    counts = np.array([(stable_atoms(s).sum(), len(s)) if s is not None else (0, 0) for s in samples])
    counts = counts.reshape(-1, 2)
    stable, atoms = counts.T
    whole = int(((stable == atoms) & (atoms > 0)).sum())
    return [
        _atom_stability(stable, atoms),
        percentage(
            "molecule_stability",
            whole,
            len(samples),
            "% of all samples in which every atom is stable by the EDM bond lookup",
            citation=CITATION,
        ),
    ]


def _atom_stability(stable: np.ndarray, atoms: np.ndarray) -> Estimate:
    """Percentage over atoms; its interval treats molecules, not atoms, as independent."""
    name = "atom_stability"
    definition = (
        "% of atoms whose EDM lookup bonds add up to an allowed valence; a failed sample counts as one of "
        "average size without a stable atom"
    )
    generated = atoms > 0
    if not generated.any():
        return Estimate(name, 0.0 if len(atoms) else None, definition, "higher", CITATION)
    sizes = np.where(generated, atoms, atoms[generated].mean())
    ratio = stable.sum() / sizes.sum()
    # standard error of a ratio estimator (Cochran, Sampling Techniques, 1977, eq. 2.46)
    error = Z95 * np.sqrt(((stable - ratio * sizes) ** 2).sum()) / sizes.sum()
    interval = (100 * max(0.0, float(ratio - error)), 100 * min(1.0, float(ratio + error)))
    return Estimate(name, 100 * float(ratio), definition, "higher", CITATION, interval)


def _threshold_table(lengths: Mapping[str, Mapping[str, int]], margin: int) -> np.ndarray:
    """Distance in pm below which a pair of elements has the bond; 0, so never, where there is no entry."""
    table = np.zeros((_LARGEST + 1, _LARGEST + 1))
    for first, row in lengths.items():
        for second, length in row.items():
            i, j = _ELEMENTS[first], _ELEMENTS[second]
            table[i, j] = table[j, i] = length + margin
    return table


def _allowed_table() -> np.ndarray:
    """(elements, valence): True where allowed; the last row stands for every unknown element."""
    table = np.zeros((_LARGEST + 2, 16), dtype=bool)
    for element, valences in _VALENCES.items():
        table[_ELEMENTS[element], list(valences)] = True
    return table


_THRESHOLDS = np.stack(
    [_threshold_table(_SINGLE, 10), _threshold_table(_DOUBLE, 5), _threshold_table(_TRIPLE, 3)]
)
_ALLOWED = _allowed_table()
