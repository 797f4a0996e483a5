"""What samples of shapes are measured against."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gen3d.domains.shapes.dataset import SPLITS, Shape, ShapeDataset, open_dataset
from gen3d.domains.shapes.native import cloud_of, to_mesh
from gen3d.errors import Gen3dError

POINTS = 2048
"""Points of every cloud that is measured."""


class PreparedReference:
    """A folder of prepared shapes: the held-out ones to compare with, and those of training.

    Args:
        folder: with `train.npz` and at least one of `valid.npz` and `test.npz`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __len__(self) -> int:
        return len(self.split("valid"))

    def split(self, name: str) -> ShapeDataset:
        """One part.

        Raises:
            Gen3dError: there is no such part.
        """
        if name not in SPLITS:
            raise Gen3dError(f"split is {name!r}; allowed: {', '.join(SPLITS)}")
        return open_dataset(self.folder, name)


def clouds(dataset: ShapeDataset, against: str) -> list[np.ndarray]:
    """The shapes as clouds: their own points, or samples of the surfaces of their voxel grids.

    A model of voxels can at best make the latter: 32^3 cells do not hold what is thinner than one.

    Raises:
        Gen3dError: `against` is unknown, or the data hold no grids.
    """
    if against == "points":
        return [dataset[i].points for i in range(len(dataset))]
    if against != "voxels":
        raise Gen3dError(f"against is {against!r}; allowed: points, voxels")
    if dataset.voxels is None:
        raise Gen3dError("against is 'voxels', and these data hold no voxel grids; prepare them from meshes")
    surfaces = []
    for i in range(len(dataset)):
        distances = dataset[i].distances
        assert distances is not None
        surfaces.append(cloud_of(to_mesh(distances.astype(np.float32)), POINTS, seed=i))
    return surfaces


def sample_clouds(samples: Sequence[Any]) -> list[np.ndarray | None]:
    """Native objects, or items of a data set, as clouds; None for what has no points or surface."""
    made: list[np.ndarray | None] = []
    for i, sample in enumerate(samples):
        if isinstance(sample, Shape):
            made.append(sample.points)
            continue
        try:
            made.append(None if sample is None else cloud_of(sample, POINTS, seed=i))
        except Gen3dError:
            made.append(None)
    return made
