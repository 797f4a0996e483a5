"""What people look at of a scene that stands still: a film around it, pictures, a mesh."""

import math
import warnings
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from gen3d import media
from gen3d.errors import Gen3dError
from gen3d.files import atomic_write
from gen3d.progress import tqdm
from gen3d.scenes.scene import Scene
from gen3d.scenes.viewpoints import cameras

VIEWS = 8
"""Pictures around a scene, from the front on."""
ELEVATION = 20.0
Z_TO_Y = np.array([[1, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 0], [0, 0, 0, 1.0]])
"""Turns +z up into +y up about +x."""
FILM, PICTURES, MESH = "turntable.mp4", "views", "mesh.glb"


def write_gallery(
    scene: Scene, folder: Path, *, width: int, seconds: float, fps: float, resolution: int, progress: bool
) -> list[Path]:
    """Write a film, pictures and a mesh with vertex colours into a folder; returns the files.

    A scene without a surface gets no mesh, and a warning.

    Raises:
        Gen3dError: a size or a time that is not positive.
    """
    for name, value in (("width", width), ("seconds", seconds), ("fps", fps)):
        if not 0 < value < math.inf:
            raise Gen3dError(f"--{name} is {value}; it must be above 0")
    count = max(1, round(seconds * fps))
    film = cameras(torch.arange(count) * (360 / count), torch.full((count,), ELEVATION), width)
    shown = (
        scene.render(film, view).colour[..., :3].clamp(0, 1)
        for view in tqdm(range(count), desc="film", disable=not progress, leave=False)
    )
    files = media.write_film(shown, folder / FILM, fps)
    for number, picture in enumerate(pictures_around(scene, width)):
        files.append(folder / PICTURES / f"{number * 360 // VIEWS:03}.png")
        files[-1].parent.mkdir(parents=True, exist_ok=True)
        media.write_png(picture, files[-1])
    return [*files, *write_mesh(scene, folder / MESH, resolution)]


def write_mesh(scene: Scene, path: Path, resolution: int) -> list[Path]:
    """Write the surface as GLB, +y up as glTF has it; nothing, with a warning, where there is none."""
    try:
        mesh = scene.at(0.0).mesh(resolution=resolution)
    except Gen3dError as error:
        path.unlink(missing_ok=True)
        warnings.warn(f"no mesh: {error}", stacklevel=2)
        return []
    mesh.apply_transform(Z_TO_Y)
    with atomic_write(path) as temporary:
        temporary.write_bytes(mesh.export(file_type="glb"))
    return [path]


def pictures_around(
    scene: Scene, width: int, count: int = VIEWS, elevation: float = ELEVATION
) -> list[Tensor]:
    """Pictures (width, width, 3) in [0, 1] from all around, the first from the front."""
    shots = cameras(torch.arange(count) * (360 / count), torch.full((count,), elevation), width)
    return [scene.render(shots, view).colour[..., :3].clamp(0, 1) for view in range(count)]
