"""The autoencoder of pictures: between (3, S, S) and some channels on a grid 8 times as coarse.

Latents are the strongest waves of the cosine transform of 8 x 8 pixels that JPEG uses. They need no training,
are linear in the picture, and a transformer that predicts clean data bears their number (arXiv 2511.13720).
The decoder adds to the waves what convolutions learn to see in their neighbourhood. Like the autoencoder of
latent diffusion (arXiv 2112.10752) otherwise, but with no adversary and no perceptual network, whose weights
would have to come from elsewhere; edges are compared instead.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gen3d.config import require_at_least
from gen3d.domains.base import ChannelGroup, Codec
from gen3d.domains.images.dataset import ViewBatch
from gen3d.draws import Draws
from gen3d.tokens import Tokens

SHRINK = 8
"""Pixels along a side of a cell of latents."""
FOLD = 4
"""Pixels along a side that the last layers of the decoder fill from one place."""
COLOURS = ((1, 1, 1), (1, 0, -1), (1, -2, 1))
"""Directions of brightness and of two differences of colours."""
WEAKER = (0, 2, 5)
"""How much later than brightness the colours come in the order of waves."""
COARSER = (1, 9, 9)
"""Factors of squared frequencies in that order."""
SPREAD = 0.4
"""Root mean square of latents that the transformer sees. Means of cells, what silhouettes are made of, get a
deviation of 1.5 by it, so that they are decided at middle noise levels."""
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
    latent_channels: int = 23
    """Waves kept of a cell of 8 x 8 pixels."""
    patch: int = 2
    """Cells along a side of a token of the transformer."""
    fine: int = 64
    """Channels at 4 x 4 pixels."""
    coarse: int = 128
    """Channels at 8 x 8 pixels."""
    blocks: int = 2
    """Residual blocks at each of the two."""
    noise: float = 0.05
    """Deviation of the noise that the decoder learns to bear."""
    edges: float = 1.0
    """Weight of the differences of neighbouring pixels."""

    def __post_init__(self) -> None:
        require_at_least(1, self, "latent_channels", "patch", "blocks")
        require_at_least(0, self, "noise", "edges")
        step = SHRINK * self.patch
        if self.size < step or self.size % step:
            raise ValueError(f"size is {self.size}; allowed: multiples of {step}")
        if self.latent_channels > 3 * SHRINK**2:
            raise ValueError(f"latent_channels is {self.latent_channels}; allowed: up to {3 * SHRINK**2}")
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
    waves: Tensor
    gain: Tensor

    def __init__(self, config: ImageConfig) -> None:
        super().__init__()
        self.config = config
        self.channels = config.latent_channels * config.patch**2
        self.side = config.size // SHRINK // config.patch
        fine, coarse, pixels = config.fine, config.coarse, FOLD * FOLD
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
            _silent(nn.Conv2d(16, 3, 3, padding=1)),
        )
        waves, gain = cosine_waves(config.latent_channels)
        self.register_buffer("waves", waves, persistent=False)
        self.register_buffer("gain", gain, persistent=False)
        self.channel_groups = (ChannelGroup(self.channels, SPREAD),)
        axis = (torch.arange(self.side) + 0.5) * config.patch
        grid = torch.stack(torch.meshgrid(axis, axis, indexing="ij"), -1)
        self.register_buffer("positions", grid.view(-1, 2), persistent=False)
        self.register_buffer("words", torch.zeros(WORDS, dtype=torch.uint8))

    def to_latents(self, images: Tensor) -> Tensor:
        """Latents (B, c, s, s) of pictures (B, 3, S, S) from -1 to 1."""
        return F.conv2d(images, self.waves * self.gain, stride=SHRINK)

    def to_images(self, latents: Tensor) -> Tensor:
        """Pictures (B, 3, 8 s, 8 s) from -1 to 1 of latents (B, c, s, s), of any size."""
        return F.conv_transpose2d(latents, self.waves / self.gain, stride=SHRINK) + self.decoder(latents)

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
        pixels = (made - batch.images).abs().mean()
        edges = torch.stack([_edges(made, batch.images, scale) for scale in (1, 2, 4)]).mean()
        total = pixels + self.config.edges * edges
        mse = (made.clamp(-1, 1) - batch.images).square().mean((1, 2, 3))
        parts = {
            "pixels": pixels,
            "edges": edges,
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


def cosine_waves(count: int) -> tuple[Tensor, Tensor]:
    """The first waves of the cosine transform of patches of 8 x 8 pixels in colours.

    Args:
        count: of waves.

    Returns:
        Waves (count, 3, 8, 8), orthonormal, the strongest in pictures first; and what brings their
        coefficients to about one size, (count, 1, 1, 1): they fall as frequencies rise.
    """
    n = torch.arange(SHRINK)
    wave = torch.cos(torch.pi * (n + 0.5) * n[:, None] / SHRINK) * (2 / SHRINK) ** 0.5
    wave[0] /= 2**0.5
    colours = F.normalize(torch.tensor(COLOURS, dtype=torch.float), dim=1)
    weaker, coarser = (torch.tensor(values)[:, None, None] for values in (WEAKER, COARSER))
    order = weaker + coarser * (n[:, None] ** 2 + n**2)
    chosen = order.flatten().argsort(stable=True)[:count]
    colour, row, column = torch.unravel_index(chosen, order.shape)
    waves = torch.einsum("kc,ki,kj->kcij", colours[colour], wave[row], wave[column])
    return waves, (1 + order.flatten()[chosen]).sqrt()[:, None, None, None] / SHRINK


def _silent(layer: nn.Conv2d) -> nn.Conv2d:
    """A layer that says nothing at first."""
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    return layer


class _Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        first, second = nn.Conv2d(width, width, 3, padding=1), _silent(nn.Conv2d(width, width, 3, padding=1))
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
