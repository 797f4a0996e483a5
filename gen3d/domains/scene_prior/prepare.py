"""From sequences of meshes to the moving scenes that a prior learns from."""

import json
from pathlib import Path

import numpy as np

from gen3d.captures.meshes import read_meshes
from gen3d.domains.scene_prior.dataset import MovingScene, measured, write_dataset
from gen3d.domains.scene_prior.variations import Surface, surface_of, vary
from gen3d.errors import Gen3dError
from gen3d.files import atomic_write
from gen3d.version import __version__

SPLITS = {"train": 1.0, "valid": 0.05, "test": 0.05}
"""Scenes of each split, as a share of those for training."""
SCENES = 2000
"""For training, where no other number is asked for."""


def prepare(source: str, out: Path, *, limit: int | None, seed: int, progress: bool) -> dict[str, int]:
    """Write `train.npz`, `valid.npz`, `test.npz` and `dataset.json`: variations of sequences of meshes.

    Splits hold other variations of the same sequences: they tell whether a prior has learnt its bodies, not
    how well it knows others.

    Args:
        source: sequences that `gen3d.captures.meshes.read_meshes` reads, separated by commas; a folder of
            .npz files stands for all of them.
        out: the folder.
        limit: scenes for training.
        seed: of the variations.
        progress: show a progress bar.

    Returns:
        Scenes by split.

    Raises:
        Gen3dError: a source cannot be read, or nothing in it moves.
    """
    if limit is not None and limit < 1:
        raise Gen3dError(f"limit is {limit}; at least 1 scene is needed")
    files = [file for name in source.split(",") for file in _files(Path(name))]
    surfaces = [_surface(file) for file in files]
    counts = {split: max(1, round(share * (limit or SCENES))) for split, share in SPLITS.items()}
    for number, (split, count) in enumerate(counts.items()):
        scenes = _scenes(surfaces, count, [seed, number], split, progress)
        with atomic_write(out / f"{split}.npz") as temporary:
            write_dataset(scenes, temporary)
    about = {
        "sources": [file.name for file in files],
        "scenes": counts,
        "seed": seed,
        "gen3d": __version__,
    }
    with atomic_write(out / "dataset.json") as temporary:
        temporary.write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
    return counts


def _files(path: Path) -> list[Path]:
    inside = sorted(path.glob("*.npz")) if path.is_dir() else []
    return inside or [path]


def _surface(path: Path) -> Surface:
    sequence = read_meshes(path)
    faces = [frame.faces for frame in sequence.frames]
    if len(sequence) < 2:
        raise Gen3dError(f"{path} has one frame; a moving scene needs at least 2")
    if any(not np.array_equal(faces[0], each) for each in faces):
        raise Gen3dError(f"{path} has other faces in other frames; a prior needs points that can be followed")
    return surface_of(sequence)


def _scenes(
    surfaces: list[Surface], count: int, seed: list[int], split: str, progress: bool
) -> list[MovingScene]:
    from gen3d.progress import tqdm

    found = []
    for number in tqdm(range(count), desc=split, unit="scene", disable=not progress, leave=False):
        random = np.random.default_rng([*seed, number])
        found.append(measured(vary(surfaces, random), random))
    return found
