"""What measuring shapes costs: 200 clouds against 200, and a pair of clouds by brute force.

python benchmarks/shape_metrics.py --data data/sweethome3d --out benchmarks/shape_metrics.json
"""

import argparse
import json
import resource
import time
from pathlib import Path
from typing import Any

import torch

from gen3d.domains.shapes.dataset import open_dataset
from gen3d.domains.shapes.metrics.distances import chamfer, earth_mover
from gen3d.domains.shapes.metrics.shapes import shape_metrics
from gen3d.files import atomic_write

CLOUDS, POINTS, PAIRS = 200, 2048, 20


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="prepared shapes, 400 of them for training")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()
    dataset = open_dataset(args.data, "train")
    clouds = [dataset[i].points[:POINTS] for i in range(2 * CLOUDS)]
    found: dict[str, Any] = {"clouds": CLOUDS, "points": POINTS, "workers": args.workers}
    for name, emd in (("chamfer", "none"), ("chamfer_and_approximate_emd", "approximate")):
        start = time.perf_counter()
        shape_metrics(clouds[:CLOUDS], clouds[CLOUDS:], emd=emd, workers=args.workers)
        found[f"{name}_seconds"] = time.perf_counter() - start
    found["approximate_emd_seconds"] = found["chamfer_and_approximate_emd_seconds"] - found["chamfer_seconds"]
    peaks = [resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    # The largest worker stands for all of them.
    found["peak_gb"] = (peaks[0] + args.workers * peaks[1]) / 1e6
    pairs = list(zip(clouds[:PAIRS], clouds[PAIRS : 2 * PAIRS], strict=True))
    found["pair_ms"] = {
        "chamfer": per_pair(lambda a, b: chamfer(a, b), pairs),
        "chamfer, torch.cdist": per_pair(brute_force, pairs),
        "emd, approximate": per_pair(lambda a, b: earth_mover(a, b, "approximate"), pairs),
        "emd, exact": per_pair(earth_mover, pairs[:3]),
    }
    milliseconds = found["pair_ms"]
    found["chamfer_brute_force_over_ours"] = milliseconds["chamfer, torch.cdist"] / milliseconds["chamfer"]
    found["emd_exact_over_approximate"] = milliseconds["emd, exact"] / milliseconds["emd, approximate"]
    print(json.dumps(found, indent=2))
    if args.out:
        with atomic_write(args.out) as temporary:
            temporary.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


def per_pair(distance: Any, pairs: list[Any]) -> float:
    start = time.perf_counter()
    for a, b in pairs:
        distance(a, b)
    return 1000 * (time.perf_counter() - start) / len(pairs)


def brute_force(a: Any, b: Any) -> float:
    squares = torch.cdist(torch.from_numpy(a), torch.from_numpy(b)).square()
    return float(squares.min(1).values.mean() + squares.min(0).values.mean())


if __name__ == "__main__":
    main()
