"""What codecs of shapes decode to, before it becomes objects of trimesh."""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

Representation = Literal["points", "voxels", "mesh"]


@dataclass(frozen=True)
class DecodedShapes:
    """A batch of shapes.

    Attributes:
        points: (B, N, 3), or None.
        field: (B, R, R, R), positive inside, or None.
        labels: (B,) classes, K for none, or None.
        representation: what they are to become.
    """

    points: Tensor | None = None
    field: Tensor | None = None
    labels: Tensor | None = None
    representation: Representation = "points"
