"""How well the codec gives back what it encodes: QM9 molecules or Materials Project crystals.

python benchmarks/reconstruction.py --domain molecule --data data/qm9 --out reconstruction.json

A molecule matches when its perceived canonical SMILES (with stereo) is that of the original; a crystal when
pymatgen's StructureMatcher (stol 0.5, ltol 0.3, angle 10) matches. Root mean square distances are over
matching samples, hydrogens included; molecules are compared in the frame in which they are encoded,
without a further alignment that could only lessen them. Failures stay in the denominator.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

import gen3d
from gen3d.domains.atoms.batch import AtomsBatch
from gen3d.domains.atoms.metrics.matching import rms_distance
from gen3d.domains.atoms.native import perceive
from gen3d.domains.atoms.system import AtomicSystem

BATCH = 256


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--domain", choices=("molecule", "crystal"), required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--split", default="valid")
    parser.add_argument("--checkpoint")
    parser.add_argument("--limit", type=int, default=2000)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()

    generator = gen3d.load(arguments.checkpoint or arguments.domain, "cpu")
    domain = generator.domain
    dataset = domain.dataset(arguments.data, arguments.split)
    originals = domain.reference(arguments.data, arguments.split)
    count = min(arguments.limit, len(dataset))
    start = time.perf_counter()
    compare = compare_molecules if arguments.domain == "molecule" else compare_crystals
    distances: list[float] = []
    for first in range(0, count, BATCH):
        rows = range(first, min(first + BATCH, count))
        with torch.no_grad():
            batch = domain.collate([dataset[i] for i in rows], None)
            decoded = domain.to_systems(generator.codec.decode(generator.codec.encode(batch)))
        truth = [originals[i] for i in rows] if arguments.domain == "crystal" else molecules(batch)
        distances += [compare(a, b) for a, b in zip(truth, decoded, strict=True)]
    found = np.array(distances)
    matched = np.isfinite(found)
    report = {
        "domain": arguments.domain,
        "split": arguments.split,
        "n": count,
        "match_percent": 100 * float(matched.mean()),
        "rmsd": float(found[matched].mean()) if matched.any() else None,
        "rmsd_unit": "angstrom" if arguments.domain == "molecule" else "(V/N)^(1/3)",
        "seconds": round(time.perf_counter() - start, 1),
    }
    print(json.dumps(report, indent=2))
    if arguments.out:
        arguments.out.write_text(json.dumps(report, indent=2) + "\n")


def compare_molecules(original: AtomicSystem, made: AtomicSystem | None) -> float:
    """Root mean square distance in angstrom; not a number where the molecules differ."""
    if made is None or smiles(made) != smiles(original):
        return float("nan")
    return distance(original, made)


def compare_crystals(original: AtomicSystem, made: AtomicSystem | None) -> float:
    return float("nan") if made is None else rms_distance((made, original, "cdvae"))


def smiles(system: AtomicSystem) -> str | None:
    from rdkit import Chem

    mol = perceive(system)
    return None if mol is None else Chem.CanonSmiles(Chem.MolToSmiles(Chem.RemoveHs(mol)))


def distance(original: AtomicSystem, made: AtomicSystem) -> float:
    """Heavy atoms keep their order in the codec; hydrogens have none and are assigned."""
    heavy, made_heavy = original.numbers > 1, made.numbers > 1
    squares = ((original.positions[heavy] - made.positions[made_heavy]) ** 2).sum(-1)
    costs = cdist(original.positions[~heavy], made.positions[~made_heavy], "sqeuclidean")
    return float(np.sqrt(np.concatenate([squares, costs[linear_sum_assignment(costs)]]).mean()))


def molecules(batch: AtomsBatch) -> list[AtomicSystem]:
    """The molecules of a batch, heavy atoms first, in the frame of the batch."""
    made = []
    for row, mask in enumerate(batch.mask):
        numbers, places = batch.numbers[row, mask], batch.positions[row, mask]
        slots = batch.hydrogen_slots[row, mask]
        carried = (places[:, None] + batch.hydrogens[row, mask])[slots]
        everything = torch.cat([numbers, torch.ones(len(carried), dtype=torch.long)])
        made.append(AtomicSystem(everything.numpy(), torch.cat([places, carried]).double().numpy()))
    return made


if __name__ == "__main__":
    main()
