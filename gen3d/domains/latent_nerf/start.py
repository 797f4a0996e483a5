"""A coloured mesh as a field's beginning.

Distillation from a ball finds blobs of the right colour; shapes that a model of things knows, it need not
find (as GSGEN, arXiv 2309.16585, and Points-to-3D, arXiv 2307.13908, begin from clouds of Point-E).
"""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from gen3d.captures.compose import LIGHT
from gen3d.captures.grids import gridded, into_cube
from gen3d.captures.meshes import Y_TO_Z
from gen3d.errors import Gen3dError
from gen3d.fields.latent import BIAS, LatentField

STEEP = 4.0
"""Raw density that a cell's way inwards adds: what is two cells inside lets nothing through."""


def begin_as(field: LatentField, mesh: Any) -> None:
    """Let a field of colours begin as a mesh, lit as the prior of pictures is; one of latents has its shape.

    Args:
        field: a cube.
        mesh: `trimesh.Trimesh`, +y up, with vertex colours; it is put into the ball of radius 1.

    Raises:
        Gen3dError: it has no faces.
    """
    if not len(mesh.faces):
        raise Gen3dError("a mesh without faces; nothing can begin as it")
    vertices, faces = np.asarray(mesh.vertices) @ Y_TO_Z.T, np.asarray(mesh.faces)
    placed = into_cube(vertices)
    radius = float(np.linalg.norm(np.ptp(placed, axis=0))) / 2
    resolution = max(field.shape)
    colours = np.asarray(mesh.visual.vertex_colors)[:, :3][faces].mean(1).astype(np.float32) / 255
    distances, colours = gridded(placed, faces, colours, resolution, np.random.default_rng(0))
    grid = np.concatenate([_lit(distances, colours), distances[..., None]], -1)
    # Cells of the cube that holds the mesh, read at the field's points, whose ball is smaller.
    where = (field.grid_points() * radius).flip(1).view(1, *field.shape, 3)
    read = F.grid_sample(
        torch.from_numpy(grid).permute(3, 0, 1, 2)[None],
        where,
        padding_mode="border",
        align_corners=False,
    )[0]
    beyond = where[0].abs().amax(-1) > 1
    away = read[3].masked_fill(beyond, float(distances.min()))
    density = STEEP * away - BIAS
    field.hold(density.view(-1, 1), (read[:3] - 0.5).flatten(1).T if field.look.in_rgb else None)


def _lit(distances: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """Colours (R, R, R, 3) as the light of the prior's pictures shows them."""
    normals = -np.stack(np.gradient(distances), -1)
    length = np.linalg.norm(normals, axis=-1, keepdims=True)
    flat = np.divide(normals, length, out=np.zeros_like(normals), where=length > 1e-6).reshape(-1, 3)
    return colours * LIGHT.shade(flat).reshape(*distances.shape, 1).astype(np.float32)
