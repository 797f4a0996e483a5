"""Latent-Paint: a texture for a mesh, made from words (Latent-NeRF, arXiv 2211.07600, section 3.3)."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from gen3d import media
from gen3d.captures.raycast import RayMesh
from gen3d.domains.latent_nerf.sketch import placed
from gen3d.errors import Gen3dError, require
from gen3d.fields.latent import TextureField
from gen3d.fields.rendering import Rendering
from gen3d.scenes.viewpoints import cameras

PADDING = 4
"""Texels by which what is seen grows over the borders of charts, against seams."""


@dataclass(frozen=True)
class PaintConfig:
    """A mesh to be painted."""

    mesh: str = ""
    """File of the mesh."""
    size: float = 0.95
    """Distance of the farthest vertex from the middle of all."""

    def __post_init__(self) -> None:
        if not self.size > 0:
            raise ValueError(f"size is {self.size}; it must be above 0")


@dataclass(frozen=True)
class Unwrapped:
    """A mesh with places on a texture.

    Attributes:
        vertices: (P, 3), +z up, in the ball of radius 1.
        faces: (F, 3).
        uv: (P, 2) in [0, 1], from the lower left corner of the texture.
    """

    vertices: np.ndarray
    faces: np.ndarray
    uv: np.ndarray


def unwrapped(path: Path, size: float) -> Unwrapped:
    """The mesh of a file, with the places it has, or with those that xatlas finds.

    Raises:
        Gen3dError: the file cannot be read or holds no faces.
        MissingExtra: xatlas is not installed, and needed.
    """
    trimesh = require("trimesh", "scenes")
    vertices, faces = placed(path, size)
    try:
        own = trimesh.load(path, force="mesh", process=False).visual
    except Exception as error:
        # The readers of trimesh raise about anything for a damaged file.
        raise Gen3dError(f"{path} cannot be read as a mesh: {str(error)[:200]}") from error
    uv = getattr(own, "uv", None)
    if uv is not None and len(uv) == len(vertices) and np.ptp(uv, axis=0).min() > 0:
        return Unwrapped(vertices, faces, np.asarray(uv, np.float64) % 1.0)
    atlas = require("xatlas", "text")
    mapping, indices, uv = atlas.parametrize(vertices.astype(np.float32), faces.astype(np.uint32))
    return Unwrapped(vertices[mapping], indices.astype(np.int64), uv.astype(np.float64))


class Canvas:
    """The mesh as cameras see it: which places of the texture the rays of a picture meet."""

    def __init__(self, mesh: Unwrapped) -> None:
        self.mesh = mesh
        self.rays = RayMesh(mesh.vertices, mesh.faces)

    def render(
        self, field: TextureField, azimuth: Tensor, elevation: Tensor, size: int, background: Tensor
    ) -> Rendering:
        """Square pictures (B) of `size` pixels a side before a colour (channels,), ray by ray."""
        shots = cameras(azimuth, elevation, size)
        places, hits = [], []
        for view in range(len(shots)):
            rays = shots.image_rays(view)
            origins, directions = rays.origins.double().numpy(), rays.directions.double().numpy()
            hit, face, weights, _ = self.rays.meet(origins, directions)
            uv = np.einsum("rk,rkc->rc", weights, self.mesh.uv[self.mesh.faces[face]])
            places.append(torch.from_numpy(uv).float())
            hits.append(torch.from_numpy(hit))
        met = torch.cat(hits)
        index = met.nonzero()[:, 0]
        colours = field.colour((torch.cat(places),), index.new_zeros(0), None)
        seen = background.expand(len(met), -1).index_copy(0, index, colours)
        opacity = met.float()
        return Rendering(seen, opacity, opacity, len(index), None)

    def covered(self, side: int) -> np.ndarray:
        """(T, T) bool: texels that some face has its place on, the first row at the upper edge."""
        uv = self.mesh.uv[self.mesh.faces] * side
        found = np.zeros((side, side), bool)
        for corners in uv:
            low = np.floor(corners.min(0)).astype(int).clip(0, side - 1)
            high = np.ceil(corners.max(0)).astype(int).clip(0, side)
            x, y = np.meshgrid(np.arange(low[0], high[0]) + 0.5, np.arange(low[1], high[1]) + 0.5)
            a, b, c = corners
            area = (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])
            if area == 0:
                continue
            u = ((x - a[0]) * (c[1] - a[1]) - (y - a[1]) * (c[0] - a[0])) / area
            v = ((b[0] - a[0]) * (y - a[1]) - (b[1] - a[1]) * (x - a[0])) / area
            in_face = (u >= 0) & (v >= 0) & (u + v <= 1)
            found[side - 1 - np.floor(y[in_face]).astype(int), np.floor(x[in_face]).astype(int)] = True
        return found


def padded(image: Tensor, covered: np.ndarray, texels: int = PADDING) -> Tensor:
    """A texture (T, T, 3) in which the mean of neighbouring covered texels has grown over the others."""
    known = torch.from_numpy(covered).float()[None, None]
    colours = image.permute(2, 0, 1)[None] * known
    kernel = torch.ones(1, 1, 3, 3)
    for _ in range(texels):
        count = F.conv2d(known, kernel, padding=1)
        summed = F.conv2d(colours.transpose(0, 1), kernel, padding=1).transpose(0, 1)
        grown = (known == 0) & (count > 0)
        colours = torch.where(grown, summed / count.clamp(min=1), colours)
        known = torch.where(grown, torch.ones_like(known), known)
    rest = image.permute(2, 0, 1)[None]
    return torch.where(known > 0, colours, rest)[0].permute(1, 2, 0)


def textured(mesh: Unwrapped, image: Tensor) -> Any:
    """A `trimesh.Trimesh` with the texture (T, T, 3) in [0, 1], +y up."""
    trimesh, pillow = require("trimesh", "scenes"), require("PIL.Image", "scenes")
    picture = pillow.fromarray(media.pixels(image))
    upright = np.stack([mesh.vertices[:, 0], mesh.vertices[:, 2], -mesh.vertices[:, 1]], 1)
    material = trimesh.visual.material.PBRMaterial(
        baseColorTexture=picture, metallicFactor=0.0, roughnessFactor=1.0
    )
    visual = trimesh.visual.TextureVisuals(uv=mesh.uv, material=material)
    return trimesh.Trimesh(upright, mesh.faces, visual=visual, process=False)


def write_painted(mesh: Unwrapped, image: Tensor, folder: Path) -> list[Path]:
    """Write `mesh.obj` with `mesh.mtl` and `texture.png`, and `mesh.glb`; y is up, as both formats have
    it."""
    from gen3d.files import atomic_write

    made = textured(mesh, image)
    upright = np.asarray(made.vertices)
    files = [folder / name for name in ("mesh.glb", "texture.png", "mesh.mtl", "mesh.obj")]
    contents: list[Any] = [made.export(file_type="glb"), None, _material(), _obj(upright, mesh)]
    folder.mkdir(parents=True, exist_ok=True)
    for file, content in zip(files, contents, strict=True):
        if content is None:
            media.write_png(image, file)
            continue
        with atomic_write(file) as temporary:
            temporary.write_bytes(content.encode() if isinstance(content, str) else content)
    return files


def _material() -> str:
    return "newmtl painted\nKa 0 0 0\nKd 1 1 1\nKs 0 0 0\nillum 1\nmap_Kd texture.png\n"


def _obj(vertices: np.ndarray, mesh: Unwrapped) -> str:
    lines = ["mtllib mesh.mtl", "usemtl painted"]
    lines += [f"v {x:.6f} {y:.6f} {z:.6f}" for x, y, z in vertices]
    lines += [f"vt {u:.6f} {v:.6f}" for u, v in mesh.uv]
    lines += [f"f {a}/{a} {b}/{b} {c}/{c}" for a, b, c in mesh.faces + 1]
    return "\n".join(lines) + "\n"
