"""A scene of which everything is known."""

import torch

from gen3d.fields.cameras import around
from gen3d.fields.harmonics import HARMONIC_0
from gen3d.fields.heads import HarmonicsHead
from gen3d.fields.occupancy import Occupancy
from gen3d.fields.voxels import VoxelField
from gen3d.scenes.scene import Scene


def cube(colour: tuple[float, float, float]) -> Scene:
    """A solid cube of one colour, from -0.5 to 0.5."""
    box = torch.tensor([3 * [-1.0], 3 * [1.0]])
    field = VoxelField(box, 17, HarmonicsHead(0))
    inside = (field.grid_points().abs() < 0.51).all(1)
    with torch.no_grad():
        field.density_table[:, 0] = torch.where(inside, 12.0, -12.0)
        field.colour_table[:] = torch.logit(torch.tensor(colour).clamp(0.01, 0.99)) / HARMONIC_0
    shots = around(torch.tensor([0.0]), torch.tensor([20.0]), radius=4.0)
    return Scene(field, Occupancy(box, 8), shots, 48)
