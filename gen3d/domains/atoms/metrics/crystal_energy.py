"""Stability of generated crystals by CHGNet: relaxed energy, displacement, energy above the reference's hull.

The force field is CHGNet 0.3.0 (Deng et al., Nat. Mach. Intell. 5, 1031, 2023), whose weights come with its
package. The hull is built from CHGNet energies of the reference set, unrelaxed, in each sample's chemical
system. It is not the hull of the full Materials Project: phases that the reference lacks are missing, so more
samples look stable.
"""

import contextlib
import hashlib
import io
import os
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from gen3d.domains.atoms.native import to_structure
from gen3d.domains.atoms.system import AtomicSystem
from gen3d.errors import Gen3dError, require
from gen3d.metrics import Metric, percentage
from gen3d.parallel import guarded_map

CITATION = "Deng et al., Nat. Mach. Intell. 5, 1031 (2023) (CHGNet)"
MODEL = "0.3.0"
MAX_FORCE = 0.1
"""Largest remaining force of a relaxed crystal, eV/angstrom."""
MAX_STEPS = 500
RELAX_SECONDS = 600.0
MIN_VOLUME_PER_ATOM = 1.0
"""Denser crystals are not relaxed, angstrom^3: their graph would not fit into memory. Diamond has 5.7."""
METASTABLE = 0.1
"""Energy above the hull up to which a crystal counts as metastable, eV/atom."""


@dataclass(frozen=True)
class Relaxation:
    """The end of one relaxation of atoms and cell.

    Attributes:
        energy: eV/atom.
        rmsd: root mean square displacement of the atoms in the relaxed cell, without common drift, angstrom.
        converged: within MAX_STEPS.
    """

    energy: float
    rmsd: float
    converged: bool


FAILED = Relaxation(float("nan"), float("nan"), converged=False)


def energy_metrics(
    samples: Sequence[AtomicSystem | None],
    reference: Sequence[AtomicSystem],
    *,
    limit: int,
    cache: Path | None = None,
    workers: int | None = None,
    progress: bool = False,
) -> list[Metric]:
    """Relax at most `limit` of the samples, evenly spaced, and compare them with the hull of the reference.

    Args:
        samples: crystals; None, for a failed or invalid one, counts as not relaxed.
        reference: crystals that span the hull.
        limit: number of samples.
        cache: see `static_energies`.
        workers: see `guarded_map`.
        progress: show bars.

    Raises:
        Gen3dError: the cache cannot be read.
        MissingExtra: chgnet is not installed.
    """
    chosen = [samples[i] for i in np.linspace(0, len(samples) - 1, min(limit, len(samples))).astype(int)]
    present = [s for s in chosen if s is not None]
    results = guarded_map(
        relax,
        present,
        workers=workers,
        timeout=RELAX_SECONDS,
        description="CHGNet relaxation" if progress else None,
    )
    done = [(s, r) for s, r in zip(present, results, strict=True) if r is not None and r.converged]
    energies = np.array([r.energy for _, r in done])
    above = energies_above_hull(
        [s for s, _ in done], energies, reference, cache=cache, workers=workers, progress=progress
    )
    of_chosen = f"% of {len(chosen)} samples, evenly spaced, failed ones included,"
    over = "over the samples that chgnet_relaxed counts"
    return [
        percentage(
            "chgnet_relaxed",
            len(done),
            len(chosen),
            f"{of_chosen} that CHGNet relaxes to {MAX_FORCE} eV/angstrom in {MAX_STEPS} steps",
            citation=CITATION,
        ),
        Metric(
            "chgnet_energy",
            _mean(energies),
            f"mean CHGNet energy after relaxation, eV/atom, {over}",
            "lower",
            CITATION,
        ),
        Metric(
            "chgnet_rmsd",
            _mean(np.array([r.rmsd for _, r in done])),
            f"mean RMSD of the atoms to the relaxed structure, angstrom, {over}",
            "lower",
            f"{CITATION}; Zeni et al., Nature 2025 (MatterGen)",
        ),
        percentage(
            "chgnet_hull_known",
            int(np.isfinite(above).sum()),
            len(chosen),
            f"{of_chosen} that relax and all of whose elements the reference holds as pure phases",
            citation=CITATION,
        ),
        percentage(
            "chgnet_metastable",
            int((above <= METASTABLE).sum()),
            len(chosen),
            f"{of_chosen} that relax to <= {METASTABLE} eV/atom above the hull of the reference set by "
            "CHGNet, which is not the hull of the full Materials Project",
            citation=CITATION,
        ),
    ]


def relax(system: AtomicSystem) -> Relaxation:
    """Relax atoms and cell by FIRE in CHGNet.

    Raises:
        MissingExtra: chgnet is not installed.
    """
    dynamics = require("chgnet.model.dynamics", "eval")
    if _too_dense(system):
        return FAILED
    start = to_structure(system)
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # it announces its device
            optimizer = dynamics.StructOptimizer(_model(), use_device="cpu", on_isolated_atoms="error")
            result = optimizer.relax(
                start, fmax=MAX_FORCE, steps=MAX_STEPS, verbose=False, assign_magmoms=False
            )
    except _FAILURES:
        return FAILED
    end, trajectory = result["final_structure"], result["trajectory"]
    energy = float(trajectory.energies[-1]) / len(system)
    shift = end.frac_coords - start.frac_coords
    displacement = (shift - shift.mean(0)) @ end.lattice.matrix
    rmsd = float(np.sqrt((displacement**2).sum(1).mean()))
    # the trajectory holds the start, every step and the end once more
    converged = len(trajectory.energies) < MAX_STEPS + 2 and bool(np.isfinite([energy, rmsd]).all())
    return Relaxation(energy, rmsd, converged)


def static_energy(system: AtomicSystem) -> float:
    """CHGNet energy of a crystal as it is, eV/atom; NaN when CHGNet cannot compute it.

    Raises:
        MissingExtra: chgnet is not installed.
    """
    if _too_dense(system):
        return float("nan")
    model = _model()
    model.graph_converter.set_isolated_atom_response("error")
    try:
        return float(model.predict_structure(to_structure(system), task="e")["e"])
    except _FAILURES:
        return float("nan")


def static_energies(
    systems: Sequence[AtomicSystem],
    *,
    cache: Path | None = None,
    workers: int | None = None,
    progress: bool = False,
) -> np.ndarray:
    """(M,) `static_energy` of every system.

    Args:
        systems: crystals.
        cache: .npz file of energies by content hash; read if it exists, and completed.
        workers: see `guarded_map`.
        progress: show a bar.

    Raises:
        Gen3dError: the file is no such cache.
    """
    known = _read_cache(cache) if cache is not None and cache.exists() else {}
    keys = [content_hash(s) for s in systems]
    missing = {key: s for key, s in zip(keys, systems, strict=True) if key not in known}
    if missing:
        results = guarded_map(
            static_energy,
            list(missing.values()),
            workers=workers,
            description="CHGNet reference" if progress else None,
        )
        known.update((k, np.nan if r is None else r) for k, r in zip(missing, results, strict=True))
        if cache is not None:
            _write_cache(cache, known)
    return np.array([known[key] for key in keys], dtype=np.float64)


def energies_above_hull(
    samples: Sequence[AtomicSystem],
    energies: np.ndarray,
    reference: Sequence[AtomicSystem],
    *,
    cache: Path | None = None,
    workers: int | None = None,
    progress: bool = False,
) -> np.ndarray:
    """(n,) energy above the convex hull of the reference's CHGNet energies, eV/atom; negative below it.

    NaN where the reference holds no pure phase of one of the elements, without which there is no hull.

    Args:
        samples: crystals.
        energies: (n,) their energies, eV/atom.
        reference: crystals that span the hull; only those in a sample's chemical system are computed.
        cache: see `static_energies`.
        workers: see `guarded_map`.
        progress: show a bar.
    """
    diagrams = require("pymatgen.analysis.phase_diagram", "atoms")
    composition = require("pymatgen.core", "atoms").Composition
    spaces = [frozenset(s.numbers.tolist()) for s in samples]
    candidates = [(system, frozenset(system.numbers.tolist())) for system in reference]
    within = {space: [i for i, (_, e) in enumerate(candidates) if e <= space] for space in set(spaces)}
    needed = sorted({i for indices in within.values() for i in indices})
    computed = static_energies(
        [candidates[i][0] for i in needed], cache=cache, workers=workers, progress=progress
    )
    energy_of = dict(zip(needed, computed.tolist(), strict=True))

    def entry(system: AtomicSystem, energy: float) -> Any:
        return diagrams.PDEntry(composition.from_dict(_counts(system)), energy * len(system))

    hulls = {}
    for space, indices in within.items():
        usable = [i for i in indices if np.isfinite(energy_of[i])]
        pure = {min(candidates[i][1]) for i in usable if len(candidates[i][1]) == 1}
        if pure == space:
            hulls[space] = diagrams.PhaseDiagram([entry(candidates[i][0], energy_of[i]) for i in usable])
    above = np.full(len(samples), np.nan)
    for i, (sample, space) in enumerate(zip(samples, spaces, strict=True)):
        if space in hulls:
            above[i] = hulls[space].get_e_above_hull(entry(sample, float(energies[i])), allow_negative=True)
    return above


def content_hash(system: AtomicSystem) -> str:
    """32 hexadecimal digits that name the model, the elements, and cell and coordinates to 1e-4 angstrom."""
    digest = hashlib.sha256(f"chgnet {MODEL}".encode())
    digest.update(system.numbers.astype("<i8").tobytes())
    for lengths in (system.cell, system.positions):
        digest.update(np.round(np.asarray(lengths) * 1e4).astype("<i8").tobytes())
    return digest.hexdigest()[:32]


_FAILURES = (ValueError, RuntimeError, IndexError, ArithmeticError, np.linalg.LinAlgError)
"""What CHGNet and ASE raise for isolated atoms, elements beyond plutonium, cells that collapse or burst."""


@cache
def _model() -> Any:
    chgnet = require("chgnet.model", "eval").CHGNet
    with contextlib.redirect_stdout(io.StringIO()):  # it announces itself
        return chgnet.load(model_name=MODEL, use_device="cpu", verbose=False)


def _too_dense(system: AtomicSystem) -> bool:
    assert system.cell is not None
    return not abs(np.linalg.det(system.cell)) >= MIN_VOLUME_PER_ATOM * len(system)


def _mean(values: np.ndarray) -> float | None:
    return float(values.mean()) if values.size else None


def _counts(system: AtomicSystem) -> dict[str, int]:
    table = require("pymatgen.core", "atoms").Element
    elements, counts = np.unique(system.numbers, return_counts=True)
    return {table.from_Z(z).symbol: n for z, n in zip(elements.tolist(), counts.tolist(), strict=True)}


def _read_cache(path: Path) -> dict[str, float]:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return dict(zip(arrays["hashes"].tolist(), arrays["energies"].tolist(), strict=True))
    except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise Gen3dError(
            f"{path} is no cache of CHGNet energies ({error}); delete it or name another"
        ) from error


def _write_cache(path: Path, energies: dict[str, float]) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with temporary.open("wb") as file:
        np.savez(
            file, hashes=np.array(list(energies), dtype="U32"), energies=np.array(list(energies.values()))
        )
    os.replace(temporary, path)
