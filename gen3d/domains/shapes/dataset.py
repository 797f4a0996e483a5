"""Prepared shapes as training reads them: one .npz file for each split."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gen3d.errors import Gen3dError, require

SPLITS = ("train", "valid", "test")
TRUNCATION = 2.0
"""Distances to the surface are told up to so many cells."""


@dataclass(frozen=True)
class Shape:
    """One training item.

    Attributes:
        points: (P, 3) float32 on the surface, in the unit box: centred, longest half-extent 1, y up.
        label: number of its class in the data set's `class_names`, -1 for none.
        distances: (R, R, R) float16, distance to the surface in cells of a grid over the cube [-1, 1]^3,
            axes x, y, z, positive inside, cut off at TRUNCATION; or None.
    """

    points: np.ndarray
    label: int
    distances: np.ndarray | None = None


class ShapeDataset:
    """Shapes of one file, indexable.

    Attributes:
        points: (M, P, 3).
        labels: (M,) int64 into `class_names`, -1 for none.
        class_names: names of the classes.
        names: (M,) names of the shapes.
        voxels: (M, R^3 / 8) packed bits, or None.
        sizes: (M,) tokens of every item; all alike.
    """

    def __init__(
        self,
        points: np.ndarray,
        labels: np.ndarray | None = None,
        class_names: tuple[str, ...] = (),
        names: np.ndarray | None = None,
        voxels: np.ndarray | None = None,
    ) -> None:
        self.points = points
        self.labels = np.full(len(points), -1) if labels is None else labels.astype(np.int64)
        self.class_names = class_names
        self.names = np.arange(len(points)).astype(str) if names is None else names
        self.voxels = voxels
        self.sizes = np.full(len(points), points.shape[1], np.int64)
        self._kept: dict[int, np.ndarray] = {}

    @classmethod
    def load(cls, path: Path) -> "ShapeDataset":
        """Read one file.

        Raises:
            Gen3dError: it is missing, damaged or holds no shapes.
        """
        try:
            with np.load(path, allow_pickle=False) as arrays:
                return cls(
                    arrays["points"],
                    arrays.get("labels"),
                    tuple(str(name) for name in arrays["class_names"]) if "class_names" in arrays else (),
                    arrays.get("names"),
                    arrays.get("voxels"),
                )._checked()
        except FileNotFoundError:
            raise Gen3dError(f"no file {path}; gen3d prepare --domain shape writes it") from None
        except Gen3dError as error:
            raise Gen3dError(f"{path}: {error}") from None
        except Exception as error:
            # numpy and zipfile raise about anything for a damaged file.
            raise Gen3dError(f"{path} holds no shapes, or is damaged: {error}") from error

    def __len__(self) -> int:
        return len(self.points)

    def __getitem__(self, index: int) -> Shape:
        points = self.points[index].astype(np.float32)
        return Shape(points, int(self.labels[index]), None if self.voxels is None else self._distances(index))

    def grid(self, index: int) -> np.ndarray:
        """Solid voxels (R, R, R) of a shape, bool, axes x, y, z."""
        assert self.voxels is not None
        bits = np.unpackbits(self.voxels[index]).astype(bool)
        side = int(round(len(bits) ** (1 / 3), 6))
        return bits[: side**3].reshape(side, side, side)

    def _distances(self, index: int) -> np.ndarray:
        if index not in self._kept:
            self._kept[index] = signed_distances(self.grid(index))
        return self._kept[index]

    def subset(self, index: np.ndarray) -> "ShapeDataset":
        """Some of the shapes."""
        voxels = None if self.voxels is None else self.voxels[index]
        return ShapeDataset(
            self.points[index], self.labels[index], self.class_names, self.names[index], voxels
        )

    def of_class(self, name: str) -> "ShapeDataset":
        """The shapes of one class.

        Raises:
            Gen3dError: there is no such class.
        """
        if name not in self.class_names:
            raise Gen3dError(f"no class {name!r}; allowed: {', '.join(self.class_names) or 'none'}")
        return self.subset(np.flatnonzero(self.labels == self.class_names.index(name)))

    def _checked(self) -> "ShapeDataset":
        if self.points.ndim != 3 or self.points.shape[-1] != 3 or not self.points.size:
            raise Gen3dError(f"points have shape {self.points.shape}; (shapes, points, 3) is needed")
        if not np.isfinite(self.points).all():
            raise Gen3dError("points hold numbers that are not finite")
        if self.labels.shape != (len(self.points),) or self.labels.max() >= max(len(self.class_names), 1):
            raise Gen3dError(
                f"labels do not fit {len(self.points)} shapes of {len(self.class_names)} classes"
            )
        return self


def open_dataset(source: str | Path, split: str) -> ShapeDataset:
    """A split of a prepared folder, or the shapes of one .npz file.

    Raises:
        Gen3dError: there is no such data.
    """
    path = Path(source)
    if path.suffix == ".npz":
        return ShapeDataset.load(path)
    if not path.is_dir():
        raise Gen3dError(f"no prepared data {str(path)!r}; gen3d prepare --domain shape makes a folder of it")
    return ShapeDataset.load(path / f"{split}.npz")


def signed_distances(inside: np.ndarray) -> np.ndarray:
    """Distances (R, R, R) float16 from cell centres to the surface of solid voxels, in cells.

    Positive inside; the surface lies half a cell from the centres beside it; cut off at TRUNCATION.
    """
    ndimage = require("scipy.ndimage", "shapes")
    depth = ndimage.distance_transform_edt(np.pad(inside, 1))[1:-1, 1:-1, 1:-1]
    height = ndimage.distance_transform_edt(~inside) if inside.any() else np.full(inside.shape, np.inf)
    distances = np.where(inside, depth - 0.5, 0.5 - height)
    return np.clip(distances, -TRUNCATION, TRUNCATION).astype(np.float16)
