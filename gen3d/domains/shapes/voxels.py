"""Voxel grids as tokens: a small convolutional autoencoder of truncated distances."""

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gen3d.config import require_at_least
from gen3d.domains.base import Codec
from gen3d.domains.shapes.batch import ShapeBatch
from gen3d.domains.shapes.dataset import TRUNCATION
from gen3d.domains.shapes.decoded import DecodedShapes
from gen3d.draws import Draws
from gen3d.errors import Gen3dError
from gen3d.nn.voxelise import patch_positions
from gen3d.tokens import Tokens

HALVINGS = 2
"""The encoder halves the grid so often: a token stands for 4^3 cells."""
SMALLEST = 16
"""Cells along an axis, at least: in bf16, oneDNN's gradients of convolutions over 2^3 cells are wrong."""


@dataclass(frozen=True)
class VoxelsConfig:
    """Shapes as grids of distances to their surface."""

    kind: Literal["voxels"] = "voxels"
    resolution: int = 32
    """R, cells along an axis."""
    latent_channels: int = 8
    """Channels of a token."""
    width: int = 16
    """Channels of the convolutions at full resolution; every halving doubles them."""
    noise: float = 0.1
    """Deviation of the noise that the decoder learns to bear."""
    shrink: float = 1e-3
    """Weight of the mean squared latent, which keeps latents from growing out of the noise."""

    def __post_init__(self) -> None:
        require_at_least(1, self, "resolution", "latent_channels", "width")
        require_at_least(0, self, "noise", "shrink")
        if self.resolution % 2**HALVINGS or self.resolution < SMALLEST:
            raise Gen3dError(
                f"resolution is {self.resolution}; allowed: multiples of {2**HALVINGS} from {SMALLEST} on"
            )


class VoxelCodec(Codec):
    """Encodes 4^3 cells of distances in each token (a variational autoencoder of fixed variance).

    Attributes:
        class_counts: (K + 1,) training shapes of every class, the last of none.
        positions: (N, 3) grid positions of the tokens.
    """

    class_counts: Tensor
    positions: Tensor

    def __init__(self, config: VoxelsConfig, classes: int) -> None:
        super().__init__()
        self.config = config
        self.channels = config.latent_channels
        widths = [config.width * 2**k for k in range(HALVINGS + 1)]
        down: list[nn.Module] = [nn.Conv3d(1, widths[0], 3, padding=1)]
        up: list[nn.Module] = [nn.Conv3d(self.channels, widths[-1], 3, padding=1), Residual(widths[-1])]
        for narrow, wide in pairwise(widths):
            down += [nn.Conv3d(narrow, wide, 4, stride=2, padding=1), Residual(wide)]
        for narrow, wide in zip(widths[-2::-1], widths[:0:-1], strict=True):
            up += [nn.ConvTranspose3d(wide, narrow, 4, stride=2, padding=1), Residual(narrow)]
        self.encoder = nn.Sequential(*down, nn.Conv3d(widths[-1], self.channels, 1))
        self.decoder = nn.Sequential(*up, nn.SiLU(), nn.Conv3d(widths[0], 1, 3, padding=1))
        self.register_buffer("class_counts", torch.zeros(classes + 1))
        positions = patch_positions(config.resolution, 2**HALVINGS)
        self.register_buffer("positions", positions, persistent=False)

    @property
    def token_count(self) -> int:
        """N, tokens of a grid."""
        return len(self.positions)

    def encode(self, batch: ShapeBatch, draws: Draws | None = None) -> Tokens:
        latents = self._encode(batch).flatten(2).transpose(1, 2)
        mask = torch.ones(latents.shape[:2], dtype=torch.bool, device=latents.device)
        return Tokens(latents, mask, self.positions.expand(len(latents), -1, -1))

    def decode(self, tokens: Tokens) -> DecodedShapes:
        side = self.config.resolution // 2**HALVINGS
        latents = tokens.x.transpose(1, 2).unflatten(2, (side, side, side))
        return DecodedShapes(field=self.decoder(latents)[:, 0] * TRUNCATION, representation="mesh")

    def loss(self, batch: ShapeBatch, draws: Draws) -> tuple[Tensor, dict[str, Tensor]]:
        latents = self._encode(batch)
        noise = draws.normal("latent", *latents.shape[1:]).to(latents)
        made = self.decoder(latents + self.config.noise * noise)
        wanted = self._distances(batch)
        # Near the surface, where a sign decides, a cell counts more than in the empty rest.
        weight = 1 + 4 * (wanted.abs() < 1)
        error = (weight * (made - wanted).abs()).sum() / weight.sum()
        wrong = ((made > 0) != (wanted > 0)).float().mean()
        size = latents.square().mean()
        parts = {"distance": error.detach(), "wrong_cells": wrong, "latent_size": size.detach()}
        return error + self.config.shrink * size, parts

    def _encode(self, batch: ShapeBatch) -> Tensor:
        return self.encoder(self._distances(batch))

    def _distances(self, batch: ShapeBatch) -> Tensor:
        """(B, 1, R, R, R) in [-1, 1]."""
        if batch.distances is None:
            raise Gen3dError("these data hold no voxel grids; prepare them from meshes")
        if batch.distances.shape[-1] != self.config.resolution:
            raise Gen3dError(
                f"grids have {batch.distances.shape[-1]} cells an axis; the model has "
                f"{self.config.resolution}"
            )
        return batch.distances[:, None] / TRUNCATION


class Residual(nn.Module):
    """x + conv(silu(conv(silu(norm(x)))))."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(max(1, width // 8), width)
        self.first = nn.Conv3d(width, width, 3, padding=1)
        self.second = nn.Conv3d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(F.silu(self.first(F.silu(self.norm(x)))))
