"""The grid that is edited, from whatever the scene is given as."""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gen3d import checkpoint
from gen3d.captures import Views, read_views
from gen3d.captures.check import picture_of
from gen3d.captures.images import write_png
from gen3d.captures.meshes import EXTENSIONS, read_meshes
from gen3d.captures.render import render_mesh
from gen3d.domains.voxel_edit.config import VoxelEditConfig
from gen3d.errors import Gen3dError
from gen3d.fields.edited import EditedField
from gen3d.fields.heads import HarmonicsHead, make_head
from gen3d.fields.tables import corners, read
from gen3d.fields.voxels import VoxelField
from gen3d.progress import tqdm
from gen3d.scenes.bounds import carved
from gen3d.scenes.fit import Fit
from gen3d.scenes.scene import Scene, read_scene, scene_of
from gen3d.scenes.viewpoints import cameras, random_view

BOX = torch.tensor([3 * [-1.0], 3 * [1.0]])
"""Of the grid that is edited, in the frame of the prior."""
WHITE = 250
"""Of 255, from which everything counts as white."""
EMPTY, LARGEST = -2.0, 12.0
"""Raw density of what is empty, and the largest, either way, that a grid begins with: beyond it a prior's
pull would have nothing to hold on to."""


def initial_scene(source: Path, config: VoxelEditConfig, progress: bool) -> Scene:
    """The scene of a mesh, a folder of posed pictures, or a run with voxels.

    Raises:
        Gen3dError: it is none of these, or its pictures show nothing.
    """
    if source.is_file() and source.suffix.lower() in (*EXTENSIONS, ".npz"):
        return _fitted(_pictured(source, config), config, progress)
    folder = source / "checkpoint" if (source / "checkpoint").is_dir() else source
    if (folder / checkpoint.WEIGHTS).is_file():
        return read_scene(folder, _field_of)[0]
    if not source.exists():
        raise Gen3dError(f"there is no scene {source}")
    views = read_views(source, "train")
    if views.cameras.times is not None:
        raise Gen3dError(f"{source} has times; a scene that is edited must stand still")
    return _fitted(views, config, progress)


def _field_of(stored: dict[str, Any], box: torch.Tensor) -> VoxelField:
    own = stored.get("domain_config", {})
    if stored.get("domain") != "dynamic-scene" or own.get("method") != "voxels":
        raise Gen3dError(
            f"a run of domain {stored.get('domain')!r} with method {own.get('method')!r} is no grid; "
            "allowed: dynamic-scene with method voxels"
        )
    return VoxelField(box, stored["resolution"], make_head(own["head"], own["degree"]))


def _pictured(source: Path, config: VoxelEditConfig) -> Views:
    """Pictures of a mesh from where a prior's pictures are taken."""
    sequence = read_meshes(
        source, up="y" if source.suffix.lower() in (".obj", ".npz", ".glb", ".gltf") else None
    )
    mesh = sequence.frames[0]
    vertices = mesh.vertices / max(float(np.linalg.norm(mesh.vertices, axis=1).max()), 1e-9)
    random = np.random.default_rng(config.initial.seed)
    places = torch.tensor([random_view(random) for _ in range(config.pictures)], dtype=torch.float32)
    shots = cameras(places[:, 0], places[:, 1], config.size)
    names = tuple(f"{source.name} {number}" for number in range(config.pictures))
    return Views(render_mesh(vertices, mesh.faces, mesh.colours, shots), shots, names, True)


def _fitted(views: Views, config: VoxelEditConfig, progress: bool) -> Scene:
    images = torch.from_numpy(views.images)
    if views.has_alpha and not bool((images[..., 3] > 0).any()):
        raise _unseen(views, "all pictures are empty")
    if bool((images >= WHITE).all()):
        raise _unseen(views, "all pictures are white")
    try:
        occupancy = carved(views, 1, 1.0)
    except Gen3dError as error:
        raise _unseen(views, str(error)) from error
    torch.manual_seed(config.initial.seed)
    field = VoxelField(occupancy.box, config.initial.resolutions[0], HarmonicsHead(0))
    fit = Fit(field, occupancy, views, config.initial)
    with tqdm(total=config.initial.steps, desc="grid", disable=not progress, leave=False) as bar:
        while fit.step < config.initial.steps:
            fit.advance()
            bar.update()
    return scene_of(field, occupancy, views, config.initial.samples)


def _unseen(views: Views, what: str) -> Gen3dError:
    """That nothing is seen, with a picture of the cameras, which are most often the reason."""
    file = Path(tempfile.mkdtemp(prefix="gen3d-")) / "cameras.png"
    write_png(file, picture_of(views, f"{views.names[0]}: {what}"))
    return Gen3dError(
        f"{views.names[0]}: {what}; cameras may look the wrong way: {file} shows them, and gen3d prepare "
        "--check tells more"
    )


@dataclass(frozen=True)
class Frame:
    """Where a scene is in the frame of the prior: a ball of radius 1 with its front towards -y.

    Attributes:
        centre: (3,), of the scene's box.
        radius: half of the diagonal of the box.
        turn: (3, 3), from the prior's frame to the scene's.
    """

    centre: Tensor
    radius: float
    turn: Tensor

    def values(self) -> Tensor:
        """(13,): centre, radius and turn, one after the other."""
        return torch.cat([self.centre, torch.tensor([self.radius]), self.turn.flatten()])

    @classmethod
    def of(cls, values: Tensor) -> "Frame":
        """Of what `values` returned."""
        return cls(values[:3], float(values[3]), values[4:].view(3, 3))

    def to_scene(self, points: Tensor) -> Tensor:
        """(P, 3) of points (P, 3) of the prior's frame."""
        return self.centre + self.radius * points @ self.turn.T


def frame_of(scene: Scene, front: float, room: float = 0.0) -> Frame:
    """The frame of a scene whose front faces to `front` degrees (0 is -y, 90 is +x), with `room` of its
    height left free above it."""
    low, high = _filled(scene)
    high[2] += room * (high[2] - low[2])
    angle = torch.deg2rad(torch.tensor(front))
    cos, sin = float(angle.cos()), float(angle.sin())
    turn = torch.tensor([[cos, -sin, 0.0], [sin, cos, 0.0], [0.0, 0.0, 1.0]])
    return Frame((low + high) / 2, float((high - low).norm()) / 2, turn)


@torch.no_grad()
def _filled(scene: Scene) -> tuple[Tensor, Tensor]:
    """Corners of what is filled of a scene's box."""
    occupancy = scene.occupancy
    centres = occupancy.centres()[occupancy.cells.any(0).flatten()]
    density = torch.cat([scene.field.density(some, None)[0] for some in centres.split(1 << 16)])
    side = float((occupancy.box[1] - occupancy.box[0]).max())
    solid = centres[density > min(16 / side, float(density.max()) / 4)]
    if not len(solid):
        raise Gen3dError("the scene is empty: nothing in it is dense enough to be seen")
    return solid.amin(0), solid.amax(0)


@torch.no_grad()
def grid_to_edit(scene: Scene, frame: Frame, resolution: int) -> EditedField:
    """The scene as a grid over the prior's frame, with room around it for what is to come."""
    source = scene.field
    if not isinstance(source, VoxelField):
        raise Gen3dError(f"a {type(source).__name__} is no grid of voxels; only such scenes can be edited")
    # Lengths are in units of the ball's radius now, densities per such unit.
    made = EditedField(BOX, resolution, source.scale * frame.radius, source.bias)
    grid = VoxelField(BOX, resolution, HarmonicsHead(0), source.scale * frame.radius, source.bias)
    places = frame.to_scene(made.grid_points())
    low, high = source.box
    held = ((places >= low) & (places <= high)).all(1) & scene.occupancy.contains(
        places.minimum(high).maximum(low)
    )
    where = 2 * (places[held] - low) / (high - low) - 1
    rows, weights = corners(where, source.shape)
    grid.density_table.fill_(EMPTY)
    grid.density_table[held] = read(source.density_table, rows, weights).clamp(-LARGEST, LARGEST)
    plain = EditedField(source.box, max(source.shape))
    plain.begin(source)
    grid.colour_table[held] = read(plain.colour_table, rows, weights)
    made.begin(grid)
    return made
