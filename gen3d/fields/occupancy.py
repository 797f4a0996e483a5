"""Where a field may hold something: a coarse grid that rendering asks before it asks the field."""

import torch
from torch import Tensor, nn
from torch.nn.functional import max_pool3d

from gen3d.fields.base import Field
from gen3d.fields.cameras import Cameras

KNOWN = 0.5
"""The share of the cameras that must have a cell in view for it to survive carving."""


class Occupancy(nn.Module):
    """Cells (T, G, G, G) of a box that are occupied, in T equal parts of time.

    Args:
        box: (2, 3), the corners of the box.
        resolution: G, cells along each side.
        times: T; 1 where nothing moves.
    """

    cells: Tensor
    box: Tensor

    def __init__(self, box: Tensor, resolution: int = 64, times: int = 1) -> None:
        super().__init__()
        self.register_buffer("box", box.clone())
        self.register_buffer("cells", torch.ones(times, resolution, resolution, resolution, dtype=torch.bool))

    @property
    def share(self) -> float:
        """The share of cells that are occupied."""
        return float(self.cells.float().mean())

    def contains(self, points: Tensor, times: Tensor | None = None) -> Tensor:
        """(P,) whether points (P, 3) of the box lie in cells occupied at `times` (P,), or ever if None."""
        parts, size = self.cells.shape[:2]
        unit = (points - self.box[0]) / (self.box[1] - self.box[0])
        cell = (unit * size).long().clamp_(0, size - 1)
        flat = (cell[:, 0] * size + cell[:, 1]) * size + cell[:, 2]
        if times is None or parts == 1:
            return self.cells.any(0).flatten()[flat]
        part = (times * parts).long().clamp_(max=parts - 1)
        return self.cells.flatten()[part * size**3 + flat]

    @torch.no_grad()
    def carve(self, cameras: Cameras, opaque: Tensor, least: float = 1.0) -> None:
        """Empty the cells that too few cameras see as opaque: the visual hull, where nothing moves.

        Cells that only a few cameras have in view are emptied as well: nothing could be learnt about them.
        Where the grid has parts of time and the cameras times, a cell is also emptied for a part if a camera
        of that part sees nothing there.

        Args:
            cameras: V of them.
            opaque: (V, H, W), True where something is seen.
            least: the share of all cameras with the cell in view that must see something there. Below 1 for
                what moves: a cell must be kept that is full only part of the time.
        """
        parts, size = self.cells.shape[:2]
        centres = self.centres()
        side = float((self.box[1] - self.box[0]).max()) / size
        seen, full = torch.zeros(len(centres)), torch.zeros(len(centres))
        emptied = torch.zeros(parts, len(centres), dtype=torch.bool)
        for view in range(len(cameras)):
            # A cell is as wide as this in the image; whatever is opaque near its centre may be in it.
            pixels, depth = cameras[[view]].project(centres)
            radius = (
                int(0.87 * side * float(cameras.focal[view].max()) / float(depth[0].clamp(min=1e-3).median()))
                + 1
            )
            widened = _widened(opaque[view], radius)
            x, y = pixels[0].long().unbind(1)
            inside = (depth[0] > 0) & (x >= 0) & (x < cameras.width) & (y >= 0) & (y < cameras.height)
            covered = inside & widened[y.clamp(0, cameras.height - 1), x.clamp(0, cameras.width - 1)]
            seen += inside
            full += covered
            if parts > 1 and cameras.times is not None:
                part = min(int(cameras.times[view] * parts), parts - 1)
                emptied[part] |= inside & ~covered
        kept = (full >= least * seen - 1e-6) & (seen >= KNOWN * len(cameras))
        self.cells &= (kept & ~emptied).view(parts, size, size, size)

    @torch.no_grad()
    def update(self, field: Field, threshold: float, generator: torch.Generator | None = None) -> None:
        """Ask the field at a random place of each cell that has not been emptied, and of its neighbours.

        Args:
            field: whose density is asked.
            threshold: density above which a cell is occupied.
            generator: of the random places.
        """
        parts, size = self.cells.shape[:2]
        corner = self.centres() - 0.5 * (self.box[1] - self.box[0]) / size
        for part in range(parts):
            asked = self.cells[part].flatten().nonzero()[:, 0]
            inside = torch.rand(len(asked), 3, generator=generator, device=corner.device)
            points = corner[asked] + inside * (self.box[1] - self.box[0]) / size
            when = (part + torch.rand(len(asked), generator=generator, device=corner.device)) / parts
            density = (
                torch.cat(
                    [
                        field.density(some, t if parts > 1 else None)[0]
                        for some, t in zip(points.split(1 << 17), when.split(1 << 17), strict=True)
                    ]
                )
                if len(asked)
                else points.new_zeros(0)
            )
            found = torch.zeros(size**3, dtype=torch.bool, device=corner.device)
            found[asked] = density > threshold
            grown = max_pool3d(found.view(1, size, size, size).float(), 3, stride=1, padding=1)[0] > 0
            self.cells[part] &= grown

    def centres(self) -> Tensor:
        """(G^3, 3), of the cells, in the order of their flat numbers."""
        size = self.cells.shape[1]
        axis = (torch.arange(size, device=self.box.device) + 0.5) / size
        unit = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), -1).view(-1, 3)
        return self.box[0] + unit * (self.box[1] - self.box[0])


def _widened(opaque: Tensor, radius: int) -> Tensor:
    """What is True within `radius` pixels."""
    width = 2 * radius + 1
    pooled = torch.nn.functional.max_pool2d(opaque[None].float(), width, stride=1, padding=radius)
    return pooled[0] > 0
