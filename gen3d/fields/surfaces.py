"""Meshes and point clouds of a field at one instant."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from gen3d.errors import Gen3dError, require
from gen3d.fields.base import Field
from gen3d.fields.occupancy import Occupancy

CHUNK = 1 << 17
FLOATER = 0.01
"""Parts with less than this share of the volume of all are left out, and counted."""


@torch.no_grad()
def mesh(
    field: Field,
    *,
    time: float | None = None,
    level: float | None = None,
    resolution: int = 128,
    occupancy: Occupancy | None = None,
) -> Any:
    """The surface of one density, by marching cubes, with vertex colours as seen from straight above it.

    Args:
        field: what it is the surface of.
        time: in [0, 1], where the field moves.
        level: the density; by default that which lets through e^-1 of the light along 1/16 of the box.
        resolution: grid points along the longest side.
        occupancy: where to look.

    Returns:
        `trimesh.Trimesh`; `metadata["floaters_removed"]` counts the separate parts that were left out for
        having less than 1% of the volume.

    Raises:
        Gen3dError: the density reaches that level nowhere, or a resolution below 2.
        MissingExtra: scikit-image or trimesh is not installed.
    """
    if resolution < 2:
        raise Gen3dError(f"resolution is {resolution}; at least 2 grid points")
    measure, trimesh = require("skimage.measure", "shapes"), require("trimesh", "shapes")
    box = field.box
    side = float((box[1] - box[0]).max())
    level = level_of(box) if level is None else level
    spacing = side / (resolution - 1)
    axes = [torch.arange(float(box[0, k]), float(box[1, k]) + spacing / 2, spacing) for k in range(3)]
    grid = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1)
    shape = grid.shape[:3]
    values = _densities(field, grid.view(-1, 3), time, occupancy).view(shape)
    # A border of nothing closes the surface where the scene touches its box.
    closed = torch.nn.functional.pad(values, (1,) * 6).cpu().numpy()
    if not closed.max() > level:
        raise Gen3dError(
            f"no surface: the density is {closed.max():.3g} at most, below the level {level:.3g}"
        )
    vertices, faces, _, _ = measure.marching_cubes(closed, level, spacing=(spacing,) * 3)
    vertices = vertices - spacing + box[0].cpu().numpy()
    made = trimesh.Trimesh(vertices, faces[:, ::-1], process=True)
    made, removed = _without_floaters(made, trimesh)
    colours = _colours(field, made.vertices, made.vertex_normals, time)
    made.visual.vertex_colors = np.rint(colours.clip(0, 1) * 255).astype(np.uint8)
    made.metadata["floaters_removed"] = removed
    return made


def level_of(box: Tensor) -> float:
    """The density whose surface is shown where no other is asked for."""
    return 16 / float((box[1] - box[0]).max())


def point_cloud(surface: Any, count: int, seed: int = 0) -> Any:
    """Points evenly over a coloured mesh of `mesh`, with its colours: `trimesh.PointCloud`.

    Raises:
        Gen3dError: fewer than 1 point asked for.
    """
    if count < 1:
        raise Gen3dError(f"{count} points; at least 1")
    trimesh = require("trimesh", "shapes")
    points, faces = trimesh.sample.sample_surface(surface, count, seed=seed)
    corners = surface.triangles[faces]
    weights = trimesh.triangles.points_to_barycentric(corners, points)
    colours = np.einsum("pk,pkc->pc", weights, surface.visual.vertex_colors[surface.faces[faces]])
    return trimesh.PointCloud(points, colors=np.rint(colours).clip(0, 255).astype(np.uint8))


def _densities(field: Field, points: Tensor, time: float | None, occupancy: Occupancy | None) -> Tensor:
    found = points.new_zeros(len(points))
    times = None if time is None else points.new_full((len(points),), time)
    asked = torch.arange(len(points))
    if occupancy is not None:
        asked = occupancy.contains(points, times).nonzero()[:, 0]
    for some in asked.split(CHUNK):
        found[some] = field.density(points[some], None if times is None else times[some])[0]
    return found


def _colours(field: Field, vertices: Any, normals: Any, time: float | None) -> np.ndarray:
    points = torch.from_numpy(np.asarray(vertices)).float()
    directions = -torch.nn.functional.normalize(torch.from_numpy(np.array(normals)).float(), dim=1)
    parts = []
    for some, seen in zip(points.split(CHUNK), directions.split(CHUNK), strict=True):
        times = None if time is None else some.new_full((len(some),), time)
        _, located = field.density(some, times)
        parts.append(field.colour(located, seen, times)[:, :3])
    return torch.cat(parts).cpu().numpy()


def _without_floaters(made: Any, trimesh: Any) -> tuple[Any, int]:
    parts = made.split(only_watertight=False)
    volumes = np.array([abs(part.volume) for part in parts])
    kept = [part for part, volume in zip(parts, volumes, strict=True) if volume >= FLOATER * volumes.sum()]
    if len(kept) == len(parts) or not kept:
        return made, 0
    return trimesh.util.concatenate(kept), len(parts) - len(kept)
