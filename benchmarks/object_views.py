"""Things from words: whether the class of the prompts of `text_to_3d.py` is seen all around, as they come and
of the best of several.

python benchmarks/object_views.py --best-of 1 --out benchmarks/object_views.json
python benchmarks/object_views.py --best-of 1 8 --n 4 --seed 1 --out views.json
"""

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from text_to_3d import PROMPTS

import gen3d
from gen3d.domains.objects.metrics import prompt_metrics
from gen3d.files import atomic_write
from gen3d.nn.prompts import read_prompts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", default="object")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--n", type=int, default=1, help="things of every prompt")
    parser.add_argument("--prompts", default=None, help="a file, a prompt a line; by default the 20")
    parser.add_argument("--best-of", nargs="*", type=int, default=[1, 8])
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    generator = gen3d.load(arguments.checkpoint)
    prompts = PROMPTS if arguments.prompts is None else read_prompts(arguments.prompts)
    reports = []
    for best_of in arguments.best_of:
        start = time.perf_counter()
        settings = {"seed": arguments.seed, "best_of": best_of, "progress": False}
        made = [m for prompt in prompts for m in generator.sample(arguments.n, prompt=prompt, **settings)]
        seconds = (time.perf_counter() - start) / len(made)
        found = judged(made, [prompt for prompt in prompts for _ in range(arguments.n)])
        reports.append({"best_of": best_of, "seconds": round(seconds, 1), **found})
        print({name: value for name, value in reports[-1].items() if name != "rows"}, flush=True)
    report = {"seed": arguments.seed, "threads": torch.get_num_threads(), "runs": reports}
    with atomic_write(arguments.out) as temporary:
        temporary.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def judged(made: Sequence[Any], prompts: Sequence[str]) -> dict[str, Any]:
    """Shares of views and of things, in percent; the error is the standard one over all things."""
    rows = [
        {"prompt": prompt, **{metric.name: metric.value for metric in prompt_metrics([mesh], [prompt])}}
        for mesh, prompt in zip(made, prompts, strict=True)
    ]
    views = np.array([row["class_views"] for row in rows])
    colours = np.array([row["colour_views"] for row in rows if "colour_views" in row])
    return {
        "class_views": float(views.mean()),
        "class_views_error": float(views.std() / len(views) ** 0.5),
        "class_right_from_most_views": 100 * float((views > 50).mean()),
        "colour_right_from_most_views": 100 * float((colours > 50).mean()),
        "rows": rows,
    }


if __name__ == "__main__":
    main()
