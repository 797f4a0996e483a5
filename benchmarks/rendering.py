"""How long one picture of a fitted scene takes, with and without skipping what is empty.

Without skipping the field is asked everywhere, and what the occupancy grid calls empty is set to nothing
afterwards, so that both ways see the same; without the grid at all, what training has left in places that
no camera could judge is seen too.

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
from torch import Tensor

import gen3d
from gen3d.captures import read_views
from gen3d.fields.base import Field, Located
from gen3d.fields.occupancy import Occupancy
from gen3d.files import atomic_write
from gen3d.scenes.quality import psnr


class Masked(Field):
    """A field that is asked everywhere, and is nothing where a grid says so."""

    def __init__(self, field: Field, occupancy: Occupancy) -> None:
        super().__init__()
        self.field, self.occupancy = field, occupancy
        self.channels, self.box = field.channels, field.box

    def density(self, points: Tensor, times: Tensor | None) -> tuple[Tensor, Located]:
        density, located = self.field.density(points, times)
        return density * self.occupancy.contains(points, times), located

    def colour(self, located: Located, directions: Tensor, times: Tensor | None) -> Tensor:
        return self.field.colour(located, directions, times)


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
    full = Occupancy(scene.field.box, 1)
    ways = {
        "skipping": scene,
        "asking everywhere": dataclasses.replace(
            scene, field=Masked(scene.field, scene.occupancy), occupancy=full
        ),
        "no grid": dataclasses.replace(scene, occupancy=full),
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
