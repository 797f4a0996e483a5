"""How long points take to voxels and back: ours, a loop over points, and pytorch3d where it is installed.

python benchmarks/voxels.py --out benchmarks/voxels.json

One batch of clouds in DiT-3D's shapes: 2,048 points, 32^3 cells, 3 channels. The loop does one cloud, and its
time is multiplied.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gen3d.files import atomic_write
from gen3d.nn.voxelise import devoxelise, grid_coordinates, voxelise

BATCH, POINTS, SIZE = 16, 2048, 32


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    cloud = torch.randn(BATCH, POINTS, 3, generator=torch.Generator().manual_seed(0))
    places = grid_coordinates(cloud, SIZE)
    grid, _ = voxelise(cloud, places, SIZE)
    found: dict[str, Any] = {
        "batch": BATCH,
        "points": POINTS,
        "cells": SIZE**3,
        "threads": args.threads,
        "voxelise_ms": timed(lambda: voxelise(cloud, places, SIZE)),
        "devoxelise_ms": timed(lambda: devoxelise(grid, places, SIZE)),
        "loop_voxelise_ms": BATCH * timed(lambda: loop_voxelise(cloud[0], places[0]), 1),
        "loop_devoxelise_ms": BATCH * timed(lambda: loop_devoxelise(grid[0], places[0]), 1),
    }
    for name in ("voxelise", "devoxelise"):
        found[f"{name}_times_faster_than_loop"] = found[f"loop_{name}_ms"] / found[f"{name}_ms"]
    found["pytorch3d"] = pytorch3d_ms(cloud)
    print(json.dumps(found, indent=2))
    if args.out:
        with atomic_write(args.out) as temporary:
            temporary.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


def timed(function: Callable[[], Any], repeats: int = 11) -> float:
    """Median milliseconds of a call, after one to warm up."""
    seconds = []
    for i in range(repeats + (repeats > 1)):
        start = time.perf_counter()
        function()
        if i or repeats == 1:
            seconds.append(time.perf_counter() - start)
    return 1000 * statistics.median(seconds)


def loop_voxelise(cloud: Tensor, places: Tensor) -> Tensor:
    """The mean of the points of every cell, point by point."""
    sums, counts = torch.zeros(SIZE, SIZE, SIZE, 3), torch.zeros(SIZE, SIZE, SIZE)
    for point, place in zip(cloud, places.round().long().tolist(), strict=True):
        i, j, k = place
        sums[i, j, k] += point
        counts[i, j, k] += 1
    return sums / counts.clamp(min=1)[..., None]


def loop_devoxelise(grid: Tensor, places: Tensor) -> Tensor:
    """Trilinear interpolation, point by point and corner by corner."""
    cube = grid.view(SIZE, SIZE, SIZE, -1)
    made = torch.zeros(len(places), grid.shape[-1])
    for n, place in enumerate(places.tolist()):
        low = [min(int(v), SIZE - 2) for v in place]
        for corner in range(8):
            steps = [corner >> a & 1 for a in range(3)]
            weight = 1.0
            for v, at, step in zip(place, low, steps, strict=True):
                weight *= v - at if step else 1 - (v - at)
            i, j, k = (at + step for at, step in zip(low, steps, strict=True))
            made[n] += weight * cube[i, j, k]
    return made


def pytorch3d_ms(cloud: Tensor) -> float | None:
    """Milliseconds of pytorch3d's way into voxels; None where it is not installed."""
    try:
        from pytorch3d.ops import points_to_volumes  # noqa: F401
        from pytorch3d.ops.points_to_volumes import add_points_features_to_volume_densities_features as add
    except ModuleNotFoundError:
        return None
    densities, features = (torch.zeros(BATCH, c, SIZE, SIZE, SIZE) for c in (1, 3))
    local = cloud / cloud.norm(dim=-1).amax(1)[:, None, None]
    return timed(lambda: add(local, cloud, densities, features, mode="nearest"))


if __name__ == "__main__":
    main()
