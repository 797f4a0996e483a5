"""The autoencoder of pictures: convolutions between (3, S, S) and a few channels on a grid 8 times as coarse.

A smaller relative of the autoencoder of latent diffusion (arXiv 2112.10752): no adversary and no perceptual
network, whose weights would have to come from elsewhere; edges are compared instead.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gen3d.config import require_at_least
from gen3d.domains.base import Codec
from gen3d.domains.images.dataset import ViewBatch
from gen3d.draws import Draws
from gen3d.tokens import Tokens

SHRINK = 8
"""Pixels along a side of a cell of latents."""
FOLD = 4
"""Pixels along a side that the first layer takes as channels."""
WORDS = 8192
"""Bytes of the words that a checkpoint knows."""


@dataclass(frozen=True)
class ImageConfig:
    """Pictures and their latents.

    Raises:
        ValueError: a number out of range.
    """

    size: int = 128
    """S, pixels along a side."""
    latent_channels: int = 4
    """Of a cell of 8 x 8 pixels."""
    patch: int = 2
    """Cells along a side of a token of the transformer."""
    fine: int = 64
    """Channels at 4 x 4 pixels."""
    coarse: int = 128
    """Channels at 8 x 8 pixels."""
    blocks: int = 2
    """Residual blocks at each of the two."""
    noise: float = 0.1
    """Deviation of the noise that the decoder learns to bear."""
    shrink: float = 0.01
    """Weight of the mean square of the latents, which keeps them at size 1 or so."""
    edges: float = 1.0
    """Weight of the differences of neighbouring pixels."""

    def __post_init__(self) -> None:
        require_at_least(1, self, "latent_channels", "patch", "blocks")
        require_at_least(0, self, "noise", "shrink", "edges")
        step = SHRINK * self.patch
        if self.size < step or self.size % step:
            raise ValueError(f"size is {self.size}; allowed: multiples of {step}")
        for name in ("fine", "coarse"):
            if getattr(self, name) < 8 or getattr(self, name) % 8:
                raise ValueError(f"{name} is {getattr(self, name)}; allowed: multiples of 8")


class ImageCodec(Codec):
    """Between pictures and tokens of `patch` x `patch` cells of latents.

    Attributes:
        words: (WORDS,) uint8: the words of the captions it was trained with, by frequency, in ASCII.
    """

    words: Tensor
    positions: Tensor

    def __init__(self, config: ImageConfig) -> None:
        super().__init__()
        self.config = config
        self.channels = config.latent_channels * config.patch**2
        self.side = config.size // SHRINK // config.patch
        fine, coarse, pixels = config.fine, config.coarse, FOLD * FOLD
        self.encoder = nn.Sequential(
            nn.PixelUnshuffle(FOLD),
            nn.Conv2d(3 * pixels, fine, 3, padding=1),
            *(_Residual(fine) for _ in range(config.blocks)),
            nn.Conv2d(fine, coarse, 3, stride=2, padding=1),
            *(_Residual(coarse) for _ in range(config.blocks)),
            _normed(coarse),
            nn.Conv2d(coarse, config.latent_channels, 3, padding=1),
        )
        self.decoder = nn.Sequential(
            nn.Conv2d(config.latent_channels, coarse, 3, padding=1),
            *(_Residual(coarse) for _ in range(config.blocks)),
            nn.Upsample(scale_factor=2),
            nn.Conv2d(coarse, fine, 3, padding=1),
            *(_Residual(fine) for _ in range(config.blocks)),
            _normed(fine),
            nn.Conv2d(fine, 16 * pixels, 3, padding=1),
            nn.PixelShuffle(FOLD),
            nn.SiLU(),
            nn.Conv2d(16, 3, 3, padding=1),
        )
        axis = (torch.arange(self.side) + 0.5) * config.patch
        grid = torch.stack(torch.meshgrid(axis, axis, indexing="ij"), -1)
        self.register_buffer("positions", grid.view(-1, 2), persistent=False)
        self.register_buffer("words", torch.zeros(WORDS, dtype=torch.uint8))

    def to_latents(self, images: Tensor) -> Tensor:
        """Latents (B, c, s, s) of pictures (B, 3, S, S) from -1 to 1."""
        return self.encoder(images)

    def to_images(self, latents: Tensor) -> Tensor:
        """Pictures (B, 3, 8 s, 8 s) from -1 to 1 of latents (B, c, s, s), of any size."""
        return self.decoder(latents)

    def to_tokens(self, latents: Tensor) -> Tensor:
        """(B, N, C) of latents (B, c, s, s)."""
        return F.pixel_unshuffle(latents, self.config.patch).flatten(2).transpose(1, 2)

    def from_tokens(self, tokens: Tensor) -> Tensor:
        """(B, c, s, s) of tokens (B, N, C)."""
        grid = tokens.transpose(1, 2).unflatten(2, (self.side, self.side))
        return F.pixel_shuffle(grid, self.config.patch)

    def encode(self, batch: ViewBatch, draws: Draws | None = None) -> Tokens:
        x = self.to_tokens(self.to_latents(batch.images))
        mask = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device)
        return Tokens(x, mask, self.positions.expand(len(x), -1, -1))

    def decode(self, tokens: Tokens) -> Tensor:
        return self.to_images(self.from_tokens(tokens.x))

    def loss(self, batch: ViewBatch, draws: Draws) -> tuple[Tensor, dict[str, Tensor]]:
        latents = self.to_latents(batch.images)
        noise = draws.normal("latent", *latents.shape[1:]).to(latents)
        made = self.to_images(latents + self.config.noise * noise).float()
        size = latents.float().square().mean()
        pixels = (made - batch.images).abs().mean()
        edges = torch.stack([_edges(made, batch.images, scale) for scale in (1, 2, 4)]).mean()
        total = pixels + self.config.edges * edges + self.config.shrink * size
        mse = (made.clamp(-1, 1) - batch.images).square().mean((1, 2, 3))
        parts = {
            "pixels": pixels,
            "edges": edges,
            "latent_size": size,
            "psnr": (10 * (4 / mse).log10()).mean(),
        }
        return total, {name: value.detach() for name, value in parts.items()}

    def tell(self, words: Sequence[str]) -> None:
        """Keep the words of the captions, as many as there is room for."""
        text = "\n".join(words).encode("ascii", "ignore")[:WORDS]
        if len(text) == WORDS:
            text = text.rpartition(b"\n")[0]
        self.words.zero_()
        self.words[: len(text)] = torch.tensor(list(text), dtype=torch.uint8)

    def known(self) -> list[str]:
        """The words that were told."""
        return bytes(self.words.tolist()).rstrip(b"\0").decode("ascii").split("\n")


class _Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        first, second = nn.Conv2d(width, width, 3, padding=1), nn.Conv2d(width, width, 3, padding=1)
        nn.init.zeros_(second.weight)
        nn.init.zeros_(second.bias)  # type: ignore[arg-type]
        self.layers = nn.Sequential(_normed(width), first, _normed(width), second)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


def _normed(width: int) -> nn.Sequential:
    return nn.Sequential(nn.GroupNorm(8, width), nn.SiLU())


def _edges(made: Tensor, true: Tensor, scale: int) -> Tensor:
    """Mean absolute difference of the differences of neighbouring pixels, of pictures made so much
    smaller."""
    difference = F.avg_pool2d(made - true, scale) if scale > 1 else made - true
    return (difference.diff(dim=2).abs().mean() + difference.diff(dim=3).abs().mean()) / 2
