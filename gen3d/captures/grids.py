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
DENSE = 140
"""Points drawn for each of the R^2 cells of a side, so that no cell of a surface stays empty."""


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
    random: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """A mesh in the cube as a grid of R = `resolution` cells a side.

    Args:
        vertices: (P, 3), in the cube.
        faces: (F, 3).
        values: (F, ...) of faces.
        resolution: R.
        random: of the samples of the surface.

    Returns:
        Distances (R, R, R) float32 in cells, positive inside, REACH at most; and the value of the nearest
        face (R, R, R, ...).

    Raises:
        MissingExtra: scipy is not installed.
    """
    ndimage = require("scipy.ndimage", "shapes")
    side = resolution * FINER
    face, points = _samples(np.asarray(vertices, np.float32)[faces], DENSE * resolution**2, random)
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


def _samples(corners: np.ndarray, count: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Faces, and points (., 3) on them, of triangles (F, 3, 3): one for each, so that none is missed, and
    `count` evenly over the surface."""
    cross = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    area = np.cumsum(np.linalg.norm(cross, axis=1).astype(np.float64))
    often = np.searchsorted(area / max(float(area[-1]), 1e-30), random.random(count))
    face = np.concatenate([np.arange(len(corners)), often.clip(max=len(corners) - 1)])
    u, v = random.random((2, len(face), 1), np.float32)
    over = u + v > 1
    u[over], v[over] = 1 - u[over], 1 - v[over]
    a, b, c = (corners[face, k] for k in range(3))
    return face, a + u * (b - a) + v * (c - a)
