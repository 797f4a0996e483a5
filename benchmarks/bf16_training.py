"""What training in bf16 on a processor gains: short attention written out, and Muon's products in bf16.

python benchmarks/bf16_training.py --threads 2 --out benchmarks/bf16_training.json

Both ways of each take turns; the fastest of the rounds counts. Needs a processor that multiplies bf16 by
itself.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from gen3d.files import atomic_write
from gen3d.nn.attention import attend
from gen3d.nn.precision import native_bf16
from gen3d.optim import orthogonalise

LENGTHS = ((20, 20, 128), (64, 12, 64), (64, 64, 64), (128, 128, 32))
"""Queries, keys, samples: molecules; pictures reading words; pictures; shapes."""
MATRICES = ((12, 256, 683), (24, 256, 256), (6, 768, 256))
"""Of the blocks of the prior of pictures, those of one shape together."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if not native_bf16(torch.device("cpu")):
        parser.error("this processor does not multiply bf16 by itself")
    rows: list[dict[str, Any]] = []
    for queries, keys, samples in LENGTHS:
        ways = {"fused": F.scaled_dot_product_attention, "written_out": attend}
        inputs = [torch.randn(samples, 4, n, 64, requires_grad=True) for n in (queries, keys, keys)]
        mask = torch.ones(samples, 1, 1, keys, dtype=torch.bool)
        steps = {name: _attention(way, inputs, mask) for name, way in ways.items()}
        rows.append({"what": f"attention, {queries} x {keys}", **_race(steps, arguments.rounds)})
    for shape in MATRICES:
        matrices = torch.randn(*shape)
        steps = {"fp32": _product(matrices), "bf16": _product(matrices.bfloat16())}
        rows.append(
            {"what": "orthogonalise, " + " x ".join(map(str, shape)), **_race(steps, arguments.rounds)}
        )
    with atomic_write(arguments.out) as temporary:
        report = {"threads": arguments.threads, "milliseconds": rows}
        temporary.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    for row in rows:
        print(row)


def _attention(way: Callable[..., Any], inputs: list[torch.Tensor], mask: torch.Tensor) -> Callable[[], None]:
    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16):
            made = way(*inputs, mask)
        made.float().sum().backward()

    return step


def _product(matrices: torch.Tensor) -> Callable[[], Any]:
    return lambda: orthogonalise(matrices)


def _race(steps: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Milliseconds of each, and how many times as fast the second is."""
    best = dict.fromkeys(steps, float("inf"))
    for _ in range(rounds):
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            best[name] = min(best[name], 1000 * (time.perf_counter() - start))
    first, second = best.values()
    return {**{name: round(value, 2) for name, value in best.items()}, "ratio": round(first / second, 2)}


if __name__ == "__main__":
    main()
