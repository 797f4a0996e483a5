"""Two published fields of moving scenes, to stand beside ours: HexPlane and K-Planes.

Fusion, sizes, initial values and networks as published; sampling, occupancy and optimiser are those of our
other fields, so that what differs is the field.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from gen3d.fields.base import Field, Located, unit
from gen3d.fields.heads import DensityAndColour
from gen3d.fields.planes import Planes, six_planes


class HexPlaneField(Field):
    """HexPlane (arXiv 2301.09632): three pairs of planes, the two of a pair multiplied.

    Density is the sum of the products, colour a network of their projection.

    Args:
        box: (2, 3), corners of the scene.
        resolution: grid points along each of x, y and z.
        frames: grid points along time.
        density_features: of each plane for density.
        colour_features: of each plane for colour.
    """

    def __init__(
        self,
        box: Tensor,
        resolution: int,
        frames: int,
        density_features: int = 24,
        colour_features: int = 48,
        projected: int = 27,
        width: int = 128,
    ) -> None:
        super().__init__()
        self.register_buffer("box", box.clone().float())
        self.frames = frames
        pairs = (((0, 1), (2, 3)), ((0, 2), (1, 3)), ((1, 2), (0, 3)))
        shapes = ((resolution, resolution), (resolution, frames))
        self.density_planes = nn.ModuleList(Planes(pair, shapes, density_features) for pair in pairs)
        self.colour_planes = nn.ModuleList(Planes(pair, shapes, colour_features) for pair in pairs)
        for planes in (*self.density_planes, *self.colour_planes):
            for table in planes.tables:
                nn.init.normal_(table, std=0.1)
        self.projection = nn.Linear(3 * colour_features, projected, bias=False)
        told = _waves_width(projected) + _waves_width(3)
        self.network = nn.Sequential(
            nn.Linear(told, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 3)
        )

    def density(self, points: Tensor, times: Tensor | None) -> tuple[Tensor, Located]:
        places, when = unit(points, self.box), _times(points, times)
        raw = torch.stack([planes(places, when).sum(1) for planes in self.density_planes]).sum(0)
        # A shift of -10 as published: empty until learnt to be otherwise. Distances are scaled by 25.
        return 25 * nn.functional.softplus(raw - 10), (places, when)

    def colour(self, located: Located, directions: Tensor, times: Tensor | None) -> Tensor:
        features = self.projection(torch.cat([planes(*located) for planes in self.colour_planes], 1))
        return torch.sigmoid(self.network(torch.cat([_waves(features), _waves(directions)], 1)))

    def penalties(self) -> dict[str, Tensor]:
        """`variation` of the planes, mean squared differences of neighbours, along space and, twice, time."""
        planes = (*self.density_planes, *self.colour_planes)
        each = [p.smoothness(1, time=False) + 2 * p.smoothness(1, time=True) for p in planes]
        return {"variation": torch.stack(each).sum()}

    def rates(self) -> list[tuple[list[nn.Parameter], float]]:
        planes = [*self.density_planes.parameters(), *self.colour_planes.parameters()]
        networks = [*self.projection.parameters(), *self.network.parameters()]
        return [(planes, 1.0), (networks, 0.05)]

    def refine(self, resolution: int) -> None:
        for planes in (*self.density_planes, *self.colour_planes):
            planes.resize([(resolution, resolution), (resolution, self.frames)])


class KPlanesField(Field):
    """K-Planes (arXiv 2301.10241), hybrid: six planes multiplied at each of several scales, then networks.

    Args:
        box: (2, 3), corners of the scene.
        resolution: grid points along each of x, y and z at the coarsest scale.
        frames: grid points along time, at every scale.
        scales: multiples of `resolution`.
        features: of each plane.
    """

    def __init__(
        self,
        box: Tensor,
        resolution: int,
        frames: int,
        scales: tuple[int, ...] = (1, 2, 4, 8),
        features: int = 32,
        width: int = 64,
    ) -> None:
        super().__init__()
        self.register_buffer("box", box.clone().float())
        self.multiples = scales
        self.scales = nn.ModuleList(
            Planes(*six_planes(resolution * scale, frames), features) for scale in scales
        )
        for table, axes in self._tables():
            if 3 in axes:
                nn.init.ones_(table)
            else:
                nn.init.uniform_(table, 0.1, 0.5)
        self.networks = DensityAndColour(features * len(scales), width)

    def density(self, points: Tensor, times: Tensor | None) -> tuple[Tensor, Located]:
        places, when = unit(points, self.box), _times(points, times)
        return self.networks.density(torch.cat([planes(places, when) for planes in self.scales], 1))

    def colour(self, located: Located, directions: Tensor, times: Tensor | None) -> Tensor:
        return self.networks.colour(located[0], directions)

    def penalties(self) -> dict[str, Tensor]:
        """`variation` in space, `acceleration` in time, and `motion`: how far planes with time are from 1."""
        still = [(table - 1).abs().mean() for table, axes in self._tables() if 3 in axes]
        scales = list(self._scales())
        return {
            "variation": torch.stack([p.smoothness(1, time=False) for p in scales]).sum(),
            "acceleration": torch.stack([p.smoothness(2, time=True) for p in scales]).sum(),
            "motion": torch.stack(still).sum(),
        }

    def _scales(self) -> Iterator[Planes]:
        for planes in self.scales:
            assert isinstance(planes, Planes)
            yield planes

    def _tables(self) -> Iterator[tuple[nn.Parameter, tuple[int, ...]]]:
        for planes in self._scales():
            yield from zip(planes.tables, planes.axes, strict=True)

    def rates(self) -> list[tuple[list[nn.Parameter], float]]:
        return [(list(self.parameters()), 1.0)]

    def refine(self, resolution: int) -> None:
        for planes, scale in zip(self._scales(), self.multiples, strict=True):
            sizes = (*[resolution * scale] * 3, planes.shapes[-1][1])
            planes.resize([(sizes[a], sizes[b]) for a, b in planes.axes])


def _times(points: Tensor, times: Tensor | None) -> Tensor:
    return points.new_zeros(len(points)) if times is None else times


def _waves(values: Tensor, frequencies: int = 2) -> Tensor:
    """Values (P, C) with sines and cosines of them, (P, C (1 + 2 frequencies))."""
    angles = torch.cat([values * 2.0**k for k in range(frequencies)], 1)
    return torch.cat([values, angles.sin(), angles.cos()], 1)


def _waves_width(values: int, frequencies: int = 2) -> int:
    return values * (1 + 2 * frequencies)
