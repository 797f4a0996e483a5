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

NAMES = (
    "images",
    "azimuth",
    "elevation",
    "caption",
    "captions",
    "text",
    "lengths",
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
        self.images, self.captions = arrays["images"], arrays["captions"]
        self.azimuth, self.elevation, self.caption = (arrays[n] for n in ("azimuth", "elevation", "caption"))
        self.noun, self.colour, self.other, self.told = (
            arrays[n] for n in ("noun", "colour", "other", "told")
        )
        self._text = arrays["text"]
        self._ends = np.cumsum(arrays["lengths"])
        self._starts = self._ends - arrays["lengths"]
        self.sizes = np.full(len(self.images), tokens, np.int64)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> View:
        caption = int(self.caption[index])
        return View(
            self.images[index],
            float(self.azimuth[index]),
            float(self.elevation[index]),
            str(self.captions[caption]),
            self._text[self._starts[caption] : self._ends[caption]],
        )

    def words(self) -> list[str]:
        """Every word of the captions, the most frequent first."""
        counts: dict[str, int] = {}
        for caption, times in zip(
            self.captions, np.bincount(self.caption, minlength=len(self.captions)), strict=True
        ):
            for word in set(str(caption).replace(",", " ").split()):
                counts[word] = counts.get(word, 0) + int(times)
        return sorted(counts, key=lambda word: (-counts[word], word))


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
    longest = max(len(item.text) for item in items)
    text = torch.zeros(len(items), longest, items[0].text.shape[1])
    mask = torch.zeros(len(items), longest, dtype=torch.bool)
    for row, item in enumerate(items):
        text[row, : len(item.text)] = torch.from_numpy(item.text.astype(np.float32))
        mask[row, : len(item.text)] = True
    batch = ViewBatch(images.float() / 127.5 - 1, camera, text, mask)
    return batch if draws is None else batch.mirrored(draws.uniform("mirror") < 0.5)
