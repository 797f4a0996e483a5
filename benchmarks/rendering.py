"""How long one picture of a fitted scene takes, with and without skipping what is empty.

python benchmarks/rendering.py runs/mage --reference data/mage --threads 2 --out benchmarks/rendering.json

Both ways see the same held-out cameras in turn, in one process.
"""

import argparse
import dataclasses
import json
import time
from pathlib import Path
from typing import Any

import torch

import gen3d
from gen3d.captures import read_views
from gen3d.fields.occupancy import Occupancy
from gen3d.files import atomic_write
from gen3d.scenes.quality import psnr


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--reference", type=Path, required=True, help="the capture with held-out pictures")
    parser.add_argument("--views", type=int, default=6)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)

    scene = gen3d.load(arguments.run)
    views = read_views(arguments.reference, "test")
    views = views[list(range(min(arguments.views, len(views))))]
    truth = torch.from_numpy(views.composited())
    cells, parts = scene.occupancy.cells.shape[1], scene.occupancy.cells.shape[0]
    ways = {
        "skipping": scene,
        "asking everywhere": dataclasses.replace(scene, occupancy=Occupancy(scene.field.box, cells, parts)),
    }
    found: dict[str, Any] = {
        name: {"seconds_a_frame": 0.0, "psnr": 0.0, "points_a_frame": 0.0} for name in ways
    }
    for view, image in enumerate(truth):
        for name, way in ways.items():
            start = time.perf_counter()
            seen = way.render(views.cameras, view)
            row = found[name]
            row["seconds_a_frame"] += (time.perf_counter() - start) / len(truth)
            row["psnr"] += psnr(seen.colour.clamp(0, 1), image) / len(truth)
            row["points_a_frame"] += seen.asked / len(truth)
    slow, fast = found["asking everywhere"], found["skipping"]
    found["times_faster"] = slow["seconds_a_frame"] / fast["seconds_a_frame"]
    size = [views.cameras.width, views.cameras.height]
    report = {"scene": arguments.run.name, "size": size, "threads": arguments.threads, **found}
    print(json.dumps(report, indent=2))
    with atomic_write(arguments.out) as temporary:
        temporary.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
