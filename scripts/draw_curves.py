"""Draw the loss of trainings against minutes: the picture of the learning curves.

python scripts/draw_curves.py docs/assets/learning_curves.png benchmarks/training/*.jsonl
"""

import json
import sys
from pathlib import Path

import matplotlib


def main(target: Path, sources: list[Path]) -> None:
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(7, 4))
    for source in sources:
        lines = [json.loads(line) for line in source.read_text().splitlines()]
        prior = [line for line in lines if line["stage"] == "prior"][2:]  # the first are far above
        axis.plot([p["minutes"] for p in prior], [p["diffusion"] for p in prior], label=source.stem)
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
