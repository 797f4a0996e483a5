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
    """

    box: Tensor
    channels: int = 3

    @abstractmethod
    def density(self, points: Tensor, times: Tensor | None) -> tuple[Tensor, Located]:
        """Density (P,), at least 0, per unit of length, at points (P, 3) and times (P,) or None."""

    @abstractmethod
    def colour(self, located: Located, directions: Tensor, times: Tensor | None) -> Tensor:
        """Colours (P, channels) of points whose density was asked, seen along `directions` (P, 3)."""
