"""Planes of features: functions of space and time as products or sums of functions of fewer coordinates."""

import itertools
import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from gen3d.fields.tables import corners, read, resized

Fusion = Literal["sum", "product"]


class Planes(nn.Module):
    """Grids over chosen coordinates, read together: one feature vector for each point of space and time.

    Args:
        axes: the coordinates of each grid, 0 to 2 for x, y, z and 3 for time.
        shapes: grid points along each of them.
        features: C, of every grid.
        fusion: how what the grids say is put together.
    """

    tables: nn.ParameterList

    def __init__(
        self,
        axes: Sequence[tuple[int, ...]],
        shapes: Sequence[tuple[int, ...]],
        features: int,
        fusion: Fusion = "product",
    ) -> None:
        super().__init__()
        self.axes = [tuple(each) for each in axes]
        self.shapes = [tuple(shape) for shape in shapes]
        self.features, self.fusion = features, fusion
        self.tables = nn.ParameterList(nn.Parameter(torch.zeros(math.prod(s), features)) for s in shapes)

    def forward(self, places: Tensor, times: Tensor) -> Tensor:
        """(P, C) at places (P, 3) in [-1, 1] and times (P,) in [0, 1]."""
        coordinates = torch.cat([places, (2 * times - 1)[:, None]], 1)
        parts = [
            read(table, *corners(coordinates[:, list(axes)], shape))
            for table, axes, shape in zip(self.tables, self.axes, self.shapes, strict=True)
        ]
        if self.fusion == "sum":
            return torch.stack(parts).sum(0)
        return torch.stack(parts).prod(0)

    def smoothness(self, order: int, time: bool) -> Tensor:
        """Mean square of differences between neighbouring grid points, over the tables that have such axes.

        Args:
            order: 1, of values (total variation), or 2, of slopes.
            time: along time; else along space.
        """
        squares = []
        for table, axes, shape in zip(self.tables, self.axes, self.shapes, strict=True):
            grid = table.view(*shape, self.features)
            for dimension, axis in enumerate(axes):
                if (axis == 3) == time and shape[dimension] > order:
                    squares.append(grid.diff(n=order, dim=dimension).square().mean())
        return torch.stack(squares).sum() if squares else self.tables[0].new_zeros(())

    @torch.no_grad()
    def resize(self, shapes: Sequence[tuple[int, ...]]) -> None:
        """Go on with grids of other shapes, which take the values of now."""
        for number, shape in enumerate(shapes):
            if tuple(shape) != self.shapes[number]:
                self.tables[number] = nn.Parameter(resized(self.tables[number], self.shapes[number], shape))
        self.shapes = [tuple(shape) for shape in shapes]


class Deformation(nn.Module):
    """Where points of any time were in the canonical shape (SHaDe, arXiv 2505.16535).

    Three grids f_xy(x, y, t), f_yz(y, z, t) and f_xz(x, z, t) are put together, and an offset read off them,
    dx = W f. As in the paper W is fixed, so that the grids alone carry the motion; its rows are orthonormal.
    The paper publishes neither W nor a regulariser: both are our choice.

    Args:
        resolution: grid points along each of x, y and z.
        frames: grid points along time.
        features: of each grid.
        fusion: "sum", as in the paper, or "product".
        learned: whether W learns.
        still: time in [0, 1] at which nothing is moved, or None.
    """

    def __init__(
        self,
        resolution: int = 32,
        frames: int = 16,
        features: int = 8,
        fusion: Fusion = "sum",
        learned: bool = False,
        still: float | None = None,
    ) -> None:
        super().__init__()
        self.still = still
        pairs = ((0, 1, 3), (1, 2, 3), (0, 2, 3))
        self.planes = Planes(pairs, [(resolution, resolution, frames)] * 3, features, fusion)
        if fusion == "product":
            for table in list(self.planes.tables)[:-1]:
                nn.init.ones_(table)
        draw = torch.randn(features, 3, generator=torch.Generator().manual_seed(0))
        weight = torch.linalg.qr(draw)[0].T.contiguous()  # (3, features)
        if learned:
            self.weight = nn.Parameter(weight)
        else:
            self.register_buffer("weight", weight)

    def forward(self, places: Tensor, times: Tensor) -> Tensor:
        """Offsets (P, 3), in half boxes, of places (P, 3) in [-1, 1] at times (P,) in [0, 1]."""
        moved = self._offset(places, times)
        return (
            moved if self.still is None else moved - self._offset(places, torch.full_like(times, self.still))
        )

    def _offset(self, places: Tensor, times: Tensor) -> Tensor:
        planes = self.planes
        if planes.fusion == "product":
            return planes(places, times) @ self.weight.T
        # A sum may be projected before it is read, which spares reading the features one by one.
        coordinates = torch.cat([places, (2 * times - 1)[:, None]], 1)
        table = torch.cat([table @ self.weight.T for table in planes.tables])
        size = len(planes.tables[0])
        found = [corners(coordinates[:, list(axes)], planes.shapes[0]) for axes in planes.axes]
        rows = torch.cat([rows + number * size for number, (rows, _) in enumerate(found)], 1)
        return read(table, rows, torch.cat([weights for _, weights in found], 1))


def six_planes(resolution: int, frames: int) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """Coordinates and shapes of the planes of each pair of x, y, z and time."""
    sizes = (resolution, resolution, resolution, frames)
    axes = list(itertools.combinations(range(4), 2))
    return axes, [(sizes[a], sizes[b]) for a, b in axes]
