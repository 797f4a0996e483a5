"""Moving scenes as arrays: points that are followed, and places of which the truth is known."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from gen3d.domains.scene_prior.variations import FRAMES, Surface
from gen3d.draws import Draws
from gen3d.errors import Gen3dError, require
from gen3d.fields.solids import inside
from gen3d.files import read_arrays

FOLLOWED = 2048
"""Points of a surface that are followed through time."""
ASKED = 2048
"""Places of which the truth is stored, a quarter of them at time 0."""
DENSE = 20_000
"""Points of a surface to which distances are measured."""
FAR = 0.25
"""Distances are stored up to here."""
SPREAD = 0.05
"""Deviation of the places near the surface from it; half of the places are anywhere."""


@dataclass(frozen=True)
class MovingScene:
    """One scene, in [-1, 1]^3, at `FRAMES` instants.

    Attributes:
        points: (P, T, 3) float16, places of surface points at every instant.
        colours: (P, 3) uint8, theirs.
        instant: (Q,) uint8, of the places that follow.
        places: (Q, 3) float16.
        distance: (Q,) float16, to the surface at that instant, negative inside, `FAR` at most either way.
        offset: (Q, 3) float16, from there to where the nearest surface point is at time 0.
        nearest: (Q, 3) uint8, colour of the nearest surface point.
    """

    points: np.ndarray
    colours: np.ndarray
    instant: np.ndarray
    places: np.ndarray
    distance: np.ndarray
    offset: np.ndarray
    nearest: np.ndarray


NAMES = tuple(f.name for f in fields(MovingScene))


def measured(surface: Surface, random: np.random.Generator) -> MovingScene:
    """What the prior learns from of a surface of `FRAMES` instants."""
    spatial = require("scipy.spatial", "scenes")
    corners = surface.vertices[0][surface.faces]
    area = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1)
    face = surface.faces[random.choice(len(area), DENSE, p=area / area.sum())]
    share = random.dirichlet((1, 1, 1), DENSE).astype(np.float32)
    followed = np.einsum("tpcx,pc->tpx", surface.vertices[:, face], share)
    colours = np.einsum("pcx,pc->px", surface.colours[face].astype(np.float32), share).round()
    counts = np.full(FRAMES, 3 * ASKED // 4 // (FRAMES - 1))
    counts[0] = ASKED - counts[1:].sum()
    instant = np.repeat(np.arange(FRAMES), counts)
    places, distance, index = [], [], []
    for now, vertices, count in zip(followed, surface.vertices, counts, strict=True):
        near = now[random.integers(DENSE, size=count - count // 2)]
        near = near + random.normal(0, SPREAD, near.shape)
        own = np.concatenate([near, random.uniform(-1, 1, (count // 2, 3))])
        d, i = spatial.cKDTree(now).query(own)
        places.append(own)
        distance.append(np.where(inside(own, vertices, surface.faces), -d, d))
        index.append(i)
    chosen = np.concatenate(index)
    return MovingScene(
        points=followed[:, :FOLLOWED].transpose(1, 0, 2).astype(np.float16),
        colours=colours[:FOLLOWED].astype(np.uint8),
        instant=instant.astype(np.uint8),
        places=np.concatenate(places).astype(np.float16),
        distance=np.clip(np.concatenate(distance), -FAR, FAR).astype(np.float16),
        offset=(followed[0, chosen] - followed[instant, chosen]).astype(np.float16),
        nearest=colours[chosen].astype(np.uint8),
    )


class SceneDataset:
    """Moving scenes in memory.

    Attributes:
        sizes: (N,) tokens of each.
    """

    def __init__(self, arrays: dict[str, np.ndarray], tokens: int) -> None:
        self.arrays = arrays
        self.sizes = np.full(len(arrays["points"]), tokens, np.int64)

    def __len__(self) -> int:
        return len(self.sizes)

    def __getitem__(self, index: int) -> MovingScene:
        return MovingScene(**{name: self.arrays[name][index] for name in NAMES})


def write_dataset(scenes: Sequence[MovingScene], path: Path) -> None:
    np.savez(path, **{name: np.stack([getattr(s, name) for s in scenes]) for name in NAMES})  # type: ignore[arg-type]


def open_dataset(source: str | Path, split: str, tokens: int) -> SceneDataset:
    """Prepared scenes: `SPLIT.npz` of a folder, or one file.

    Raises:
        Gen3dError: nothing is there, or something else.
    """
    path, arrays = read_arrays(source, split, NAMES, "scene-prior")
    frames = arrays["points"].shape[2]
    if frames != FRAMES:
        raise Gen3dError(f"{path} holds scenes of {frames} instants; allowed: {FRAMES}")
    return SceneDataset(arrays, tokens)


@dataclass(frozen=True)
class SceneBatch:
    """Scenes side by side; colours from 0 to 1, else as of `MovingScene`.

    Attributes:
        points: (B, P, T, 3).
        colours: (B, P, 3).
        instant: (B, Q) int64.
        places: (B, Q, 3).
        distance: (B, Q).
        offset: (B, Q, 3).
        nearest: (B, Q, 3).
    """

    points: Tensor
    colours: Tensor
    instant: Tensor
    places: Tensor
    distance: Tensor
    offset: Tensor
    nearest: Tensor

    def to(self, device: torch.device | str) -> "SceneBatch":
        return SceneBatch(*(getattr(self, name).to(device) for name in NAMES))


def collate(items: Sequence[MovingScene], draws: Draws | None, asked: int) -> SceneBatch:
    """A batch; with `draws`, `asked` places of each at random, other colours, and half of them mirrored."""
    stacked = {name: torch.from_numpy(np.stack([getattr(i, name) for i in items])) for name in NAMES}
    batch = {name: value if name == "instant" else value.float() for name, value in stacked.items()}
    batch["instant"] = batch["instant"].long()
    for name in ("colours", "nearest"):
        batch[name] = batch[name] / 255
    if draws is None:
        return SceneBatch(**batch)
    order = draws.uniform("asked", batch["places"].shape[1]).argsort(1)[:, :asked]
    for name in ("instant", "places", "distance", "offset", "nearest"):
        value = batch[name]
        index = order if value.ndim == 2 else order[..., None].expand(-1, -1, 3)
        batch[name] = value.gather(1, index)
    flip = torch.where(draws.uniform("mirror") < 0.5, -1.0, 1.0)
    for name in ("points", "places", "offset"):
        value = batch[name].clone()
        value[..., 0] *= flip.view(-1, *[1] * (value.ndim - 2))
        batch[name] = value
    mixing, shift = _recolouring(draws)
    for name in ("colours", "nearest"):
        batch[name] = (batch[name] @ mixing + shift).clamp(0, 1)
    return SceneBatch(**batch)


def _recolouring(draws: Draws) -> tuple[Tensor, Tensor]:
    """Matrices (B, 3, 3) and shifts (B, 1, 3) that colours go through: channels swapped, contrast and
    brightness changed."""
    order = draws.uniform("channels", 3).argsort(1)
    keep = draws.uniform("keep") < 0.3
    order = torch.where(keep[:, None], torch.arange(3), order)
    swapped = torch.nn.functional.one_hot(order, 3).float()
    contrast = torch.exp(0.3 * draws.normal("contrast", 1, 3))
    brightness = 0.1 * draws.normal("brightness", 1, 3)
    return swapped * contrast, brightness + 0.3 * (1 - contrast)
