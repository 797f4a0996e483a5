"""Fields of moving scenes side by side: the same capture, the same minutes, held-out cameras and times.

python benchmarks/dynamic_scenes.py data/mage data/knight --seconds 120 --out benchmarks/dynamic_scenes.json
python benchmarks/dynamic_scenes.py data/mage --ablations --out benchmarks/dynamic_ablations.json
python benchmarks/dynamic_scenes.py data/mage --views 5 10 25 --variants shade "shade, prior" --out a.json
python benchmarks/dynamic_scenes.py chair_train.npz --variants voxels --split valid --width 200 --out a.json

Methods and variants take turns on one machine. Seconds are those on the clock, with nothing else running;
with one thread they are processor time. Every row is added to the report as soon as it is measured, on the
test pictures before white.
"""

import argparse
import itertools
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gen3d.captures import Views, read_views
from gen3d.config import from_dict, load_yaml, merge
from gen3d.domains.dynamic_scene.config import DynamicSceneRun
from gen3d.domains.dynamic_scene.domain import DynamicSceneDomain, SceneFit
from gen3d.files import atomic_write
from gen3d.generator import Generator

MEASURES = ("psnr", "ssim", "lpips", "seconds_a_frame", "megabytes")


def field(**changes: Any) -> dict[str, Any]:
    return {"domain_config": changes}


def penalties(**weights: float) -> dict[str, Any]:
    return {"fit": {"penalties": weights}}


CONFIGS = Path(__file__).parents[1] / "configs"
METHODS: dict[str, dict[str, Any]] = {
    "shade": load_yaml(CONFIGS / "dynamic-scene.yaml"),
    "shade, plain harmonics": field(head="harmonics"),
    "shade, prior": {"prior": {}},
    "shade, prior without its denoiser": {"prior": {}, **penalties(denoising=0.0)},
    "hexplane": load_yaml(CONFIGS / "dynamic-scene_hexplane.yaml"),
    "kplanes": load_yaml(CONFIGS / "dynamic-scene_kplanes.yaml"),
    "voxels": load_yaml(CONFIGS / "dynamic-scene_voxels.yaml"),
    "hashgrid": load_yaml(CONFIGS / "dynamic-scene_hashgrid.yaml"),
}
# So many steps that time alone ends the fit.
ENDLESS = {"fit": {"steps": 10**6}}
MOVING = ("shade", "shade, plain harmonics", "hexplane", "kplanes")
ABLATIONS: dict[str, dict[str, Any]] = {
    "default": {},
    "harmonics, degree 1": field(head="harmonics"),
    "harmonics, degree 0": field(head="harmonics", degree=0),
    "attention, degree 2": field(degree=2),
    "perceptron": field(head="perceptron"),
    "planes multiplied": field(deformation={"fusion": "product"}),
    "projection learned": field(deformation={"learned": True}),
    "canonical time 0": field(deformation={"canonical_time": 0.0}),
    "nothing moves": field(deformation={"still": 1.0}),
    "finer steps": {"fit": {"samples": 80, "finer": 32}},
    "time not smoothed": penalties(bending=0.0, acceleration=0.0),
    "density not smoothed": penalties(density_variation=0.0),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("captures", type=Path, nargs="+")
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--ablations", action="store_true", help="variants of SHaDe instead of its rivals")
    parser.add_argument("--variants", nargs="*", help="names of some; default all")
    parser.add_argument("--split", choices=("test", "valid"), default="test", help="what is held out")
    parser.add_argument("--views", type=int, nargs="*", default=[], help="training pictures, evenly chosen")
    parser.add_argument("--width", type=int, help="of the pictures, in pixels; default those of the capture")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    variants = ABLATIONS if arguments.ablations else METHODS
    torch.set_num_threads(arguments.threads)

    report: dict[str, Any] = {"threads": arguments.threads, "seconds": arguments.seconds, "rows": []}
    if arguments.out.is_file():
        report = json.loads(arguments.out.read_text())
        if (report["threads"], report["seconds"]) != (arguments.threads, arguments.seconds):
            raise SystemExit(f"{arguments.out} is of other threads or seconds; choose another --out")
    for capture in arguments.captures:
        names = arguments.variants or (variants if arguments.ablations else MOVING)
        for views, name in itertools.product(arguments.views or [0], names):
            row = {"scene": capture.stem, **({"views": views} if views else {}), "variant": name}
            report["rows"] = [old for old in report["rows"] if not row.items() <= old.items()]
            run = from_dict(DynamicSceneRun, merge(variants[name], ENDLESS), "")
            report["rows"].append({**row, **fitted(capture, views, run, arguments)})
            print(json.dumps(report["rows"][-1]), flush=True)
            with atomic_write(arguments.out) as temporary:
                temporary.write_text(json.dumps(report, indent=2) + "\n")


def fitted(capture: Path, count: int, run: DynamicSceneRun, arguments: argparse.Namespace) -> dict[str, Any]:
    """What a field is like after so many seconds of fitting to `count` pictures, all if 0."""
    views, held_out = (read(capture, split, arguments.width) for split in ("train", arguments.split))
    if count:
        views = views[np.linspace(0, len(views) - 1, count).round().astype(int)]
    prior = None if run.prior is None else Generator.from_pretrained(run.prior.checkpoint, "cpu")
    fit = SceneFit(run, views, None, prior)
    since = time.process_time()
    while fit.seconds < arguments.seconds:
        fit.advance(arguments.seconds)
        if arguments.threads == 1:
            fit.seconds = time.process_time() - since
    found = {m.name: m.value for m in DynamicSceneDomain(run.domain_config).metrics([fit.scene()], held_out)}
    return {"steps": fit.step, **{name: found[name] for name in MEASURES if name in found}}


def read(capture: Path, split: str, width: int | None) -> Views:
    views = read_views(capture, split)
    size = views.cameras
    return views if width is None else views.resized(width, round(width * size.height / size.width))


if __name__ == "__main__":
    main()
