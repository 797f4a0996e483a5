"""A coloured mesh as a field's beginning.

Distillation from a ball finds blobs of the right colour; shapes that a model of things knows, it need not
find (as GSGEN, arXiv 2309.16585, and Points-to-3D, arXiv 2307.13908, begin from clouds of Point-E).
"""

import math

import numpy as np
import torch
import torch.nn.functional as F

from gen3d.captures.compose import LIGHT
from gen3d.captures.grids import REACH, gridded, into_cube
from gen3d.captures.meshes import Mesh
from gen3d.fields.latent import BIAS, SCALE, LatentField
from gen3d.fields.surfaces import level_of

SOFT, SHARP = 4.0, 8.0
"""Raw density that a cell's way inwards adds: what is two cells inside lets nothing through. The steeper, the
sharper the edges, and the harder to move."""


def begin_as(field: LatentField, mesh: Mesh, steep: float) -> None:
    """Let a field of colours begin as a mesh, lit as the prior of pictures is; one of latents has its shape.

    Args:
        field: a cube around the mesh.
        mesh: +z up.
        steep: raw density that a cell's way inwards adds.
    """
    low, high = mesh.vertices.min(0), mesh.vertices.max(0)
    placed, colours = into_cube(mesh.vertices), mesh.face_colours().astype(np.float32) / 255
    # Field's points in the cube that the mesh is put into, and cells as large in both.
    scale = float(np.linalg.norm(np.ptp(placed, axis=0)) / np.linalg.norm(high - low))
    where = (field.grid_points() - torch.from_numpy((low + high) / 2).float()) * scale
    side = float((field.box[1] - field.box[0]).max()) * scale
    resolution = math.ceil(max(field.shape) * 2 / side)
    distances, near = gridded(placed, mesh.faces, colours, resolution)
    grid = torch.from_numpy(np.concatenate([_lit(distances, near), distances[..., None]], -1))
    read = F.grid_sample(
        grid.permute(3, 0, 1, 2)[None],
        where.flip(1).view(1, *field.shape, 3),
        padding_mode="border",
        align_corners=False,
    )[0].flatten(1)
    away = read[3].masked_fill(where.abs().amax(1) > 1, -REACH)
    # At the surface there is the density whose surface a mesh of the field shows.
    level = math.log(math.expm1(level_of(field.box) / SCALE))
    field.hold((steep * away - BIAS + level)[:, None], read[:3].T - 0.5 if field.look.in_rgb else None)


def _lit(distances: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """Colours (R, R, R, 3) as the light of the prior's pictures shows them."""
    normals = -np.stack(np.gradient(distances), -1)
    length = np.linalg.norm(normals, axis=-1, keepdims=True)
    flat = np.divide(normals, length, out=np.zeros_like(normals), where=length > 1e-6).reshape(-1, 3)
    return colours * LIGHT.shade(flat).reshape(*distances.shape, 1).astype(np.float32)
