"""The default sampler of point clouds against the published 1,000 ancestral steps, on the same network.

python benchmarks/shape_sampling.py --data data/sweethome3d --out benchmarks/shape_sampling.json

Both start from the same noise. Time is processor time of one thread. Quality is measured against the
validation shapes; besides, 1-NNA between the two sets says whether they can be told from each other.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch

import gen3d
from gen3d.domains.shapes.metrics.shapes import shape_metrics
from gen3d.files import atomic_write
from gen3d.generator import Generator

SAMPLERS: dict[str, dict[str, Any]] = {
    "default": {},
    "1,000 ancestral steps": {"sampler": "ancestral", "steps": 1000},
}
SHOWN = ("1nna_cd", "cov_cd", "mmd_cd", "jsd")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--n", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    generator = gen3d.load("shape", "cpu")
    reference = generator.domain.reference(args.data / "valid.npz", "valid")
    found: dict[str, Any] = {"n": args.n, "seed": args.seed, "threads": 1}
    samples = {}
    generator.sample(1, steps=2, progress=False)  # what is done once is no part of either
    for name, settings in SAMPLERS.items():
        samples[name], seconds = drawn(generator, args.n, args.seed, settings)
        measured = generator.domain.metrics(samples[name], reference, emd="none", workers=1)
        metrics = {m.name: m for m in measured}
        found[name] = {"seconds": seconds, **{key: shown(metrics[key]) for key in SHOWN}}
        print(name, found[name], flush=True)
    ours, theirs = ([cloud.vertices for cloud in samples[name]] for name in SAMPLERS)
    between = {m.name: m for m in shape_metrics(ours, theirs, emd="none", workers=1)}
    found["1nna_cd between the two"] = shown(between["1nna_cd"])
    first, second = (found[name]["seconds"] for name in SAMPLERS)
    found["ratio"] = second / first
    print(json.dumps(found, indent=2))
    if args.out:
        with atomic_write(args.out) as temporary:
            temporary.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


def drawn(generator: Generator, count: int, seed: int, settings: dict[str, Any]) -> tuple[list[Any], float]:
    start = time.process_time()
    samples = generator.sample(count, seed=seed, progress=False, **settings)
    return samples, time.process_time() - start


def shown(metric: Any) -> dict[str, Any]:
    return {"value": metric.value, "interval": getattr(metric, "interval", None)}


if __name__ == "__main__":
    main()
