"""Sketch-Shape: how much of a sketch a field fills, from strict to free.

python benchmarks/sketches.py teddy.obj potion.obj --prompt "a red box" --out benchmarks/sketches.json
"""

import argparse
import json
from pathlib import Path
from typing import Any

import torch

from gen3d.config import from_dict
from gen3d.diffusion.priors import as_prior
from gen3d.domains.latent_nerf.config import LatentNeRFRun
from gen3d.domains.latent_nerf.domain import LatentNeRFFit
from gen3d.files import atomic_write
from gen3d.optimise import read_prior


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sketches", nargs="+", type=Path)
    parser.add_argument("--prompt", default="a red teddy bear")
    parser.add_argument("--prior", default="image")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--strictness", nargs="*", type=float, default=[1.0, 0.1, 0.01])
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    prior = as_prior(read_prior(arguments.prior))
    rows: list[dict[str, Any]] = []
    for sketch in arguments.sketches:
        for strictness in arguments.strictness:
            config = {
                "prompt": arguments.prompt,
                "domain_config": {"sketch": {"mesh": str(sketch), "strictness": strictness}},
                "fit": {"steps": arguments.steps},
            }
            fit = LatentNeRFFit(from_dict(LatentNeRFRun, config), prior)
            while fit.share() < 1:
                fit.advance()
            rows.append(
                {"sketch": sketch.stem, "strictness": strictness, "overlap": fit.measure()["overlap"]}
            )
            print(rows[-1], flush=True)
            report = {"prompt": arguments.prompt, "steps": arguments.steps, "seed": 0, "rows": rows}
            with atomic_write(arguments.out) as temporary:
                temporary.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
