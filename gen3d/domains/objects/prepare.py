"""From meshes to coloured, captioned grids."""

import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from gen3d.captures.compose import FINISHES, Composer, Picture
from gen3d.captures.grids import gridded, into_cube
from gen3d.captures.things import of_split, read_things
from gen3d.captures.write import write_json
from gen3d.domains.objects.dataset import RESOLUTION, as_stored
from gen3d.errors import Gen3dError
from gen3d.files import atomic_write
from gen3d.nn.prompts import embedded
from gen3d.version import __version__

THINGS = 24_000
"""For training, where no other number is asked for."""
SPLITS = {"train": 1.0, "valid": 0.03, "test": 0.04}
"""Things of each split, as a share of those for training."""
PAINTS = {name: often for name, often in FINISHES.items() if name not in ("striped", "glossy")}
"""How things are painted: what shines or has a pattern looks like any other on a coarse grid."""
TOGETHER = 0.12
"""Share of two things together."""
VARIANTS = 4
"""Grids of every model, each stretched along its axes in another way."""
STRETCH = 0.12
"""By how much, at most."""
MOST_PARTS = 256
"""Of one grid, whose cells name them in a byte."""
CHUNK = 16
"""Grids that a process makes at a time."""


@dataclass(frozen=True)
class _Grid:
    """What one grid is made of."""

    vertices: np.ndarray
    faces: np.ndarray
    part: np.ndarray
    stretch: np.ndarray


_grids: list[_Grid] = []


def prepare(source: str, out: Path, *, limit: int | None, seed: int, progress: bool) -> dict[str, int]:
    """Write `train.npz`, `valid.npz`, `test.npz` and `dataset.json`.

    Models that their set holds back for testing are in the last; pairs of a colour and a noun that training
    never tells are in the others, too. The same arguments make the same grids.

    Args:
        source: as of `gen3d.captures.things.read_things`.
        out: the folder.
        limit: things for training.
        seed: of all that is drawn at random.
        progress: show progress bars.

    Returns:
        Things by split.

    Raises:
        Gen3dError: a source cannot be read.
    """
    if limit is not None and limit < 1:
        raise Gen3dError(f"limit is {limit}; at least 1 thing is needed")
    things = read_things(source, progress)
    counts = {}
    for number, (split, share) in enumerate(SPLITS.items()):
        own = of_split(things, split) or things
        composer = Composer(own, split, PAINTS, TOGETHER)
        counts[split] = max(1, round(share * (limit or THINGS)))
        arrays = _painted(composer, counts[split], [seed, number], progress)
        with atomic_write(out / f"{split}.npz") as temporary, open(temporary, "wb") as file:
            np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
    about = {
        "source": source,
        "models": len(things),
        "nouns": sorted({t.noun for t in things}),
        "things": counts,
        "seed": seed,
        "gen3d": __version__,
    }
    write_json(out / "dataset.json", about)
    return counts


def _painted(composer: Composer, count: int, seed: list[int], progress: bool) -> dict[str, np.ndarray]:
    """Arrays of `count` things."""
    known: dict[tuple[str, int], int] = {}
    _grids.clear()
    rows, palettes, told = [], [], []
    for number in range(count):
        random = np.random.default_rng([*seed, number])
        picture = composer.draw(random)
        part, palette = _few_parts(picture)
        variant = int(random.integers(VARIANTS))
        key = (picture.name or f"#{number}", variant)
        if key not in known:
            known[key] = len(_grids)
            own = crc32(f"{seed} {key}".encode())
            stretch = 1 + np.random.default_rng(own).uniform(-STRETCH, STRETCH, 3)
            _grids.append(_Grid(picture.vertices, picture.faces, part, stretch))
        rows.append(known[key])
        palettes.append(palette)
        told.append((picture.caption, picture.noun, picture.colour, picture.told))
    distances, parts = _made(progress)
    return {
        "distances": distances,
        "parts": parts,
        "grid": np.array(rows),
        "palette": np.array([len(palette) for palette in palettes]),
        "colours": np.concatenate(palettes),
        **embedded([own[0] for own in told], progress),
        **{name: np.array([own[n] for own in told]) for n, name in enumerate(("noun", "colour", "told"), 1)},
    }


def _few_parts(picture: Picture) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    """Numbers of parts (F,) below MOST_PARTS, whatever their paint, and colours of the parts; small ones that
    are too many join the nearest."""
    part, faces = picture.part, np.bincount(picture.part)
    palette = np.zeros((len(faces), 3), np.uint8)
    palette[part] = picture.colours
    if len(faces) <= MOST_PARTS:
        return part, palette
    corners = picture.vertices[picture.faces].mean(1)
    middle = np.stack([np.bincount(part, corners[:, k]) for k in range(3)], 1) / np.maximum(faces, 1)[:, None]
    kept = np.argsort(-faces, kind="stable")[:MOST_PARTS]
    joined = np.square(middle[:, None] - middle[None, kept]).sum(2).argmin(1)
    joined[kept] = np.arange(MOST_PARTS)
    return joined[part], palette[kept]


def _made(progress: bool) -> tuple[np.ndarray, np.ndarray]:
    """Distances and parts (G, R, R, R) of all that is in `_grids`."""
    from gen3d.progress import tqdm

    firsts = range(0, len(_grids), CHUNK)
    workers = min(os.cpu_count() or 1, len(firsts))
    # Processes that are forked share the meshes.
    with ProcessPoolExecutor(workers, mp_context=get_context("fork")) as pool:
        made = pool.map(_chunk, firsts)
        found = list(tqdm(made, total=len(firsts), desc="grids", disable=not progress, leave=False))
    return np.concatenate([f[0] for f in found]), np.concatenate([f[1] for f in found])


def _chunk(first: int) -> tuple[np.ndarray, np.ndarray]:
    distances, parts = [], []
    for grid in _grids[first : first + CHUNK]:
        placed = into_cube(grid.vertices * grid.stretch)
        found, part = gridded(placed, grid.faces, grid.part.astype(np.uint8), RESOLUTION)
        distances.append(as_stored(found))
        parts.append(part)
    return np.stack(distances), np.stack(parts)
