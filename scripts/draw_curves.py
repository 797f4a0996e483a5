"""Draw the loss of the shipped models' trainings against minutes: the picture of the learning curves.

python scripts/draw_curves.py docs/assets/learning_curves.png benchmarks/training/*.jsonl

Files of one model, DOMAIN_1.jsonl, DOMAIN_2..., are stages of one training and stand one after the other.
"""

import json
import sys
from itertools import groupby
from pathlib import Path

import matplotlib


def main(target: Path, sources: list[Path]) -> None:
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(7, 4))
    for domain, stages in groupby(sorted(sources), lambda source: source.stem.split("_")[0]):
        before, colour = 0.0, None
        for source in stages:
            lines = [json.loads(line) for line in source.read_text().splitlines()]
            prior = [line for line in lines if line["stage"] == "prior"][2:]  # the first are far above
            minutes = [before + line["minutes"] for line in prior]
            losses = [line["diffusion"] for line in prior]
            (drawn,) = axis.plot(minutes, losses, color=colour, label=None if colour else domain)
            before, colour = before + lines[-1]["minutes"], drawn.get_color()
    axis.set_yscale("log")
    axis.set_xlabel("minutes of training, one core")
    axis.set_ylabel("training loss")
    axis.legend()
    axis.grid(alpha=0.3, which="both")
    figure.tight_layout()
    target.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(target, dpi=110)


if __name__ == "__main__":
    main(Path(sys.argv[1]), [Path(name) for name in sys.argv[2:]])
