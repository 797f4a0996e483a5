"""What bounds text to 3D: what its judge of classes says of real meshes and of the prior's own pictures.

python benchmarks/views_around.py --source sweethome3d,characters --out benchmarks/views_around.json

For the noun of each prompt of `text_to_3d.py`, up to --meshes models as they are, rendered from the same
sides and in the same size as scenes made from words; and as many pictures of the prompt by the shipped prior,
from the same height, each on its own.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from text_to_3d import PROMPTS

import gen3d
from gen3d import judges
from gen3d.captures.render import render_mesh
from gen3d.captures.things import Thing, read_things
from gen3d.files import atomic_write
from gen3d.scenes.judged import ELEVATION, VIEWS, WIDTH
from gen3d.scenes.viewpoints import cameras


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--source", required=True, help="as of gen3d prepare --domain image")
    parser.add_argument("--meshes", type=int, default=10, help="of each noun, at most")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    things = read_things(arguments.source, progress=False)
    prior = gen3d.load("image")
    rows = []
    for prompt in PROMPTS:
        noun = judges.words_of(prompt)[0] or ""
        own = [thing for thing in things if thing.noun == noun][: arguments.meshes]
        made = prior.sample(VIEWS, seed=0, prompt=prompt, elevation=ELEVATION, progress=False)
        shown = torch.stack([torch.from_numpy(np.array(p.convert("RGB"))) for p in made]).permute(0, 3, 1, 2)
        by_prior = 100 * float(judges.recognised(shown / 255, [noun] * VIEWS).float().mean())
        rows.append({"prompt": prompt, "prior_views": by_prior, **real(noun, own)})
        print(rows[-1], flush=True)
    report = {
        "real_right_from_most_views": _mean(rows, "real_right_from_most_views"),
        "real_views": _mean(rows, "real_views"),
        "prior_right_from_most_views": 100 * float(np.mean([row["prior_views"] > 50 for row in rows])),
        "prior_views": _mean(rows, "prior_views"),
        "rows": rows,
    }
    with atomic_write(arguments.out) as temporary:
        temporary.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def real(noun: str, things: list[Thing]) -> dict[str, Any]:
    """Share of the views, and of the models from most views, that are recognised, in percent."""
    shots = cameras(torch.arange(VIEWS) * (360 / VIEWS), torch.full((VIEWS,), ELEVATION), WIDTH)
    shares = []
    for thing in things:
        seen = render_mesh(thing.vertices, thing.faces, thing.colours, shots, samples=2) / np.float32(255)
        white = seen[..., :3] * seen[..., 3:] + 1 - seen[..., 3:]
        pictures = torch.from_numpy(white).permute(0, 3, 1, 2)
        shares.append(float(judges.recognised(pictures, [noun] * VIEWS).float().mean()))
    return {
        "meshes": len(things),
        "real_views": 100 * float(np.mean(shares)),
        "real_right_from_most_views": 100 * float(np.mean([share > 0.5 for share in shares])),
    }


def _mean(rows: list[dict[str, Any]], name: str) -> float:
    """Of all prompts, each counted once."""
    return float(np.mean([row[name] for row in rows]))


if __name__ == "__main__":
    main()
