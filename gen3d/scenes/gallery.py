"""What people look at of a scene that stands still: a film around it, pictures, a mesh."""

import math
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from gen3d import media
from gen3d.errors import Gen3dError
from gen3d.files import atomic_write
from gen3d.scenes.scene import Scene
from gen3d.scenes.viewpoints import cameras

VIEWS = 8
"""Pictures around a scene, from the front on."""
ELEVATION = 20.0
FILM, PICTURES, MESH = "turntable.mp4", "views", "mesh.glb"


def write_gallery(
    scene: Scene, folder: Path, *, width: int, seconds: float, fps: float, resolution: int, progress: bool
) -> list[Path]:
    """Write a film, pictures and a mesh with vertex colours into a folder; returns the files.

    A scene without a surface gets no mesh; that is said in a warning by `gen3d.fields.surfaces.mesh`'s error.

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
    try:
        mesh = scene.at(0.0).mesh(resolution=resolution)
    except Gen3dError as error:
        (folder / MESH).unlink(missing_ok=True)
        tqdm.write(f"no mesh: {error}")
        return files
    with atomic_write(folder / MESH) as temporary:
        temporary.write_bytes(mesh.export(file_type="glb"))
    return [*files, folder / MESH]


def pictures_around(
    scene: Scene, width: int, count: int = VIEWS, elevation: float = ELEVATION
) -> list[Tensor]:
    """Pictures (width, width, 3) in [0, 1] from all around, the first from the front."""
    shots = cameras(torch.arange(count) * (360 / count), torch.full((count,), elevation), width)
    return [scene.render(shots, view).colour[..., :3].clamp(0, 1) for view in range(count)]
