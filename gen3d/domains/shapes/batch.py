"""Batches of shapes, and how they are varied in training."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from gen3d.domains.shapes.dataset import Shape
from gen3d.draws import Draws
from gen3d.errors import Gen3dError


@dataclass(frozen=True)
class ShapeBatch:
    """Shapes side by side.

    Attributes:
        points: (B, N, 3) on surfaces.
        labels: (B,) classes of the model; K, one past the last, for none.
        distances: (B, R, R, R) to the surface in cells, positive inside, cut off; or None.
    """

    points: Tensor
    labels: Tensor
    distances: Tensor | None = None

    def to(self, device: torch.device | str) -> "ShapeBatch":
        distances = None if self.distances is None else self.distances.to(device)
        return ShapeBatch(self.points.to(device), self.labels.to(device), distances)


def collate(items: Sequence[Shape], points: int, draws: Draws | None, grids: bool) -> ShapeBatch:
    """Put shapes into one batch.

    Args:
        items: the shapes, with at least two points each.
        points: points kept of every shape: at random with `draws`, else the first ones. Shapes with fewer
            repeat theirs.
        draws: randomness of the choice.
        grids: whether the grids are wanted.

    Raises:
        Gen3dError: grids are wanted and a shape has none.
    """
    clouds = []
    for row, item in enumerate(items):
        count = len(item.points)
        if draws is None:
            index = np.arange(points) % count
        else:
            order = draws.select(torch.tensor([row])).uniform("points", count)[0].argsort().numpy()
            index = order[np.arange(points) % count]
        clouds.append(item.points[index])
    distances = None
    if grids:
        distances = torch.from_numpy(np.stack([_distances(item) for item in items])).float()
    labels = torch.tensor([item.label for item in items], dtype=torch.int64)
    return ShapeBatch(torch.from_numpy(np.stack(clouds)).float(), labels, distances)


def _distances(item: Shape) -> np.ndarray:
    if item.distances is None:
        raise Gen3dError("these data hold no voxel grids; prepare them from meshes")
    return item.distances


def vary(batch: ShapeBatch, draws: Draws, mirror: bool, stretch: float) -> ShapeBatch:
    """Mirror half of the shapes left to right, and change the proportions of all a little.

    Args:
        batch: the shapes.
        draws: randomness.
        mirror: whether x may change its sign.
        stretch: each axis is scaled by exp(u), |u| <= stretch; then the longest half-extent is 1 again.
    """
    points, grids = batch.points, batch.distances
    if mirror:
        flip = draws.uniform("mirror") < 0.5
        sign = torch.where(flip, -1.0, 1.0)[:, None, None]
        points = points * torch.cat([sign, torch.ones_like(sign), torch.ones_like(sign)], -1)
        if grids is not None:
            grids = torch.where(flip[:, None, None, None], grids.flip(1), grids)
    if stretch:
        points = points * torch.exp(stretch * (2 * draws.uniform("stretch", 1, 3) - 1))
        points = points / points.abs().amax((1, 2), keepdim=True).clamp(min=1e-6)
    return replace(batch, points=points, distances=grids)
