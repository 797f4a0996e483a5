"""Where shapes come from: public sets, and folders of meshes, clouds and grids."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any, TypeVar
from zlib import crc32

import numpy as np

from gen3d import sweethome
from gen3d.domains.shapes import readers
from gen3d.domains.shapes.dataset import SPLITS, ShapeDataset
from gen3d.errors import Gen3dError
from gen3d.fetch import RemoteFile, cache_folder, fetch

Item = TypeVar("Item")

UP_Z = np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]])
"""Turns shapes whose z points up, as those of ModelNet, so that y does."""
POINTFLOW_POINTS, POINTFLOW_POOL = 15_000, 10_000
"""Points of a cloud of PointFlow's ShapeNet, and how many of them, the first, are for training."""
SPLIT_FOLDERS = {"train": "train", "val": "valid", "valid": "valid", "test": "test"}
GRID = 30
"""Cells along an axis of ModelNet's grids."""


@dataclass(frozen=True)
class Record:
    """One shape as its source has it.

    Attributes:
        name: for messages, and kept with the data.
        label: its class, "" for none.
        shape: points (P, 3), a mesh, voxels (R, R, R) of bool, or the error that reading it was.
        split: "train", "valid" or "test"; "" where the source does not say.
        voxels: packed bits of the solid grid of points that are in the unit box already; None without.
    """

    name: str
    label: str
    shape: Any
    split: str = ""
    voxels: np.ndarray | None = None


@dataclass(frozen=True)
class Source:
    """The shapes of a set, and what is known of it."""

    records: Iterator[Record]
    licence: str = ""
    citation: str = ""
    origin: Mapping[str, str] | None = None


def open_source(source: str, progress: bool = True) -> Source:
    """The shapes of a public set (`sweethome3d`, or its package as a file), of a file, or of a folder.

    Folders may be laid out as PointFlow's ShapeNet (`synset/train/*.npy`), as ModelNet (`class/train/*.off`),
    or hold files of shapes, with a class for each sub-folder or without any. Classes and splits take turns,
    so that the first few shapes are some of each.

    Raises:
        Gen3dError: there is no such set, file or folder, or nothing in it is a shape.
    """
    path = Path(source)
    if source == "sweethome3d":
        folder = cache_folder(source)
        checksum = fetch(sweethome.FILE, folder, progress)
        return _sweethome(folder / sweethome.FILE.name, {sweethome.FILE.name: checksum})
    if path.suffix == ".deb" and path.is_file():
        # What is there is not downloaded; its checksum is told.
        file = RemoteFile(path.name, sweethome.FILE.url)
        return _sweethome(path, {path.name: fetch(file, path.parent, progress)})
    if path.suffix == ".npz" and path.is_file():
        return Source(_arrays(path))
    if path.is_file():
        return Source(iter([_file(path, "")]))
    if not path.is_dir():
        raise Gen3dError(f"no data set {source!r}: neither sweethome3d nor a file or folder")
    prepared = {split: path / f"{split}.npz" for split in SPLITS if (path / f"{split}.npz").is_file()}
    if prepared:
        return Source(_in_turn(_dataset(ShapeDataset.load(file), split) for split, file in prepared.items()))
    return Source(_folder(path))


def _sweethome(path: Path, origin: Mapping[str, str]) -> Source:
    """Testing: a list of ids. Validation: of every class the fifth of the rest with the least checksums."""

    def records() -> Iterator[Record]:
        found = list(sweethome.read_package(path))
        test = sweethome.held_out()
        valid: set[str] = set()
        for label in {label for _, label, _ in found}:
            rest = sorted((i for i, own, _ in found if own == label and i not in test), key=_checksum)
            valid.update(rest[: round(0.2 * len(rest))])
        for name, label, mesh in found:
            split = "test" if name in test else "valid" if name in valid else "train"
            yield Record(name, label, mesh, split)

    return Source(records(), sweethome.LICENCE, sweethome.CITATION, origin)


def _checksum(name: str) -> int:
    return crc32(name.encode())


def _arrays(path: Path) -> Iterator[Record]:
    """The shapes of a .npz file: points, or packed grids of 30^3 cells (ModelNet, z up)."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            found = {
                key: arrays[key]
                for key in ("voxels_packed", "labels", "class_names", "label", "id")
                if key in arrays
            }
    except Exception as error:
        # numpy and zipfile raise about anything for a damaged file.
        raise Gen3dError(f"{path} holds no shapes, or is damaged: {error}") from error
    if "voxels_packed" in found:
        yield from _grids(path, found)
        return
    dataset = ShapeDataset.load(path)
    if "label" not in found:
        yield from _dataset(dataset, "")
        return
    # Classes by name for each shape, instead of numbers of classes.
    names, labels = found.get("id", dataset.names), found["label"]
    if not len(names) == len(labels) == len(dataset):
        raise Gen3dError(f"{path} has {len(dataset)} shapes, {len(labels)} labels and {len(names)} ids")
    for name, label, points in zip(names, labels, dataset.points, strict=True):
        yield Record(_text(name), _text(label), points.astype(np.float32))


def _grids(path: Path, arrays: Mapping[str, np.ndarray]) -> Iterator[Record]:
    """ModelNet's grids; all but the first of identical ones are errors: copies would get into two splits."""
    packed, labels = arrays["voxels_packed"], arrays.get("labels")
    classes = [_text(name) for name in arrays.get("class_names", ())]
    width = -(-(GRID**3) // 8)
    if packed.ndim != 2 or packed.shape[1] != width or packed.dtype != np.uint8:
        raise Gen3dError(
            f"{path}: voxels_packed is {packed.dtype} {packed.shape}; uint8 (shapes, {width}) is needed"
        )
    if labels is None or labels.shape != (len(packed),) or (len(labels) and labels.max() >= len(classes)):
        raise Gen3dError(f"{path}: labels do not fit {len(packed)} grids of {len(classes)} classes")
    firsts: dict[bytes, int] = {}
    for i in _in_turn(np.flatnonzero(labels == label).tolist() for label in np.unique(labels)):
        grid = np.unpackbits(packed[i])[: GRID**3].reshape(GRID, GRID, GRID).astype(bool)
        first = firsts.setdefault(packed[i].tobytes(), i)
        # Last axis up: turned about x so that the second is.
        shape: Any = np.flip(grid.swapaxes(1, 2), 2)
        if first != i and grid.any():
            shape = Gen3dError(f"the same grid as {first}")
        yield Record(str(i), classes[labels[i]], shape)


def _dataset(dataset: ShapeDataset, split: str) -> Iterator[Record]:
    for i, name in enumerate(dataset.names):
        label = dataset.class_names[dataset.labels[i]] if dataset.labels[i] >= 0 else ""
        voxels = None if dataset.voxels is None else dataset.voxels[i]
        yield Record(str(name), label, dataset.points[i].astype(np.float32), split, voxels)


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _in_turn(groups: Iterable[Iterable[Item]]) -> Iterator[Item]:
    """The first of every group, then the second of every group, and so on."""
    missing = object()
    for turn in zip_longest(*groups, fillvalue=missing):
        yield from (item for item in turn if item is not missing)  # type: ignore[misc]


def _folder(path: Path) -> Iterator[Record]:
    readable: dict[str, Callable[[Path], Any]] = {
        ".npy": _cloud,
        **dict.fromkeys(readers.EXTENSIONS, readers.read_one),
    }
    files = [f for f in sorted(path.rglob("*")) if f.is_file() and f.suffix.lower() in readable]
    if not files:
        raise Gen3dError(f"{path} holds no file of a known format; allowed: {', '.join(sorted(readable))}")
    groups: dict[tuple[str, str], list[Path]] = {}
    for file in files:
        *above, _ = file.relative_to(path).parts
        split = SPLIT_FOLDERS.get(above[-1] if above else "", "")
        groups.setdefault((above[0] if len(above) > bool(split) else "", split), []).append(file)
    for label, split, file in _in_turn([(*key, file) for file in own] for key, own in groups.items()):
        yield _file(file, label, split, str(file.relative_to(path)))


def _file(file: Path, label: str, split: str = "", name: str = "") -> Record:
    shape: Any
    try:
        shape = _cloud(file) if file.suffix == ".npy" else readers.read_one(file)
        if file.suffix.lower() == ".off" and split:
            shape.apply_transform(np.block([[UP_Z, np.zeros((3, 1))], [np.zeros((1, 3)), np.ones((1, 1))]]))
        if file.suffix == ".npy" and split and len(shape) == POINTFLOW_POINTS:
            shape = shape[:POINTFLOW_POOL] if split == "train" else shape[POINTFLOW_POOL:]
    except Gen3dError as error:
        shape = error
    return Record(name or file.name, label, shape, split)


def _cloud(file: Path) -> np.ndarray:
    """A cloud (P, 3) of a .npy file, as PointFlow keeps them."""
    try:
        points = np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise Gen3dError(f"{file.name}: {error}") from error
    if points.ndim != 2 or points.shape[1] != 3 or points.dtype.kind not in "fiu":
        raise Gen3dError(
            f"{file.name} holds an array {points.dtype} {points.shape}; real numbers (points, 3) are needed"
        )
    return points.astype(np.float32)
