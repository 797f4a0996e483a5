"""The optimizer step of a configuration: seconds, and GFLOP/s against this machine's matrix products.

python benchmarks/training_throughput.py configs/molecule.yaml --data data/qm9 --threads 2

FLOP are counted by torch.utils.flop_counter over forward and backward (matrix products alone).
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from gen3d.config import load_yaml
from gen3d.draws import Draws
from gen3d.generator import Generator
from gen3d.run_config import run_config
from gen3d.stage import make_optimizers

EDGE = 2048
"""Size of the square matrix product that stands for what the machine can do."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("config")
    parser.add_argument("--data", required=True)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)

    config = run_config(load_yaml(arguments.config))
    generator = Generator(config.generator())
    dataset = generator.domain.dataset(arguments.data, "valid")
    generator.domain.fit(dataset)
    index = torch.arange(config.train.batch_size)
    batch = generator.domain.collate([dataset[i] for i in index.tolist()], Draws(0, index))
    core = {name: p for name, p in generator.named_parameters() if name.startswith("core.")}
    optimizers = make_optimizers(core, config.train)
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = config.train.learning_rate

    def step() -> None:
        generator.zero_grad()
        generator.prior_loss(batch, Draws(0, index))[0].backward()
        for optimizer in optimizers:
            optimizer.step()

    step()
    with FlopCounterMode(display=False) as counter:
        step()
    seconds = [timed(step) for _ in range(arguments.steps)]
    a, b = torch.randn(EDGE, EDGE), torch.randn(EDGE, EDGE)
    product = [timed(lambda: a @ b) for _ in range(5)]
    peak = 2 * EDGE**3 / statistics.median(product) / 1e9
    reached = counter.get_total_flops() / statistics.median(seconds) / 1e9
    report = {
        "config": arguments.config,
        "batch_size": config.train.batch_size,
        "tokens_per_sample": float(batch.mask.sum()) / len(index),
        "threads": arguments.threads,
        "seconds_per_step": statistics.median(seconds),
        "samples_per_second": len(index) / statistics.median(seconds),
        "gflops_per_second": reached,
        "machine_gflops_per_second": peak,
        "share": reached / peak,
    }
    print(json.dumps(report, indent=2))
    if arguments.out:
        arguments.out.write_text(json.dumps(report, indent=2) + "\n")


def timed(action) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
