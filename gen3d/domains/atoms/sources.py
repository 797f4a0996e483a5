"""Public sets of molecules and crystals: where they are, what they cost, how their files are read."""

import csv
import importlib.util
import tarfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from gen3d.domains.atoms.readers import ReadReport, parse_cif_text
from gen3d.domains.atoms.system import AtomicSystem
from gen3d.errors import Gen3dError
from gen3d.fetch import RemoteFile, fetch

QM9_PROPERTIES = (
    "A_GHz",
    "B_GHz",
    "C_GHz",
    "mu_debye",
    "alpha_bohr3",
    "homo_hartree",
    "lumo_hartree",
    "gap_hartree",
    "r2_bohr2",
    "zpve_hartree",
    "U0_hartree",
    "U298_hartree",
    "H298_hartree",
    "G298_hartree",
    "Cv_cal_mol_K",
)
"""The 15 properties of QM9 in the order of its files (Ramakrishnan et al. 2014, table 3), with units."""

_SYMBOLS = {"H": 1, "C": 6, "N": 7, "O": 8, "F": 9}


class Record(NamedTuple):
    """A system with the SMILES its source gives, "" when it gives none."""

    system: AtomicSystem
    smiles: str = ""


Parts = Mapping[str, Iterator[Record]]
"""Records by split; under "" when the source is not split."""


@dataclass(frozen=True)
class PublicSet:
    """A data set known by name.

    Attributes:
        domain: "molecule" or "crystal".
        files: what to download, unless a package with the data is installed.
        licence: under which the data may be used.
        citation: what to cite.
        read: from the folder of the downloaded files, and a report, to records.
        shares: train : valid : test, when the source is not split.
        package: a Python package with the same data; where it is installed, nothing is downloaded.
        read_package: like `read`, from the folder of that package.
    """

    domain: str
    files: tuple[RemoteFile, ...]
    licence: str
    citation: str
    read: Callable[[Path, ReadReport], Parts]
    shares: tuple[int, int, int] | None = None
    package: str | None = None
    read_package: Callable[[Path, ReadReport], Parts] | None = None


def open_set(
    public: PublicSet, folder: Path, report: ReadReport, progress: bool = True
) -> tuple[Parts, dict[str, str]]:
    """The records of a public set, and the origin of the data: "sha256:..." of each downloaded file.

    Args:
        folder: downloads are kept here, and found again.

    Raises:
        Gen3dError: a download failed, or a file is not what was published.
    """
    spec = importlib.util.find_spec(public.package) if public.package else None
    if spec is not None and spec.submodule_search_locations and public.read_package:
        package = Path(spec.submodule_search_locations[0])
        return public.read_package(package, report), {"package": str(public.package)}
    checksums = {file.name: fetch(file, folder, progress) for file in public.files}
    return public.read(folder, report), checksums


def _read_qm9(folder: Path, report: ReadReport) -> Parts:
    """The original archive: one extended-XYZ-like file per molecule."""
    unsure = _uncharacterized((folder / "uncharacterized.txt").read_text(encoding="utf-8", errors="replace"))
    return {"": _qm9_archive(folder / "dsgdb9nsd.xyz.tar.bz2", unsure, report)}


def _uncharacterized(text: str) -> set[int]:
    """GDB9 numbers whose geometry relaxed to another molecule: first column, after 9 lines of head."""
    rows = (line.split() for line in text.splitlines()[9:])
    return {int(row[0]) for row in rows if row and row[0].isdigit()}


def _qm9_archive(path: Path, unsure: set[int], report: ReadReport) -> Iterator[Record]:
    try:
        with tarfile.open(path, "r|bz2") as archive:
            for member in archive:
                if not member.isfile() or not member.name.endswith(".xyz"):
                    continue
                file = archive.extractfile(member)
                assert file is not None
                try:
                    record = _parse_gdb9(file.read().decode("utf-8"))
                except (ValueError, KeyError, IndexError) as error:
                    report.skip(member.name, f"not a GDB9 file: {error}")
                    continue
                if int(record.system.name) in unsure:
                    report.skip(member.name, "on the published list of uncharacterized molecules")
                else:
                    report.read += 1
                    yield record
    except (tarfile.TarError, OSError, EOFError) as error:
        raise Gen3dError(f"{path} is damaged: {error}; delete it and try again") from error


def _parse_gdb9(text: str) -> Record:
    """One file: count; "gdb", number and 15 properties; atoms with charges; frequencies; SMILES; InChI."""
    lines = text.splitlines()
    count = int(lines[0])
    _, number, *values = lines[1].split()
    atoms = [line.replace("*^", "e").split() for line in lines[2 : 2 + count]]  # 1.5*^-6 means 1.5e-6
    system = AtomicSystem(
        np.array([_SYMBOLS[atom[0]] for atom in atoms], dtype=np.int64),
        np.array([atom[1:4] for atom in atoms], dtype=np.float64),
        properties=dict(zip(QM9_PROPERTIES, map(float, values), strict=True)),
        name=str(int(number)),
    )
    return Record(system, lines[3 + count].split()[0])


def _read_qm9pack(folder: Path, report: ReadReport) -> Parts:
    """The `qm9pack` package: the characterized molecules of QM9 in three CSV files."""
    return {"": _qm9pack_rows(folder / "data", report)}


def _qm9pack_rows(folder: Path, report: ReadReport) -> Iterator[Record]:
    files = sorted(folder.glob("qm9_part*.csv"))
    if not files:
        raise Gen3dError(f"the installed qm9pack has no qm9_part*.csv in {folder}; reinstall it")
    for file in files:
        for number, row in enumerate(_rows(file), start=2):
            try:
                yield _parse_qm9pack(row)
                report.read += 1
            except (ValueError, KeyError, TypeError) as error:
                report.skip(f"{file.name} row {number}", f"not a QM9 row: {error}")


def _parse_qm9pack(row: dict[str, str]) -> Record:
    values = list(row.values())
    symbols = row["Elements"].strip("[]").replace("'", "").split(",")
    coordinates = row["XYZ_Ang"].replace("[", "").replace("]", "").split(",")
    first = list(row).index("RotA_GHz")  # the properties are the last 15 columns, in the order of the archive
    system = AtomicSystem(
        np.array([_SYMBOLS[symbol.strip()] for symbol in symbols], dtype=np.int64),
        np.array(coordinates, dtype=np.float64).reshape(len(symbols), 3),
        properties=dict(zip(QM9_PROPERTIES, map(float, values[first:]), strict=True)),
        name=str(int(row["Index"])),
    )
    return Record(system, row["SMILES"])


def _read_mp20(folder: Path, report: ReadReport) -> Parts:
    """CDVAE's CSV files: a CIF text and properties per row, split by its authors."""
    files = {"train": "train.csv", "valid": "val.csv", "test": "test.csv"}
    return {split: _mp20_rows(folder / name, report) for split, name in files.items()}


def _mp20_rows(path: Path, report: ReadReport) -> Iterator[Record]:
    for number, row in enumerate(_rows(path), start=2):
        name = str(row.get("material_id", ""))
        entry = f"{path.name} row {number} ({name!r})"
        system = parse_cif_text(row.get("cif") or "", report, entry)
        if system is None:
            continue
        properties = {}
        for column in ("formation_energy_per_atom", "band_gap", "e_above_hull", "spacegroup.number"):
            try:
                properties[column.replace(".", "_")] = float(row[column])
            except (KeyError, ValueError, TypeError):
                properties[column.replace(".", "_")] = float("nan")
        report.read += 1
        yield Record(AtomicSystem(system.numbers, system.positions, system.cell, properties, name))


def _rows(path: Path) -> Iterator[dict[str, str]]:
    csv.field_size_limit(1 << 24)
    try:
        with open(path, encoding="utf-8", newline="") as file:
            yield from csv.DictReader(file)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise Gen3dError(f"cannot read {path}: {error}") from error


SETS: dict[str, PublicSet] = {
    "qm9": PublicSet(
        domain="molecule",
        # MD5 as published by figshare
        files=(
            RemoteFile(
                "dsgdb9nsd.xyz.tar.bz2",
                "https://ndownloader.figshare.com/files/3195389",
                "md5:ad1ebd51ee7f5b3a6e32e974e5d54012",
            ),
            RemoteFile(
                "uncharacterized.txt",
                "https://ndownloader.figshare.com/files/3195404",
                "md5:a361887bacb427b8a0ce7903d92a53b4",
            ),
        ),
        licence="CC0-1.0",
        citation="Ramakrishnan, Dral, Rupp, von Lilienfeld, Scientific Data 1, 140022 (2014)",
        read=_read_qm9,
        shares=(100_000, 17_748, 13_083),
        package="qm9pack",
        read_package=_read_qm9pack,
    ),
    "mp-20": PublicSet(
        domain="crystal",
        # no checksums are published for these; those found are printed and kept in dataset.json
        files=tuple(
            RemoteFile(name, f"https://raw.githubusercontent.com/txie-93/cdvae/main/data/mp_20/{name}")
            for name in ("train.csv", "val.csv", "test.csv")
        ),
        licence="CC-BY-4.0 (Materials Project)",
        citation="Jain et al., APL Materials 1, 011002 (2013); Xie et al., ICLR 2022 (CDVAE)",
        read=_read_mp20,
    ),
}
"""The public sets that `prepare` knows by name."""
