"""A picture of many molecules or crystals at once: balls and sticks in one light, by their equations."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gen3d.domains.atoms.unit_cell import CORNERS, unit_cell
from gen3d.errors import Gen3dError
from gen3d.media import write_sheet

BALL, STICK, EDGE = 0.35, 0.11, 0.03
"""Radius of atoms, as a share of their covalent radius plus 0.5 Angstrom; of bonds and of the edges of a
cell, in Angstrom."""
LIGHT = np.array([-0.35, 0.5, 0.8]) / np.linalg.norm([-0.35, 0.5, 0.8])
AMBIENT, DIFFUSE, GLOSS = 0.45, 0.6, 0.25
TURN, TILT = -25.0, 15.0
"""Degrees that crystals are turned about the up axis, and that the camera looks down by."""
MARGIN = 1.1
FINE = 2
"""Pictures are drawn so many times as large, and averaged: smooth edges."""
SIDE = 160
"""Pixels along a side of one picture."""


def contact_sheet(objects: Sequence[Any], path: Path) -> None:
    """Write a PNG with a small picture of every object, row by row; failed ones stay white.

    Molecules are seen across their two longest axes, with bonds; crystals from the side, a little above, one
    cell with its edges. Elements have Jmol's colours.

    Args:
        objects: `rdkit.Chem.Mol`, `pymatgen.core.Structure` or None.
        path: of the PNG.

    Raises:
        Gen3dError: there are no objects.
    """
    if not objects:
        raise Gen3dError(f"nothing to draw in {path}: the list of objects is empty")
    write_sheet([None if thing is None else picture(thing, SIDE) for thing in objects], path)


def picture(thing: Any, size: int) -> np.ndarray:
    """One molecule or crystal as an image (size, size, 3), uint8."""
    from ase.data import covalent_radii
    from ase.data.colors import jmol_colors

    if hasattr(thing, "GetConformer"):
        positions = np.array(thing.GetConformer().GetPositions())
        numbers = np.array([atom.GetAtomicNum() for atom in thing.GetAtoms()])
        centred = positions - positions.mean(0)
        axes = np.linalg.svd(centred)[2]
        # A rotation and no mirror: hands must stay what they are.
        axes[2] *= np.sign(np.linalg.det(axes))
        places = centred @ axes.T
        bonds = [(bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()) for bond in thing.GetBonds()]
        sticks = [(places[a], places[b], numbers[a], numbers[b]) for a, b in bonds]
        corners = places
        edges = np.empty((0, 2, 3))
    else:
        lattice = np.array(thing.lattice.matrix)
        middle, turned = lattice.sum(0) / 2, _view()
        numbers, fractions, edges = unit_cell(thing)
        places = (fractions @ lattice - middle) @ turned.T
        corners = (CORNERS @ lattice - middle) @ turned.T
        edges = (edges - middle) @ turned.T
        sticks = []
    radii = BALL * (covalent_radii[numbers] + 0.5)
    reach = float(np.abs(np.concatenate([corners, places])[:, :2]).max()) + float(radii.max())
    canvas = _Canvas(size * FINE, MARGIN * reach)
    for place, radius, number in zip(places, radii, numbers, strict=True):
        canvas.ball(place, radius, 255 * jmol_colors[number])
    for a, b, first, second in sticks:
        canvas.stick(a, (a + b) / 2, STICK, 255 * jmol_colors[first])
        canvas.stick((a + b) / 2, b, STICK, 255 * jmol_colors[second])
    for a, b in edges:
        canvas.stick(a, b, EDGE, np.array([90.0, 90, 90]))
    drawn = canvas.colours.reshape(size, FINE, size, FINE, 3).mean((1, 3))
    return drawn.clip(0, 255).round().astype(np.uint8)


def _view() -> np.ndarray:
    """(3, 3): from the frame of a crystal, +z up, to that of a picture, +x right, +y up, +z near."""
    turn, tilt = np.deg2rad([TURN, TILT])
    about_up = np.array([[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, 1]])
    upright = np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]])
    down = np.array([[1.0, 0, 0], [0, np.cos(tilt), -np.sin(tilt)], [0, np.sin(tilt), np.cos(tilt)]])
    return down @ upright @ about_up


class _Canvas:
    """A square picture before white, seen along -z without perspective; the nearest surface wins.

    Args:
        size: pixels along a side.
        reach: what half of them stand for, in Angstrom.
    """

    def __init__(self, size: int, reach: float) -> None:
        self.axis = ((np.arange(size) + 0.5) * 2 / size - 1) * reach
        self.colours = np.full((size, size, 3), 255.0)
        self.depth = np.full((size, size), -np.inf)

    def ball(self, place: np.ndarray, radius: float, colour: np.ndarray) -> None:
        rows, columns = self._window(place, place, radius)
        dx, dy = self._offsets(place, rows, columns)
        rest = radius**2 - dx**2 - dy**2
        dz = np.sqrt(rest.clip(0))
        normals = np.stack(np.broadcast_arrays(dx, dy, dz), -1) / radius
        self._put(rows, columns, rest >= 0, place[2] + dz, normals, colour)

    def stick(self, start: np.ndarray, end: np.ndarray, radius: float, colour: np.ndarray) -> None:
        """A cylinder without ends, of which a line of sight meets w: |w|^2 - (w . u)^2 = r^2."""
        length = float(np.linalg.norm(end - start))
        if length == 0:
            return
        u = (end - start) / length
        across = 1 - u[2] ** 2
        if across < 1e-6:  # Seen end on: the atoms hide it.
            return
        rows, columns = self._window(start, end, radius)
        dx, dy = self._offsets(start, rows, columns)
        along = dx * u[0] + dy * u[1]
        root = (u[2] * along) ** 2 - across * (dx**2 + dy**2 - along**2 - radius**2)
        dz = (u[2] * along + np.sqrt(root.clip(0))) / across
        t = along + dz * u[2]
        w = np.stack(np.broadcast_arrays(dx, dy, dz), -1)
        seen = (root >= 0) & (t >= 0) & (t <= length)
        self._put(rows, columns, seen, start[2] + dz, (w - t[..., None] * u) / radius, colour)

    def _window(self, start: np.ndarray, end: np.ndarray, radius: float) -> tuple[slice, slice]:
        low, high = np.minimum(start, end) - radius, np.maximum(start, end) + radius
        first, last = np.searchsorted(self.axis, (low[:2], high[:2]))
        size = len(self.axis)
        return slice(size - last[1], size - first[1]), slice(first[0], last[0])

    def _offsets(self, place: np.ndarray, rows: slice, columns: slice) -> tuple[np.ndarray, np.ndarray]:
        return self.axis[None, columns] - place[0], self.axis[::-1][rows, None] - place[1]

    def _put(
        self,
        rows: slice,
        columns: slice,
        seen: np.ndarray,
        depth: np.ndarray,
        normals: np.ndarray,
        colour: np.ndarray,
    ) -> None:
        nearer = seen & (depth > self.depth[rows, columns])
        facing = (normals @ LIGHT).clip(0)
        light = AMBIENT + DIFFUSE * facing
        shade = colour * light[..., None] + 255 * GLOSS * (facing**20)[..., None]
        self.colours[rows, columns][nearer] = shade[nearer]
        self.depth[rows, columns][nearer] = depth[nearer]
