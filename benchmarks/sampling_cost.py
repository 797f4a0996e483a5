"""What a sample costs against the batch size, the number of atoms and the steps, as JSON and a plot.

python benchmarks/sampling_cost.py --out benchmarks/sampling_cost.json --plot docs/assets/sampling_cost.png

The shipped molecule model; perception of bonds is left out. One of the three varies at a time; the
others are 64 samples at once, 18 atoms and the checkpoint's steps.
"""

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import torch

import gen3d

BATCH, ATOMS = 64, 18
SERIES: dict[str, tuple[int, ...]] = {
    "batch_size": (1, 4, 16, 64, 256),
    "num_atoms": (9, 18, 27, 54, 108),
    "steps": (5, 10, 25, 50, 100),
}
TICKS = (5, 10, 20, 50, 100, 200, 500, 1000)
NAMES = {"batch_size": "samples at once", "num_atoms": "atoms of a molecule", "steps": "steps"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--plot", type=Path, required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    generator = gen3d.load("molecule", "cpu")
    generator.domain.to_native = generator.domain.to_systems  # type: ignore[method-assign]
    generator.sample(BATCH, num_atoms=ATOMS, progress=False)  # the first run allocates

    def milliseconds(**changed: int) -> float:
        """Of one molecule, the median over the repeats."""
        settings: dict[str, Any] = {"batch_size": BATCH, "num_atoms": ATOMS, **changed}
        count = settings["batch_size"]
        taken = []
        for repeat in range(arguments.repeats):
            start = time.perf_counter()
            generator.sample(count, seed=repeat, progress=False, **settings)
            taken.append(time.perf_counter() - start)
        return 1e3 * statistics.median(taken) / count

    series = {name: {value: milliseconds(**{name: value}) for value in SERIES[name]} for name in SERIES}
    report = {
        "threads": arguments.threads,
        "steps": generator.config.sampling.steps,
        "torch": torch.__version__,
        "milliseconds_per_molecule": series,
    }
    print(json.dumps(report, indent=2))
    arguments.out.write_text(json.dumps(report, indent=2) + "\n")
    draw(series, arguments.plot)


def draw(series: dict[str, dict[int, float]], target: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(series), figsize=(10, 3.2), sharey=True)
    for axis, (name, points) in zip(axes, series.items(), strict=True):
        axis.loglog(list(points), list(points.values()), "o-")
        axis.set_xlabel(NAMES[name])
        axis.set_xticks(list(points), [str(value) for value in points])
        axis.set_yticks(TICKS, list(map(str, TICKS)))
        axis.minorticks_off()
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("milliseconds a molecule")
    figure.tight_layout()
    figure.savefig(target, dpi=110)


if __name__ == "__main__":
    main()
