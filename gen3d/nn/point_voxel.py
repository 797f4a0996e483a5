"""A transformer for point clouds: points to voxels, tokens of voxel patches, and a field back at the points.

DiT-3D (arXiv 2307.01831) with its order of things: the diffused thing is the cloud, the transformer sees a
grid made of it, and what it predicts is a field that is read where points are asked for.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gen3d.config import require_at_least
from gen3d.errors import Gen3dError
from gen3d.nn.embeddings import ZeroLinear
from gen3d.nn.transformer import DiffusionTransformer, Network, TransformerConfig
from gen3d.nn.voxelise import (
    corners,
    grid_coordinates,
    interpolate,
    patch_positions,
    patchify,
    unpatchify,
    voxelise,
)
from gen3d.types import Conditions, Times, TokenMask, TokenPositions


@dataclass(frozen=True)
class PointVoxelConfig:
    """How points become tokens."""

    resolution: int = 32
    """R, cells along an axis."""
    patch: int = 4
    """p, cells along an axis of a patch, which is one token."""
    field_points: int = 2048
    """The field is made of so many of the points at most, the first ones, and read at all of them."""
    density: bool = True
    """Tell the transformer how many points a cell holds, beside their mean coordinates."""
    sparse: bool = True
    """Run the transformer on those patches only whose cells some point reads."""
    field_channels: int = 24
    """Channels of the field that the point head reads; without a head the field is the prediction."""
    head_width: int = 96
    """Hidden width of the point head, which sees the field and where in its cell a point lies; 0 for none."""

    def __post_init__(self) -> None:
        require_at_least(1, self, "resolution", "patch", "field_points", "field_channels")
        require_at_least(0, self, "head_width")
        if self.resolution % self.patch:
            allowed = [p for p in range(1, self.resolution + 1) if self.resolution % p == 0]
            raise Gen3dError(
                f"patch is {self.patch}, which does not divide resolution {self.resolution}; "
                f"allowed: {', '.join(map(str, allowed))}"
            )

    @property
    def in_channels(self) -> int:
        """Channels of a cell as the transformer sees it."""
        return 4 if self.density else 3

    @property
    def out_channels(self) -> int:
        """Channels of a cell of the field."""
        return self.field_channels if self.head_width else 3


class PointVoxelTransformer(Network):
    """Predicts a vector for every point of a noisy cloud.

    Attributes:
        config: of the transformer inside.
    """

    positions: Tensor

    def __init__(self, config: TransformerConfig, voxels: PointVoxelConfig) -> None:
        super().__init__()
        self.config, self.voxels = config, voxels
        self.transformer = DiffusionTransformer(config)
        positions = patch_positions(voxels.resolution, voxels.patch)
        self.register_buffer("positions", positions, persistent=False)
        if voxels.head_width:
            # The field of every cell, and the place in the cell, at which the trilinear field alone is blind.
            self.head_in = nn.Linear(voxels.field_channels + 3, voxels.head_width)
            self.head_middle = nn.Linear(voxels.head_width, voxels.head_width)
            self.head_out = ZeroLinear(voxels.head_width, 3)

    @property
    def blocks(self) -> nn.ModuleList:  # type: ignore[override]
        return self.transformer.blocks

    def forward(
        self,
        x: Tensor,
        t: Times,
        *,
        mask: TokenMask | None = None,
        positions: TokenPositions | None = None,
        cond: Conditions | None = None,
        self_cond: Tensor | None = None,
        perturb: Mapping[int, Any] | None = None,
        **inputs: Any,
    ) -> Tensor:
        """Predict.

        Args:
            x: noisy points (B, N, 3), N the same for the whole batch.
            t, cond, perturb, inputs (step, ...): as of `DiffusionTransformer`; its tokens are the patches.
            mask: all True, or None.
            positions: none: the places of patches are known.
            self_cond: None; a cloud's earlier prediction is not seen.

        Returns:
            (B, N, 3).

        Raises:
            Gen3dError: clouds of different sizes in one batch, or points in other than three dimensions.
        """
        if x.shape[-1] != 3:
            raise Gen3dError(f"points have {x.shape[-1]} coordinates; 3 are needed")
        if mask is not None and not bool(mask.all()):
            raise Gen3dError("clouds of one batch must have the same number of points")
        size, patch = self.voxels.resolution, self.voxels.patch
        first = self.voxels.field_points
        coordinates = grid_coordinates(x, size, first)
        cells, weights = corners(coordinates, size)
        means, counts = voxelise(x[:, :first], coordinates[:, :first], size)
        if self.voxels.density:
            # Relative to the mean count of a cell, so that a cloud of fewer points looks the same.
            relative = counts / min(x.shape[1], first) * (size**3 / 64)
            means = torch.cat([means, torch.log1p(relative)[..., None]], -1)
        tokens = patchify(means, size, patch)
        if self.voxels.sparse:
            field = self._sparse_field(tokens, cells, t, cond, perturb, inputs)
        else:
            places = self.positions.expand(len(x), -1, -1)
            field = self.transformer(tokens, t, positions=places, cond=cond, perturb=perturb, **inputs)
        read = interpolate(unpatchify(field, size, patch), cells, weights.to(field.dtype))
        if not self.voxels.head_width:
            return read.to(x.dtype)
        inside = (coordinates - coordinates.floor()).to(read.dtype)
        hidden = F.silu(self.head_in(torch.cat([read, 2 * inside - 1], -1)))
        return self.head_out(F.silu(self.head_middle(hidden))).to(x.dtype)

    def _sparse_field(
        self,
        tokens: Tensor,
        cells: Tensor,
        t: Times,
        cond: Conditions | None,
        perturb: Mapping[int, Any] | None,
        inputs: dict[str, Any],
    ) -> Tensor:
        """The field (B, (R/p)^3, p^3 F) where points read it, zero elsewhere."""
        batch, count, _ = tokens.shape
        read = self._touched(cells, count)
        most = int(read.sum(1).max())
        # Touched patches first; a cloud that touches fewer than another is padded.
        keep = read.int().argsort(dim=1, descending=True, stable=True)[:, :most]
        rows = torch.arange(batch, device=keep.device)[:, None]
        made = self.transformer(
            tokens[rows, keep],
            t,
            mask=read[rows, keep],
            positions=self.positions[keep],
            cond=cond,
            perturb=perturb,
            **inputs,
        )
        field = made.new_zeros(batch, count, made.shape[-1])
        return field.index_put((rows, keep), made)

    def _touched(self, cells: Tensor, count: int) -> Tensor:
        """(B, (R/p)^3) True where a patch holds one of the cells (B, N, 8)."""
        size, patch = self.voxels.resolution, self.voxels.patch
        side = size // patch
        x, y, z = cells // (size * size), cells // size % size, cells % size
        owner = ((x // patch * side + y // patch) * side + z // patch).flatten(1)
        touched = torch.zeros(len(cells), count, dtype=torch.bool, device=cells.device)
        return touched.scatter_(1, owner, True)
