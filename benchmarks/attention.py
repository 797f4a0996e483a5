"""Global, windowed and reduced attention in a stack of blocks: seconds and memory, forward and backward.

python benchmarks/attention.py --threads 2 --out benchmarks/attention.json

Every measurement has a process of its own, so that its peak of memory is its own, and the mixers take
turns, so that whatever else the machine does falls on all of them.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

from gen3d.nn.transformer import DiffusionTransformer, TransformerConfig

MIXERS: dict[str, dict[str, Any]] = {
    "global": {"mixer": "global"},
    "window": {"mixer": "window", "window": 4.0},
    "window_unshifted": {"mixer": "window", "window": 4.0, "window_shift": False},
    "kv_reduce": {"mixer": "kv_reduce", "window": 2.0},
}
CHANNELS = 24
BYTES_PER_UNIT = 1 if sys.platform == "darwin" else 1024
"""Of `ru_maxrss`."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--edge", type=int, default=16, help="tokens along an axis of the grid")
    parser.add_argument("--width", type=int, default=384)
    parser.add_argument("--heads", type=int, default=6)
    parser.add_argument("--depth", type=int, default=2, help="blocks; the even and the odd ones differ")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3, help="steps timed by one process")
    parser.add_argument("--rounds", type=int, default=3, help="processes of every mixer")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--mixer", choices=list(MIXERS), help="measure this one alone, in this process")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    if arguments.mixer:
        print(json.dumps(measure(arguments)))
        return
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in MIXERS}
    for _ in range(arguments.rounds):
        for name, measured in found.items():
            command = [sys.executable, *sys.argv, "--mixer", name]
            measured.append(json.loads(subprocess.check_output(command)))
    mixers: dict[str, Any] = {name: summary(measured) for name, measured in found.items()}
    report: dict[str, Any] = {
        key: value for key, value in vars(arguments).items() if key not in ("mixer", "out")
    }
    report |= {"tokens": arguments.edge**3, "torch": torch.__version__, "mixers": mixers}
    for quantity in ("seconds", "fastest_seconds", "activation_megabytes"):
        report[f"{quantity}_of_global_over_this"] = {
            name: mixers["global"][quantity] / values[quantity] for name, values in mixers.items()
        }
    print(json.dumps(report, indent=2))
    if arguments.out:
        arguments.out.write_text(json.dumps(report, indent=2) + "\n")


def summary(measured: list[dict[str, Any]]) -> dict[str, float]:
    """Over the steps of all processes: the median time and the range; and the median peaks of memory."""
    seconds = [s for m in measured for s in m["seconds"]]
    return {
        "seconds": statistics.median(seconds),
        "fastest_seconds": min(seconds),
        "slowest_seconds": max(seconds),
        "peak_megabytes": statistics.median(m["peak_megabytes"] for m in measured),
        "activation_megabytes": statistics.median(m["activation_megabytes"] for m in measured),
    }


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Seconds of forward and backward steps, and the process's peak of memory."""
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    config = TransformerConfig(
        CHANNELS,
        arguments.width,
        arguments.depth,
        arguments.heads,
        positions="sincos",
        axes=3,
        **MIXERS[arguments.mixer],
    )
    model = DiffusionTransformer(config)
    for parameter in model.parameters():  # gates that are zero would spare the attention its gradients
        torch.nn.init.normal_(parameter, std=0.02)
    side = torch.arange(float(arguments.edge))
    grid = torch.stack(torch.meshgrid(side, side, side, indexing="ij"), -1).view(1, -1, 3)
    positions = grid.expand(arguments.batch, -1, -1)
    x = torch.randn(arguments.batch, grid.shape[1], CHANNELS)
    t = torch.rand(arguments.batch)

    def step() -> float:
        model.zero_grad()
        start = time.perf_counter()
        model(x, t, positions=positions).square().mean().backward()
        return time.perf_counter() - start

    before = peak()
    step()
    seconds = [step() for _ in range(arguments.repeats)]
    return {"seconds": seconds, "peak_megabytes": peak(), "activation_megabytes": peak() - before}


def peak() -> float:
    """Megabytes that this process has had at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * BYTES_PER_UNIT / 1e6


if __name__ == "__main__":
    main()
