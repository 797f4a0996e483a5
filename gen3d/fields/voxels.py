"""A voxel grid of density and colour, activated after interpolation (ReLU Fields, arXiv 2205.10824)."""

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from gen3d.errors import Gen3dError
from gen3d.fields.base import Field, Located
from gen3d.fields.harmonics import count, harmonics
from gen3d.fields.tables import corners, read, resized


class VoxelField(Field):
    """Density and spherical harmonics of colour on a regular grid.

    Values are interpolated between grid points first and go through softplus (density) or a sigmoid (colour)
    then, so that a surface can be sharper than a voxel.

    Args:
        box: (2, 3), corners of the grid.
        resolution: grid points along the longest side.
        degree: of the spherical harmonics, 0 to 3; 0 is colour that looks the same from everywhere.
        channels: of a colour.
        scale: density that a raw value of 1 stands for, per unit of length.
        bias: added to raw densities, so that a grid of zeros is nearly empty.
    """

    density_table: nn.Parameter
    colour_table: nn.Parameter

    def __init__(
        self,
        box: Tensor,
        resolution: int = 128,
        degree: int = 1,
        channels: int = 3,
        scale: float = 25.0,
        bias: float = -4.0,
    ) -> None:
        super().__init__()
        if resolution < 2:
            raise Gen3dError(f"resolution is {resolution}; at least 2 grid points")
        self.register_buffer("box", box.clone().float())
        self.degree, self.channels, self.scale, self.bias = degree, channels, scale, bias
        self.shape = grid_shape(self.box, resolution)
        points = self.shape[0] * self.shape[1] * self.shape[2]
        self.density_table = nn.Parameter(torch.zeros(points, 1))
        self.colour_table = nn.Parameter(torch.zeros(points, channels * count(degree)))

    def density(self, points: Tensor, times: Tensor | None) -> tuple[Tensor, Located]:
        unit = 2 * (points - self.box[0]) / (self.box[1] - self.box[0]) - 1
        rows, weights = corners(unit, self.shape)
        raw = read(self.density_table, rows, weights)[:, 0]
        return self.scale * softplus(raw + self.bias), (rows, weights)

    def colour(self, located: Located, directions: Tensor, times: Tensor | None) -> Tensor:
        raw = read(self.colour_table, *located).view(-1, self.channels, count(self.degree))
        return torch.sigmoid((raw * harmonics(directions, self.degree)[:, None]).sum(2))

    @torch.no_grad()
    def refine(self, resolution: int) -> None:
        """Go on with more grid points, which take the values of now; optimisers must begin anew."""
        new = grid_shape(self.box, resolution)
        for name in ("density_table", "colour_table"):
            setattr(self, name, nn.Parameter(resized(getattr(self, name), self.shape, new)))
        self.shape = new


def grid_shape(box: Tensor, resolution: int) -> tuple[int, int, int]:
    """Grid points along each side of a box, `resolution` along the longest, spaced alike."""
    sides = box[1] - box[0]
    if not bool((sides > 0).all()):
        raise Gen3dError(f"box {box.tolist()}; its second corner must lie beyond the first")
    points = (sides / sides.max() * (resolution - 1)).round().long() + 1
    x, y, z = points.clamp(min=2).tolist()
    return x, y, z
