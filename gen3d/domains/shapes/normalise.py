"""The frame of shapes: a unit box, y up."""

import warnings
from typing import Any

import numpy as np

from gen3d.errors import Gen3dError, require

RESOLUTION = 32
"""Cells along an axis of the grids that preparation makes."""
SAMPLES_PER_CELL = 20
"""Surface samples for every cell face that the surface could cover: a miss has a chance below 1e-8."""

FAR = 1000
"""Half-extents from the origin at which coordinates lose detail: most files keep float32, of 7 digits."""
FLAT = 1e-6
"""Share of its longest extent below which a shape has no thickness."""


def unit_box(points: np.ndarray) -> tuple[np.ndarray, float]:
    """Centre (3,) and scale that bring points (P, 3) into the unit box: (p - centre) / scale.

    The box is centred on the bounding box, and its longest half-extent is 1.

    Raises:
        Gen3dError: fewer than two points, numbers that are not finite, or points that are all one.
    """
    if len(points) < 2:
        raise Gen3dError(f"{len(points)} points; at least 2 are needed")
    if not np.isfinite(points).all():
        raise Gen3dError("coordinates that are not finite")
    low, high = points.min(0), points.max(0)
    scale = float((high - low).max() / 2)
    if not scale > 0:
        raise Gen3dError(f"all points are at {_shown(low)}; a shape has an extent")
    return (low + high) / 2, scale


def solid_voxels(mesh: Any, resolution: int = RESOLUTION, seed: int = 0) -> np.ndarray:
    """Solid voxels (R, R, R), bool, of a mesh in the unit box, over the cube [-1, 1]^3; axes x, y, z.

    Cells that the surface passes through, and those it encloses. Meshes need not be watertight: what their
    surface does not enclose at this resolution stays hollow.
    """
    trimesh, ndimage = require("trimesh", "shapes"), require("scipy.ndimage", "shapes")
    count = int(np.clip(mesh.area * (resolution / 2) ** 2 * SAMPLES_PER_CELL, 1000, 2_000_000))
    points = trimesh.sample.sample_surface(mesh, count, seed=seed)[0]
    cells = np.clip(((points + 1) * (resolution / 2)).astype(int), 0, resolution - 1)
    surface = np.zeros((resolution, resolution, resolution), bool)
    surface[tuple(cells.T)] = True
    return ndimage.binary_fill_holes(surface)


def warn_of_frames(low: np.ndarray, high: np.ndarray, names: list[str]) -> None:
    """Warn where shapes of one set hardly share units or axes, are far from the origin, or flat.

    Args:
        low, high: (M, 3) corners of their bounding boxes before normalisation.
        names: of the shapes.
    """
    extents = high - low
    longest = extents.max(1)
    if longest.max() > 1000 * longest.min():
        big, small = int(longest.argmax()), int(longest.argmin())
        warnings.warn(
            f"units seem mixed: {names[big]} reaches from {_shown(low[big])} to {_shown(high[big])}, "
            f"{names[small]} from {_shown(low[small])} to {_shown(high[small])}; "
            "each is scaled to a box of side 2",
            stacklevel=2,
        )
    strange = {
        "far from the origin": np.abs(low + high).max(1) > FAR * longest,
        "flat": extents.min(1) < FLAT * longest,
    }
    for word, those in strange.items():
        if those.any():
            first = int(those.argmax())
            warnings.warn(
                f"{int(those.sum())} of {len(low)} shapes are {word}, such as {names[first]}, which reaches "
                f"from {_shown(low[first])} to {_shown(high[first])}; they are kept",
                stacklevel=2,
            )
    # Things stand on the ground: along the up axis boxes share their lower end more than along the others.
    if len(low) >= 8:
        spread = np.std(low / longest[:, None], axis=0)
        if spread[2] < 0.02 and spread[1] > 0.05:
            warnings.warn(
                f"z seems to point up: the shapes stand on z = {np.median(low[:, 2]):.3g}, and begin "
                "anywhere along y; y is taken to be up, and nothing was turned",
                stacklevel=2,
            )


def _shown(corner: np.ndarray) -> str:
    return "(" + ", ".join(f"{value:.4g}" for value in corner) + ")"
