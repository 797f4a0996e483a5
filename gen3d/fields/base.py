"""What rendering asks of a field."""

from abc import ABC, abstractmethod

from torch import Tensor, nn

Located = tuple[Tensor, ...]
"""What a field has found out about P points while it computed their density: tensors with P rows."""


class Field(nn.Module, ABC):
    """Density and colour at any point of a box.

    Attributes:
        box: (2, 3), its corners; outside there is nothing.
        channels: of a colour.
        settled: whether what is empty by now may be taken to stay empty.
    """

    box: Tensor
    channels: int = 3
    settled: bool = True

    @abstractmethod
    def density(self, points: Tensor, times: Tensor | None) -> tuple[Tensor, Located]:
        """Density (P,), at least 0, per unit of length, at points (P, 3) and times (P,) or None."""

    @abstractmethod
    def colour(self, located: Located, directions: Tensor, times: Tensor | None) -> Tensor:
        """Colours (P, channels) of points whose density was asked, seen along `directions` (P, 3)."""

    def penalties(self) -> dict[str, Tensor]:
        """Scalars by name that training may add to its loss, each with a weight of its own."""
        return {}

    def rates(self) -> list[tuple[list[nn.Parameter], float]]:
        """Parameters in groups, and how fast each should learn beside the others (Adam)."""
        return [(list(self.parameters()), 1.0)]

    def progress(self, share: float) -> None:
        """Told before every step of a fit how much of it is over, in [0, 1]."""

    def refine(self, resolution: int) -> None:
        """Go on with finer grids, which take the values of now; nothing where there is none."""


def unit(points: Tensor, box: Tensor) -> Tensor:
    """Points (P, 3) of a box (2, 3) scaled to [-1, 1]."""
    return 2 * (points - box[0]) / (box[1] - box[0]) - 1
