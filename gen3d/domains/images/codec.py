"""The codec of pictures: between (3, S, S) and some channels on a grid 8 times as coarse.

Latents are the strongest waves of the cosine transform of 8 x 8 pixels that JPEG uses. They are linear in
the picture and need no training, and a transformer that predicts clean data bears their number (arXiv
2511.13720).
What learnt autoencoders and decoders lose against them is told in `docs/lab-notes.md`.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from gen3d.config import require_at_least
from gen3d.domains.base import ChannelGroup, Codec
from gen3d.domains.images.dataset import ViewBatch
from gen3d.draws import Draws
from gen3d.errors import Gen3dError
from gen3d.nn import prompts
from gen3d.tokens import Tokens

SHRINK = 8
"""Pixels along a side of a cell of latents."""
COLOURS = ((1, 1, 1), (1, 0, -1), (1, -2, 1))
"""Directions of brightness and of two differences of colours."""
WEAKER = (0, 2, 5)
"""How much later than brightness the colours come in the order of waves."""
COARSER = (1, 9, 9)
"""Factors of squared frequencies in that order."""
SPREAD = 0.3
"""Root mean square of latents that the transformer sees. Means of cells, what silhouettes are made of, get a
deviation of 1.4 by it, so that they are decided at middle noise levels."""


@dataclass(frozen=True)
class ImageConfig:
    """Pictures and their latents.

    Raises:
        ValueError: a number out of range.
    """

    size: int = 128
    """S, pixels along a side."""
    latent_channels: int = 48
    """Waves kept of a cell of 8 x 8 pixels."""
    patch: int = 2
    """Cells along a side of a token of the transformer."""

    def __post_init__(self) -> None:
        require_at_least(1, self, "latent_channels", "patch")
        step = SHRINK * self.patch
        if self.size < step or self.size % step:
            raise ValueError(f"size is {self.size}; allowed: multiples of {step}")
        if self.latent_channels > 3 * SHRINK**2:
            raise ValueError(f"latent_channels is {self.latent_channels}; allowed: up to {3 * SHRINK**2}")


class ImageCodec(Codec):
    """Between pictures and tokens of `patch` x `patch` cells of latents.

    Attributes:
        words: (ROOM,) uint8: the words of the captions it was trained with, by frequency.
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
        waves, gain = cosine_waves(config.latent_channels)
        self.register_buffer("waves", waves, persistent=False)
        self.register_buffer("gain", gain, persistent=False)
        self.channel_groups = (ChannelGroup(self.channels, SPREAD),)
        axis = (torch.arange(self.side) + 0.5) * config.patch
        grid = torch.stack(torch.meshgrid(axis, axis, indexing="ij"), -1)
        self.register_buffer("positions", grid.view(-1, 2), persistent=False)
        self.register_buffer("words", torch.zeros(prompts.ROOM, dtype=torch.uint8))

    def to_latents(self, images: Tensor) -> Tensor:
        """Latents (B, c, s, s) of pictures (B, 3, S, S) from -1 to 1."""
        return F.conv2d(images, self.waves * self.gain, stride=SHRINK)

    def to_images(self, latents: Tensor) -> Tensor:
        """Pictures (B, 3, 8 s, 8 s) from -1 to 1 of latents (B, c, s, s), of any size."""
        return F.conv_transpose2d(latents, self.waves / self.gain, stride=SHRINK)

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
        raise Gen3dError("latents of pictures need no codec to be trained; set train.codec_steps to 0")


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
