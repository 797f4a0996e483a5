"""What pictures of a crystal are drawn from."""

from typing import Any

import numpy as np

CORNERS = np.stack(np.meshgrid(*3 * [[0, 1]], indexing="ij"), -1).reshape(-1, 3)
"""(8, 3), of a cell, in fractions of its axes."""
_EDGES = [(a, b) for a in range(8) for b in range(a) if np.abs(CORNERS[a] - CORNERS[b]).sum() == 1]


def unit_cell(structure: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Atomic numbers (N,), fractional coordinates (N, 3) in [0, 1), and edges of the cell (12, 2, 3) in
    Angstrom of a `pymatgen.core.Structure`.

    A disordered site counts as its most frequent element.
    """
    numbers = np.array([max(s.species.items(), key=lambda e: e[1])[0].Z for s in structure])
    edges = CORNERS[np.array(_EDGES)] @ np.array(structure.lattice.matrix)
    return numbers, np.mod(structure.frac_coords, 1.0), edges
