"""Draw the first molecules of a file as balls and sticks: the picture of the README.

python scripts/draw_molecules.py molecules.sdf docs/assets/molecules.png
"""

import sys
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes

from gen3d import io

COLOURS = {"H": "#f2f2f2", "C": "#505050", "N": "#3050f8", "O": "#e0201b", "F": "#50b050"}
ROWS, COLUMNS = 3, 6


def draw(source: Path, target: Path) -> None:
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    molecules = io.read(source)[: ROWS * COLUMNS]
    figure, axes = plt.subplots(ROWS, COLUMNS, figsize=(2 * COLUMNS, 2 * ROWS), squeeze=False)
    for axis in axes.flat:
        axis.set_aspect("equal")
        axis.axis("off")
    for axis, molecule in zip(axes.flat, molecules, strict=False):
        _draw_one(axis, molecule)
    figure.tight_layout(pad=0)
    target.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(target, dpi=110)


def _draw_one(axis: Axes, molecule: Any) -> None:
    positions = molecule.GetConformer().GetPositions()
    positions = positions - positions.mean(0)
    # Seen along the thinnest direction, so that as little as possible is hidden.
    positions = positions @ np.linalg.svd(positions)[2].T
    for bond in molecule.GetBonds():
        ends = positions[[bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()]]
        width = 2.5 * bond.GetBondTypeAsDouble()
        axis.plot(ends[:, 0], ends[:, 1], color="#909090", linewidth=width, zorder=ends[:, 2].mean() - 0.5)
    for atom, (x, y, z) in zip(molecule.GetAtoms(), positions, strict=True):
        symbol = atom.GetSymbol()
        size = 110 if symbol == "H" else 320
        colour = COLOURS.get(symbol, "#c060c0")
        axis.scatter(x, y, s=size, color=colour, edgecolors="#303030", linewidths=0.8, zorder=z)
    reach = np.abs(positions[:, :2]).max() + 0.8  # angstrom
    axis.set(xlim=(-reach, reach), ylim=(-reach, reach))


if __name__ == "__main__":
    draw(Path(sys.argv[1]), Path(sys.argv[2]))
