"""Atomic systems: the plain form of a molecule or a crystal, between files, codec and metrics."""

from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class AtomicSystem:
    """Some atoms in space, periodic or not.

    Attributes:
        numbers: (N,) int64 atomic numbers.
        positions: (N, 3) float64 Cartesian coordinates in angstrom.
        cell: (3, 3) float64 lattice vectors in rows, angstrom; None for a molecule.
        properties: measured scalars by name.
        name: identifier in the source, for messages.
    """

    numbers: np.ndarray
    positions: np.ndarray
    cell: np.ndarray | None = None
    properties: dict[str, float] = field(default_factory=dict)
    name: str = ""

    def __len__(self) -> int:
        return len(self.numbers)

    @property
    def periodic(self) -> bool:
        return self.cell is not None

    @property
    def fractional(self) -> np.ndarray:
        """(N, 3) coordinates in units of the lattice vectors, wrapped to [0, 1)."""
        if self.cell is None:
            raise ValueError("a molecule has no fractional coordinates")
        wrapped = np.linalg.solve(self.cell.T, self.positions.T).T % 1.0
        return np.where(wrapped == 1.0, 0.0, wrapped)  # a tiny negative rounds up to 1.0 under %
