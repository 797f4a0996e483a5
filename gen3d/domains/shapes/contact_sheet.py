"""A picture of many shapes at once."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gen3d.domains.shapes.native import cloud_of
from gen3d.errors import Gen3dError, require
from gen3d.media import write_sheet

VIEW = (-35.0, 22.0)
"""Degrees that shapes are turned about the up axis, and that the camera looks down by."""
LIGHT = np.array([0.35, 0.8, 0.5])
HUE = np.array([70.0, 130.0, 180.0])
"""Colour (RGB, 0 to 255) of surfaces in full light."""
SURFACE_POINTS = 120_000
FINE = 2
"""Pictures are drawn so many times as large, and averaged: smooth edges."""


def contact_sheet(objects: Sequence[Any], path: Path, *, columns: int | None = None, size: int = 224) -> None:
    """Write a PNG with a small picture of every shape, row by row; failed ones stay white.

    Clouds are drawn as shaded dots, the surfaces of meshes and voxel grids in one light, in their own colours
    where points, vertices or faces have some. All share one view, from the front and above, and one scale.

    Args:
        objects: `trimesh.PointCloud`, `trimesh.Trimesh`, `trimesh.voxel.VoxelGrid` or None.
        path: of the PNG.
        columns: pictures in a row; by default about as many as rows.
        size: width and height of a picture in pixels.

    Raises:
        Gen3dError: there are no objects.
    """
    if not objects:
        raise Gen3dError(f"nothing to draw in {path}: the list of objects is empty")
    write_sheet([None if shape is None else picture(shape, size) for shape in objects], path, columns)


def picture(shape: Any, size: int) -> np.ndarray:
    """One shape as an image (size, size, 3), uint8."""
    points, normals, hues = _surface(shape)
    turn, tilt = np.deg2rad(VIEW)
    fine = size * FINE
    about_y = np.array([[np.cos(turn), 0, np.sin(turn)], [0, 1, 0], [-np.sin(turn), 0, np.cos(turn)]])
    about_x = np.array([[1, 0, 0], [0, np.cos(tilt), -np.sin(tilt)], [0, np.sin(tilt), np.cos(tilt)]])
    seen = points @ (about_x @ about_y).T
    if normals is None:
        # Clouds have no normals: what is nearer is darker, and what is higher too, a little.
        depth = (seen[:, 2] - seen[:, 2].min()) / max(float(np.ptp(seen[:, 2])), 1e-9)
        light = 1.35 - 0.5 * depth - 0.1 * points[:, 1].clip(-1, 1)
        radius = max(1.0, 0.011 * fine)
    else:
        facing = np.abs(normals @ (LIGHT / np.linalg.norm(LIGHT)))
        light, radius = 0.4 + 0.85 * facing, max(1.0, 0.004 * fine)
    colours = (hues * light[:, None]).clip(0, 255)
    # The unit box, turned, reaches 1.6 from its centre at most.
    across = (seen[:, :2] * [1, -1] / 1.6 + 1) * (fine / 2)
    drawn = _splat(across, seen[:, 2], colours, radius, fine)
    return drawn.reshape(size, FINE, size, FINE, 3).mean((1, 3)).round().astype(np.uint8)


def _surface(shape: Any) -> tuple[np.ndarray, np.ndarray | None, np.ndarray]:
    """Points of a shape, their normals where it has a surface, and colours that broadcast over them."""
    trimesh = require("trimesh", "shapes")
    if isinstance(shape, trimesh.voxel.VoxelGrid):
        shape = shape.marching_cubes.apply_transform(shape.transform)
    if isinstance(shape, trimesh.Trimesh):
        points, faces = trimesh.sample.sample_surface(shape, SURFACE_POINTS, seed=0)
        coloured = shape.visual.kind in ("vertex", "face")
        hues = shape.visual.face_colors[faces, :3] if coloured else HUE
        return np.asarray(points), np.asarray(shape.face_normals)[faces], hues
    own = getattr(shape, "colors", ())
    if len(own) and len(own) == len(shape.vertices) <= SURFACE_POINTS:
        return np.asarray(shape.vertices), None, np.asarray(own)[:, :3]
    return cloud_of(shape, SURFACE_POINTS), None, HUE


def _splat(
    across: np.ndarray, depth: np.ndarray, colours: np.ndarray, radius: float, size: int
) -> np.ndarray:
    """Discs on white, nearer ones in front."""
    reach = int(np.ceil(radius))
    offsets = np.arange(-reach, reach + 1)
    dx, dy = (grid.ravel() for grid in np.meshgrid(offsets, offsets))
    inside = dx**2 + dy**2 <= radius**2
    order = np.argsort(depth)
    x = np.round(across[order, 0, None]).astype(int) + dx[inside]
    y = np.round(across[order, 1, None]).astype(int) + dy[inside]
    image = np.full((size, size, 3), 255.0)
    fine = (x >= 0) & (x < size) & (y >= 0) & (y < size)
    # Later writes win, and the nearest come last.
    image[y[fine], x[fine]] = np.broadcast_to(colours[order][:, None], (*x.shape, 3))[fine]
    return image.astype(np.uint8)
