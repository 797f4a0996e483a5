"""Reading molecules and crystals from files, entry by entry; what cannot be read is named, not fatal."""

import io
import re
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any

from gen3d.domains.atoms.native import from_native, to_native
from gen3d.domains.atoms.system import AtomicSystem
from gen3d.errors import Gen3dError, MissingExtra, require

MAX_ENTRY_BYTES = 4_000_000
"""Longer entries are refused: some 20,000 atoms, far beyond what is generated here."""

MAX_ENTRY_ATOMS = 20_000


Reader = Callable[[Iterable[str], "ReadReport", str], Iterator[tuple[Any, str]]]
"""From lines, a report and the name of the file to (parsed object, name of the entry)."""


@dataclass(frozen=True)
class Failure:
    """One entry that was skipped.

    Attributes:
        entry: file, number and, where it has one, name of the entry.
        reason: what is wrong with it.
    """

    entry: str
    reason: str


@dataclass
class ReadReport:
    """What a reader did, filled while it runs.

    Attributes:
        read: entries read.
        without_hydrogen: molecules among them that have no hydrogen atom.
        failures: the entries skipped.
    """

    read: int = 0
    without_hydrogen: int = 0
    failures: list[Failure] = field(default_factory=list)

    def skip(self, entry: str, reason: object) -> None:
        self.failures.append(Failure(entry, " ".join(str(reason).split())[:300] or type(reason).__name__))

    @property
    def hydrogen_note(self) -> str:
        """A warning when more than half of what was read has no hydrogen, else ""."""
        if 2 * self.without_hydrogen <= self.read:
            return ""
        return (
            f"{self.without_hydrogen} molecules have no hydrogen atom; atoms are taken as given, none added"
        )

    @property
    def notable(self) -> bool:
        """Whether the user should see `summary`."""
        return bool(self.failures or self.hydrogen_note)

    def summary(self, shown: int = 5) -> str:
        """A few lines: the counts, the first `shown` failures, and the note about hydrogens."""
        lines = [f"{self.read} read, {len(self.failures)} skipped"]
        lines += [f"  {failure.entry}: {failure.reason}" for failure in self.failures[:shown]]
        if len(self.failures) > shown:
            lines.append(f"  and {len(self.failures) - shown} more")
        if self.hydrogen_note:
            lines.append(self.hydrogen_note)
        return "\n".join(lines)


def read_systems(path: str | Path, report: ReadReport | None = None) -> Iterator[AtomicSystem]:
    """Yield the systems of a file, or of all readable files of a folder, one after another.

    Files are streamed: memory does not grow with their length.

    Args:
        path: a .sdf, .mol, .xyz, .extxyz, .cif, .vasp, POSCAR or .zip file, or a folder of such files.
        report: filled while reading; entries that cannot be read are listed there and skipped.

    Raises:
        Gen3dError: the path does not exist or cannot be opened, or the extension is unknown.
    """
    report = ReadReport() if report is None else report
    for value, entry in _read_entries(Path(path), report):
        try:
            system = from_native(value)
        except Gen3dError as error:
            report.skip(entry, error)
            continue
        report.read += 1
        report.without_hydrogen += not system.periodic and 1 not in system.numbers
        yield system


def read_objects(path: str | Path, *, failures: bool = False) -> Iterator[Any]:
    """Yield RDKit molecules (bonds as in the file, or perceived where it has none) and pymatgen Structures.

    A warning names the entries that cannot be read. With `failures`, a None for each of them comes last.
    Errors are those of `read_systems`.
    """
    report = ReadReport()
    for value, entry in _read_entries(Path(path), report):
        try:
            system = from_native(value)
            native = to_native(system) if _is_ase(value) else value
        except Gen3dError as error:
            report.skip(entry, error)
            continue
        report.read += 1
        yield native
    if report.failures:
        warnings.warn(f"{path}: {report.summary()}", stacklevel=1)
    if failures:
        yield from [None] * len(report.failures)


def parse_cif_text(text: str, report: ReadReport, entry: str) -> AtomicSystem | None:
    """The first crystal of a CIF text; None, and a line in the report, when there is none."""
    return _attempt(report, entry, lambda: from_native(_parse_cif(text.splitlines(keepends=True))))


def format_of(path: PurePath) -> str:
    """The key of a file in the table of readers: its extension, or POSCAR for POSCAR_001 and CONTCAR."""
    name = re.split(r"[_.-]", path.name, maxsplit=1)[0].upper()
    return "POSCAR" if name in ("POSCAR", "CONTCAR") else path.suffix.lower()


def _read_entries(path: Path, report: ReadReport) -> Iterator[tuple[Any, str]]:
    """(parsed object, name of the entry) for all entries of a file or folder that can be parsed."""
    if path.is_dir():
        files = [p for p in sorted(path.iterdir()) if p.is_file() and format_of(p) in (*READERS, ".zip")]
        if not files:
            raise Gen3dError(
                f"{path} holds no file of a known format; allowed: {_allowed()}; of prepared data (.npz), "
                "name the folder that holds train.npz, or one file"
            )
        for file in files:
            yield from _read_entries(file, report)
        return
    if format_of(path) == ".zip":
        yield from _read_zip(path, report)
        return
    reader = READERS.get(format_of(path))
    if reader is None:
        raise Gen3dError(f"cannot read {path}: unknown format {path.suffix!r}; allowed: {_allowed()}")
    try:
        with open(path, encoding="utf-8", errors="replace") as lines:
            yield from _read_lines(reader, lines, report, path.name)
    except OSError as error:
        raise Gen3dError(f"cannot read {path}: {error.strerror or error}") from error


def _read_zip(path: Path, report: ReadReport) -> Iterator[tuple[Any, str]]:
    try:
        with zipfile.ZipFile(path) as archive:
            for member in sorted(archive.namelist()):
                reader = READERS.get(format_of(PurePath(member)))
                if member.endswith("/"):
                    continue
                label = f"{path.name}/{member}"
                if reader is None:
                    report.skip(label, f"unknown format; allowed: {_allowed()}")
                    continue
                try:
                    with archive.open(member) as file:
                        lines = io.TextIOWrapper(file, encoding="utf-8", errors="replace")
                        yield from _read_lines(reader, lines, report, label)
                except (zipfile.BadZipFile, zlib.error, RuntimeError, NotImplementedError, EOFError) as error:
                    report.skip(label, error)
    except (OSError, zipfile.BadZipFile, ValueError) as error:
        raise Gen3dError(f"cannot read {path}: {error}") from error


def _read_lines(reader: Reader, lines: Any, report: ReadReport, label: str) -> Iterator[tuple[Any, str]]:
    failures, found = len(report.failures), False
    for item in reader(_bounded(lines), report, label):
        found = True
        yield item
    if not found and len(report.failures) == failures:
        report.skip(label, "there is nothing in it")


def _read_sdf(lines: Iterable[str], report: ReadReport, label: str) -> Iterator[tuple[Any, str]]:
    for number, block in enumerate(_split_sdf(lines), start=1):
        entry = f"{label} entry {number} ({block[0].strip()[:40]!r})"
        if sum(map(len, block)) > MAX_ENTRY_BYTES:
            report.skip(entry, f"it is longer than {MAX_ENTRY_BYTES:,} characters")
            continue
        mol = _attempt(report, entry, lambda: _parse_sdf(block))  # noqa: B023 -- called at once
        if mol is not None:
            yield mol, entry


def _parse_sdf(block: list[str]) -> Any:
    chem = require("rdkit.Chem", "atoms")
    with require("rdkit.rdBase", "atoms").BlockLogs():
        supplier = chem.SDMolSupplier()
        supplier.SetData("".join(block), sanitize=False, removeHs=False)
        mol = next(iter(supplier), None)
        if mol is None:
            raise Gen3dError(_sdf_complaint(block))
        if chem.SanitizeMol(mol, catchErrors=True):
            mol.UpdatePropertyCache(strict=False)  # wrong valences spoil no geometry
        return mol


def _split_sdf(lines: Iterable[str]) -> Iterator[list[str]]:
    """The lines of each entry, the closing $$$$ included. The overlong are cut, still over the limit."""
    block: list[str] = []
    length = 0
    for line in lines:
        if length <= MAX_ENTRY_BYTES:
            block.append(line)
            length += len(line)
        if line.startswith("$$$$"):
            yield block
            block, length = [], 0
    if any(line.strip() for line in block):
        yield block


def _sdf_complaint(block: list[str]) -> str:
    """Why RDKit, which does not say, may have refused a block."""
    if len(block) < 4:
        return f"it has {len(block)} lines; a mol block has a header of 4"
    counts = block[3]
    if "V2000" in counts and counts[:3].strip().isdigit() and int(counts[:3]) > len(block) - 4:
        return f"its counts line announces {int(counts[:3])} atoms, but {len(block) - 4} lines follow"
    return f"RDKit cannot parse it; its counts line is {counts.strip()[:60]!r}"


def _read_xyz(lines: Iterable[str], report: ReadReport, label: str) -> Iterator[tuple[Any, str]]:
    for number, (frame, complaint) in enumerate(_split_xyz(lines), start=1):
        entry = f"{label} frame {number}"
        if complaint:
            report.skip(entry, complaint)
            continue
        atoms = _attempt(report, entry, lambda: _parse_xyz(frame))  # noqa: B023 -- called at once
        if atoms is not None:
            yield atoms, entry


def _parse_xyz(frame: list[str]) -> Any:
    extxyz = require("ase.io.extxyz", "atoms")
    comment = frame[1].strip()
    if "Properties=" in comment or "Lattice=" in comment:
        return next(extxyz.read_xyz(io.StringIO("".join(frame)), index=0))
    # plain XYZ: the comment is free text
    atoms = next(extxyz.read_xyz(io.StringIO("".join([frame[0], "\n", *frame[2:]])), index=0))
    atoms.info = {"name": comment}
    return atoms


def _split_xyz(lines: Iterable[str]) -> Iterator[tuple[list[str], str]]:
    """(lines of a frame, "") or ([], complaint); after a bad frame, goes on at the next count line."""
    source = iter(lines)
    pending: list[str] = []  # a line read too far
    lost = False

    def following() -> str | None:
        return pending.pop() if pending else next(source, None)

    while (line := following()) is not None:
        count = _count(line)
        if count is None:
            if line.strip() and not lost:
                yield [], f"a line with the number of atoms is expected, not {line.strip()[:40]!r}"
                lost = True
            continue
        if not 1 <= count <= MAX_ENTRY_ATOMS:
            yield [], f"it announces {line.strip()[:40]} atoms; allowed: 1 to {MAX_ENTRY_ATOMS:,}"
            lost = True
            continue
        lost = False
        frame = [line, following() or "\n"]
        while len(frame) < count + 2:
            line = following()
            if line is None or len(line.split()) < 4:
                yield [], f"it announces {count} atoms, but has {len(frame) - 2}"
                if line is not None:
                    pending.append(line)
                break
            frame.append(line)
        else:
            yield frame, ""


def _count(line: str) -> int | None:
    text = line.strip()
    return int(text) if len(text) < 20 and re.fullmatch(r"[0-9]+", text) else None


def _read_cif(lines: Iterable[str], report: ReadReport, label: str) -> Iterator[tuple[Any, str]]:
    for number, block in enumerate(_split_cif(lines), start=1):
        name = block[0].strip()[5:45]
        entry = f"{label} block {number} ({name!r})"
        if sum(map(len, block)) > MAX_ENTRY_BYTES:
            report.skip(entry, f"it is longer than {MAX_ENTRY_BYTES:,} characters")
            continue
        structure = _attempt(report, entry, lambda: _parse_cif(block))  # noqa: B023 -- called at once
        if structure is not None:
            structure.properties = {"name": name}
            yield structure, entry


def _parse_cif(block: list[str]) -> Any:
    if not any(line.lstrip().startswith("_atom_site_") for line in block):
        raise Gen3dError("it lists no atom sites")
    parser = require("pymatgen.io.cif", "atoms").CifParser.from_str("".join(block), check_cif=False)
    return parser.parse_structures(primitive=False, on_error="raise")[0]


def _split_cif(lines: Iterable[str]) -> Iterator[list[str]]:
    """The lines of each data block; what stands before the first is skipped. The overlong are cut.

    Text fields (between lines that begin with a semicolon) become "?": no atom is in them, but the parser
    takes a `data_` in them for a new block.
    """
    block: list[str] = []
    length = 0
    in_text = False
    for line in lines:
        if line.startswith(";"):
            in_text = not in_text
            line = "" if in_text else "?\n"
        elif in_text:
            continue
        elif line[:5].lower() == "data_":
            if block:
                yield block
            block, length = [], 0
        if (block or line[:5].lower() == "data_") and length <= MAX_ENTRY_BYTES:
            block.append(line)
            length += len(line)
    if block:
        yield block


def _read_poscar(lines: Iterable[str], report: ReadReport, label: str) -> Iterator[tuple[Any, str]]:
    block: list[str] = []
    length = 0
    for line in lines:
        block.append(line)
        length += len(line)
        if length > MAX_ENTRY_BYTES:
            report.skip(label, f"it is longer than {MAX_ENTRY_BYTES:,} characters")
            return
    structure = _attempt(report, label, lambda: _parse_poscar("".join(block)))
    if structure is not None:
        yield structure, label


def _parse_poscar(text: str) -> Any:
    poscar = require("pymatgen.io.vasp.inputs", "atoms").Poscar.from_str(text)
    structure = poscar.structure
    structure.properties = {"name": str(poscar.comment).strip()}
    return structure


def _bounded(lines: io.TextIOBase | Any) -> Iterator[str]:
    """Lines, those without end cut into pieces: a file of one endless line must not fill the memory."""
    while line := lines.readline(MAX_ENTRY_BYTES):
        yield line


def _is_ase(value: Any) -> bool:
    return type(value).__module__.startswith("ase")


def _attempt(report: ReadReport, entry: str, parse: Callable[[], Any]) -> Any:
    """What `parse` returns; None, and a line in the report, when a library raises on malformed text."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return parse()
    except (MemoryError, MissingExtra):
        raise
    except Exception as error:
        report.skip(entry, error if isinstance(error, Gen3dError) else f"{type(error).__name__}: {error}")
        return None


def _allowed() -> str:
    return ", ".join(sorted((*READERS, ".zip")))


READERS: dict[str, Reader] = {
    ".sdf": _read_sdf,
    ".mol": _read_sdf,
    ".xyz": _read_xyz,
    ".extxyz": _read_xyz,
    ".cif": _read_cif,
    ".vasp": _read_poscar,
    ".poscar": _read_poscar,
    "POSCAR": _read_poscar,
}
