"""Atomic systems in memory: ragged arrays with the interface of a sequence, kept in one .npz file.

The arrays of a file. Item i owns rows `cumsum(n_atoms)[i - 1] : cumsum(n_atoms)[i]` of the ragged ones.

| array                            | shape      | in                                               |
|----------------------------------|------------|--------------------------------------------------|
| `n_atoms`                        | (M,)       | all                                              |
| `atomic_numbers`                 | (sum N,)   | all                                              |
| `positions`                      | (sum N, 3) | molecules, angstrom                              |
| `properties`, `property_names`   | (M, P), (P,) | molecules, optional                            |
| `id` or `index`                  | (M,)       | molecules, optional                              |
| `smiles`                         | (M,)       | molecules, optional                              |
| `frac_coords`                    | (sum N, 3) | crystals, in [0, 1)                              |
| `lattice`                        | (M, 3, 3)  | crystals, lattice vectors in rows, angstrom      |
| `material_id`                    | (M,)       | crystals, optional                               |
| any other numeric array          | (M,)       | crystals: a property of that name, NaN = unknown |
"""

import logging
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from gen3d.domains.atoms.system import AtomicSystem
from gen3d.errors import Gen3dError

SPLITS = ("train", "valid", "test")

logger = logging.getLogger(__name__)


class AtomsDataset(Sequence[AtomicSystem]):
    """M atomic systems, all molecules or all crystals, as ragged arrays.

    Attributes:
        sizes: (M,) int64 atoms per system.
        numbers: (sum N,) uint8 atomic numbers.
        positions: (sum N, 3) Cartesian coordinates in angstrom; float32 for molecules, float64 for crystals.
        cells: (M, 3, 3) float64 lattice vectors in rows, angstrom; None for molecules.
        properties: (M, P) float64, NaN where unknown.
        property_names: P names; units stand in the names.
        names: (M,) identifiers in the source, "" where there are none.
        smiles: (M,) SMILES as the source gives them, or None.
    """

    def __init__(
        self,
        sizes: np.ndarray,
        numbers: np.ndarray,
        positions: np.ndarray,
        cells: np.ndarray | None = None,
        properties: np.ndarray | None = None,
        property_names: Sequence[str] = (),
        names: np.ndarray | None = None,
        smiles: np.ndarray | None = None,
    ) -> None:
        self.sizes = np.asarray(sizes).astype(np.int64)
        self.numbers = np.asarray(numbers)
        self.positions = np.asarray(positions)
        self.cells = None if cells is None else np.asarray(cells, dtype=np.float64)
        count = len(self.sizes)
        self.properties = np.zeros((count, 0)) if properties is None else np.asarray(properties, np.float64)
        self.property_names = tuple(property_names)
        self.names = np.full(count, "") if names is None else np.asarray(names)
        self.smiles = None if smiles is None else np.asarray(smiles)
        self._check()
        self.numbers = self.numbers.astype(np.uint8)
        self._starts = np.concatenate([[0], np.cumsum(self.sizes)])

    @classmethod
    def from_systems(
        cls, systems: Iterable[AtomicSystem], smiles: Sequence[str] | None = None
    ) -> "AtomsDataset":
        """Pack systems, read one at a time; the properties are all that any of them has.

        Raises:
            Gen3dError: molecules and crystals are mixed.
        """
        sizes, numbers, positions, cells, names = [], [], [], [], []
        property_rows: list[dict[str, float]] = []
        for system in systems:
            sizes.append(len(system))
            numbers.append(system.numbers.astype(np.uint8))
            positions.append(system.positions.astype(np.float64 if system.periodic else np.float32))
            if system.cell is not None:
                cells.append(system.cell)
            property_rows.append(system.properties)
            names.append(system.name)
        if cells and len(cells) != len(sizes):
            raise Gen3dError(
                f"{len(cells)} crystals and {len(sizes) - len(cells)} molecules cannot be in one dataset"
            )
        property_names = tuple(dict.fromkeys(key for row in property_rows for key in row))
        properties = np.full((len(sizes), len(property_names)), np.nan)
        column = {name: j for j, name in enumerate(property_names)}
        for i, row in enumerate(property_rows):
            for key, value in row.items():
                properties[i, column[key]] = value
        return cls(
            np.array(sizes, dtype=np.int64),
            np.concatenate(numbers) if numbers else np.zeros(0, dtype=np.uint8),
            np.concatenate(positions) if positions else np.zeros((0, 3), dtype=np.float32),
            np.stack(cells) if cells else None,
            properties,
            property_names,
            np.array(names, dtype=str) if names else None,
            None if smiles is None else np.array(smiles, dtype=str),
        )

    @property
    def periodic(self) -> bool:
        return self.cells is not None

    def __len__(self) -> int:
        return len(self.sizes)

    def __getitem__(self, index: int) -> AtomicSystem:  # type: ignore[override]
        """System `index`; negative indices count from the end.

        Raises:
            IndexError: there is no such system.
        """
        i = range(len(self))[index]
        rows = slice(self._starts[i], self._starts[i + 1])
        return AtomicSystem(
            numbers=self.numbers[rows].astype(np.int64),
            positions=self.positions[rows].astype(np.float64),
            cell=None if self.cells is None else self.cells[i].copy(),
            properties=dict(zip(self.property_names, self.properties[i].tolist(), strict=True)),
            name=str(self.names[i]),
        )

    def __iter__(self) -> Iterator[AtomicSystem]:
        return (self[i] for i in range(len(self)))

    def subset(self, indices: Sequence[int] | np.ndarray) -> "AtomsDataset":
        """The systems `indices`, in that order; a boolean mask of length M also selects."""
        chosen = np.arange(len(self))[np.asarray(indices, dtype=None if len(indices) else np.int64)]
        sizes = self.sizes[chosen]
        within = np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        rows = np.repeat(self._starts[chosen], sizes) + within
        return AtomsDataset(
            sizes,
            self.numbers[rows],
            self.positions[rows],
            None if self.cells is None else self.cells[chosen],
            self.properties[chosen],
            self.property_names,
            self.names[chosen],
            None if self.smiles is None else self.smiles[chosen],
        )

    def save(self, path: str | Path) -> None:
        """Write one compressed .npz with the arrays of the table above.

        Raises:
            Gen3dError: a crystal property has the name of another array of the file.
        """
        from gen3d.files import atomic_write

        path = Path(path)
        arrays: dict[str, np.ndarray] = {
            "n_atoms": self.sizes.astype(np.int32),
            "atomic_numbers": self.numbers,
        }
        if self.cells is None:
            arrays["id"] = np.char.encode(self.names.astype(str), "utf-8")
            arrays["positions"] = self.positions.astype(np.float32)
            if self.property_names:
                arrays["properties"] = self.properties
                arrays["property_names"] = np.array(self.property_names, dtype=str)
            if self.smiles is not None:
                arrays["smiles"] = np.char.encode(self.smiles.astype(str), "utf-8")
        else:
            arrays["material_id"] = np.char.encode(self.names.astype(str), "utf-8")
            arrays["frac_coords"] = self._fractional()
            arrays["lattice"] = self.cells.astype(np.float32)
            for name, values in zip(self.property_names, self.properties.T, strict=True):
                if name in arrays:
                    raise Gen3dError(
                        f"a property cannot be called {name!r}: {path} has an array of that name"
                    )
                arrays[name] = values
        with atomic_write(path) as temporary, open(temporary, "wb") as file:
            np.savez_compressed(file, **arrays)  # type: ignore[arg-type]

    @classmethod
    def load(cls, path: str | Path) -> "AtomsDataset":
        """Read a file in the layout of the table above.

        Raises:
            Gen3dError: the file is missing, is no .npz, lacks an array or holds contradictory ones.
        """
        arrays = _load_arrays(Path(path))
        try:
            return cls._from_arrays(arrays)
        except Gen3dError as error:
            raise Gen3dError(f"{path}: {error}") from error

    @classmethod
    def _from_arrays(cls, arrays: dict[str, np.ndarray]) -> "AtomsDataset":
        crystals = "lattice" in arrays or "frac_coords" in arrays
        needed = ("n_atoms", "atomic_numbers", *(("frac_coords", "lattice") if crystals else ("positions",)))
        missing = [name for name in needed if name not in arrays]
        if missing:
            raise Gen3dError(f"array {missing[0]!r} is missing; there are {', '.join(arrays) or 'none'}")
        if not np.issubdtype(arrays["n_atoms"].dtype, np.integer) or arrays["n_atoms"].ndim != 1:
            raise Gen3dError("array 'n_atoms' must be a list of whole numbers")
        sizes = arrays["n_atoms"].astype(np.int64)
        if crystals:
            cells = _floats(arrays, "lattice", (len(sizes), 3, 3))
            fractional = _floats(arrays, "frac_coords", (int(sizes.sum()), 3))
            positions = np.einsum("na,nab->nb", fractional, np.repeat(cells, sizes, axis=0))
            # every other column of numbers, one per crystal, is a property of that name
            columns = {
                name: values.astype(np.float64)
                for name, values in arrays.items()
                if name not in (*needed, "material_id")
                and values.shape == sizes.shape
                and values.dtype.kind in "biuf"
            }
            properties = np.stack(list(columns.values()), axis=1) if columns else None
            names = _text(arrays, "material_id", len(sizes))
            return cls(sizes, arrays["atomic_numbers"], positions, cells, properties, tuple(columns), names)
        properties, property_names = None, ()
        if "properties" in arrays:
            if "property_names" not in arrays:
                raise Gen3dError("array 'property_names' is missing, though there are 'properties'")
            property_names = tuple(_text(arrays, "property_names", arrays["property_names"].size).tolist())
            properties = _floats(arrays, "properties", (len(sizes), len(property_names)))
        names = _text(arrays, "id" if "id" in arrays else "index", len(sizes))
        smiles = _text(arrays, "smiles", len(sizes)) if "smiles" in arrays else None
        return cls(
            sizes,
            arrays["atomic_numbers"],
            arrays["positions"],
            None,
            properties,
            property_names,
            names,
            smiles,
        )

    def _fractional(self) -> np.ndarray:
        """(sum N, 3) float32 in [0, 1)."""
        assert self.cells is not None
        inverse = np.repeat(np.linalg.inv(self.cells), self.sizes, axis=0)
        wrapped = (np.einsum("na,nab->nb", self.positions, inverse) % 1.0).astype(np.float32)
        return np.where(wrapped >= 1.0, np.float32(0.0), wrapped)  # rounding to float32 can reach 1.0

    def _check(self) -> None:
        """Raise a Gen3dError when the arrays contradict one another or physics."""
        count = len(self.sizes)
        if (self.sizes < 1).any():
            raise Gen3dError(
                f"n_atoms of item {int(np.argmin(self.sizes))} is {int(self.sizes.min())}; at least 1"
            )
        total = int(self.sizes.sum())
        shapes = {
            "atomic_numbers": (self.numbers, (total,)),
            "positions": (self.positions, (total, 3)),
            "properties": (self.properties, (count, len(self.property_names))),
            "names": (self.names, (count,)),
        }
        if self.cells is not None:
            shapes["lattice"] = (self.cells, (count, 3, 3))
        if self.smiles is not None:
            shapes["smiles"] = (self.smiles, (count,))
        for name, (array, shape) in shapes.items():
            if array.shape != shape:
                raise Gen3dError(f"array {name!r} has shape {array.shape}; n_atoms asks for {shape}")
        if self.numbers.dtype.kind not in "iu" or ((self.numbers < 1) | (self.numbers > 118)).any():
            raise Gen3dError("atomic_numbers must be whole numbers from 1 to 118")
        if self.positions.dtype.kind != "f" or not np.isfinite(self.positions).all():
            raise Gen3dError("positions must be finite numbers")
        if self.cells is not None and not (
            np.isfinite(self.cells).all() and (abs(np.linalg.det(self.cells)) > 1e-6).all()
        ):
            raise Gen3dError("every lattice must be finite and span a volume")


def open_dataset(source: str | Path, split: str) -> AtomsDataset:
    """Open one split of prepared data, or one file of systems as a whole.

    Args:
        source: a folder with `<split>.npz`; the stem of files called `<stem>_<split>.npz`; or a single .npz,
            .sdf, .xyz, .extxyz or .cif file, which is then opened for every split.
        split: "train", "valid" or "test".

    Raises:
        Gen3dError: there is no such data, or it cannot be read.
    """
    if split not in SPLITS:
        raise Gen3dError(f"unknown split {split!r}; allowed: {', '.join(SPLITS)}")
    source = Path(source)
    if source.is_file():
        return AtomsDataset.load(source) if source.suffix == ".npz" else _read_file(source)
    stem = source.name + "_" if not source.is_dir() else ""
    folder = source if source.is_dir() else source.parent
    path = folder / f"{stem}{split}.npz"
    if path.is_file():
        return AtomsDataset.load(path)
    present = [s for s in SPLITS if (folder / f"{stem}{s}.npz").is_file()]
    if present:
        raise Gen3dError(f"{source} has no split {split!r}; it has {', '.join(present)}")
    if not source.is_dir():
        raise Gen3dError(f"no data at {source}: there is neither such a file or folder nor {path}")
    stems = sorted({str(p)[: -len(f"_{s}.npz")] for s in SPLITS for p in source.glob(f"*_{s}.npz")})
    hint = f"name one of {', '.join(stems)}" if stems else "prepare it first with: gen3d prepare"
    raise Gen3dError(f"{source} holds no {split}.npz; {hint}")


def _read_file(path: Path) -> AtomsDataset:
    from gen3d.domains.atoms.readers import ReadReport, read_systems

    report = ReadReport()
    dataset = AtomsDataset.from_systems(read_systems(path, report))
    if report.notable:
        logger.warning("%s: %s", path, report.summary())
    if not len(dataset):
        raise Gen3dError(f"{path} holds no readable system. {report.summary()}")
    return dataset


def _load_arrays(path: Path) -> dict[str, np.ndarray]:
    if not path.is_file():
        raise Gen3dError(f"no file {path}")
    try:
        with np.load(path, allow_pickle=False) as file:
            if not isinstance(file, np.lib.npyio.NpzFile):
                raise Gen3dError(f"{path} is not an .npz archive")
            return {name: file[name] for name in file.files}
    except Gen3dError:
        raise
    except (OSError, ValueError, EOFError, KeyError, MemoryError, RuntimeError, zipfile.BadZipFile) as error:
        raise Gen3dError(f"{path} is not a readable .npz archive: {error}") from error
    except Exception as error:  # zlib.error, struct.error, ...: whatever a damaged archive provokes
        raise Gen3dError(f"{path} is damaged: {error}") from error


def _floats(arrays: dict[str, np.ndarray], name: str, shape: tuple[int, ...]) -> np.ndarray:
    array = arrays[name]
    if array.shape != shape or array.dtype.kind not in "fiu":
        raise Gen3dError(f"array {name!r} is {array.dtype} {array.shape}; expected numbers {shape}")
    return array.astype(np.float64)


def _text(arrays: dict[str, np.ndarray], name: str, count: int) -> np.ndarray:
    """(count,) strings of array `name`: from bytes, numbers or strings; empty ones when it is absent."""
    if name not in arrays:
        return np.full(count, "")
    array = arrays[name]
    if array.shape != (count,):
        raise Gen3dError(f"array {name!r} has shape {array.shape}; expected {(count,)}")
    try:
        return np.char.decode(array, "utf-8") if array.dtype.kind == "S" else array.astype(str)
    except UnicodeDecodeError as error:
        raise Gen3dError(f"array {name!r} is not UTF-8 text: {error}") from error
