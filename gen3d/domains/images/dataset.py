"""Captioned, posed pictures as arrays."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from gen3d.draws import Draws
from gen3d.errors import Gen3dError
from gen3d.files import read_arrays
from gen3d.nn.prompts import Captions, padded

NAMES = (
    "images",
    "azimuth",
    "elevation",
    *Captions.NAMES,
    "noun",
    "colour",
    "other",
    "told",
)


@dataclass(frozen=True)
class View:
    """One picture.

    Attributes:
        image: (S, S, 3) uint8.
        azimuth, elevation: of the camera, in degrees, as of `gen3d.scenes.viewpoints.cameras`.
        caption: what is seen.
        text: (L, E) float16, vectors of the caption's tokens.
    """

    image: np.ndarray
    azimuth: float
    elevation: float
    caption: str
    text: np.ndarray


class ViewDataset:
    """Pictures in memory.

    Attributes:
        sizes: (N,) tokens of each.
        noun, colour, other: (N,) words for what is seen: the main thing, its main colour, a second thing.
        told: (N,) whether the caption tells the colour.
    """

    def __init__(self, arrays: dict[str, np.ndarray], tokens: int) -> None:
        self.images, self.captions = arrays["images"], Captions.of(arrays)
        self.azimuth, self.elevation = arrays["azimuth"], arrays["elevation"]
        self.noun, self.colour, self.other, self.told = (
            arrays[n] for n in ("noun", "colour", "other", "told")
        )
        self.sizes = np.full(len(self.images), tokens, np.int64)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> View:
        azimuth, elevation = float(self.azimuth[index]), float(self.elevation[index])
        return View(self.images[index], azimuth, elevation, *self.captions[index])


def open_dataset(source: str | Path, split: str, tokens: int, size: int | None = None) -> ViewDataset:
    """Prepared pictures: `SPLIT.npz` of a folder, or one file; of `size` pixels a side, or of any.

    Raises:
        Gen3dError: nothing is there, something else, or pictures of another size.
    """
    path, arrays = read_arrays(source, split, NAMES, "image")
    found_size = arrays["images"].shape[1]
    if size not in (None, found_size):
        raise Gen3dError(f"{path} holds pictures of {found_size} pixels; the configuration has {size}")
    return ViewDataset(arrays, tokens)


@dataclass(frozen=True)
class ViewBatch:
    """Pictures side by side.

    Attributes:
        images: (B, 3, S, S), from -1 to 1.
        camera: (B, 3) unit vectors to the cameras.
        text: (B, L, E).
        text_mask: (B, L), True where a token is real.
    """

    images: Tensor
    camera: Tensor
    text: Tensor
    text_mask: Tensor

    def to(self, device: torch.device | str) -> "ViewBatch":
        moved = (v.to(device) for v in (self.images, self.camera, self.text, self.text_mask))
        return ViewBatch(*moved)

    def mirrored(self, rows: Tensor) -> "ViewBatch":
        """With some (B,) pictures seen in a mirror: left and right change places."""
        images = torch.where(rows[:, None, None, None], self.images.flip(-1), self.images)
        sign = torch.where(rows, -1.0, 1.0)
        camera = self.camera * torch.stack([sign, torch.ones_like(sign), torch.ones_like(sign)], 1)
        return replace(self, images=images, camera=camera)


def collate(items: Sequence[View], camera: Tensor, draws: Draws | None) -> ViewBatch:
    """A batch; with `draws`, half of it mirrored. `camera` (B, 3) are the directions of the items."""
    images = torch.from_numpy(np.stack([item.image for item in items])).permute(0, 3, 1, 2)
    batch = ViewBatch(images.float() / 127.5 - 1, camera, *padded([item.text for item in items]))
    return batch if draws is None else batch.mirrored(draws.uniform("mirror") < 0.5)
