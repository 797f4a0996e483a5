"""The smallest real domain: sets of 4 to 9 points on a ring, with a linear codec that is learned.

Prepared data is one `.npz` per split with `sizes` (items,) and `points` (all points, 2).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from gen3d.domains import Entry
from gen3d.domains.base import Codec, GenerativeDomain, Layout, Metric, SampleOptions
from gen3d.draws import Draws
from gen3d.errors import Gen3dError
from gen3d.tokens import Tokens, masked_mean
from gen3d.types import Conditions

SMALLEST, LARGEST = 4, 9
ENTRY = Entry(f"{__name__}:RingDomain", f"{__name__}:RingOptions")
"""For `gen3d.domains.TABLE["toy-ring"]`; those who need it enter it, so that no other test sees it."""


def write_rings(folder: Path, count: int = 300, seed: int = 0) -> Path:
    """Prepared data of noisy unit rings around (2, -1)."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    for split in ("train", "valid", "test"):
        sizes = rng.integers(SMALLEST, LARGEST + 1, count)
        angles = rng.uniform(0, 2 * np.pi, sizes.sum())
        ring = np.stack([np.cos(angles), np.sin(angles)], 1)
        points = ring + np.array([2, -1]) + rng.normal(0, 0.05, ring.shape)
        np.savez(folder / f"{split}.npz", sizes=sizes, points=points.astype(np.float32))
    return folder


@dataclass(frozen=True)
class RingConfig:
    """Configuration of the toy domain."""

    channels: int = 3
    """Latent channels of a point."""
    augment: bool = True
    """Turn rings about their centre by a random angle."""


@dataclass(frozen=True)
class RingOptions(SampleOptions):
    """Flags of sampling."""

    size: int | None = None
    """Points of every ring; drawn from the training histogram when None."""
    first_at: tuple[float, float] | None = None
    """Where the first point of every ring must be."""
    centre: tuple[float, float] | None = None
    """Where the mean of every ring's points must be."""


@dataclass(frozen=True)
class RingBatch:
    """Padded points (B, N, 2) and their mask (B, N)."""

    points: Tensor
    mask: Tensor

    def to(self, device: torch.device | str) -> "RingBatch":
        return RingBatch(self.points.to(device), self.mask.to(device))


class RingDataset:
    """Rings of one split."""

    def __init__(self, path: Path) -> None:
        if not path.exists():
            raise Gen3dError(f"there is no {path}")
        with np.load(path, allow_pickle=False) as arrays:
            self.sizes, points = arrays["sizes"], arrays["points"]
        self.rings = np.split(points, np.cumsum(self.sizes)[:-1])

    def __len__(self) -> int:
        return len(self.rings)

    def __getitem__(self, index: int) -> np.ndarray:
        return self.rings[index]


class RingCodec(Codec):
    """Linear maps between points and latent channels, and the histogram of sizes."""

    histogram: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.encoder = nn.Linear(2, channels)
        self.decoder = nn.Linear(channels, 2)
        self.register_buffer("histogram", (torch.arange(LARGEST + 1) >= SMALLEST).float())

    def encode(self, batch: RingBatch, draws: Draws | None = None) -> Tokens:
        return Tokens(self.encoder(batch.points) * batch.mask[..., None], batch.mask)

    def decode(self, tokens: Tokens) -> tuple[Tensor, Tensor]:
        return self.decoder(tokens.x), tokens.mask

    def loss(self, batch: RingBatch, draws: Draws) -> tuple[Tensor, dict[str, Tensor]]:
        tokens = self.encode(batch)
        noise = 0.01 * draws.normal("codec", *tokens.x.shape[1:])
        points, _ = self.decode(tokens.with_values(tokens.x + noise))
        error = masked_mean((points - batch.points).square().mean(-1), batch.mask).mean()
        return error, {"reconstruction": error}


@dataclass(frozen=True)
class _Centre:
    """Shifts the latents of a ring until the mean of its points is where it must be."""

    codec: RingCodec
    centre: tuple[float, float]
    mask: Tensor

    def __call__(self, latents: Tensor, rows: Tensor) -> Tensor:
        mask = self.mask.to(rows.device)[rows, : latents.shape[1]]
        decoder = self.codec.decoder
        missing = torch.tensor(self.centre).to(latents) - masked_mean(decoder(latents), mask)
        return latents + (torch.linalg.pinv(decoder.weight) @ missing[..., None]).mT


class RingDomain(GenerativeDomain):
    """Rings of points, given back as arrays (N, 2)."""

    name = "toy-ring"
    Config = RingConfig
    SampleOptions = RingOptions
    extension = ".npz"
    class_conditions: ClassVar = {"parity": 2}
    scalar_conditions = ("size",)

    def __init__(self, config: RingConfig) -> None:
        self.config = config
        self.codec = RingCodec(config.channels)

    def dataset(self, source: str | Path, split: str) -> RingDataset:
        return RingDataset(Path(source) / f"{split}.npz")

    def fit(self, dataset: RingDataset) -> None:
        counts = np.bincount(dataset.sizes, minlength=LARGEST + 1)
        self.codec.histogram.copy_(torch.from_numpy(counts))

    def collate(self, items: Sequence[np.ndarray], draws: Draws | None) -> RingBatch:
        points = nn.utils.rnn.pad_sequence([torch.from_numpy(i) for i in items], batch_first=True)
        sizes = torch.tensor([len(i) for i in items])
        mask = torch.arange(points.shape[1]) < sizes[:, None]
        if draws is not None and self.config.augment:
            angle = 2 * torch.pi * draws.uniform("turn")
            cos, sin = angle.cos(), angle.sin()
            turn = torch.stack([cos, -sin, sin, cos], -1).reshape(-1, 2, 2)
            centre = torch.tensor([2.0, -1.0])
            points = ((points - centre) @ turn + centre) * mask[..., None]
        return RingBatch(points, mask)

    def conditions(self, batch: RingBatch) -> Conditions:
        return _conditions(batch.mask)

    def layout(self, options: RingOptions, draws: Draws) -> Layout:
        if options.size is not None and not 1 <= options.size <= LARGEST:
            raise Gen3dError(f"size is {options.size}; allowed: 1 to {LARGEST}")
        histogram = self.codec.histogram
        if options.size is None:
            edges = (histogram.cumsum(0) / histogram.sum()).cpu()
            sizes = torch.searchsorted(edges, draws.uniform("size"))
        else:
            sizes = torch.full((len(draws.index),), options.size)
        mask = torch.arange(int(sizes.max())) < sizes[:, None]
        known = known_mask = None
        if options.first_at is not None:
            known = torch.zeros(*mask.shape, self.codec.channels)
            encoder = self.codec.encoder
            known[:, 0] = encoder(torch.tensor(options.first_at, device=encoder.weight.device)).cpu()
            known_mask = torch.zeros_like(known, dtype=torch.bool)
            known_mask[:, 0] = True
        constrain = None if options.centre is None else _Centre(self.codec, options.centre, mask)
        return Layout(
            mask, conditions=_conditions(mask), known=known, known_mask=known_mask, constrain=constrain
        )

    def to_native(self, raw: tuple[Tensor, Tensor]) -> list[np.ndarray]:
        return [points[mask].cpu().numpy() for points, mask in zip(*raw, strict=True)]

    def metrics(self, samples: Sequence[Any], reference: Any, **options: Any) -> list[Metric]:
        radii = np.concatenate([np.linalg.norm(s - [2, -1], axis=1) for s in samples])
        return [Metric("radius_error", float(np.abs(radii - 1).mean()), "mean |radius - 1|", "lower")]

    def valid(self, sample: Any) -> bool:
        return sample is not None

    def save(self, objects: Sequence[np.ndarray], path: Path) -> list[Path]:
        np.savez(path, *objects)
        return [path]


def _conditions(mask: Tensor) -> Conditions:
    sizes = mask.sum(1)
    return {"parity": sizes % 2, "size": (sizes - 6.5) / 2}
