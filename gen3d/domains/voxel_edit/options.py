"""The flags that `gen3d sample` gains for edits of scenes. Imports no torch: `--help` is quick."""

from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class VoxelEditOptions:
    """What should change."""

    input: Path | None = None
    """The scene: a folder of posed pictures, a run of dynamic-scene or nerfstudio's gen3d-voxel with method
    voxels, or a mesh, which is pictured first."""
    prompt: str | None = None
    """What should be seen after the edit: "a chair with a plant on it"."""
    edit_words: list[str] = field(default_factory=list)
    """Words of the prompt that name what is new; given, the edit is kept to where they are (refinement)."""
    prior: str = "image"
    """The diffusion model of pictures that guides: shipped weights by name, a folder or a hub id of domain
    image; or stable-diffusion:PATH, with a folder or hub id of a pipeline of diffusers."""
    config: str | None = None
    """A YAML file, as configs/voxel-edit.yaml, whose values take the place of the defaults."""
    front: float = 0.0
    """Degrees about the vertical axis to which the scene's front faces: 0 is -y, 90 is +x."""
    max_minutes: float | None = None
    """End the edit after so many minutes; fitting voxels before it and filming after it come on top."""
    resolution: int = 128
    """Grid points along a side from which the mesh is made."""
    width: int = 256
    """Of the pictures of the film, in pixels."""
    seconds: float = 3.0
    """Length of the film."""
    fps: float = 16.0
    """Pictures a second."""
