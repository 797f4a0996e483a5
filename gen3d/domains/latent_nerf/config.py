"""What text to 3D is made of."""

from dataclasses import dataclass, field

from gen3d.domains.latent_nerf.paint import PaintConfig
from gen3d.domains.latent_nerf.sketch import SketchConfig
from gen3d.scenes.distil import DistilConfig, TextPriorConfig


@dataclass(frozen=True)
class LatentNeRFConfig:
    """What is made, beside a prompt."""

    half_side: float = 1.0
    """Of the cube that the field fills."""
    sketch: SketchConfig | None = None
    """A mesh that holds the field: Sketch-Shape."""
    paint: PaintConfig | None = None
    """A mesh that gets a texture instead of a field: Latent-Paint."""

    def __post_init__(self) -> None:
        if not self.half_side > 0:
            raise ValueError(f"half_side is {self.half_side}; it must be above 0")
        if self.sketch is not None and self.paint is not None:
            raise ValueError("both sketch and paint are given; allowed: one of them")


@dataclass(frozen=True)
class LatentNeRFRun:
    """Everything that defines a run of text to 3D."""

    domain: str = "latent-nerf"
    """Name of the domain."""
    prompt: str = ""
    """What should be seen."""
    domain_config: LatentNeRFConfig = field(default_factory=LatentNeRFConfig)
    """What is made."""
    fit: DistilConfig = field(default_factory=DistilConfig)
    """How it is fitted."""
    prior: TextPriorConfig = field(default_factory=TextPriorConfig)
    """What guides it."""
    start: str = ""
    """Checkpoint of domain object whose mesh of the prompt the field begins as: shipped weights by name, a
    folder or a hub id; empty for a soft ball."""

    def __post_init__(self) -> None:
        if self.start and (self.domain_config.sketch or self.domain_config.paint):
            raise ValueError("start, and a sketch or paint, are given; allowed: one of them")
