"""Do molecules that are asked for with a HOMO-LUMO gap have it? Judged by GFN2-xTB, which training never saw.

python benchmarks/property_control.py --data data/qm9 --out benchmarks/property_control.json

xTB's gaps are not those of the density functional behind QM9. So beside the samples for each gap stand
molecules of the validation split whose own gap is within 0.01 hartree of it, judged in the same way.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tblite.interface import Calculator

import gen3d
from gen3d.domains.atoms.dataset import AtomsDataset, open_dataset
from gen3d.domains.atoms.native import from_native
from gen3d.domains.atoms.system import AtomicSystem
from gen3d.files import atomic_write

BOHR = 0.529177210903
PROPERTY = "gap_hartree"
NEAR = 0.01


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True)
    parser.add_argument("--checkpoint", default="molecule")
    parser.add_argument("--gaps", type=float, nargs="+", default=[0.18, 0.22, 0.26, 0.30, 0.34])
    parser.add_argument("--guidance", type=float, nargs="+", default=[1.0, 3.0])
    parser.add_argument("--samples", type=int, default=200)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    generator = gen3d.load(arguments.checkpoint, "cpu")
    reference = open_dataset(arguments.data, "valid")

    rows: list[dict[str, Any]] = []
    for gap in arguments.gaps:
        row: dict[str, Any] = {
            "asked": gap,
            "reference": summary(alike(reference, gap, arguments.samples)),
        }
        for guidance in arguments.guidance:
            made = generator.sample(
                arguments.samples,
                seed=0,
                guidance=guidance,
                property=(f"{PROPERTY}={gap}",),
                progress=False,
            )
            valid = [from_native(mol) for mol in made if generator.domain.valid(mol)]
            row[f"guidance {guidance:g}"] = {"valid": 100 * len(valid) / len(made), **summary(valid)}
        rows.append(row)
        print(json.dumps(row), flush=True)
    report = {"samples": arguments.samples, "seed": 0, "property": PROPERTY, "rows": rows}
    with atomic_write(arguments.out) as temporary:
        temporary.write_text(json.dumps(report, indent=2) + "\n")


def alike(reference: AtomsDataset, gap: float, limit: int) -> list[AtomicSystem]:
    """Molecules of the reference whose own gap is near."""
    column = reference.properties[:, reference.property_names.index(PROPERTY)]
    return [reference[int(i)] for i in np.flatnonzero(np.abs(column - gap) < NEAR)[:limit]]


def summary(systems: Sequence[AtomicSystem]) -> dict[str, float]:
    """Number of systems, mean and standard error of their xTB gaps."""
    gaps = np.array([xtb_gap(system) for system in systems])
    error = float(gaps.std(ddof=1) / np.sqrt(len(gaps)))
    return {"molecules": len(gaps), "xtb_gap": float(gaps.mean()), "standard_error": error}


def xtb_gap(system: AtomicSystem) -> float:
    """HOMO-LUMO gap of the molecule as it stands, hartree."""
    calculator = Calculator("GFN2-xTB", system.numbers, system.positions / BOHR)
    calculator.set("verbosity", 0)
    result = calculator.singlepoint()
    energies, occupied = result.get("orbital-energies"), result.get("orbital-occupations") > 0.5
    return float(energies[~occupied].min() - energies[occupied].max())


if __name__ == "__main__":
    main()
