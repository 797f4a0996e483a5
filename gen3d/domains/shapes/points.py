"""Point clouds as tokens: every point is a token of three channels."""

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from gen3d.config import require_at_least
from gen3d.domains.base import ChannelGroup, Codec
from gen3d.domains.shapes.batch import ShapeBatch
from gen3d.domains.shapes.decoded import DecodedShapes
from gen3d.draws import Draws
from gen3d.errors import Gen3dError
from gen3d.nn.point_voxel import PointVoxelConfig
from gen3d.tokens import Tokens


@dataclass(frozen=True)
class PointsConfig:
    """Shapes as point clouds."""

    kind: Literal["points"] = "points"
    points: int = 2048
    """Points of a cloud in training, and of a sample when nothing else is asked for."""
    stretch: float = 0.1
    """Training varies the proportions of shapes: each axis by up to this share."""
    network: PointVoxelConfig = field(default_factory=PointVoxelConfig)
    """Between points and the tokens of the transformer."""

    def __post_init__(self) -> None:
        require_at_least(2, self, "points")
        if not 0 <= self.stretch < 1:
            raise Gen3dError(f"stretch is {self.stretch}; allowed: 0 <= stretch < 1")


class PointCodec(Codec):
    """The coordinates themselves, normalised by the mean and one deviation of the data (DiT-3D, PointFlow).

    Attributes:
        class_counts: (K + 1,) training shapes of every class, the last of none.
    """

    channels = 3
    channel_groups = (ChannelGroup(3),)
    class_counts: Tensor

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.register_buffer("class_counts", torch.zeros(classes + 1))

    def encode(self, batch: ShapeBatch, draws: Draws | None = None) -> Tokens:
        return Tokens(
            batch.points, torch.ones(batch.points.shape[:2], dtype=torch.bool, device=batch.points.device)
        )

    def decode(self, tokens: Tokens) -> DecodedShapes:
        return DecodedShapes(points=tokens.x)

    def loss(self, batch: ShapeBatch, draws: Draws) -> tuple[Tensor, dict[str, Tensor]]:
        raise Gen3dError("points need no codec to be trained; set train.codec_steps to 0")
