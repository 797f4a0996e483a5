"""Ten edits of real meshes with the shipped prior: what changes, where, and what each part of Vox-E does.

python benchmarks/edits.py --source sweethome3d --runs runs/edits --out benchmarks/edits.json

Local edits are refined; every one is measured before and after that, on the same optimisation. With
--ablations local edits are made again without a regulariser and with one on pictures instead. One core for
each of two runs.
"""

import argparse
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import trimesh
from pooled import pooled

from gen3d import judges, media
from gen3d.captures.render import render_mesh
from gen3d.captures.things import Thing, read_things
from gen3d.config import from_dict, to_dict
from gen3d.diffusion.priors import as_prior
from gen3d.domains.voxel_edit.config import VoxelEditRun, editing
from gen3d.domains.voxel_edit.domain import VoxelEditFit
from gen3d.domains.voxel_edit.show import read_edited
from gen3d.optimise import read_prior
from gen3d.scenes.gallery import pictures_around
from gen3d.scenes.judged import ELEVATION, VIEWS, WIDTH
from gen3d.scenes.viewpoints import cameras


@dataclass(frozen=True)
class Edit:
    """A noun, a prompt, and the words of the prompt that are new; none for an edit of the whole."""

    noun: str
    prompt: str
    words: tuple[str, ...] = ()


EDITS = (
    Edit("table", "a table with a lamp on it", ("lamp",)),
    Edit("cabinet", "a cabinet with a vase on it", ("vase",)),
    Edit("desk", "a desk with a plant on it", ("plant",)),
    Edit("sofa", "a sofa with a cat on it", ("cat",)),
    Edit("stool", "a stool with a bottle on it", ("bottle",)),
    Edit("chair", "a red chair"),
    Edit("table", "a blue table"),
    Edit("sofa", "a green sofa"),
    Edit("armchair", "a purple armchair"),
    Edit("bed", "an orange bed"),
)
VARIANTS: dict[str, dict[str, Any]] = {
    "volume": {},
    "none": {"fit": {"penalties": {}}},
    "pictures": {"fit": {"penalties": {}}, "domain_config": {"image_l2": 10.0}},
}
"""Regularisers: the correlation of densities, none, and differences of pictures."""
LOOKS = 6
"""From where models are looked at to choose one."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--source", default="sweethome3d", help="as of gen3d prepare --domain image")
    parser.add_argument("--prior", default="image")
    parser.add_argument("--steps", type=int, help="other than the default's")
    parser.add_argument("--edits", type=int, nargs="*", default=range(len(EDITS)), help="numbers of EDITS")
    parser.add_argument("--ablations", action="store_true")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    arguments.runs.mkdir(parents=True, exist_ok=True)
    things = read_things(arguments.source, progress=False)
    jobs = []
    chosen: dict[str, Thing] = {}
    for number in arguments.edits:
        edit = EDITS[number]
        if edit.noun not in chosen:
            own = [t for t in things if t.noun == edit.noun and t.split == "train"]
            chosen[edit.noun] = typical(own)
        thing = chosen[edit.noun]
        mesh = trimesh.Trimesh(thing.vertices, thing.faces, face_colors=thing.colours, process=False)
        file = arguments.runs / f"{number}_{edit.noun}.ply"
        mesh.export(file)
        for variant in VARIANTS if arguments.ablations and edit.words else ("volume",):
            jobs.append((number, variant, file, arguments.prior, arguments.steps, arguments.runs))
    about = {"prior": arguments.prior, "steps": arguments.steps, "seed": 0}
    pooled(made, jobs, arguments.workers, arguments.out, lambda rows: {**about, **summary(rows)})


def typical(things: list[Thing]) -> Thing:
    """The one that a classifier takes for its noun from most sides, the first of these: some "tables" of the
    set are cubes."""
    shots = cameras(torch.arange(LOOKS) * (360 / LOOKS), torch.full((LOOKS,), ELEVATION), WIDTH)

    def hits(thing: Thing) -> int:
        seen = torch.from_numpy(render_mesh(thing.vertices, thing.faces, thing.colours, shots)).float() / 255
        pictures = (seen[..., :3] * seen[..., 3:] + 1 - seen[..., 3:]).permute(0, 3, 1, 2)
        noun = judges.words_of(thing.noun)[0]
        return 0 if noun is None else int(judges.recognised(pictures, [noun] * LOOKS).sum())

    return max(things, key=hits)


def made(job: tuple[int, str, Path, str, int | None, Path]) -> dict[str, Any]:
    """One edit, measured."""
    number, variant, file, prior, steps, runs = job
    torch.set_num_threads(1)
    edit, start = EDITS[number], time.perf_counter()
    changes = VARIANTS[variant]
    fit = {**to_dict(editing(local=bool(edit.words))), **changes.get("fit", {})}
    if steps is not None:
        fit["steps"] = steps
    config = {"prompt": edit.prompt, "edit_words": edit.words, "fit": fit}
    config["domain_config"] = changes.get("domain_config", {})
    run = VoxelEditFit(from_dict(VoxelEditRun, config), file, as_prior(read_prior(prior)))
    run.begin()
    while run.share() < 1:
        run.advance()
    seconds = time.perf_counter() - start
    whole = run.scene()
    free = pictures_around(whole, WIDTH, VIEWS, ELEVATION)
    folder = runs / f"{number}_{variant}"
    run.write(folder)
    scene = read_edited(folder)
    before, kept = (pictures_around(s, WIDTH, VIEWS, ELEVATION) for s in (scene.before, scene.after))
    rows = [torch.cat(list(some[::3]), 1) for some in (before, free, kept)]
    rows.append(torch.cat(pictures_around(scene.marked(), WIDTH, 4, ELEVATION), 1))
    media.write_png(torch.cat(rows), runs / f"{number}_{variant}.png")
    found: dict[str, Any] = {"edit": edit.prompt, "variant": variant, "seconds": round(seconds, 1)}
    if edit.words:
        outside = [~mask for mask in scene.where(WIDTH, VIEWS, ELEVATION)]
        found["outside_unrefined"] = change(before, free, outside)
        found["outside_refined"] = change(before, kept, outside)
        found["overlap"] = scene.overlap()
        found["edited_percent"] = 100 * float(scene.part.float().mean())
    found["features_unrefined"] = moved(before, free)
    found["features_refined"] = moved(before, kept)
    noun, colour = judges.words_of(edit.words[0] if edit.words else edit.prompt)
    seen = torch.stack(list(kept)).permute(0, 3, 1, 2)
    found["class_views"] = 100 * float(judges.recognised(seen, [str(noun)] * VIEWS).float().mean())
    if colour is not None:
        shown = [judges.shows_colour((p.clamp(0, 1) * 255).round().byte().numpy(), colour) for p in kept]
        found["colour_views"] = 100 * float(np.mean(shown))
    return found


def change(before: list[torch.Tensor], after: list[torch.Tensor], outside: list[torch.Tensor]) -> float:
    """Root mean square change, 0 to 1, of pixels that show no edited part."""
    errors = [(a - b).square()[mask] for a, b, mask in zip(after, before, outside, strict=True)]
    return float(torch.cat(errors).mean().sqrt())


def moved(before: list[torch.Tensor], after: list[torch.Tensor]) -> float:
    """Mean cosine distance of what a classifier sees before and after in one view."""
    one, other = (judges.features(torch.stack(some).permute(0, 3, 1, 2)) for some in (before, after))
    return float(1 - torch.cosine_similarity(one, other, dim=1).mean())


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Means over edits by variant."""
    found: dict[str, Any] = {}
    for variant in VARIANTS:
        own = [row for row in rows if row["variant"] == variant]
        names = ("outside_unrefined", "outside_refined", "features_unrefined", "features_refined", "overlap")
        values = {name: [row[name] for row in own if name in row] for name in names}
        found[variant] = {name: float(np.mean(v)) for name, v in values.items() if v}
    coloured = [row["colour_views"] > 50 for row in rows if "colour_views" in row]
    found["colour_right_from_most_views"] = 100 * float(np.mean(coloured)) if coloured else None
    found["seconds"] = float(np.mean([row["seconds"] for row in rows]))
    return found


if __name__ == "__main__":
    main()
