"""Pictures of meshes by ray casting: trimesh and embree find what a ray meets, numpy gives it light.

Light: a point of colour c with unit normal n, turned to the side that the camera sees, is shown in

    c * (ambient * (1 + n_z) / 2 + direct * max(0, n . l) + base),    base = 1 - ambient - direct,

a sky that is brighter above than below, and one lamp in direction l that stands still in the world. Nothing
is brighter than c itself; nothing throws a shadow, so that a point's colour changes with its normal alone.
Glossy surfaces show a highlight where they mirror the lamp, gloss * (h . n)^24 more of white, h halfway
between the lamp and the camera (Blinn, 1977).
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from gen3d.captures.raycast import RayMesh
from gen3d.errors import Gen3dError
from gen3d.fields.cameras import Cameras

Pattern = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
CHUNK = 1 << 18
"""Rays at a time: bounds the memory, about a kilobyte a ray that meets something."""


@dataclass(frozen=True)
class Light:
    """How a scene is lit; see the formula above.

    Attributes:
        ambient: share of the sky, in [0, 1].
        direct: share of the lamp, in [0, 1]; the two together at most 1.
        direction: to the lamp, of any length above 0.
        gloss: strength of the highlights, in [0, 1].
    """

    ambient: float = 0.3
    direct: float = 0.4
    direction: tuple[float, float, float] = (0.5, -0.6, 0.8)
    gloss: float = 0.0

    def __post_init__(self) -> None:
        if not (self.ambient >= 0 and self.direct >= 0 and self.ambient + self.direct <= 1):
            raise Gen3dError(
                f"light of ambient {self.ambient} and direct {self.direct}; both from 0, together at most 1"
            )
        if not np.linalg.norm(self.direction) > 0:
            raise Gen3dError(f"light from direction {self.direction}; its length must be above 0")

    def shade(self, normals: np.ndarray) -> np.ndarray:
        """Factors (R,) of the colours of points with unit normals (R, 3)."""
        lamp = np.asarray(self.direction) / np.linalg.norm(self.direction)
        sky = (1 + normals[:, 2]) / 2
        base = 1 - self.ambient - self.direct
        return base + self.ambient * sky + self.direct * np.maximum(normals @ lamp, 0)

    def highlight(self, normals: np.ndarray, directions: np.ndarray) -> np.ndarray:
        """Shares (R,) of white at points with unit normals (R, 3) seen along unit directions (R, 3)."""
        lamp = np.asarray(self.direction) / np.linalg.norm(self.direction)
        half = lamp - directions
        half /= np.maximum(np.linalg.norm(half, axis=1, keepdims=True), 1e-9)
        return self.gloss * np.maximum(np.einsum("rc,rc->r", half, normals), 0) ** 24


def render_mesh(
    vertices: np.ndarray,
    faces: np.ndarray,
    colours: np.ndarray,
    cameras: Cameras,
    *,
    light: Light | None = Light(),
    samples: int = 3,
    pattern: Pattern | None = None,
) -> np.ndarray:
    """Pictures (V, H, W, 4) uint8 of a mesh before nothing: straight alpha, 0 where nothing is.

    Args:
        vertices: (P, 3).
        faces: (F, 3), whole numbers.
        colours: (P, 3) uint8 of vertices, mixed inside a face by barycentric coordinates; or (F, 3) of faces.
        cameras: V; their times are not looked at.
        light: None shows the colours as they are.
        samples: a pixel is the mean of samples x samples rays spread evenly over it.
        pattern: a solid texture: of points (R, 3) of faces (R,), and their colours (R, 3) in [0, 1], it makes
            the colours that are lit.

    Raises:
        Gen3dError: arrays of other shapes, or no samples.
        MissingExtra: trimesh or embreex is not installed.
    """
    if samples < 1:
        raise Gen3dError(f"samples is {samples}; at least 1")
    if vertices.ndim != 2 or faces.ndim != 2 or len(colours) not in (len(vertices), len(faces)):
        raise Gen3dError(
            f"vertices {vertices.shape}, faces {faces.shape}, colours {colours.shape}; "
            "allowed: (P, 3), (F, 3) and a colour for each vertex or each face"
        )
    surface = _Surface(RayMesh(vertices, faces), colours, light, pattern)
    images = np.zeros((len(cameras), cameras.height, cameras.width, 4), np.uint8)
    for view, image in enumerate(images):
        _render(surface, cameras[[view]], image, samples)
    return images


class _Surface:
    """What rays meet: a mesh, its colours and its light."""

    def __init__(
        self, mesh: RayMesh, colours: np.ndarray, light: Light | None, pattern: Pattern | None
    ) -> None:
        self.mesh, self.light, self.pattern = mesh, light, pattern
        self.vertices, self.faces = mesh.vertices, mesh.faces
        self.colours = colours.astype(np.float64) / 255
        self.by_face = len(colours) != len(self.vertices)
        self.normals = mesh.vertex_normals()

    def colours_along(self, origins: np.ndarray, directions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Which rays (R) meet the surface, and the colours (of those, 3) in [0, 1] where they do."""
        hit, faces, weights, flat = self.mesh.meet(origins, directions)
        directions, corners = directions[hit], self.faces[faces]
        if self.by_face:
            colours = self.colours[faces]
        else:
            colours = np.einsum("rk,rkc->rc", weights, self.colours[corners])
        if self.pattern is not None:
            points = np.einsum("rk,rkc->rc", weights, self.vertices[corners])
            colours = self.pattern(points, faces, colours)
        if self.light is not None:
            normals = np.einsum("rk,rkc->rc", weights, self.normals[corners])
            # Meshes are often open or inside out: light falls on the side that is seen.
            behind = np.einsum("rc,rc->r", flat, directions) > 0
            normals[behind] *= -1
            length = np.linalg.norm(normals, axis=1, keepdims=True)
            normals = np.divide(normals, length, out=np.zeros_like(normals), where=length > 1e-12)
            colours = colours * self.light.shade(normals)[:, None]
            if self.light.gloss:
                colours += (1 - colours) * self.light.highlight(normals, directions)[:, None]
        return hit, colours


def _render(surface: _Surface, camera: Cameras, image: np.ndarray, samples: int) -> None:
    """Fill `image` (H, W, 4), a row of pixels or more at a time, where the mesh can be seen."""
    left, right, top, bottom = _seen(surface.vertices, camera)
    if right <= left or bottom <= top:
        return
    pose = camera.camera_to_world[0].double().numpy()
    focal, centre = camera.focal[0].double().numpy(), camera.centre[0].double().numpy()
    offsets = (np.arange(samples) + 0.5) / samples
    x = ((np.arange(left, right)[:, None] + offsets).ravel() - centre[0]) / focal[0]
    step = max(1, CHUNK // (len(x) * samples))
    for first in range(top, bottom, step):
        last = min(first + step, bottom)
        y = ((np.arange(first, last)[:, None] + offsets).ravel() - centre[1]) / focal[1]
        local = np.stack(np.broadcast_arrays(x[None, :], -y[:, None], -1.0), -1).reshape(-1, 3)
        directions = local @ pose[:, :3].T
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        origins = np.broadcast_to(pose[:, 3], directions.shape)
        hit, colours = surface.colours_along(origins, directions)
        light = np.zeros((len(directions), 4))
        light[hit, :3], light[hit, 3] = colours, 1
        sums = light.reshape(last - first, samples, right - left, samples, 4).sum((1, 3))
        alpha = sums[..., 3:]
        shown = np.divide(sums[..., :3], alpha, out=np.zeros_like(sums[..., :3]), where=alpha > 0)
        pixels = np.concatenate([shown, alpha / samples**2], -1)
        image[first:last, left:right] = np.rint(pixels * 255).astype(np.uint8)


def _seen(vertices: np.ndarray, camera: Cameras) -> tuple[int, int, int, int]:
    """Left, right, top and bottom (the second of each beyond the last) of the pixels that may see a mesh."""
    pixels, depth = camera.project(torch.from_numpy(vertices).to(camera.focal.dtype))
    if float(depth.min()) <= 1e-6:
        # A mesh around the camera projects to no box.
        return 0, camera.width, 0, camera.height
    low, high = pixels[0].amin(0).floor() - 1, pixels[0].amax(0).ceil() + 1
    size = torch.tensor([camera.width, camera.height])
    low, high = low.clamp(min=0).minimum(size).int(), high.clamp(min=0).minimum(size).int()
    return int(low[0]), int(high[0]), int(low[1]), int(high[1])
