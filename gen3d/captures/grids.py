"""Meshes as grids: distances to the surface, and what the nearest point of the surface is like.

The grid fills the cube [-1, 1]^3, a cell's value that of its middle. Meshes of furniture are often open or
made of sheets without thickness, so that no winding number tells inside from outside; what cannot be reached
from the border of a grid is inside.
"""

import numpy as np

from gen3d.errors import require

FINER = 2
"""Cells along a side of one, of the grid that meshes are drawn into."""
REACH = 2.0
"""Cells from the surface beyond which all distances count alike."""
FILLED = 0.94
"""Half of the longest side of a thing in the cube."""
SPACING = 0.5
"""Of points on a surface, in cells of the finer grid, at most: there must be no holes in what encloses."""


def into_cube(vertices: np.ndarray) -> np.ndarray:
    """Vertices (P, 3), moved and scaled so that their box is in the middle and its longest side fills the
    cube."""
    low, high = vertices.min(0), vertices.max(0)
    return (vertices - (low + high) / 2) * (2 * FILLED / max(float((high - low).max()), 1e-9))


def gridded(
    vertices: np.ndarray,
    faces: np.ndarray,
    values: np.ndarray,
    resolution: int,
) -> tuple[np.ndarray, np.ndarray]:
    """A mesh in the cube as a grid of R = `resolution` cells a side.

    Args:
        vertices: (P, 3), in the cube.
        faces: (F, 3).
        values: (F, ...) of faces.
        resolution: R.

    Returns:
        Distances (R, R, R) float32 in cells, positive inside, REACH at most; and the value of the nearest
        face (R, R, R, ...).

    Raises:
        MissingExtra: scipy is not installed.
    """
    ndimage = require("scipy.ndimage", "shapes")
    side = resolution * FINER
    face, points = _points(np.asarray(vertices, np.float32)[faces], SPACING * 2 / side)
    cell = tuple(((points + 1) * (side / 2)).astype(int).clip(0, side - 1).T)
    shell = np.zeros(3 * (side,), bool)
    near = np.zeros((*3 * (side,), *values.shape[1:]), values.dtype)
    shell[cell], near[cell] = True, values[face]
    solid = ndimage.binary_fill_holes(shell)
    middles = 3 * (slice(FINER // 2, None, FINER),)
    nearest = ndimage.distance_transform_edt(~shell, return_distances=False, return_indices=True)
    # Distances are between middles of cells. The surface goes through the outermost cells that are full: in
    # the mean a whole cell before the middle of the first that is empty.
    signed = ndimage.distance_transform_edt(solid) - ndimage.distance_transform_edt(~solid)
    signed = ((signed + np.where(solid, -1.0, 0.0)) / FINER).clip(-REACH, REACH)
    blocks = signed.astype(np.float32).reshape(3 * (resolution, FINER))
    return blocks.mean((1, 3, 5)), near[tuple(nearest[(slice(None), *middles)])]


def _points(corners: np.ndarray, spacing: float) -> tuple[np.ndarray, np.ndarray]:
    """Faces, and points (., 3) on them, of triangles (F, 3, 3): rows along the longest side of each, rows and
    points in them no further apart than `spacing`."""
    sides = np.linalg.norm(np.roll(corners, -1, 1) - corners, axis=2)
    order = (sides.argmax(1)[:, None] + np.arange(3)) % 3
    a, b, c = np.moveaxis(np.take_along_axis(corners, order[..., None], 1), 1, 0)
    longest = sides.max(1)
    height = np.linalg.norm(np.cross(b - a, c - a), axis=1) / np.maximum(longest, 1e-12)
    along, across = (np.ceil(length / spacing).astype(int).clip(1) for length in (longest, height))
    counts = (along + 1) * (across + 1)
    face = np.repeat(np.arange(len(corners)), counts)
    number = np.arange(len(face)) - np.repeat(np.cumsum(counts) - counts, counts)
    row, place = np.divmod(number, along[face] + 1)
    up = (row / across[face])[:, None].astype(np.float32)
    right = (place / along[face])[:, None].astype(np.float32) * (1 - up)
    return face, a[face] + right * (b - a)[face] + up * (c - a)[face]
