"""How far generated molecules are from a minimum of GFN2-xTB: relaxation energy and displacement.

The measures of FlowMol3 (Dunn & Koes, 2025), with the semi-empirical method of Bannwarth, Ehlert & Grimme,
J. Chem. Theory Comput. 15, 1652 (2019), as tblite implements it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gen3d.domains.atoms.system import AtomicSystem
from gen3d.errors import require
from gen3d.metrics import Estimate, Metric, percentage
from gen3d.parallel import guarded_map

CITATION = "Bannwarth et al., JCTC 2019 (GFN2-xTB); Dunn & Koes, 2025 (FlowMol3)"
MAX_FORCE = 0.05
"""Largest remaining force on an atom of a relaxed molecule, eV/angstrom."""
MAX_STEPS = 300
EV_IN_KCAL_PER_MOL = 23.060548


@dataclass(frozen=True)
class Relaxation:
    """The end of one relaxation.

    Attributes:
        energy: energy before minus energy after, kcal/mol.
        rmsd: root mean square displacement of all atoms after alignment, angstrom.
        converged: False when the electrons did not converge, or the forces not within MAX_STEPS.
    """

    energy: float
    rmsd: float
    converged: bool


FAILED = Relaxation(float("nan"), float("nan"), converged=False)


def relax(system: AtomicSystem) -> Relaxation:
    """Relax a neutral closed-shell molecule in the gas phase by GFN2-xTB with L-BFGS.

    Raises:
        MissingExtra: ase or tblite is not installed.
    """
    atoms = require("ase", "atoms").Atoms(system.numbers, system.positions)
    calculators = require("tblite.ase", "eval")
    optimizer = require("ase.optimize", "atoms").LBFGS
    from ase.calculators.calculator import CalculationFailed, SCFError

    atoms.calc = calculators.TBLite(method="GFN2-xTB", verbosity=0)
    try:
        before = atoms.get_potential_energy()
        converged = optimizer(atoms, logfile=None).run(fmax=MAX_FORCE, steps=MAX_STEPS)
        after = atoms.get_potential_energy()
    except (CalculationFailed, SCFError, RuntimeError, ValueError, np.linalg.LinAlgError):
        return FAILED
    energy = (before - after) * EV_IN_KCAL_PER_MOL
    return Relaxation(energy, aligned_rmsd(system.positions, atoms.positions), bool(converged))


def aligned_rmsd(a: np.ndarray, b: np.ndarray) -> float:
    """Root mean square distance of matched points (N, 3) after the best rotation and shift (Kabsch, 1976)."""
    a, b = a - a.mean(0), b - b.mean(0)
    u, stretch, v = np.linalg.svd(a.T @ b)
    stretch[2] *= np.sign(np.linalg.det(u @ v))  # a mirror image is no rotation
    squared = (a**2).sum() + (b**2).sum() - 2 * stretch.sum()
    return float(np.sqrt(max(0.0, squared) / len(a)))


def relaxation_metrics(
    valid: Sequence[AtomicSystem], limit: int, *, workers: int | None = None, progress: bool = False
) -> list[Metric]:
    """Relax at most `limit` of the valid samples, evenly spaced, and summarise.

    Args:
        valid: neutral, connected molecules.
        limit: number to relax.
        workers: see `guarded_map`.
        progress: show a bar.
    """
    chosen = [valid[i] for i in np.linspace(0, len(valid) - 1, min(limit, len(valid))).astype(int)]
    results = guarded_map(
        relax, chosen, workers=workers, timeout=300.0, description="GFN2-xTB" if progress else None
    )
    done = [r for r in results if r is not None and r.converged]
    share = percentage(
        "xtb_converged",
        len(done),
        len(chosen),
        f"% of {len(chosen)} valid samples that GFN2-xTB relaxes to {MAX_FORCE} eV/angstrom "
        f"in {MAX_STEPS} steps",
        citation=CITATION,
    )
    return [
        share,
        _median(
            "xtb_relaxation_energy",
            [r.energy for r in done],
            "median energy released by relaxation, kcal/mol",
        ),
        _median(
            "xtb_relaxation_rmsd",
            [r.rmsd for r in done],
            "median all-atom RMSD to the relaxed molecule, angstrom",
        ),
    ]


def _median(name: str, values: list[float], definition: str) -> Estimate:
    value = float(np.median(values)) if values else None
    return Estimate(
        name, value, f"{definition}; over the samples that xtb_converged counts", "lower", CITATION
    )
