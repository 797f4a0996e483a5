"""A moving scene as planes alone: what a prior over scenes makes of its latents."""

import torch
from torch import Tensor, nn
from torch.nn.functional import silu, softplus

from gen3d.fields.base import Field, Located
from gen3d.fields.tables import corners, read

PAIRS = ((0, 1), (1, 2), (0, 2))
"""Coordinates of the three planes."""
STEEPNESS, DENSITY = 3.0, 20.0
"""Density is DENSITY softplus(STEEPNESS logit) per unit of length, `logit` being that of being occupied."""


class PlaneHead(nn.Module):
    """A small network from features of the three planes to the logits of occupancy and of a colour."""

    def __init__(self, features: int, width: int = 64) -> None:
        super().__init__()
        self.features = features
        self.first = nn.Linear(3 * features, width)
        self.middle = nn.Linear(width, width)
        self.last = nn.Linear(width, 4)

    def forward(self, features: Tensor) -> Tensor:
        """(P, 4) of the features (P, 3 F)."""
        return self.last(silu(self.middle(silu(self.first(features)))))


class PlaneScene(Field):
    """The cube [-1, 1]^3: canonical planes of features, and planes of offsets that change with time.

    An offset is the sum of what three grids f_xy(x, y, t), f_yz(y, z, t), f_xz(x, z, t) say, as in
    `gen3d.fields.planes.Deformation`; at the place it leads to, the three canonical planes are read and a
    small network makes density and colour of them.

    Args:
        head: the network.
        canonical: (3, R, R, F) features.
        offsets: (3, r, r, T, 3) in half sides of the cube.
    """

    box: Tensor
    canonical: Tensor
    offsets: Tensor

    def __init__(self, head: PlaneHead, canonical: Tensor, offsets: Tensor) -> None:
        super().__init__()
        self.head = head
        self.register_buffer("box", torch.tensor([[-1.0] * 3, [1.0] * 3]))
        self.register_buffer("canonical", canonical)
        self.register_buffer("offsets", offsets)

    def moved(self, points: Tensor, times: Tensor) -> Tensor:
        """Offsets (P, 3) from points (P, 3) at times (P,) to where their matter is at time 0."""
        coordinates = torch.cat([points, (2 * times - 1)[:, None]], 1)
        shape = self.offsets.shape[1:4]
        size = shape.numel()
        found = [corners(coordinates[:, [*pair, 3]], shape) for pair in PAIRS]
        rows = torch.cat([rows + number * size for number, (rows, _) in enumerate(found)], 1)
        return read(self.offsets.flatten(0, 3), rows, torch.cat([weights for _, weights in found], 1))

    def logits(self, points: Tensor) -> Tensor:
        """(P, 4) of occupancy and colour at time 0."""
        shape = self.canonical.shape[1:3]
        parts = [
            read(plane.flatten(0, 1), *corners(points[:, list(pair)], shape))
            for plane, pair in zip(self.canonical, PAIRS, strict=True)
        ]
        return self.head(torch.cat(parts, 1))

    def density(self, points: Tensor, times: Tensor | None) -> tuple[Tensor, Located]:
        if times is not None:
            points = points + self.moved(points, times)
        logits = self.logits(points)
        return density_of(logits[:, 0]), (logits[:, 1:],)

    def colour(self, located: Located, directions: Tensor, times: Tensor | None) -> Tensor:
        return torch.sigmoid(located[0])

    def penalties(self) -> dict[str, Tensor]:
        """`acceleration`: mean square of second differences of the offsets in time."""
        return {"acceleration": self.offsets.diff(n=2, dim=3).square().mean()}


def density_of(logit: Tensor) -> Tensor:
    """Density, per unit of length, of the logit of being occupied."""
    return DENSITY * softplus(STEEPNESS * logit)
