"""The codec of coloured things: between grids of distances and colours and some channels for each patch.

Latents are principal components of patches of 8 x 8 x 8 cells. They are linear in the grid, found in closed
form, and lose the least of what a linear map of so many channels can lose.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from gen3d.config import require_at_least
from gen3d.domains.base import ChannelGroup, Codec
from gen3d.domains.objects.dataset import RESOLUTION, ThingBatch
from gen3d.draws import Draws
from gen3d.errors import Gen3dError
from gen3d.nn import prompts
from gen3d.nn.voxelise import patch_positions
from gen3d.tokens import Tokens

PATCH = 8
"""Cells along a side of a token."""
SIDE = RESOLUTION // PATCH
VALUES = 4 * PATCH**3
"""Of a patch: a distance and three colours for each cell."""
SHAPE_WEIGHT = 4.0
"""How much more an error of distances, as a share of their reach, counts than one of colours."""
EVEN = 0.5
"""Exponent by which the deviations of components are made more alike: 0 as they are, 1 all equal."""
SPREAD = 0.3
"""Root mean square of latents that the transformer sees."""


@dataclass(frozen=True)
class ObjectConfig:
    """Things and their latents.

    Raises:
        ValueError: a number out of range.
    """

    latent_channels: int = 192
    """Components kept of a patch of 8 x 8 x 8 cells."""

    def __post_init__(self) -> None:
        require_at_least(1, self, "latent_channels")
        if self.latent_channels > VALUES:
            raise ValueError(f"latent_channels is {self.latent_channels}; allowed: up to {VALUES}")


class ObjectCodec(Codec):
    """Between grids and tokens of patches.

    Attributes:
        components: (C, VALUES), orthonormal, of patches less the empty one, the strongest first.
        gain: (C,), what their coefficients are multiplied by.
        words: (ROOM,) uint8: the words of the captions it was trained with, by frequency.
    """

    components: Tensor
    gain: Tensor
    words: Tensor
    positions: Tensor

    def __init__(self, config: ObjectConfig) -> None:
        super().__init__()
        self.config = config
        self.channels = config.latent_channels
        self.channel_groups = (ChannelGroup(self.channels, SPREAD),)
        self.register_buffer("components", torch.zeros(self.channels, VALUES))
        self.register_buffer("gain", torch.ones(self.channels))
        self.register_buffer("words", torch.zeros(prompts.ROOM, dtype=torch.uint8))
        self.register_buffer("positions", patch_positions(RESOLUTION, PATCH), persistent=False)

    def learn(self, batches: Iterator[ThingBatch]) -> None:
        """Find the components of the patches of some things."""
        moments = torch.zeros(VALUES, VALUES, dtype=torch.float64)
        count = 0
        for batch in batches:
            patches = self._patches(batch).flatten(0, 1)
            # Those without a surface are all alike, and would only make the others seem rare.
            patches = patches[patches.abs().amax(1) > 0]
            moments += (patches.T @ patches).double()
            count += len(patches)
        values, vectors = torch.linalg.eigh(moments / max(count, 1))
        strongest = values.flip(0)[: self.channels].clamp(min=1e-6 * float(values[-1]))
        self.components.copy_(vectors.flip(1)[:, : self.channels].T)
        self.gain.copy_(strongest ** (-EVEN / 2))

    def encode(self, batch: ThingBatch, draws: Draws | None = None) -> Tokens:
        x = self._patches(batch) @ (self.components * self.gain[:, None]).T
        mask = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device)
        return Tokens(x, mask, self.positions.expand(len(x), -1, -1))

    def decode(self, tokens: Tokens) -> Tensor:
        """(B, 4, R, R, R): distances, positive inside and 1 REACH cells away, and colours from -1 to 1."""
        values = tokens.x @ (self.components / self.gain[:, None])
        grid = values.unflatten(1, 3 * (SIDE,)).unflatten(4, (4, *3 * (PATCH,)))
        joined = grid.permute(0, 4, 1, 5, 2, 6, 3, 7).reshape(len(values), 4, *3 * (RESOLUTION,))
        return torch.cat([joined[:, :1] / SHAPE_WEIGHT - 1, joined[:, 1:]], 1)

    def loss(self, batch: ThingBatch, draws: Draws) -> tuple[Tensor, dict[str, Tensor]]:
        raise Gen3dError("latents of things are found in closed form; set train.codec_steps to 0")

    def _patches(self, batch: ThingBatch) -> Tensor:
        """(B, N, VALUES): what distinguishes patches from the empty one, where nothing is near."""
        # Colours count near the surface, where they can be seen.
        near = (2 - 2 * batch.distances.abs()).clamp(0, 1)
        shape = SHAPE_WEIGHT * (batch.distances + 1)
        grid = torch.cat([shape[:, None], batch.colours * near[:, None]], 1)
        cut = grid.unflatten(4, (SIDE, PATCH)).unflatten(3, (SIDE, PATCH)).unflatten(2, (SIDE, PATCH))
        return cut.permute(0, 2, 4, 6, 1, 3, 5, 7).flatten(4).flatten(1, 3)
