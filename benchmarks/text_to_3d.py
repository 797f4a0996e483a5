"""Text to 3D from the shipped prior: whether class and colour of prompts are seen all around, and minutes.

python benchmarks/text_to_3d.py --runs runs/text --out benchmarks/text_to_3d.json
python benchmarks/text_to_3d.py --runs runs/ball --start ball --out benchmarks/text_to_3d_ball.json
python benchmarks/text_to_3d.py --runs runs/janus --start ball --cameras --out benchmarks/janus.json

Each prompt is one run of one processor core, two side by side; seconds are of the whole run. With --cameras
every prompt is made twice, with and without telling the prior the camera and the view.
"""

import argparse
import resource
import time
from pathlib import Path
from typing import Any

import torch
from pooled import pooled

from gen3d.domains.latent_nerf.domain import LatentNeRFDomain
from gen3d.domains.latent_nerf.options import LatentNeRFOptions
from gen3d.domains.objects.metrics import prompt_metrics as mesh_metrics
from gen3d.media import write_png
from gen3d.optimise import made_of, optimise
from gen3d.scenes.judged import ELEVATION, VIEWS, WIDTH, prompt_metrics

PROMPTS = (
    "a blue sofa", "a red armchair", "a green bottle", "a yellow bed", "a white toilet", "a wooden table",
    "a brown box", "a purple vase", "a red car", "a green plant", "a blue cup", "an orange chair",
    "a black piano", "a grey cat", "a pink desk", "a red bicycle", "a brown dog", "a grey bathtub",
    "a blue trash can", "a green bench",
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prompts", nargs="*", default=PROMPTS)
    parser.add_argument("--prior", default="image")
    parser.add_argument("--start", default=None, help="as of gen3d sample --domain latent-nerf")
    parser.add_argument("--steps", type=int, default=None)
    parser.add_argument("--cameras", action="store_true", help="with and without telling the camera")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    told = (True, False) if arguments.cameras else (True,)
    jobs = [
        (LatentNeRFOptions(prompt, start=arguments.start, prior=arguments.prior), tell, arguments)
        for prompt in arguments.prompts
        for tell in told
    ]
    about = {"prior": arguments.prior, "start": arguments.start, "seed": 0}
    pooled(made, jobs, arguments.workers, arguments.out, lambda rows: {**about, **summary(rows)})


def made(job: tuple[LatentNeRFOptions, bool, argparse.Namespace]) -> dict[str, Any]:
    """One scene, judged from all around."""
    options, tell, arguments = job
    prompt, runs = options.prompt or "", arguments.runs
    torch.set_num_threads(1)
    start = time.perf_counter()
    given = {} if arguments.steps is None else {"steps": arguments.steps}
    config = LatentNeRFDomain.run_config(options, {**given, "tell_camera": tell, "tell_view": tell})
    name = prompt.replace(" ", "_") + ("" if tell else "_blind")
    checkpoint = optimise(config, None, runs / name, progress=False)
    seconds = time.perf_counter() - start
    pictures = LatentNeRFDomain.load(checkpoint).pictures(WIDTH, VIEWS, ELEVATION)
    write_png(torch.cat(pictures[::3], 1), runs / f"{name}.png")
    found = {metric.name: metric.value for metric in prompt_metrics(pictures, prompt)}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    if config.start:
        mesh = made_of(prompt, config.start, config.fit.seed)
        found |= {
            f"start_{m.name}": m.value for m in mesh_metrics([mesh], [prompt]) if m.name == "class_views"
        }
    return {
        "prompt": prompt,
        "camera": tell,
        "steps": config.fit.steps,
        "seconds": round(seconds, 1),
        "peak_gb": round(peak, 2),
        **found,
    }


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Shares of prompts, in percent, and means."""
    told = [row for row in rows if row["camera"]]
    blind = [row for row in rows if not row["camera"]]
    by_class = [row["class_views"] > 50 for row in told if "class_views" in row]
    by_colour = [row["colour_views"] > 50 for row in told if "colour_views" in row]
    starts = [row["start_class_views"] > 50 for row in told if "start_class_views" in row]
    return {
        "class_right_from_most_views": _percent(by_class),
        "colour_right_from_most_views": _percent(by_colour),
        "start_right_from_most_views": _percent(starts),
        "class_views": _mean([row["class_views"] for row in told if "class_views" in row]),
        "opposite_alike": _mean([row["opposite_alike"] for row in told]),
        "opposite_alike_without_camera": _mean([row["opposite_alike"] for row in blind]),
        "seconds": _mean([row["seconds"] for row in rows]),
        "peak_gb": max(row["peak_gb"] for row in rows),
    }


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _percent(values: list[bool]) -> float | None:
    return 100 * sum(values) / len(values) if values else None


if __name__ == "__main__":
    main()
