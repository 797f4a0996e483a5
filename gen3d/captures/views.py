"""Posed images: pictures and the cameras that took them."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from gen3d.captures.images import read_image
from gen3d.errors import Gen3dError
from gen3d.fields.cameras import Cameras


@dataclass(frozen=True)
class Views:
    """V pictures of one scene.

    Attributes:
        images: (V, H, W, 4) uint8, red, green, blue and straight (not premultiplied) alpha.
        cameras: V of them, of H x W pixels, with times where the scene moves.
        names: of the pictures, for messages and for files made from them.
        has_alpha: False where the pictures came without alpha, which is then 255 everywhere.

    Raises:
        Gen3dError: there are no pictures, or images, cameras and names do not belong together.
    """

    images: np.ndarray
    cameras: Cameras
    names: tuple[str, ...]
    has_alpha: bool

    def __post_init__(self) -> None:
        shape, kind = self.images.shape, self.images.dtype
        if kind != np.uint8 or len(shape) != 4 or shape[3] != 4:
            raise Gen3dError(f"images are {kind} {shape}; allowed: uint8 (V, H, W, 4)")
        if not len(self.images):
            raise Gen3dError("a capture without pictures; at least 1 is needed")
        if not len(self.images) == len(self.cameras) == len(self.names):
            raise Gen3dError(
                f"{len(self.images)} images, {len(self.cameras)} cameras and {len(self.names)} names; "
                "there must be as many of each"
            )
        if shape[1:3] != (self.cameras.height, self.cameras.width):
            raise Gen3dError(
                f"images of {shape[2]} x {shape[1]} pixels, cameras of {self.cameras.width} x "
                f"{self.cameras.height}; they must agree"
            )

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: slice | Sequence[int] | np.ndarray) -> "Views":
        """Some of them: a slice, or a list or array of numbers."""
        chosen = np.arange(len(self))[index]
        if chosen.ndim != 1:
            raise Gen3dError(f"index {index!r} of views; allowed: a slice, or a list of numbers")
        return Views(
            self.images[chosen],
            self.cameras[torch.from_numpy(chosen)],
            tuple(self.names[i] for i in chosen),
            self.has_alpha,
        )

    def resized(self, width: int, height: int) -> "Views":
        """The same views in pictures of another size, each pixel the mean of the area that it covers.

        Colours are weighted by their alpha, so that what lies hidden in transparent pixels stays hidden.

        Raises:
            Gen3dError: a size below 1.
        """
        cameras = self.cameras.resized(width, height)
        if (width, height) == (self.cameras.width, self.cameras.height):
            return self
        rows, columns = _areas(self.cameras.height, height), _areas(self.cameras.width, width)
        small = np.empty((len(self), height, width, 4), np.uint8)
        for target, image in zip(small, self.images, strict=True):
            target[:] = _resized(image, rows, columns)
        return dataclasses.replace(self, images=small, cameras=cameras)

    def composited(self, background: Sequence[float] = (1.0, 1.0, 1.0)) -> np.ndarray:
        """Pictures before a `background` of one colour, red, green and blue in [0, 1]: float32 (V, H, W, 3).

        Raises:
            Gen3dError: the background is no such colour.
        """
        colour = np.asarray(background, np.float32)
        if colour.shape != (3,) or not ((colour >= 0) & (colour <= 1)).all():
            raise Gen3dError(f"background is {background!r}; allowed: three numbers in [0, 1]")
        result = np.empty((*self.images.shape[:3], 3), np.float32)
        for target, image in zip(result, self.images, strict=True):
            part = image.astype(np.float32) / 255
            alpha = part[..., 3:]
            np.add(part[..., :3] * alpha, colour * (1 - alpha), out=target)
        return result


def read_images(paths: Sequence[Path]) -> tuple[np.ndarray, bool]:
    """Pictures (V, H, W, 4) uint8 of files, and whether any of them has alpha.

    Raises:
        Gen3dError: one is missing or damaged, or their sizes differ; the files are named.
    """
    images: list[np.ndarray] = []
    has_alpha = False
    for path in paths:
        image, alpha = read_image(path)
        if images and image.shape != images[0].shape:
            first, other = images[0].shape, image.shape
            raise Gen3dError(
                f"{paths[0]} is {first[1]} x {first[0]} pixels and {path} is {other[1]} x {other[0]}; "
                "all images of a capture must have one size"
            )
        images.append(image)
        has_alpha |= alpha
    if not images:
        raise Gen3dError("a capture without pictures; at least 1 is needed")
    return np.stack(images), has_alpha


def _areas(before: int, after: int) -> np.ndarray:
    """Weights (after, before): the share of each old pixel in the stretch that a new one covers."""
    edges = np.arange(after + 1) * (before / after)
    low = np.maximum(edges[:-1, None], np.arange(before))
    high = np.minimum(edges[1:, None], np.arange(1, before + 1))
    return (np.maximum(high - low, 0) * (after / before)).astype(np.float32)


def _resized(image: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    part = image.astype(np.float32) / 255
    part[..., :3] *= part[..., 3:]
    small = np.einsum("rh,hwc->rwc", rows, part, optimize=True)
    small = np.einsum("cw,rwk->rck", columns, small, optimize=True)
    alpha = small[..., 3:]
    small[..., :3] = np.divide(small[..., :3], alpha, out=np.zeros_like(small[..., :3]), where=alpha > 0)
    return np.rint(np.clip(small, 0, 1) * 255).astype(np.uint8)
