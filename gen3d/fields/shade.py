"""A moving scene as a still one and a deformation: SHaDe (arXiv 2505.16535)."""

from torch import Tensor, nn

from gen3d.fields.base import Field, Located, unit
from gen3d.fields.heads import Head
from gen3d.fields.planes import Deformation
from gen3d.fields.voxels import VoxelField


class ShadeField(Field):
    """A canonical voxel field, seen through offsets that change with time.

    Args:
        box: (2, 3), corners of the scene.
        resolution: grid points of the canonical field along the longest side.
        head: of its colour, told the time.
        deformation: where points were.
        still: the share of a fit in which nothing moves, so that a still scene is found first.
    """

    def __init__(
        self, box: Tensor, resolution: int, head: Head, deformation: Deformation, still: float = 0.15
    ) -> None:
        super().__init__()
        self.canonical = VoxelField(box, resolution, head)
        self.deformation = deformation
        self.still = still
        self.moving = True

    @property
    def box(self) -> Tensor:  # type: ignore[override]
        return self.canonical.box

    @property
    def channels(self) -> int:  # type: ignore[override]
        return self.canonical.channels

    def density(self, points: Tensor, times: Tensor | None) -> tuple[Tensor, Located]:
        places = unit(points, self.box)
        if times is not None and self.moving:
            places = places + self.deformation(places, times)
        return self.canonical.density_at(places)

    def colour(self, located: Located, directions: Tensor, times: Tensor | None) -> Tensor:
        return self.canonical.colour(located, directions, times)

    def penalties(self) -> dict[str, Tensor]:
        """Beside those of the canonical field, of the deformation's grids: `bending`, differences between
        neighbours in space; `acceleration`, second differences in time (temporal consistency)."""
        planes = self.deformation.planes
        return {
            **self.canonical.penalties(),
            "bending": planes.smoothness(1, time=False),
            "acceleration": planes.smoothness(2, time=True),
        }

    def rates(self) -> list[tuple[list[nn.Parameter], float]]:
        return [*self.canonical.rates(), (list(self.deformation.parameters()), 0.03)]

    def progress(self, share: float) -> None:
        self.moving = share >= self.still

    def refine(self, resolution: int) -> None:
        self.canonical.refine(resolution)
