"""From a source of shapes to the three files that training reads."""

import json
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from gen3d.domains.shapes.dataset import SPLITS
from gen3d.domains.shapes.native import cloud_of
from gen3d.domains.shapes.normalise import solid_voxels, unit_box, warn_of_frames
from gen3d.domains.shapes.sources import Record, open_source
from gen3d.errors import Gen3dError, require
from gen3d.files import atomic_write

POINTS = 4096
"""Points kept of every surface."""
HELD_OUT = 0.1
"""Share of the valid split, and of the test split, of data that come without a split."""


@dataclass(frozen=True)
class PrepareReport:
    """What `prepare` wrote; `dataset.json` holds the same.

    Attributes:
        source: name or path of the data.
        licence, citation: of the data, "" when unknown.
        seed: of points, and of the split where the source has none.
        counts: shapes by split.
        classes: shapes by class, over all splits.
        origin: checksums of the downloaded files.
        skipped: name and reason of the shapes left out.
    """

    source: str
    licence: str
    citation: str
    seed: int
    counts: dict[str, int]
    classes: dict[str, int]
    origin: dict[str, str] = field(default_factory=dict)
    skipped: list[tuple[str, str]] = field(default_factory=list)

    def summary(self, shown: int = 5) -> str:
        """A few lines for the terminal."""
        counts = ", ".join(f"{count:,} {split}" for split, count in self.counts.items())
        lines = [f"{counts}; {len(self.skipped):,} skipped"]
        lines += [f"  {name}: {reason}" for name, reason in self.skipped[:shown]]
        if len(self.skipped) > shown:
            lines.append(f"  and {len(self.skipped) - shown:,} more, all in dataset.json")
        if self.classes:
            lines.append("classes: " + ", ".join(f"{name} {count}" for name, count in self.classes.items()))
        return "\n".join(lines)


@dataclass
class _Row:
    """One shape, ready to be written."""

    name: str
    label: str
    split: str
    points: np.ndarray
    voxels: np.ndarray | None
    centre: np.ndarray
    scale: float
    corners: np.ndarray


def prepare(
    source: str | Path, out: str | Path, *, limit: int | None = None, seed: int = 0, progress: bool = True
) -> PrepareReport:
    """Write `train.npz`, `valid.npz`, `test.npz` and `dataset.json` into the folder `out`.

    Every shape is brought into the unit box (centred on its bounding box, longest half-extent 1, y up). Of
    meshes, POINTS area-weighted samples are kept, and solid voxels; of clouds, as many of their points. Of
    PointFlow's clouds training gets the first 10,000 points to choose from, the other splits the rest, as in
    its protocol (arXiv 1906.12320). Prepared shapes that have voxels stay in the frame they are in.

    Args:
        source: "sweethome3d", or its Debian package as a file; or a folder of meshes or clouds, with
            sub-folders for classes, or in the layouts of PointFlow's ShapeNet and of ModelNet; or prepared
            data; or one file, among them .npz with `points`, and `label` and `id` or `labels` and
            `class_names`, or with `voxels_packed` of ModelNet.
        out: the folder to write to; files of an earlier preparation are replaced.
        limit: read at most so many shapes, of folders and grids some of every class and split.
        seed: of the samples, and of a split that the source does not define.
        progress: show a progress bar.

    Raises:
        Gen3dError: the source is unknown or unreadable, or no shape of it can be used.
    """
    from gen3d.progress import tqdm

    if limit is not None and limit < 1:
        raise Gen3dError(f"limit is {limit}; at least 1 is needed")
    found = open_source(str(source), progress)
    rows: list[_Row] = []
    skipped: list[tuple[str, str]] = []
    for record in tqdm(islice(found.records, limit), unit="shape", desc="prepare", disable=not progress):
        try:
            rows.append(_row(record, seed))
        except Gen3dError as error:
            skipped.append((record.name, str(error)))
    if not rows:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in skipped[:3])
        raise Gen3dError(f"no shape of {source} can be used. {reasons}")
    corners = np.stack([row.corners for row in rows])
    warn_of_frames(corners[:, 0], corners[:, 1], [row.name for row in rows])
    if not all(row.split for row in rows):
        _split(rows, seed)
    classes = sorted({row.label for row in rows} - {""})
    counts = {split: _write(Path(out), split, rows, classes) for split in SPLITS}
    report = PrepareReport(
        source=str(source),
        licence=found.licence,
        citation=found.citation,
        seed=seed,
        counts=counts,
        classes={name: sum(row.label == name for row in rows) for name in classes},
        origin=dict(found.origin or {}),
        skipped=skipped,
    )
    with atomic_write(Path(out) / "dataset.json") as temporary:
        temporary.write_text(json.dumps(asdict(report), indent=1) + "\n", encoding="utf-8")
    return report


def _row(record: Record, seed: int) -> _Row:
    """A shape in its frame.

    Raises:
        Gen3dError: it cannot be used.
    """
    shape = record.shape
    if isinstance(shape, Gen3dError):
        raise shape
    voxels = None
    if isinstance(shape, np.ndarray) and shape.dtype == bool:
        if not shape.any():
            raise Gen3dError("an empty grid")
        shape = _surface_of(shape)
    if hasattr(shape, "faces"):
        if not len(shape.faces):
            raise Gen3dError("a mesh without faces")
        used = np.asarray(shape.vertices)[np.unique(shape.faces)]
        centre, scale = unit_box(used)
        mesh = shape.copy()
        mesh.vertices = (np.asarray(shape.vertices) - centre) / scale
        points, voxels = cloud_of(mesh, POINTS, seed), solid_voxels(mesh, seed=seed)
        corners = np.stack([used.min(0), used.max(0)])
    elif record.voxels is not None:
        # Points and voxels share a frame, and samples of a surface hardly reach the end of its box.
        points, centre, scale = shape, np.zeros(3), 1.0
        corners = np.stack([shape.min(0), shape.max(0)])
        return _Row(record.name, record.label, record.split, points, record.voxels, centre, scale, corners)
    else:
        cloud = cloud_of(shape, POINTS, seed)
        centre, scale = unit_box(cloud)
        points, corners = (cloud - centre) / scale, np.stack([cloud.min(0), cloud.max(0)])
    packed = None if voxels is None else np.packbits(voxels)
    return _Row(record.name, record.label, record.split, points, packed, centre, scale, corners)


def _surface_of(grid: np.ndarray) -> Any:
    """The mesh of voxels."""
    trimesh = require("trimesh", "shapes")
    return trimesh.voxel.VoxelGrid(grid).marching_cubes


def _split(rows: list[_Row], seed: int) -> None:
    """Name a split for every shape; of three and more, at least one in each.

    Shapes are shuffled within their class, the classes put one after another, and the held-out shapes taken
    at even distances: every class has its share in each split, but for rounding.
    """
    generator = np.random.default_rng(seed)
    ordered: list[_Row] = []
    for label in sorted({row.label for row in rows}):
        own = [row for row in rows if row.label == label]
        ordered += [own[place] for place in generator.permutation(len(own))]
    count = 2 * max(round(HELD_OUT * len(rows)), len(rows) >= 3)
    for row in rows:
        row.split = "train"
    for i in range(count):
        ordered[int((i + 0.5) * len(rows) / count)].split = ("valid", "test")[i % 2]


def _write(out: Path, split: str, rows: list[_Row], classes: list[str]) -> int:
    """Write the shapes of a split; without any, remove the file of an earlier preparation."""
    own = [row for row in rows if row.split == split]
    path = out / f"{split}.npz"
    if not own:
        path.unlink(missing_ok=True)
        return 0
    # Clouds of fewer points repeat theirs: arrays are rectangular.
    most = max(len(row.points) for row in own)
    arrays = {
        "points": np.stack([row.points[np.arange(most) % len(row.points)] for row in own]).astype(np.float16),
        "labels": np.array([classes.index(row.label) if row.label else -1 for row in own]),
        "class_names": np.array(classes, dtype=str),
        "names": np.array([row.name for row in own]),
        "centre": np.stack([row.centre for row in own]).astype(np.float32),
        "scale": np.array([row.scale for row in own], dtype=np.float32),
    }
    if all(row.voxels is not None for row in own):
        arrays["voxels"] = np.stack([row.voxels for row in own if row.voxels is not None])
    with atomic_write(path) as temporary:
        np.savez_compressed(temporary, **arrays)  # type: ignore[arg-type]
    return len(own)
