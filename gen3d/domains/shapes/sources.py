"""Where shapes come from: public sets, and folders of meshes, clouds and grids."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np

from gen3d.domains.shapes import readers, sweethome
from gen3d.domains.shapes.dataset import SPLITS, ShapeDataset
from gen3d.errors import Gen3dError
from gen3d.fetch import cache_folder, fetch

UP_Z = np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]])
"""Turns shapes whose z points up, as those of ModelNet, so that y does."""


@dataclass(frozen=True)
class Record:
    """One shape as its source has it.

    Attributes:
        name: for messages, and kept with the data.
        label: its class, "" for none.
        shape: points (P, 3), a mesh, voxels (R, R, R) of bool, or the error that reading it was.
        split: "train", "valid" or "test"; "" where the source does not say.
    """

    name: str
    label: str
    shape: Any
    split: str = ""


@dataclass(frozen=True)
class Source:
    """The shapes of a set, and what is known of it."""

    records: Iterator[Record]
    licence: str = ""
    citation: str = ""
    origin: Mapping[str, str] | None = None


def open_source(source: str, progress: bool = True) -> Source:
    """The shapes of a public set (`sweethome3d`), of a file, or of a folder.

    Folders may be laid out as PointFlow's ShapeNet (`synset/train/*.npy`), as ModelNet (`class/train/*.off`),
    or hold files of shapes, with a class for each sub-folder or without any.

    Raises:
        Gen3dError: there is no such set, file or folder, or nothing in it is a shape.
    """
    path = Path(source)
    if source == "sweethome3d":
        folder = cache_folder(source)
        checksum = fetch(sweethome.FILE, folder, progress)
        return _sweethome(folder / sweethome.FILE.name, {sweethome.FILE.name: checksum})
    if path.suffix == ".deb" and path.is_file():
        return _sweethome(path, {path.name: ""})
    if path.suffix == ".npz" and path.is_file():
        return Source(_arrays(path))
    if path.is_file():
        return Source(iter([_file(path, "")]))
    if not path.is_dir():
        raise Gen3dError(f"no data set {source!r}: neither sweethome3d nor a file or folder")
    prepared = {split: path / f"{split}.npz" for split in SPLITS if (path / f"{split}.npz").is_file()}
    if prepared:
        return Source(r for split, file in prepared.items() for r in _dataset(ShapeDataset.load(file), split))
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
            if "voxels_packed" in arrays:
                names = [str(name) for name in arrays["class_names"]]
                labels, packed = arrays["labels"], arrays["voxels_packed"]
            else:
                packed = None
    except (OSError, ValueError, KeyError) as error:
        raise Gen3dError(f"{path} holds no shapes, or is damaged: {error}") from error
    if packed is None:
        yield from _dataset(ShapeDataset.load(path), "")
        return
    for i, (row, label) in enumerate(zip(packed, labels, strict=True)):
        grid = np.unpackbits(row)[:27000].reshape(30, 30, 30).astype(bool)
        # Last axis up: turned about x so that the second is.
        yield Record(f"{i}", names[int(label)], np.flip(grid.swapaxes(1, 2), 2))


def _dataset(dataset: ShapeDataset, split: str) -> Iterator[Record]:
    for i, name in enumerate(dataset.names):
        label = dataset.class_names[dataset.labels[i]] if dataset.labels[i] >= 0 else ""
        yield Record(str(name), label, dataset.points[i].astype(np.float32), split)


def _folder(path: Path) -> Iterator[Record]:
    readable: dict[str, Callable[[Path], Any]] = {
        ".npy": _cloud,
        **dict.fromkeys(readers.EXTENSIONS, readers.read_one),
    }
    files = [f for f in sorted(path.rglob("*")) if f.is_file() and f.suffix.lower() in readable]
    if not files:
        raise Gen3dError(f"{path} holds no file of a known format; allowed: {', '.join(sorted(readable))}")
    for file in files:
        *above, _ = file.relative_to(path).parts
        split = {"train": "train", "val": "valid", "valid": "valid", "test": "test"}.get(
            above[-1] if above else "", ""
        )
        label = above[0] if len(above) > bool(split) else ""
        yield _file(file, label, split, str(file.relative_to(path)))


def _file(file: Path, label: str, split: str = "", name: str = "") -> Record:
    shape: Any
    try:
        shape = _cloud(file) if file.suffix == ".npy" else readers.read_one(file)
        if file.suffix.lower() == ".off" and split:
            shape.apply_transform(np.block([[UP_Z, np.zeros((3, 1))], [np.zeros((1, 3)), np.ones((1, 1))]]))
    except Gen3dError as error:
        shape = error
    return Record(name or file.name, label, shape, split)


def _cloud(file: Path) -> np.ndarray:
    """A cloud (P, 3) of a .npy file, as PointFlow keeps them."""
    try:
        points = np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise Gen3dError(f"{file.name}: {error}") from error
    if points.ndim != 2 or points.shape[1] != 3:
        raise Gen3dError(f"{file.name} holds an array of shape {points.shape}; (points, 3) is needed")
    return points.astype(np.float32)
