"""The flags that verbs gain for moving scenes. Imports no torch: `--help` is quick."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class DynamicSceneOptions:
    """What may be asked of a fitted scene."""

    path: Literal["orbit", "still"] = "orbit"
    """How the camera moves: once around the scene, or not at all."""
    seconds: float = 4.0
    """Length of the film."""
    fps: float = 24.0
    """Pictures a second."""
    time: float | None = None
    """An instant in [0, 1] that films and meshes show. By default time runs from 0 to 1."""
    format: str | None = None
    """Extension of what is written when --out names none: mp4, gif or png (pictures), glb, obj or ply
    (meshes with vertex colours; one for each picture of the film where no --time is given)."""
    show: Literal["colour", "depth", "normals"] = "colour"
    """What pictures show."""
    width: int | None = None
    """Of the pictures, in pixels; by default as in training."""
    height: int | None = None
    """Of the pictures, in pixels; by default in proportion to the width."""
    azimuth: float = 0.0
    """Degrees about the vertical axis at which the camera begins."""
    elevation: float = 20.0
    """Degrees of the camera above the horizon."""
    background: Literal["white", "black"] = "white"
    """Behind the scene."""
    resolution: int = 128
    """Grid points along the longest side from which meshes are made."""


@dataclass(frozen=True)
class DynamicScenePrepareOptions:
    """How an animated mesh is filmed."""

    width: int = 200
    """Of the pictures, in pixels."""
    height: int = 200
    """Of the pictures, in pixels."""
    train: int = 48
    """Pictures for training, at even times."""
    valid: int = 6
    """Pictures for validation, at times in between."""
    test: int = 12
    """Pictures for testing, at times in between."""
    cameras: Literal["random", "orbit"] = "random"
    """Where pictures are taken from: all around, a new place for each; or along one turn."""
