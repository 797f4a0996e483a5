"""Edited scenes: stored, read, and looked at beside what they were."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import softplus

from gen3d import checkpoint, media
from gen3d.errors import Gen3dError
from gen3d.fields.edited import EditedField
from gen3d.fields.harmonics import HARMONIC_0
from gen3d.fields.occupancy import Occupancy
from gen3d.fields.voxels import VoxelField
from gen3d.files import atomic_write
from gen3d.progress import tqdm
from gen3d.scenes.gallery import ELEVATION, FILM, MESH, pictures_around, write_mesh
from gen3d.scenes.scene import Scene, read_scene
from gen3d.scenes.viewpoints import cameras

MARK = torch.tensor([1.0, 0.15, 0.6])
"""Colour that marks the edit."""
OUT = -20.0
"""Raw density of what is not to be seen."""
SEEN = 0.1
"""Opacity of a pixel that shows something."""
CELLS, FAINT = 48, 0.3
"""Along a side of the grid that spares rendering empty space, and the density below which space is."""


@dataclass(frozen=True)
class EditedScene:
    """A scene before and after.

    Attributes:
        before, after: the scene, in the frame of the prior.
        part: (P,) grid points that were edited; all True for an edit of the whole.
        frame: centre (3), radius, and turn (9) from the prior's frame to that of the input, one after the
            other.
        prompt: the words for it after the edit.
    """

    before: Scene
    after: Scene
    part: Tensor
    frame: Tensor
    prompt: str

    @property
    def field(self) -> EditedField:
        assert isinstance(self.after.field, EditedField)
        return self.after.field

    def marked(self) -> Scene:
        """What was edited, in one colour, and the rest as it was."""
        field = self.field
        shown = VoxelField(field.box, max(field.shape), None, field.scale, field.bias)
        shown.head = field.head
        colours = field.colour_table.detach().clone()
        colours[self.part] = torch.logit(MARK.clamp(0.01, 0.99)) / HARMONIC_0
        shown.density_table = torch.nn.Parameter(field.density_table.detach().clone())
        shown.colour_table = torch.nn.Parameter(colours)
        return Scene(shown, self.after.occupancy, self.after.cameras, self.after.samples)

    def where(self, width: int, count: int, elevation: float) -> list[Tensor]:
        """(width, width) bool, pixels that show the edited part, before or after, in pictures all around."""
        field = self.field
        density = torch.where(
            self.part, torch.maximum(field.density_table[:, 0], field.initial_density[:, 0]), OUT
        )
        shown = VoxelField(field.box, max(field.shape), field.head, field.scale, field.bias)
        shown.density_table = torch.nn.Parameter(density.detach()[:, None])
        shown.colour_table = torch.nn.Parameter(field.colour_table.detach().clone())
        alone = Scene(shown, _filled(shown), self.after.cameras, self.after.samples)
        shots = cameras(torch.arange(count) * (360 / count), torch.full((count,), elevation), width)
        return [alone.render(shots, view).opacity > SEEN for view in range(count)]

    @torch.no_grad()
    def overlap(self) -> float:
        """Intersection over union of what is dense before and after, outside of the edited part."""
        field = self.field
        level = 16 / float((field.box[1] - field.box[0]).max())
        now, then = (
            field.scale * softplus(table[~self.part, 0] + field.bias) > level
            for table in (field.density_table, field.initial_density)
        )
        return float((now & then).sum() / (now | then).sum().clamp(min=1))


def write_edited(
    folder: Path, scene: Scene, part: Tensor, frame: Tensor, config: dict[str, Any], card: str
) -> None:
    """Store an edit as a checkpoint."""
    tensors = {**scene.tensors(), "edit.part": part, "edit.frame": frame}
    checkpoint.write(folder, tensors, {**config, "scene": scene.about}, card)


def read_edited(folder: Path) -> EditedScene:
    """The edit of a checkpoint.

    Raises:
        Gen3dError: it is of something else.
    """
    after, stored = read_scene(folder, lambda config, box: EditedField(box, config["resolution"]))
    if stored.get("domain") != "voxel-edit":
        raise Gen3dError(f"{folder} holds a checkpoint of domain {stored.get('domain')!r}, not 'voxel-edit'")
    field = after.field
    assert isinstance(field, EditedField)
    field.scale, field.bias = stored["scale"], stored["bias"]
    tensors, _ = checkpoint.read(folder)
    before, after = (
        Scene(each, _filled(each), after.cameras, after.samples) for each in (field.initial(), field)
    )
    return EditedScene(before, after, tensors["edit.part"].bool(), tensors["edit.frame"], stored["prompt"])


def _filled(field: VoxelField) -> Occupancy:
    occupancy = Occupancy(field.box, CELLS)
    occupancy.update(field, FAINT, torch.Generator().manual_seed(0))
    return occupancy


def show_edit(
    scene: EditedScene,
    folder: Path,
    *,
    width: int,
    seconds: float,
    fps: float,
    resolution: int,
    progress: bool,
) -> list[Path]:
    """Write a film and pictures of before and after side by side, the edit marked, a mesh and the voxels."""
    count = max(1, round(seconds * fps))
    film = cameras(torch.arange(count) * (360 / count), torch.full((count,), ELEVATION), width)

    def pair(view: int) -> Tensor:
        seen = [s.render(film, view).colour[..., :3].clamp(0, 1) for s in (scene.before, scene.after)]
        return torch.cat(seen, 1)

    views = tqdm(range(count), desc="film", disable=not progress, leave=False)
    files = media.write_film((pair(view) for view in views), folder / FILM, fps)
    rows = [pictures_around(s, width, 4) for s in (scene.before, scene.after, scene.marked())]
    sheet = torch.cat([torch.cat(row, 1) for row in rows])
    media.write_png(sheet, folder / "before_after_mask.png")
    files.append(folder / "before_after_mask.png")
    field = scene.field
    with atomic_write(folder / "voxels.npz") as temporary, open(temporary, "wb") as file:
        np.savez_compressed(file, **_voxels(field, scene))  # type: ignore[arg-type]
    files.append(folder / "voxels.npz")
    return [*files, *write_mesh(scene.after, folder / MESH, resolution)]


@torch.no_grad()
def _voxels(field: EditedField, scene: EditedScene) -> dict[str, np.ndarray]:
    """Density (X, Y, Z), colours (X, Y, Z, 3) uint8, and what was edited, of the grid."""
    points = field.grid_points()
    density, located = field.density(points, None)
    up = torch.tensor([0.0, 0.0, -1.0]).expand(len(points), 3)
    colours = field.colour(located, up, None).clamp(0, 1)
    return {
        "density": density.view(*field.shape).half().numpy(),
        "colours": (colours * 255).round().byte().view(*field.shape, 3).numpy(),
        "edited": scene.part.view(*field.shape).numpy(),
        "box": field.box.numpy(),
        "frame": scene.frame.numpy(),
    }
