"""A voxel grid on its way from what it was to what words say (Vox-E, arXiv 2303.12048)."""

import torch
from torch import Tensor, nn

from gen3d.fields.base import Located
from gen3d.fields.harmonics import HARMONIC_0
from gen3d.fields.heads import HarmonicsHead
from gen3d.fields.tables import read
from gen3d.fields.voxels import VoxelField

LEAST = 1e-7
"""Added to the root of variances, as published."""


class EditedField(VoxelField):
    """A copy of a grid, and the grid: colours without view dependence, which distillation would abuse.

    Args:
        box: (2, 3), corners of the grid.
        resolution: grid points along the longest side.
        scale, bias: of raw densities, as those of the grid that is edited.

    Attributes:
        initial_density, initial_colour: tables of the grid as it was.
        attention_table: (P, 2), how much each grid point belongs to the edit and to the object.
        reading: whether rendering is asked for attention instead of colours.
    """

    initial_density: Tensor
    initial_colour: Tensor
    reading: Tensor

    def __init__(self, box: Tensor, resolution: int, scale: float = 25.0, bias: float = -4.0) -> None:
        super().__init__(box, resolution, HarmonicsHead(0), scale, bias)
        self.register_buffer("initial_density", torch.zeros_like(self.density_table))
        self.register_buffer("initial_colour", torch.zeros_like(self.colour_table))
        self.register_buffer("reading", torch.zeros((), dtype=torch.bool))
        self.attention_table = nn.Parameter(torch.zeros(len(self.density_table), 2))

    @property
    def channels(self) -> int:  # type: ignore[override]
        return 2 if self.reading else 3

    @torch.no_grad()
    def begin(self, grid: VoxelField) -> None:
        """Take over a grid of the same shape. Of colours that depend on the view, their mean over all views
        stays."""
        self.density_table.copy_(grid.density_table)
        if isinstance(grid.head, HarmonicsHead) and grid.head.degree == 0:
            self.colour_table.copy_(grid.colour_table)
        else:
            self.colour_table.copy_(_mean_colour(grid))
        self.initial_density.copy_(self.density_table)
        self.initial_colour.copy_(self.colour_table)

    def initial(self) -> VoxelField:
        """The grid as it was."""
        grid = VoxelField(self.box, max(self.shape), HarmonicsHead(0), self.scale, self.bias)
        grid.density_table.data, grid.colour_table.data = self.initial_density, self.initial_colour
        return grid

    def density(self, points: Tensor, times: Tensor | None) -> tuple[Tensor, Located]:
        density, located = super().density(points, times)
        return (density.detach() if self.reading else density), located

    def colour(self, located: Located, directions: Tensor, times: Tensor | None) -> Tensor:
        if self.reading:
            return torch.sigmoid(read(self.attention_table, *located))
        return super().colour(located, directions, times)

    def penalties(self) -> dict[str, Tensor]:
        """`correlation`: 1 - Corr of raw densities with those at the start, over the whole grid (equation 3);
        `density_l2`: their mean squared difference; `attention_variation`: mean absolute difference of
        neighbouring attentions; and those of a voxel grid."""
        now, then = self.density_table, self.initial_density
        attention = torch.sigmoid(self.attention_table).view(*self.shape, 2)
        smooth = torch.stack([attention.diff(dim=axis).abs().mean() for axis in range(3)]).sum()
        return {
            **super().penalties(),
            "correlation": 1 - correlation(now, then),
            "density_l2": (now - then).square().mean(),
            "attention_variation": smooth if self.reading else smooth.detach(),
        }

    def rates(self) -> list[tuple[list[nn.Parameter], float]]:
        return [([self.density_table], 1.0), ([self.colour_table], 0.5), ([self.attention_table], 1.0)]

    @torch.no_grad()
    def keep_only(self, edited: Tensor) -> None:
        """Put back what was there at the grid points (P,) that are not part of the edit."""
        rest = ~edited
        self.density_table[rest] = self.initial_density[rest]
        self.colour_table[rest] = self.initial_colour[rest]


def correlation(one: Tensor, other: Tensor) -> Tensor:
    """Pearson's correlation of two tensors of one shape."""
    a, b = one - one.mean(), other - other.mean()
    return (a * b).mean() / ((a.square().mean() * b.square().mean()).sqrt() + LEAST)


@torch.no_grad()
def _mean_colour(grid: VoxelField) -> Tensor:
    """(P, 3) raw values of degree 0 whose colours are the mean over views of those of a grid."""
    axis = torch.tensor([[1.0, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0], [0, 0, 1], [0, 0, -1]])
    features = grid.colour_table
    seen = torch.stack([grid.head(features, d.expand(len(features), 3), None) for d in axis]).mean(0)
    raw = torch.logit(seen.clamp(1e-3, 1 - 1e-3))
    return raw / HARMONIC_0
