"""Crystal structure prediction: the true composition is given, lattice and places are generated.

python benchmarks/structure_prediction.py --data data/mp-20 --out benchmarks/structure_prediction.json

One attempt for each target, as in CDVAE's and DiffCSP's tables: match rate and RMSE by StructureMatcher
(stol 0.5, ltol 0.3, angle 10).
"""

import argparse
import json
import time
from collections import Counter
from pathlib import Path

import torch

import gen3d
from gen3d.domains.atoms.composition import SYMBOLS
from gen3d.domains.atoms.dataset import open_dataset
from gen3d.domains.atoms.metrics.crystals import structure_prediction_metrics
from gen3d.domains.atoms.native import from_native


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True)
    parser.add_argument("--split", default="test")
    parser.add_argument("--limit", type=int, default=200)
    parser.add_argument("--checkpoint", default="crystal")
    parser.add_argument("--workers", type=int)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)

    generator = gen3d.load(arguments.checkpoint, "cpu")
    dataset = open_dataset(arguments.data, arguments.split)
    targets = [dataset[i] for i in range(min(arguments.limit, len(dataset)))]
    start = time.perf_counter()
    made = []
    for number, target in enumerate(targets):
        counts = Counter(target.numbers.tolist())
        formula = "".join(f"{SYMBOLS[z]}{count}" for z, count in sorted(counts.items()))
        (crystal,) = generator.sample(1, seed=0, first=number, formula=formula, progress=False)
        made.append(None if crystal is None else from_native(crystal))
    seconds = time.perf_counter() - start
    metrics = structure_prediction_metrics(made, targets, workers=arguments.workers)
    report = {
        "checkpoint": arguments.checkpoint,
        "split": arguments.split,
        "targets": len(targets),
        "attempts": 1,
        "seed": 0,
        "seconds_of_sampling": round(seconds, 1),
        "metrics": {m.name: {"value": m.value, "definition": m.definition} for m in metrics},
    }
    print(json.dumps(report, indent=2))
    arguments.out.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
