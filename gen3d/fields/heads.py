"""From a point's features to its colour: what a field stores, seen from a direction at a time."""

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from gen3d.errors import Gen3dError
from gen3d.fields.harmonics import bands, count, harmonics

FREQUENCIES = 4
"""Sines and cosines of time that a query or a small network is told."""


class Head(nn.Module, ABC):
    """Colour of points.

    Attributes:
        features: numbers that a point must store.
        channels: of a colour.
    """

    features: int
    channels: int

    @abstractmethod
    def forward(self, features: Tensor, directions: Tensor, times: Tensor | None) -> Tensor:
        """Colours (P, channels) in (0, 1) of points with `features` (P, F), seen along `directions` (P, 3)
        at `times` (P,) in [0, 1] or None."""


class HarmonicsHead(Head):
    """Spherical harmonics of the direction, one set of coefficients for each channel."""

    def __init__(self, degree: int, channels: int = 3) -> None:
        super().__init__()
        self.degree, self.channels = degree, channels
        self.features = channels * count(degree)

    def forward(self, features: Tensor, directions: Tensor, times: Tensor | None) -> Tensor:
        raw = features.view(-1, self.channels, count(self.degree))
        return torch.sigmoid((raw * harmonics(directions, self.degree)[:, None]).sum(2))


class HarmonicsAttentionHead(Head):
    """Spherical harmonics whose bands are weighed by attention.

    A point stores coefficients and a key for each band (all harmonics of one degree). The query is a linear
    function of the direction and of the time. Attention weights add up to the number of bands, and are 1
    each at the start, where this is a `HarmonicsHead`. SHaDe (arXiv 2505.16535) names such a head; what
    query and keys are is our choice.

    Args:
        degree: the highest band, 0 to 3.
        channels: of a colour.
        width: of keys and queries.
    """

    band: Tensor

    def __init__(self, degree: int, channels: int = 3, width: int = 4) -> None:
        super().__init__()
        self.degree, self.channels, self.width = degree, channels, width
        self.coefficients = channels * count(degree)
        self.features = self.coefficients + (degree + 1) * width
        self.query = nn.Linear(count(2) + 2 * FREQUENCIES, (degree + 1) * width)
        nn.init.zeros_(self.query.weight)
        # Keys begin at zero, so that queries must not: else neither would ever learn.
        nn.init.ones_(self.query.bias)
        self.register_buffer("band", torch.tensor(bands(degree)), persistent=False)

    def forward(self, features: Tensor, directions: Tensor, times: Tensor | None) -> Tensor:
        seen = torch.cat([harmonics(directions, 2), time_features(directions, times)], 1)
        query = self.query(seen).view(-1, self.degree + 1, self.width)
        key = features[:, self.coefficients :].view(-1, self.degree + 1, self.width)
        attention = torch.softmax((query * key).sum(2) / math.sqrt(self.width), 1) * (self.degree + 1)
        raw = features[:, : self.coefficients].view(-1, self.channels, count(self.degree))
        weighed = harmonics(directions, self.degree) * attention[:, self.band]
        return torch.sigmoid((raw * weighed[:, None]).sum(2))


class PerceptronHead(Head):
    """A network of two layers that is told the features, the direction and the time."""

    def __init__(self, features: int = 12, channels: int = 3, width: int = 64) -> None:
        super().__init__()
        self.features, self.channels = features, channels
        told = features + count(2) + 2 * FREQUENCIES
        self.network = nn.Sequential(nn.Linear(told, width), nn.ReLU(), nn.Linear(width, channels))

    def forward(self, features: Tensor, directions: Tensor, times: Tensor | None) -> Tensor:
        told = [features, harmonics(directions, 2), time_features(directions, times)]
        return torch.sigmoid(self.network(torch.cat(told, 1)))


class PlainHead(Head):
    """What is stored, as it is: latents of a prior of pictures, which know no direction and no bounds."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.features = self.channels = channels

    def forward(self, features: Tensor, directions: Tensor, times: Tensor | None) -> Tensor:
        return features


class DensityAndColour(nn.Module):
    """Two small networks, after Instant-NGP (arXiv 2201.05989): features to a density and to what the second
    network, told the direction, makes a colour of.

    Args:
        features: of a point.
        width: of the hidden layers.
        known: numbers that the first network hands to the second.
        shift: added to the logarithm of the density: below 0, space is nearly empty at the start.
    """

    def __init__(self, features: int, width: int = 64, known: int = 15, shift: float = -1.0) -> None:
        super().__init__()
        self.shift = shift
        self.density_network = nn.Sequential(
            nn.Linear(features, width), nn.ReLU(), nn.Linear(width, 1 + known)
        )
        self.colour_network = nn.Sequential(
            nn.Linear(known + count(3), width),
            nn.ReLU(),
            nn.Linear(width, width),
            nn.ReLU(),
            nn.Linear(width, 3),
        )

    def density(self, features: Tensor) -> tuple[Tensor, tuple[Tensor]]:
        """Densities (P,) of features (P, F), and what `colour` needs of each point (P, known)."""
        found = self.density_network(features)
        # Truncated as published, so that no gradient overflows.
        return torch.exp((found[:, 0] + self.shift).clamp(max=15)), (found[:, 1:],)

    def colour(self, known: Tensor, directions: Tensor) -> Tensor:
        """Colours (P, 3) in (0, 1) of what `density` has handed over."""
        return torch.sigmoid(self.colour_network(torch.cat([known, harmonics(directions, 3)], 1)))


def time_features(directions: Tensor, times: Tensor | None) -> Tensor:
    """(P, 8): sines and cosines of the time, zeros where there is none."""
    if times is None:
        return directions.new_zeros(len(directions), 2 * FREQUENCIES)
    angles = times[:, None] * (math.pi * torch.arange(1, FREQUENCIES + 1, device=times.device))
    return torch.cat([angles.sin(), angles.cos()], 1)


HEADS: dict[str, type[Head]] = {
    "harmonics": HarmonicsHead,
    "attention": HarmonicsAttentionHead,
    "perceptron": PerceptronHead,
}


def make_head(kind: str, degree: int, channels: int = 3) -> Head:
    """The head called `kind`; `degree` is that of its harmonics, where it has any.

    Raises:
        Gen3dError: there is no such head.
    """
    if kind not in HEADS:
        raise Gen3dError(f"head is {kind!r}; allowed: {', '.join(HEADS)}")
    return PerceptronHead(channels=channels) if kind == "perceptron" else HEADS[kind](degree, channels)  # type: ignore[call-arg]
