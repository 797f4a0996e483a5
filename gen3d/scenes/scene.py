"""A fitted scene: seen from anywhere, at any time."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gen3d import checkpoint
from gen3d.captures.views import Views
from gen3d.errors import Gen3dError
from gen3d.fields import surfaces
from gen3d.fields.base import Field
from gen3d.fields.cameras import Cameras
from gen3d.fields.occupancy import Occupancy
from gen3d.fields.rendering import Rendering, render_image
from gen3d.scenes.fit import step_length

WHITE = (1.0, 1.0, 1.0)
HALVED = 1000
"""Numbers from which a tensor is stored in half precision: a rounding of a 2,000th cannot be seen."""


@dataclass(frozen=True)
class Scene:
    """A field and what rendering it needs.

    Attributes:
        field: the scene.
        occupancy: where it is.
        cameras: those that it was fitted to.
        samples: steps of a ray along the longest side of the box.
    """

    field: Field
    occupancy: Occupancy
    cameras: Cameras
    samples: int = 160

    @property
    def moves(self) -> bool:
        return self.cameras.times is not None

    @property
    def megabytes(self) -> float:
        """Of all that a checkpoint stores."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self.tensors().values()) / 1e6

    @property
    def about(self) -> dict[str, int]:
        """What a checkpoint stores beside the tensors."""
        return {"width": self.cameras.width, "height": self.cameras.height, "samples": self.samples}

    def render(
        self,
        cameras: Cameras,
        view: int = 0,
        *,
        background: tuple[float, float, float] = WHITE,
        normals: bool = False,
    ) -> Rendering:
        """What one of the cameras sees at its time: parts shaped (height, width, ...).

        Raises:
            Gen3dError: a moving scene, and cameras without times.
        """
        if self.moves and cameras.times is None:
            raise Gen3dError("cameras without times see no moving scene; use scene.at(time).render(cameras)")
        return render_image(
            self.field,
            cameras,
            view,
            length=step_length(self.field, self.samples),
            background=torch.tensor(background),
            occupancy=self.occupancy,
            normals=normals,
        )

    def at(self, time: float) -> "Instant":
        """The scene at a time in [0, 1].

        Raises:
            Gen3dError: another time.
        """
        if not 0 <= time <= 1:
            raise Gen3dError(f"time is {time}; allowed: 0 to 1")
        return Instant(self, time)

    def tensors(self) -> dict[str, Tensor]:
        """All that a checkpoint stores, the large ones in half precision, cells as bits."""
        cameras, cells = self.cameras, self.occupancy.cells
        found = {
            f"field.{name}": value.half() if value.is_floating_point() and value.numel() > HALVED else value
            for name, value in self.field.state_dict().items()
        }
        found["occupancy.cells"] = torch.from_numpy(np.packbits(cells.cpu().numpy()))
        found["occupancy.shape"] = torch.tensor(cells.shape)
        found["occupancy.box"] = self.occupancy.box
        found |= {"cameras.poses": cameras.camera_to_world, "cameras.focal": cameras.focal}
        found |= {"cameras.centre": cameras.centre}
        if cameras.times is not None:
            found["cameras.times"] = cameras.times
        return found


@dataclass(frozen=True)
class Instant:
    """A scene at one time."""

    scene: Scene
    time: float

    def render(
        self,
        cameras: Cameras,
        view: int = 0,
        *,
        background: tuple[float, float, float] = WHITE,
        normals: bool = False,
    ) -> Rendering:
        """What one of the cameras sees: parts shaped (height, width, ...)."""
        return self.scene.render(cameras.at(self.time), view, background=background, normals=normals)

    def mesh(self, *, resolution: int = 128, level: float | None = None) -> Any:
        """The surface, a `trimesh.Trimesh` with vertex colours: see `gen3d.fields.surfaces.mesh`."""
        scene = self.scene
        time = self.time if scene.moves else None
        return surfaces.mesh(
            scene.field, time=time, level=level, resolution=resolution, occupancy=scene.occupancy
        )

    def points(self, count: int = 20_000) -> Any:
        """Points on the surface, a coloured `trimesh.PointCloud`."""
        return surfaces.point_cloud(self.mesh(), count)


def read_scene(folder: Path, make_field: Any) -> tuple[Scene, dict[str, Any]]:
    """The scene of a checkpoint and its configuration.

    Args:
        folder: the checkpoint.
        make_field: makes the field of a configuration and a box (2, 3), as it was when stored.

    Raises:
        Gen3dError: no checkpoint, or one of something else.
    """
    tensors, config = checkpoint.read(folder)
    return scene_from(tensors, config.get("scene", {}), lambda box: make_field(config, box), folder), config


def scene_from(
    tensors: dict[str, Tensor], about: Any, make_field: Callable[[Tensor], Field], source: Path
) -> Scene:
    """The scene of what `Scene.tensors` and `Scene.about` gave; `make_field` makes the field in a box (2, 3).

    Raises:
        Gen3dError: they are of something else; `source` is named.
    """
    try:
        box = tensors["occupancy.box"]
        parts, size = tensors["occupancy.shape"].tolist()[:2]
        bits = np.unpackbits(tensors["occupancy.cells"].numpy(), count=parts * size**3)
        cameras = Cameras(
            tensors["cameras.poses"],
            tensors["cameras.focal"],
            tensors["cameras.centre"],
            about["width"],
            about["height"],
            tensors.get("cameras.times"),
        )
        samples = about["samples"]
        field = make_field(box)
    except KeyError as error:
        raise Gen3dError(f"{source} holds no scene: {error} is missing") from error
    named = {
        name.removeprefix("field."): value for name, value in tensors.items() if name.startswith("field.")
    }
    checkpoint.fill(field, named, source)
    occupancy = Occupancy(box, size, parts)
    occupancy.cells.copy_(torch.from_numpy(bits).view_as(occupancy.cells))
    return Scene(field.eval(), occupancy, cameras, samples)


def write_scene(scene: Scene, folder: Path, config: dict[str, Any], card: str) -> None:
    """Store a scene as a checkpoint; `config` is what `make_field` of `read_scene` needs."""
    checkpoint.write(folder, scene.tensors(), {**config, "scene": scene.about}, card)


def scene_of(field: Field, occupancy: Occupancy, views: Views, samples: int) -> Scene:
    return Scene(field, occupancy, views.cameras, samples)
