"""Making captures: an animated mesh is filmed as D-NeRF's scenes were, one picture at a time."""

import hashlib
import math
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from gen3d.captures.meshes import MeshSequence, Up, read_meshes
from gen3d.captures.render import Light, render_mesh
from gen3d.captures.views import Views
from gen3d.captures.write import SPLITS, Split, write_json, write_views
from gen3d.errors import Gen3dError
from gen3d.fields.cameras import Cameras, around
from gen3d.version import __version__

RADIUS = 4.0
FIELD_OF_VIEW = 40.0
"""Degrees; widened where it would cut off a part of the mesh."""
MARGIN = 1.04
"""How much wider than the mesh a widened picture is."""
HIGHEST = 60.0
"""Degrees above the horizon of the highest random camera."""
ORBIT_ELEVATION = 20.0

Kind = Literal["random", "orbit"]


def prepare_scene(
    source: str | Path,
    out: str | Path,
    *,
    width: int = 200,
    height: int = 200,
    train: int = 48,
    test: int = 12,
    valid: int = 6,
    cameras: Kind = "random",
    seed: int = 0,
    up: Up | None = None,
    overwrite: bool = False,
    progress: bool = True,
) -> dict[str, Any]:
    """Film a sequence of meshes into a D-NeRF-style folder, before a transparent background.

    Training pictures are taken at even times from 0 to 1, each by one camera; those for validation and
    testing at times in between, one in each of as many even stretches. Cameras are 4 from the middle of the
    box [-1, 1]^3 that the mesh is put into. The same arguments make the same files.

    Args:
        source: what `gen3d.captures.meshes.read_meshes` reads. One mesh makes a still scene, without times.
        out: the folder; a `scene.json` there tells how it was made.
        width, height: of the pictures, in pixels.
        train, test, valid: numbers of pictures; `train` at least 2.
        cameras: "random", evenly over the hemisphere up to 60 degrees above the horizon; or "orbit", one turn
            at 20 degrees while time goes from 0 to 1, with the pictures held out from the same turn.
        seed: of the cameras and of the times in between.
        up: the axis that points up in the source; None for the usual one of its format.
        overwrite: write into a folder that is not empty.
        progress: show a progress bar.

    Returns:
        what `scene.json` holds.

    Raises:
        Gen3dError: the source cannot be read, numbers out of range, or `out` is not empty.
        MissingExtra: trimesh, embreex or pillow is not installed.
    """
    source, out = Path(source), Path(out)
    counts: dict[Split, int] = {"train": train, "valid": valid, "test": test}
    _check(counts, width, height, cameras)
    if out.exists() and (not out.is_dir() or any(out.iterdir())) and not overwrite:
        raise Gen3dError(f"{out} is there and not empty; choose another folder, or allow overwriting")
    meshes = read_meshes(source, up=up)
    shots = {
        split: _shots(cameras, split, counts[split], seed, width, height) for split in SPLITS if counts[split]
    }
    angle = max([FIELD_OF_VIEW, *(_needed(meshes, shot) for shot in shots.values())])
    views = _film(meshes, {split: _widened(shot, angle) for split, shot in shots.items()}, progress)
    write_views(out, views)
    summary = {
        "source": source.name,
        "source_sha256": _checksum(source),
        "frames_of_source": len(meshes),
        "moves": len(meshes) > 1,
        "width": width,
        "height": height,
        "train": train,
        "valid": valid,
        "test": test,
        "cameras": cameras,
        "radius": RADIUS,
        "field_of_view": angle,
        "box": [[-1, -1, -1], [1, 1, 1]],
        "background": "transparent",
        "seed": seed,
        "gen3d": __version__,
    }
    write_json(out / "scene.json", summary)
    return summary


def _check(counts: dict[Split, int], width: int, height: int, cameras: str) -> None:
    for split, count in counts.items():
        least = 2 if split == "train" else 0
        if count < least:
            raise Gen3dError(f"{split} is {count}; at least {least}")
    if min(width, height) < 1:
        raise Gen3dError(f"pictures of {width} x {height} pixels; both must be at least 1")
    if cameras not in ("random", "orbit"):
        raise Gen3dError(f"cameras is {cameras!r}; allowed: random, orbit")


def _shots(kind: Kind, split: Split, count: int, seed: int, width: int, height: int) -> Cameras:
    """Where and when the pictures of a split are taken."""
    random = np.random.default_rng([seed, SPLITS.index(split)])
    times = (
        np.linspace(0, 1, count) if split == "train" else (np.arange(count) + random.random(count)) / count
    )
    if kind == "orbit":
        azimuth, elevation = 360 * times, np.full(count, ORBIT_ELEVATION)
    else:
        # The area of a sphere between two heights is even in the height.
        sine = math.sin(math.radians(HIGHEST)) * random.random(count)
        azimuth, elevation = 360 * random.random(count), np.degrees(np.arcsin(sine))
    return around(
        torch.from_numpy(azimuth),
        torch.from_numpy(elevation),
        radius=RADIUS,
        field_of_view=FIELD_OF_VIEW,
        width=width,
        height=height,
        times=torch.from_numpy(times).float(),
    )


def _needed(meshes: MeshSequence, shots: Cameras) -> float:
    """Degrees of the field of view in which every shot holds all of its mesh, with a margin."""
    widest = 0.0
    for i in range(len(shots)):
        camera = shots[[i]]
        pixels, _ = camera.project(torch.from_numpy(_mesh(meshes, camera).vertices).float())
        size = pixels.new_tensor([camera.width, camera.height])
        widest = max(widest, float(((pixels[0] - size / 2).abs() / (size / 2)).max()))
    return math.degrees(2 * math.atan(math.tan(math.radians(FIELD_OF_VIEW / 2)) * widest * MARGIN))


def _widened(shots: Cameras, angle: float) -> Cameras:
    focal = 0.5 * shots.width / math.tan(math.radians(angle) / 2)
    return Cameras(
        shots.camera_to_world,
        torch.full_like(shots.focal, focal),
        shots.centre,
        shots.width,
        shots.height,
        shots.times,
    )


def _mesh(meshes: MeshSequence, camera: Cameras) -> Any:
    assert camera.times is not None
    return meshes.at(float(camera.times[0]))


def _film(meshes: MeshSequence, shots: dict[Split, Cameras], progress: bool) -> dict[Split, Views]:
    from gen3d.progress import tqdm

    views: dict[Split, Views] = {}
    total = sum(len(own) for own in shots.values())
    with tqdm(total=total, unit="picture", desc="render", disable=not progress, leave=False) as bar:
        for split, own in shots.items():
            images = np.empty((len(own), own.height, own.width, 4), np.uint8)
            for i in range(len(own)):
                mesh = _mesh(meshes, own[[i]])
                images[i] = render_mesh(mesh.vertices, mesh.faces, mesh.colours, own[[i]], light=Light())[0]
                bar.update()
            names = tuple(f"{split}/{i:03d}" for i in range(len(own)))
            if len(meshes) == 1:
                own = Cameras(own.camera_to_world, own.focal, own.centre, own.width, own.height)
            views[split] = Views(images, own, names, has_alpha=True)
    return views


def _checksum(source: Path) -> str:
    """Of the file, or of the files of the folder in the order of their names."""
    digest = hashlib.sha256()
    for file in [source] if source.is_file() else sorted(f for f in source.iterdir() if f.is_file()):
        digest.update(file.read_bytes())
    return digest.hexdigest()
