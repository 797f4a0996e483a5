"""The flags that `gen3d sample` gains for text to 3D. Imports no torch: `--help` is quick."""

from dataclasses import dataclass


@dataclass(frozen=True)
class LatentNeRFOptions:
    """What should be made."""

    prompt: str | None = None
    """What should be seen: "a blue sofa"."""
    start: str | None = None
    """What it begins as: the mesh that a checkpoint of domain object makes of the prompt, shipped weights by
    name, a folder or a hub id; or "ball", a soft ball, as published. By default "object" with the prior that
    comes with gen3d, "ball" with others."""
    sketch: str | None = None
    """File of a mesh that says where it is: Sketch-Shape."""
    strictness: float | None = None
    """Weight of the sketch against the prior; 10 is strict, 0.01 hardly holds."""
    proximity: float | None = None
    """How far from the sketch's surface, softly, the field is free; 0.3 as published."""
    paint: str | None = None
    """File of a mesh that gets a texture: Latent-Paint."""
    prior: str = "image"
    """The diffusion model of pictures that guides: shipped weights by name, a folder or a hub id of domain
    image; or stable-diffusion:PATH, with a folder or hub id of a pipeline of diffusers."""
    config: str | None = None
    """A YAML file, as configs/latent-nerf.yaml, whose values take the place of the defaults."""
    max_minutes: float | None = None
    """End the fit after so many minutes; the film comes on top."""
    resolution: int = 128
    """Grid points along a side from which the mesh is made."""
    width: int = 256
    """Of the pictures of the film, in pixels."""
    seconds: float = 3.0
    """Length of the film."""
    fps: float = 16.0
    """Pictures a second."""
