"""Pictures and films of results: PNG, GIF, MP4 or a folder of PNGs, and what depth and normals look like."""

import io
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gen3d.errors import Gen3dError, require
from gen3d.files import atomic_write

FILMS = (".mp4", ".gif")
QUALITY = 8
"""Of MP4, from 0 to 10, as imageio-ffmpeg counts."""


def pixels(picture: Tensor) -> np.ndarray:
    """uint8 (H, W, 3 or 4) of a picture with values in [0, 1]; what lies outside is clipped.

    Raises:
        Gen3dError: another shape, or values that are not finite.
    """
    if picture.ndim != 3 or picture.shape[2] not in (3, 4):
        raise Gen3dError(f"picture of shape {tuple(picture.shape)}; allowed: (H, W, 3) or (H, W, 4)")
    if not bool(picture.isfinite().all()):
        raise Gen3dError("a picture with values that are not finite")
    return (picture.detach().clamp(0, 1) * 255).round().byte().cpu().numpy()


def write_png(picture: Tensor, path: Path) -> None:
    """Write a picture (H, W, 3 or 4) with values in [0, 1].

    Raises:
        Gen3dError: as `pixels`.
        MissingExtra: pillow is not installed.
    """
    image = require("PIL.Image", "scenes")
    content = image.fromarray(pixels(picture))
    with atomic_write(path) as temporary:
        content.save(temporary, format="PNG")


def write_sheet(pictures: Sequence[np.ndarray | None], path: Path, columns: int | None = None) -> None:
    """Write pictures of one size side by side, row by row, as a PNG; None stays white.

    Args:
        pictures: uint8 (H, W, 3).
        path: of the PNG.
        columns: pictures in a row; by default about as many as rows.

    Raises:
        Gen3dError: there are no pictures, all are None, or their sizes differ.
        MissingExtra: pillow is not installed.
    """
    image = require("PIL.Image", "scenes")
    shapes = {picture.shape for picture in pictures if picture is not None}
    if len(shapes) != 1:
        raise Gen3dError(
            f"{path}: {len(pictures)} pictures of {len(shapes)} sizes; allowed: some, all of one size"
        )
    ((height, width, _),) = shapes
    columns = columns or math.ceil(math.sqrt(len(pictures)))
    rows = math.ceil(len(pictures) / columns)
    sheet = np.full((rows * height, columns * width, 3), 255, np.uint8)
    for number, picture in enumerate(pictures):
        y, x = number // columns * height, number % columns * width
        if picture is not None:
            sheet[y : y + height, x : x + width] = picture
    with atomic_write(path) as temporary:
        image.fromarray(sheet).save(temporary, format="PNG")


def gif(pictures: Sequence[Tensor], seconds: float) -> bytes:
    """A GIF that shows pictures (H, W, 3) over and over, all of them in `seconds`.

    Raises:
        MissingExtra: pillow is not installed.
    """
    image = require("PIL.Image", "scenes")
    frames = [image.fromarray(pixels(picture)) for picture in pictures]
    written = io.BytesIO()
    pause = 1000 * seconds / len(frames)
    frames[0].save(written, "GIF", save_all=True, append_images=frames[1:], duration=pause, loop=0)
    return written.getvalue()


def write_film(pictures: Iterable[Tensor], path: Path, fps: float = 24.0) -> list[Path]:
    """Write pictures (H, W, 3) one after the other: .mp4, .gif, or numbered PNGs in a folder (no extension).

    Returns:
        The file, or the files of the folder.

    Raises:
        Gen3dError: another extension, no pictures, pictures of different sizes, or fps not above 0.
        MissingExtra: imageio, imageio-ffmpeg or pillow is not installed.
    """
    if not fps > 0:
        raise Gen3dError(f"fps is {fps}; it must be above 0")
    if path.suffix == "":
        path.mkdir(parents=True, exist_ok=True)
        files = []
        for number, picture in enumerate(pictures):
            files.append(path / f"{number:04}.png")
            write_png(picture, files[-1])
        if not files:
            raise Gen3dError(f"{path}: a film without pictures")
        return files
    if path.suffix not in FILMS:
        raise Gen3dError(
            f"{path}: no film has the extension {path.suffix!r}; allowed: {', '.join(FILMS)}, or a folder"
        )
    settings: dict[str, Any] = {"loop": 0, "duration": 1000 / fps}
    if path.suffix == ".mp4":
        require("imageio_ffmpeg", "scenes")
        # One pixel more at most: the codec needs even sides. Players refuse other pixel formats.
        settings = {"fps": fps, "quality": QUALITY, "macro_block_size": 2, "pixelformat": "yuv420p"}
    imageio = require("imageio", "scenes")
    shape: tuple[int, ...] | None = None
    with atomic_write(path) as temporary:
        with imageio.get_writer(temporary, format=path.suffix, mode="I", **settings) as writer:
            for picture in pictures:
                frame = pixels(picture)
                if shape not in (None, frame.shape):
                    raise Gen3dError(f"{path}: pictures of {shape} and {frame.shape}; all must have one size")
                shape = frame.shape
                writer.append_data(frame)
        if shape is None:
            raise Gen3dError(f"{path}: a film without pictures")
    return [path]


def depth_picture(depth: Tensor, opacity: Tensor) -> Tensor:
    """Distances (H, W) as grey (H, W, 3): the nearest thing is black, the farthest light grey, nothing white.

    Args:
        depth: (H, W), mean distance of what is seen.
        opacity: (H, W) in [0, 1]; below a half counts as nothing.
    """
    there = opacity > 0.5
    if not bool(there.any()):
        return torch.ones(*depth.shape, 3)
    low, high = depth[there].min(), depth[there].max()
    grey = 0.8 * (depth - low) / (high - low).clamp(min=1e-9)
    return torch.where(there, grey, torch.ones_like(grey))[..., None].expand(*depth.shape, 3)


def normal_picture(normals: Tensor, opacity: Tensor) -> Tensor:
    """Unit normals (H, W, 3) as colours: x, y, z from -1 to 1 are red, green, blue; nothing white."""
    return torch.where((opacity > 0.5)[..., None], (normals + 1) / 2, torch.ones_like(normals))
