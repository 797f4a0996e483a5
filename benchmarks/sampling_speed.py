"""Molecules per second of the shipped model against ADiT's published recipe, in one run on one machine.

python benchmarks/sampling_speed.py --out benchmarks/sampling_speed.json

Both draw QM9-size molecules with their default settings: ours with its own steps, the other
(configs/molecule_s_paper.yaml, random weights: only speed is asked) with 100 steps, guidance 2 and
self-conditioning. Perception of bonds is left out of both. The rival is timed on fewer molecules.
"""

import argparse
import json
import resource
import statistics
import time
from pathlib import Path

import torch

import gen3d
from gen3d.config import load_yaml
from gen3d.generator import Generator
from gen3d.run_config import run_config

PAPER = Path(__file__).parents[1] / "configs" / "molecule_s_paper.yaml"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ours", type=int, default=1000, help="molecules of ours")
    parser.add_argument("--theirs", type=int, default=64, help="molecules of the published recipe")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)

    ours = gen3d.load("molecule", "cpu")
    paper = Generator(run_config(load_yaml(PAPER)).generator()).eval()
    # Sizes as in QM9: with hydrogens as tokens, the sum of heavy atoms and hydrogens.
    pairs = ours.codec.histogram("molecule").nonzero()
    for tokens, hydrogens in pairs.tolist():
        number = ours.codec.histogram("molecule")[tokens, hydrogens]
        paper.codec.histogram("molecule")[tokens + hydrogens, 0] += number
    paper.codec.elements_seen.copy_(ours.codec.elements_seen)
    for generator in (ours, paper):  # bonds are not what is compared
        generator.domain.to_native = generator.domain.to_systems  # type: ignore[method-assign]

    ours_seconds, paper_seconds = [], []
    for repeat in range(arguments.repeats):
        ours_seconds.append(seconds(ours, arguments.ours, repeat))
        if repeat == 0:
            ours_peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        paper_seconds.append(seconds(paper, arguments.theirs, repeat))
    rate = arguments.ours / statistics.median(ours_seconds)
    paper_rate = arguments.theirs / statistics.median(paper_seconds)
    report = {
        "threads": arguments.threads,
        "ours": {
            "molecules": arguments.ours,
            "steps": ours.config.sampling.steps,
            "seconds": ours_seconds,
            "molecules_per_second": rate,
            "peak_gib": ours_peak,
        },
        "molecule_s_paper": {
            "molecules": arguments.theirs,
            "steps": paper.config.sampling.steps,
            "guidance": paper.config.sampling.guidance,
            "seconds": paper_seconds,
            "molecules_per_second": paper_rate,
        },
        "ratio": rate / paper_rate,
        "torch": torch.__version__,
    }
    print(json.dumps(report, indent=2))
    if arguments.out:
        arguments.out.write_text(json.dumps(report, indent=2) + "\n")


def seconds(generator: Generator, count: int, seed: int) -> float:
    start = time.perf_counter()
    generator.sample(count, seed=seed, progress=False)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
