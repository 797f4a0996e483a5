"""Coloured things as grids: distances to the surface, and which part of the thing is near.

The grid fills the cube [-1, 1]^3, a cell's value that of its middle. Meshes of furniture are often open or
made of sheets without thickness, so that no winding number tells inside from outside; what cannot be reached
from the border of a grid is inside.
"""

import numpy as np

from gen3d.errors import require

RESOLUTION = 32
"""R, cells along a side."""
FINER = 2
"""Cells along a side of one, of the grid that meshes are drawn into."""
REACH = 2.0
"""Cells from the surface beyond which all distances count alike."""
THICKEN = 0.25
"""Cells by which things are made thicker, so that sheets and legs do not fall between the cells."""
FILLED = 0.94
"""Half of the longest side of a thing in the cube."""
SAMPLES = 150_000
"""Points of a surface by which it is drawn."""
MOST_PARTS = 256


def into_cube(vertices: np.ndarray) -> np.ndarray:
    """Vertices (P, 3), moved and scaled so that their box is in the middle and its longest side fills the
    cube."""
    low, high = vertices.min(0), vertices.max(0)
    return (vertices - (low + high) / 2) * (2 * FILLED / max(float((high - low).max()), 1e-9))


def gridded(
    vertices: np.ndarray, faces: np.ndarray, part: np.ndarray, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """A mesh in the cube as a grid.

    Args:
        vertices: (P, 3), in the cube.
        faces: (F, 3).
        part: (F,) numbers of parts, below MOST_PARTS.
        random: of the samples of the surface.

    Returns:
        Distances (R, R, R) int8, positive inside, 127 standing for REACH cells and more; and the number of
        the nearest part (R, R, R) uint8.

    Raises:
        MissingExtra: scipy is not installed.
    """
    ndimage = require("scipy.ndimage", "shapes")
    side = RESOLUTION * FINER
    corners = np.asarray(vertices, np.float32)[faces]
    cross = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    area = np.linalg.norm(cross, axis=1).astype(np.float64)
    # Every face once, so that none is missed, and large ones more often.
    often = np.searchsorted(np.cumsum(area) / area.sum(), random.random(SAMPLES))
    face = np.concatenate([np.arange(len(faces)), often.clip(max=len(faces) - 1)])
    u, v = random.random((2, len(face)), np.float32)
    over = u + v > 1
    u[over], v[over] = 1 - u[over], 1 - v[over]
    a, b, c = (corners[face, k] for k in range(3))
    points = a + u[:, None] * (b - a) + v[:, None] * (c - a)
    cell = ((points + 1) * (side / 2)).astype(int).clip(0, side - 1)
    shell = np.zeros(3 * (side,), bool)
    near = np.zeros(3 * (side,), np.uint8)
    shell[tuple(cell.T)], near[tuple(cell.T)] = True, part[face]
    solid = ndimage.binary_fill_holes(shell)
    away, nearest = ndimage.distance_transform_edt(~shell, return_indices=True)
    near = near[tuple(nearest)]
    # Distances are between middles of cells; the surface is half a cell before the first outside.
    inner = ndimage.distance_transform_edt(solid)
    outer = away if (solid == shell).all() else ndimage.distance_transform_edt(~solid)
    signed = (inner - outer + np.where(solid, -0.5, 0.5)) / FINER + THICKEN
    signed = signed.clip(-REACH, REACH).reshape(3 * (RESOLUTION, FINER)).mean((1, 3, 5))
    return np.rint(signed * (127 / REACH)).astype(np.int8), near[1::FINER, 1::FINER, 1::FINER]
