"""From a public set, or a user's own files, to the three files that training reads."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np

from gen3d.domains.atoms.dataset import SPLITS, AtomsDataset
from gen3d.domains.atoms.native import from_structure, to_structure
from gen3d.domains.atoms.readers import Failure, ReadReport, read_systems
from gen3d.domains.atoms.sources import SETS, Parts, Record, open_set
from gen3d.domains.atoms.system import AtomicSystem
from gen3d.errors import Gen3dError, require
from gen3d.fetch import cache_folder
from gen3d.files import atomic_write

DOMAINS = ("molecule", "crystal")

USER_SHARES = (90, 5, 5)
"""train : valid : test of data that come without a split."""


@dataclass(frozen=True)
class PrepareReport:
    """What `prepare` wrote; `dataset.json` holds the same.

    Attributes:
        source: name or path of the data.
        domain: "molecule" or "crystal".
        licence: of the data, "" when unknown.
        citation: what to cite, "" when unknown.
        seed: of the split; None when the source came split.
        counts: systems by split.
        origin: checksums of the downloaded files, or the package read.
        skipped: the entries left out, with reasons.
        notes: what the user should know besides.
    """

    source: str
    domain: str
    licence: str
    citation: str
    seed: int | None
    counts: dict[str, int]
    origin: dict[str, str] = field(default_factory=dict)
    skipped: list[Failure] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def summary(self, shown: int = 5) -> str:
        """A few lines for the terminal."""
        counts = ", ".join(f"{count:,} {split}" for split, count in self.counts.items())
        lines = [f"{counts}; {len(self.skipped):,} skipped"]
        lines += [f"  {failure.entry}: {failure.reason}" for failure in self.skipped[:shown]]
        if len(self.skipped) > shown:
            lines.append(f"  and {len(self.skipped) - shown:,} more, all in dataset.json")
        lines += [f"{name}: {origin}" for name, origin in self.origin.items()]
        return "\n".join(lines + self.notes)


def prepare(
    source: str | Path,
    out: str | Path,
    *,
    domain: str,
    limit: int | None = None,
    seed: int = 0,
    progress: bool = True,
) -> PrepareReport:
    """Write `train.npz`, `valid.npz`, `test.npz` and `dataset.json` into the folder `out`.

    QM9 is split as EDM does (Hoogeboom et al. 2022, arXiv:2203.17003): with seed 0, a permutation of the
    characterized molecules by NumPy's legacy generator, the first 100,000 for training, the last 13,083 for
    testing. MP-20 keeps its authors' split. Other data are permuted by `seed` and split 90 : 5 : 5. Crystals
    are Niggli-reduced, as for CDVAE, unless they are prepared data already.

    Args:
        source: "qm9" or "mp-20"; or a file or folder of SDF, XYZ, extxyz, CIF or POSCAR files; or prepared
            data: a folder with `train.npz`, the stem of `<stem>_train.npz`, or one .npz file.
        out: the folder to write to; files of an earlier preparation are replaced.
        domain: "molecule" or "crystal"; systems of the other kind are skipped.
        limit: read at most so many systems, of each split when the source comes split.
        seed: of the split.
        progress: show progress bars.

    Raises:
        Gen3dError: the source is unknown or unreadable, or nothing of the wanted domain is in it.
    """
    if domain not in DOMAINS:
        raise Gen3dError(f"unknown domain {domain!r}; allowed: {', '.join(DOMAINS)}")
    if limit is not None and limit < 1:
        raise Gen3dError(f"limit is {limit}; at least 1 is needed")
    out, source = Path(out), str(source)
    report = ReadReport()
    public = SETS.get(source)
    origin: dict[str, str] = {}
    if public is not None:
        if public.domain != domain:
            raise Gen3dError(f"{source} holds {public.domain}s; asked for domain {domain!r}")
        parts, origin = open_set(public, cache_folder(source), report, progress)
        reduce = True
    else:
        parts, reduce = _open_path(Path(source), report)
    datasets = {
        split: _collect(records, split or source, domain, reduce, limit, report, progress)
        for split, records in parts.items()
    }
    if not sum(map(len, datasets.values())):
        raise Gen3dError(f"no {domain} could be read from {source}. {report.summary()}")
    presplit = "" not in datasets
    if not presplit:
        datasets = split_dataset(
            datasets[""], public.shares if public and public.shares else USER_SHARES, seed
        )
    result = PrepareReport(
        source=source,
        domain=domain,
        licence=public.licence if public else "",
        citation=public.citation if public else "",
        seed=None if presplit else seed,
        counts={split: len(dataset) for split, dataset in datasets.items()},
        origin=origin,
        skipped=report.failures,
        notes=[report.hydrogen_note] if report.hydrogen_note else [],
    )
    for split, dataset in datasets.items():
        if len(dataset):
            dataset.save(out / f"{split}.npz")
        else:
            (out / f"{split}.npz").unlink(missing_ok=True)
    with atomic_write(out / "dataset.json") as temporary:
        temporary.write_text(json.dumps(asdict(result), indent=1) + "\n", encoding="utf-8")
    return result


def split_dataset(dataset: AtomsDataset, shares: tuple[int, int, int], seed: int) -> dict[str, AtomsDataset]:
    """Cut a dataset at random into train, valid and test, in proportion to `shares`, at least one in each.

    Within a split the order of the source is kept; with numeric names that is the order of the numbers. The
    permutation is that of NumPy's legacy generator, so that QM9 with seed 0 gives EDM's split.
    """
    count = len(dataset)
    order = np.arange(count)
    if all(name.isdecimal() and len(name) < 10 for name in dataset.names.tolist()):
        order = np.argsort(dataset.names.astype(np.int64), kind="stable")
    permutation = np.random.RandomState(seed).permutation(count)
    least = 1 if count >= 3 else 0
    valid, test = (max(least, count * share // sum(shares)) for share in shares[1:])
    cuts = np.split(permutation, [count - valid - test, count - test])
    return {split: dataset.subset(order[np.sort(cut)]) for split, cut in zip(SPLITS, cuts, strict=True)}


def _open_path(path: Path, report: ReadReport) -> tuple[Parts, bool]:
    """The records of a file or folder, and whether crystals must still be reduced."""
    arrays = _array_files(path)
    if arrays:
        return {split: _from_arrays(AtomsDataset.load(file)) for split, file in arrays.items()}, False
    if not path.exists():
        raise Gen3dError(f"no data set {str(path)!r}: neither a known name ({', '.join(SETS)}) nor a path")
    return {"": map(Record, read_systems(path, report))}, True


def _array_files(path: Path) -> Mapping[str, Path]:
    if path.suffix == ".npz" and path.is_file():
        return {"": path}
    prefix = f"{path}/" if path.is_dir() else f"{path}_"
    candidates = {split: Path(f"{prefix}{split}.npz") for split in SPLITS}
    return {split: file for split, file in candidates.items() if file.is_file()}


def _from_arrays(dataset: AtomsDataset) -> Iterator[Record]:
    for i, system in enumerate(dataset):
        yield Record(system, "" if dataset.smiles is None else str(dataset.smiles[i]))


def _collect(
    records: Iterator[Record],
    label: str,
    domain: str,
    reduce: bool,
    limit: int | None,
    report: ReadReport,
    progress: bool,
) -> AtomsDataset:
    """The first `limit` records of the domain, packed as they come."""
    from gen3d.progress import tqdm

    smiles: list[str] = []

    def wanted() -> Iterator[AtomicSystem]:
        for system, text in records:
            if system.periodic != (domain == "crystal"):
                report.skip(system.name or "an entry", f"it is no {domain}")
                continue
            if system.periodic and reduce:
                try:
                    system = _niggli_reduced(system)
                except (ValueError, ArithmeticError, np.linalg.LinAlgError, Gen3dError) as error:
                    report.skip(system.name or "an entry", f"its lattice cannot be reduced: {error}")
                    continue
            smiles.append(text)
            yield system

    bar = tqdm(islice(wanted(), limit), desc=label, unit=f" {domain}s", disable=not progress)
    dataset = AtomsDataset.from_systems(bar)
    dataset.smiles = np.array(smiles) if any(smiles) else None
    return dataset


def _niggli_reduced(system: AtomicSystem) -> AtomicSystem:
    core = require("pymatgen.core", "atoms")
    reduced = to_structure(system).get_reduced_structure()
    # lengths and angles alone fix the orientation
    lattice = core.Lattice.from_parameters(*reduced.lattice.parameters)
    structure = core.Structure(lattice, reduced.species, reduced.frac_coords)
    plain = from_structure(structure)
    return AtomicSystem(plain.numbers, plain.positions, plain.cell, system.properties, system.name)
