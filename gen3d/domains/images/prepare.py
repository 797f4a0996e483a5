"""From meshes to captioned, posed pictures."""

import os
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gen3d.captures.compose import Composer
from gen3d.captures.render import render_mesh
from gen3d.captures.things import Thing, of_split, read_things
from gen3d.captures.write import write_json
from gen3d.errors import Gen3dError
from gen3d.files import atomic_write
from gen3d.nn.prompts import embedded
from gen3d.scenes.viewpoints import cameras, random_view, view_words
from gen3d.version import __version__

PICTURES = 24_000
"""For training, where no other number is asked for."""
SPLITS = {"train": 1.0, "valid": 0.03, "test": 0.04}
"""Pictures of each split, as a share of those for training."""
SIDES = 2
"""Pictures taken of each composition."""
TELL_VIEW = 0.5
"""Share of the captions that tell the view."""
CHUNK = 50
"""Compositions that a process makes at a time."""

_composers: dict[str, Composer] = {}


def prepare(
    source: str, out: Path, *, size: int, limit: int | None, seed: int, progress: bool
) -> dict[str, int]:
    """Write `train.npz`, `valid.npz`, `test.npz` and `dataset.json`.

    Models that their set holds back for testing are in the last; pairs of a colour and a noun that training
    never tells are in the others, too. The same arguments make the same pictures.

    Args:
        source: as of `gen3d.captures.things.read_things`.
        out: the folder.
        size: pixels along a side.
        limit: pictures for training.
        seed: of all that is drawn at random.
        progress: show progress bars.

    Returns:
        Pictures by split.

    Raises:
        Gen3dError: a source cannot be read.
    """
    if limit is not None and limit < SIDES:
        raise Gen3dError(f"limit is {limit}; at least {SIDES} pictures are needed")
    things = read_things(source, progress)
    counts = {}
    for number, (split, share) in enumerate(SPLITS.items()):
        own = of_split(things, split) or things
        _composers[split] = Composer(own, split)
        counts[split] = SIDES * max(1, round(share * (limit or PICTURES) / SIDES))
        arrays = _pictures(split, counts[split] // SIDES, size, [seed, number], progress)
        with atomic_write(out / f"{split}.npz") as temporary, open(temporary, "wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]
    about = {
        "source": source,
        "things": len(things),
        "nouns": sorted({t.noun for t in things}),
        "pictures": counts,
        "size": size,
        "seed": seed,
        "gen3d": __version__,
    }
    write_json(out / "dataset.json", about)
    return counts


def _pictures(split: str, count: int, size: int, seed: list[int], progress: bool) -> dict[str, np.ndarray]:
    from gen3d.progress import tqdm

    parts = [(split, first, min(CHUNK, count - first), size, seed) for first in range(0, count, CHUNK)]
    workers = min(os.cpu_count() or 1, len(parts))
    # Processes that are forked share the things; each draws numbers of its own for every composition.
    with ProcessPoolExecutor(workers, mp_context=get_context("fork")) as pool:
        bar = tqdm(pool.map(_part, parts), total=len(parts), desc=split, disable=not progress, leave=False)
        rows = [row for part in bar for row in part]
    return {
        "images": np.concatenate([row["images"] for row in rows]),
        "azimuth": np.concatenate([row["azimuth"] for row in rows]),
        "elevation": np.concatenate([row["elevation"] for row in rows]),
        **embedded([row["caption"] for row in rows for _ in range(len(row["images"]))], progress),
        **{
            name: np.array([row[name] for row in rows for _ in range(len(row["images"]))])
            for name in ("noun", "colour", "other", "told")
        },
    }


def _part(asked: tuple[str, int, int, int, list[int]]) -> list[dict[str, Any]]:
    split, first, count, size, seed = asked
    torch.set_num_threads(1)
    rows = []
    for number in range(first, first + count):
        random = np.random.default_rng([*seed, number])
        rows += _row(_composers[split], size, random)
    return rows


def _row(composer: Composer, size: int, random: np.random.Generator) -> list[dict[str, Any]]:
    """Pictures of one composition, those with a caption of their own apart."""
    picture = composer.draw(random)
    places = np.array([random_view(random) for _ in range(SIDES)], np.float32)
    azimuth, elevation = places.T
    shots = cameras(torch.from_numpy(azimuth.copy()), torch.from_numpy(elevation.copy()), size)
    seen = render_mesh(
        picture.vertices,
        picture.faces,
        picture.colours,
        shots,
        light=picture.light,
        samples=2,
        pattern=picture.pattern,
    )
    alpha = seen[..., 3:].astype(np.float32) / 255
    images = (seen[..., :3] * alpha + 255 * (1 - alpha)).round().astype(np.uint8)
    told = {"noun": picture.noun, "colour": picture.colour, "other": picture.other, "told": picture.told}
    rows = []
    for view in range(SIDES):
        caption = picture.caption
        if random.random() < TELL_VIEW:
            caption += f", {view_words(azimuth[view], elevation[view])}"
        one = slice(view, view + 1)
        rows.append(
            {
                "images": images[one],
                "azimuth": azimuth[one],
                "elevation": elevation[one],
                "caption": caption,
                **told,
            }
        )
    return rows


def things_of(source: str, split: str, progress: bool = False) -> list[Thing]:
    """The things of a source that are in a split, for judging what is made against them."""
    return of_split(read_things(source, progress), split)
