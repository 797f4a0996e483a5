"""Coloured, captioned grids as arrays."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from gen3d.captures.grids import REACH
from gen3d.draws import Draws
from gen3d.errors import Gen3dError
from gen3d.files import read_arrays
from gen3d.nn.prompts import Captions, padded

RESOLUTION = 32
"""R, cells along a side of grids."""
THICKEN = 0.5
"""Cells by which things are made thicker, so that sheets and legs do not fall between the cells."""
NAMES = ("distances", "parts", "grid", "palette", "colours", *Captions.NAMES, "noun", "colour", "told")


@dataclass(frozen=True)
class Thing:
    """One coloured thing.

    Attributes:
        distances: (R, R, R) int8, positive inside, 127 standing for REACH cells and more.
        colours: (R, R, R, 3) uint8, of the nearest surface.
        caption: what it is.
        text: (L, E) float16, vectors of the caption's tokens.
    """

    distances: np.ndarray
    colours: np.ndarray
    caption: str
    text: np.ndarray


class ThingDataset:
    """Things in memory: few grids, each painted many times.

    Attributes:
        sizes: (N,) tokens of each.
        noun, colour: (N,) words for the main thing and its main colour.
        told: (N,) whether the caption tells the colour.
    """

    def __init__(self, arrays: dict[str, np.ndarray], tokens: int) -> None:
        self.distances, self.parts, self.grid = arrays["distances"], arrays["parts"], arrays["grid"]
        self.noun, self.colour, self.told = arrays["noun"], arrays["colour"], arrays["told"]
        self.captions = Captions.of(arrays)
        self._colours = arrays["colours"]
        self._starts = np.cumsum(arrays["palette"]) - arrays["palette"]
        self.sizes = np.full(len(self.grid), tokens, np.int64)

    def __len__(self) -> int:
        return len(self.grid)

    def __getitem__(self, index: int) -> Thing:
        caption, text = self.captions[index]
        grid = int(self.grid[index])
        colours = self._colours[int(self._starts[index]) + self.parts[grid].astype(np.int64)]
        return Thing(self.distances[grid], colours, caption, text)


def as_stored(distances: np.ndarray) -> np.ndarray:
    """(R, R, R) int8 of distances in cells."""
    return np.rint((distances + THICKEN).clip(-REACH, REACH) * (127 / REACH)).astype(np.int8)


def open_dataset(source: str | Path, split: str, tokens: int) -> ThingDataset:
    """Prepared things: `SPLIT.npz` of a folder, or one file.

    Raises:
        Gen3dError: nothing is there, something else, or grids of another size.
    """
    path, arrays = read_arrays(source, split, NAMES, "object")
    if arrays["distances"].shape[1:] != 3 * (RESOLUTION,):
        sides = " x ".join(str(side) for side in arrays["distances"].shape[1:])
        raise Gen3dError(f"{path} holds grids of {sides} cells; allowed: {RESOLUTION} a side")
    return ThingDataset(arrays, tokens)


@dataclass(frozen=True)
class ThingBatch:
    """Things side by side.

    Attributes:
        distances: (B, R, R, R), of the surface, positive inside, from -1 to 1.
        colours: (B, 3, R, R, R), from -1 to 1.
        text: (B, L, E).
        text_mask: (B, L), True where a token is real.
    """

    distances: Tensor
    colours: Tensor
    text: Tensor
    text_mask: Tensor

    def to(self, device: torch.device | str) -> "ThingBatch":
        return ThingBatch(*(v.to(device) for v in (self.distances, self.colours, self.text, self.text_mask)))

    def mirrored(self, rows: Tensor) -> "ThingBatch":
        """With some (B,) things seen in a mirror: left and right (x) change places."""
        distances = torch.where(rows[:, None, None, None], self.distances.flip(1), self.distances)
        colours = torch.where(rows[:, None, None, None, None], self.colours.flip(2), self.colours)
        return replace(self, distances=distances, colours=colours)


def collate(items: Sequence[Thing], draws: Draws | None) -> ThingBatch:
    """A batch; with `draws`, half of it mirrored."""
    distances = torch.from_numpy(np.stack([item.distances for item in items])).float() / 127
    colours = torch.from_numpy(np.stack([item.colours for item in items])).float() / 127.5 - 1
    batch = ThingBatch(distances, colours.permute(0, 4, 1, 2, 3), *padded([item.text for item in items]))
    return batch if draws is None else batch.mirrored(draws.uniform("mirror") < 0.5)
