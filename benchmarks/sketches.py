"""Sketch-Shape: how much of a sketch a field fills, from strict to free.

python benchmarks/sketches.py teddy.obj potion.obj --prompts "a brown dog" "a green bottle" \
    --runs runs/sketches --out benchmarks/sketches.json
"""

import argparse
from pathlib import Path
from typing import Any

import torch
from pooled import pooled

from gen3d import media
from gen3d.config import from_dict
from gen3d.diffusion.priors import as_prior
from gen3d.domains.latent_nerf.config import LatentNeRFRun
from gen3d.domains.latent_nerf.domain import LatentNeRFFit
from gen3d.optimise import read_prior
from gen3d.scenes.gallery import pictures_around


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sketches", nargs="+", type=Path)
    parser.add_argument("--prompts", nargs="+", required=True, help="one for each sketch")
    parser.add_argument("--prior", default="image")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--strictness", nargs="*", type=float, default=[10.0, 1.0, 0.1])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--runs", type=Path, required=True, help="where pictures go")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    if len(arguments.prompts) != len(arguments.sketches):
        parser.error(f"{len(arguments.prompts)} prompts for {len(arguments.sketches)} sketches")
    arguments.runs.mkdir(parents=True, exist_ok=True)
    jobs = [
        (sketch, prompt, strictness, arguments.prior, arguments.steps, arguments.runs)
        for sketch, prompt in zip(arguments.sketches, arguments.prompts, strict=True)
        for strictness in arguments.strictness
    ]
    about = {"prior": arguments.prior, "steps": arguments.steps, "seed": 0}
    pooled(made, jobs, arguments.workers, arguments.out, lambda rows: about)


def made(job: tuple[Path, str, float, str, int, Path]) -> dict[str, Any]:
    """One field, and its overlap with the sketch."""
    sketch, prompt, strictness, prior, steps, runs = job
    torch.set_num_threads(1)
    config = {
        "prompt": prompt,
        "domain_config": {"sketch": {"mesh": str(sketch), "strictness": strictness}},
        "fit": {"steps": steps},
    }
    fit = LatentNeRFFit(from_dict(LatentNeRFRun, config), as_prior(read_prior(prior)))
    fit.begin()
    while fit.share() < 1:
        fit.advance()
    seen = torch.cat(pictures_around(fit.scene(), 128, 4), 1)
    media.write_png(seen, runs / f"{sketch.stem}_{strictness:g}.png")
    overlap = fit.measure()["overlap"]
    return {"sketch": sketch.stem, "prompt": prompt, "strictness": strictness, "overlap": overlap}


if __name__ == "__main__":
    main()
