"""The flags that `gen3d sample` gains for shapes. Imports no torch: `--help` is quick."""

from dataclasses import dataclass
from typing import Annotated

from tyro.conf import arg


@dataclass(frozen=True)
class ShapeOptions:
    """What may be asked of new shapes."""

    class_name: Annotated[str | None, arg(name="class")] = None
    """Class such as chair; drawn as often as in the training data when left out."""
    representation: str | None = None
    """points, voxels or mesh; by default what the checkpoint makes: points, or meshes of voxels."""
    points: int | None = None
    """Points of a cloud, any number; by default as many as in training."""
    complete: str | None = None
    """File of a partial scan in the frame of the training data: its points stay, the rest is generated."""
