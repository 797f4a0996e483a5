"""Where in a capture the scene is: its box, and the cells of it that may hold something."""

import torch
from torch import Tensor

from gen3d.captures.views import Views
from gen3d.errors import Gen3dError
from gen3d.fields.cameras import Cameras
from gen3d.fields.occupancy import Occupancy

OPAQUE = 13
"""Alpha of 255 from which a pixel counts as covered."""
HALF_SIDE = 1.5
"""Of the cube in which a scene with alpha is looked for; D-NeRF's and NeRF's own scenes lie within."""
RESOLUTION = 64


def carved(views: Views, parts: int, share: float, half_side: float | None = None) -> Occupancy:
    """The occupancy grid that silhouettes leave, on the box that they leave.

    Without alpha there are no silhouettes: the grid is full, and the box is the cube [-1, 1]^3, in which
    readers put what cameras without alpha see.

    Args:
        views: V of them.
        parts: of time; 1 where nothing moves.
        share: of all cameras that see a cell, how many must see something there. What moves is there for
            part of the time only; far below that, a cell is kept that no camera knows much of.
        half_side: of the cube to look in.

    Raises:
        Gen3dError: nothing is left.
    """
    reach = half_side or (HALF_SIDE if views.has_alpha else 1.0)
    cube = torch.tensor([[-reach] * 3, [reach] * 3])
    if not views.has_alpha:
        return Occupancy(cube, RESOLUTION, parts)
    opaque = torch.from_numpy(views.images[..., 3]) >= OPAQUE
    return silhouettes_leave(cube, views.cameras, opaque, parts, share)


def silhouettes_leave(box: Tensor, cameras: Cameras, opaque: Tensor, parts: int, share: float) -> Occupancy:
    """The occupancy grid of what silhouettes leave of a box (2, 3), on the smaller box around that.

    Args:
        opaque: (V, H, W), True where a camera sees something.

    Raises:
        Gen3dError: nothing is left.
    """
    coarse = Occupancy(box, RESOLUTION, parts)
    coarse.carve(cameras, opaque, share)
    fine = Occupancy(_box_of(coarse), RESOLUTION, parts)
    fine.carve(cameras, opaque, share)
    return fine


def _box_of(occupancy: Occupancy) -> Tensor:
    """The box (2, 3) around all occupied cells of a carved grid, a cell and a half wider on every side."""
    kept = occupancy.centres()[occupancy.cells.any(0).flatten()]
    low, high = occupancy.box
    if not len(kept):
        raise Gen3dError(
            f"no place in the box from {low.tolist()} to {high.tolist()} is covered in enough of the images "
            "that show it: the scene lies elsewhere, or the poses are wrong (gen3d prepare --check)"
        )
    margin = 1.5 * (high - low) / occupancy.cells.shape[1]
    box = torch.stack([kept.amin(0) - margin, kept.amax(0) + margin])
    return box.clamp(low, high)


def near_silhouettes(views: Views, radius: int) -> Tensor:
    """(K,) flat numbers of the pixels within `radius` of a covered one, over all views."""
    opaque = torch.from_numpy(views.images[..., 3] >= OPAQUE).float()
    width = 2 * radius + 1
    wide = torch.cat(
        [torch.nn.functional.max_pool2d(one[None], width, 1, radius).flatten() > 0 for one in opaque]
    )
    return wide.nonzero()[:, 0]
