"""Things from words as they come: whether the class of the prompts of `text_to_3d.py` is seen all around.

python benchmarks/object_views.py --out benchmarks/object_views.json
"""

import argparse
import json
from pathlib import Path

import numpy as np
from text_to_3d import PROMPTS

import gen3d
from gen3d.domains.objects.metrics import prompt_metrics
from gen3d.files import atomic_write


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", default="object")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    generator = gen3d.load(arguments.checkpoint)
    rows = []
    for prompt in PROMPTS:
        (made,) = generator.sample(1, seed=arguments.seed, prompt=prompt, progress=False)
        found = {metric.name: metric.value for metric in prompt_metrics([made], [prompt])}
        rows.append({"prompt": prompt, **found})
        print(rows[-1], flush=True)
    views = [row["class_views"] for row in rows]
    colours = [row["colour_views"] for row in rows if "colour_views" in row]
    report = {
        "seed": arguments.seed,
        "class_views": float(np.mean(views)),
        "class_right_from_most_views": 100 * float(np.mean([v > 50 for v in views])),
        "colour_right_from_most_views": 100 * float(np.mean([v > 50 for v in colours])),
        "rows": rows,
    }
    with atomic_write(arguments.out) as temporary:
        temporary.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
