"""A voxel grid of density and colour, activated after interpolation (ReLU Fields, arXiv 2205.10824)."""

from abc import abstractmethod

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from gen3d.errors import Gen3dError
from gen3d.fields.base import Field, Located, unit
from gen3d.fields.heads import HarmonicsHead, Head
from gen3d.fields.tables import corners, read, resized


class GridField(Field):
    """Density and features of colour on a regular grid, wherever the grid comes from.

    Values are interpolated between grid points first and go through softplus (density) or a head (colour)
    then, so that a surface can be sharper than a voxel.

    Args:
        box: (2, 3), corners of the grid.
        resolution: grid points along the longest side.
        head: what makes colours of stored features.
        scale: density that a raw value of 1 stands for, per unit of length.
        bias: added to raw densities, so that a grid of zeros is nearly empty.
    """

    def __init__(self, box: Tensor, resolution: int, head: Head, scale: float, bias: float) -> None:
        super().__init__()
        if resolution < 2:
            raise Gen3dError(f"resolution is {resolution}; at least 2 grid points")
        self.register_buffer("box", box.clone().float())
        self.head, self.scale, self.bias = head, scale, bias
        self.shape = grid_shape(self.box, resolution)

    @abstractmethod
    def tables(self) -> tuple[Tensor, Tensor]:
        """Raw densities (P, 1) and features (P, F) of the grid points."""

    @property
    def channels(self) -> int:  # type: ignore[override]
        return self.head.channels

    def density(self, points: Tensor, times: Tensor | None) -> tuple[Tensor, Located]:
        return self.density_at(unit(points, self.box))

    def density_at(self, places: Tensor) -> tuple[Tensor, Located]:
        """As `density`, of places (P, 3) in the box scaled to [-1, 1]; beyond it, the border's."""
        rows, weights = corners(places, self.shape)
        raw = read(self.tables()[0], rows, weights)[:, 0]
        return self.scale * softplus(raw + self.bias), (rows, weights)

    def colour(self, located: Located, directions: Tensor, times: Tensor | None) -> Tensor:
        return self.head(read(self.tables()[1], *located), directions, times)

    def penalties(self) -> dict[str, Tensor]:
        """`density_variation`: mean absolute difference of neighbouring raw densities, over the axes."""
        grid = self.tables()[0].view(*self.shape)
        return {
            "density_variation": torch.stack([grid.diff(dim=axis).abs().mean() for axis in range(3)]).sum()
        }

    def grid_points(self) -> Tensor:
        """(P, 3) places of the grid points, in the order of the tables."""
        low, high = self.box
        axes = [torch.linspace(float(low[k]), float(high[k]), self.shape[k]) for k in range(3)]
        return torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).view(-1, 3)


class VoxelField(GridField):
    """A grid whose values are parameters, as of ReLU Fields; spherical harmonics of degree 1 if no head is
    given."""

    density_table: nn.Parameter
    colour_table: nn.Parameter

    def __init__(
        self,
        box: Tensor,
        resolution: int = 128,
        head: Head | None = None,
        scale: float = 25.0,
        bias: float = -4.0,
    ) -> None:
        super().__init__(box, resolution, HarmonicsHead(1) if head is None else head, scale, bias)
        points = self.shape[0] * self.shape[1] * self.shape[2]
        self.density_table = nn.Parameter(torch.zeros(points, 1))
        self.colour_table = nn.Parameter(torch.zeros(points, self.head.features))

    def tables(self) -> tuple[Tensor, Tensor]:
        return self.density_table, self.colour_table

    def rates(self) -> list[tuple[list[nn.Parameter], float]]:
        return [([self.density_table], 1.0), ([self.colour_table], 0.5), (list(self.head.parameters()), 0.1)]

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
