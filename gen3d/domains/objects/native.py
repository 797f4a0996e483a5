"""Between decoded grids and coloured meshes."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from gen3d.captures.compose import LIGHT
from gen3d.captures.grids import REACH, gridded, into_cube
from gen3d.captures.meshes import Y_TO_Z, in_ball
from gen3d.captures.render import render_mesh
from gen3d.domains.objects.dataset import RESOLUTION, Thing
from gen3d.errors import require
from gen3d.nn import text
from gen3d.scenes.viewpoints import cameras

FINER = 2
"""Cells along a side of one, of the grid in which surfaces are looked for: smoother than the one decoded."""
FLOATER = 0.01
"""A separate part below this share of the faces is a floater, and is removed."""


def to_mesh(grid: Tensor) -> Any:
    """The coloured surface of a decoded grid (4, R, R, R), in [-1, 1]^3, +y up, the front towards +z.

    Returns:
        `trimesh.Trimesh`, or None where nothing is inside or numbers are not finite.
        `metadata["floaters_removed"]` counts the parts that were left out.
    """
    trimesh, measure = require("trimesh", "shapes"), require("skimage.measure", "shapes")
    fine = F.interpolate(grid[None, :1], scale_factor=FINER, mode="trilinear")[0, 0].numpy()
    if not bool(grid.isfinite().all()) or not (fine > 0).any():
        return None
    side = len(fine)
    # A border outside closes the surface where the thing touches the end of the grid.
    padded = np.pad(fine, 1, constant_values=-1.0)
    vertices, faces, _, _ = measure.marching_cubes(padded, 0.0)
    places = (vertices - 0.5) * (2 / side) - 1
    made = trimesh.Trimesh(places, faces[:, ::-1], process=True)
    parts = made.split(only_watertight=False)
    kept = [part for part in parts if len(part.faces) >= FLOATER * len(made.faces)]
    removed = len(parts) - len(kept)
    if removed and kept:
        made = trimesh.util.concatenate(kept) if len(kept) > 1 else kept[0]
    made.visual.vertex_colors = colours_at(grid, np.asarray(made.vertices))
    made.vertices = np.asarray(made.vertices) @ Y_TO_Z
    made.metadata["floaters_removed"] = removed
    return made


def to_thing(mesh: Any) -> Thing:
    """A coloured mesh, +y up, as data: the way back.

    Raises:
        Gen3dError: it is no mesh with faces.
    """
    found = in_ball(mesh)
    distances, near = gridded(into_cube(found.vertices), found.faces, found.face_colours(), RESOLUTION)
    stored = np.rint(distances * (127 / REACH)).astype(np.int8)
    return Thing(stored, near, "", np.zeros((0, text.WIDTH), np.float16))


def colours_at(grid: Tensor, places: np.ndarray) -> np.ndarray:
    """(P, 3) uint8 at places (P, 3) of the cube."""
    where = torch.from_numpy(places.astype(np.float32)).flip(1)[None, None, None]
    # Colours are of the middles of cells; a place beyond the outermost has theirs.
    found = F.grid_sample(grid[None, 1:], where, padding_mode="border", align_corners=False)
    return ((found[0, :, 0, 0].T.clamp(-1, 1) + 1) * 127.5).round().byte().numpy()


def pictures(mesh: Any, azimuth: Sequence[float], elevation: float, width: int) -> Tensor:
    """(V, 3, width, width) in [0, 1]: a mesh before white, lit as the prior of pictures is."""
    shots = cameras(torch.tensor(azimuth), torch.full((len(azimuth),), elevation), width)
    found = in_ball(mesh)
    seen = render_mesh(found.vertices, found.faces, found.colours, shots, light=LIGHT, samples=2)
    seen = seen / np.float32(255)
    return torch.from_numpy(seen[..., :3] * seen[..., 3:] + 1 - seen[..., 3:]).permute(0, 3, 1, 2)
