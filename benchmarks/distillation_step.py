"""Where the time of a step of distillation goes: to the prior, or to the field.

python benchmarks/distillation_step.py --out benchmarks/distillation_step.json

Text to 3D with the shipped prior and default settings, in the first part of a run and in the second, where
empty cells are known; one thread. What is encoded anew in a step is the rendered pictures alone: words are
embedded once a run, and the field is summed up once a step.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch

import gen3d.scenes.distil
from gen3d.config import from_dict
from gen3d.domains.latent_nerf.config import LatentNeRFRun
from gen3d.domains.latent_nerf.domain import LatentNeRFFit
from gen3d.files import atomic_write
from gen3d.optimise import read_prior

PROMPT = "a red armchair"
WARM_UP = 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=10, help="that are timed, in each part")
    parser.add_argument("--before", type=int, default=260, help="steps before the second part, not timed")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    fit = LatentNeRFFit(from_dict(LatentNeRFRun, {"prompt": PROMPT}), read_prior("image"))
    clock = Clock()
    gen3d.scenes.distil.pull = clock.timed(gen3d.scenes.distil.pull)
    rows = [row("first", fit, clock, arguments.steps)]
    while fit.step < arguments.before:
        fit.advance()
    rows.append(row("second", fit, clock, arguments.steps))
    report = {"prompt": PROMPT, "threads": 1, "torch": torch.__version__, "rows": rows}
    with atomic_write(arguments.out) as temporary:
        temporary.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(rows, indent=2))


class Clock:
    """Seconds that a function takes, all calls together."""

    seconds = 0.0

    def timed(self, function: Any) -> Any:
        def call(*arguments: Any, **named: Any) -> Any:
            start = time.perf_counter()
            try:
                return function(*arguments, **named)
            finally:
                self.seconds += time.perf_counter() - start

        return call


def row(part: str, fit: LatentNeRFFit, clock: Clock, steps: int) -> dict[str, Any]:
    """Seconds of a step, and the shares of the prior and of the field with the rest."""
    for _ in range(WARM_UP):
        fit.advance()
    clock.seconds, start = 0.0, time.perf_counter()
    for _ in range(steps):
        fit.advance()
    whole = time.perf_counter() - start
    share = 100 * clock.seconds / whole
    return {
        "part": part,
        "filled": 100 * fit.occupancy.share,
        "seconds": whole / steps,
        "prior_percent": share,
        "field_percent": 100 - share,
    }


if __name__ == "__main__":
    main()
