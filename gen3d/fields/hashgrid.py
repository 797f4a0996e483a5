"""Grids of many resolutions, the fine ones hashed into small tables (Instant-NGP, arXiv 2201.05989)."""

import math

import torch
from torch import Tensor, nn

from gen3d.errors import Gen3dError
from gen3d.fields.base import Field, Located, unit
from gen3d.fields.heads import DensityAndColour
from gen3d.fields.tables import corners, read

PRIMES = (1, 2_654_435_761, 805_459_861)
"""One for each coordinate, of the published hash."""


class HashGrid(nn.Module):
    """Features of points from grids of growing resolution.

    A grid whose points fit into a table has a row for each of them; a finer one shares rows by a hash of its
    coordinates (equation 4), and training sorts out who needs them.

    Args:
        levels: L, how many grids.
        coarsest, finest: grid points along each side of the first and the last; the others lie between in a
            geometric series (equation 2).
        rows: of a table at most; a power of 2.
        features: F, of each grid.
    """

    tables: nn.ParameterList

    def __init__(
        self, levels: int = 8, coarsest: int = 16, finest: int = 256, rows: int = 1 << 16, features: int = 4
    ) -> None:
        super().__init__()
        if levels < 2 or not 2 <= coarsest <= finest or rows < 1 or rows & (rows - 1):
            raise Gen3dError(
                f"levels {levels}, coarsest {coarsest}, finest {finest}, rows {rows}; allowed: 2 levels and "
                "more, 2 <= coarsest <= finest, and a power of 2 of rows"
            )
        growth = (finest / coarsest) ** (1 / (levels - 1))
        self.sizes = [round(coarsest * growth**level) for level in range(levels)]
        self.rows = rows
        self.tables = nn.ParameterList(
            nn.Parameter(torch.empty(min(size**3, rows), features).uniform_(-1e-4, 1e-4))
            for size in self.sizes
        )

    def forward(self, places: Tensor) -> Tensor:
        """(P, L F) at places (P, 3) in [-1, 1]."""
        found = []
        for table, size in zip(self.tables, self.sizes, strict=True):
            rows, weights = corners(places, (size,) * 3)
            if size**3 > self.rows:
                rows = hashed(rows, size, self.rows)
            found.append(read(table, rows, weights))
        return torch.cat(found, 1)


def hashed(rows: Tensor, size: int, count: int) -> Tensor:
    """Rows of a table of `count`, a power of 2, for flat numbers of the points of a grid of `size` a side."""
    coordinates = (rows // size**2, rows // size % size, rows % size)
    mixed = torch.zeros_like(rows)
    for coordinate, prime in zip(coordinates, PRIMES, strict=True):
        mixed = mixed ^ (coordinate * prime)
    return mixed & (count - 1)


class HashField(Field):
    """A scene that stands still, as two small networks on a hash grid.

    Args:
        box: (2, 3), corners of the scene.
        finest: grid points along each side of the finest grid.
    """

    def __init__(self, box: Tensor, finest: int) -> None:
        super().__init__()
        self.register_buffer("box", box.clone().float())
        self.grid = HashGrid(finest=finest)
        features = sum(table.shape[1] for table in self.grid.tables)
        side = float((self.box[1] - self.box[0]).max())
        # Light crosses the whole box at the start with little loss.
        self.networks = DensityAndColour(features, shift=math.log(0.5 / side))

    def density(self, points: Tensor, times: Tensor | None) -> tuple[Tensor, Located]:
        return self.networks.density(self.grid(unit(points, self.box)))

    def colour(self, located: Located, directions: Tensor, times: Tensor | None) -> Tensor:
        return self.networks.colour(located[0], directions)

    def rates(self) -> list[tuple[list[nn.Parameter], float]]:
        return [(list(self.grid.parameters()), 1.0), (list(self.networks.parameters()), 0.2)]
