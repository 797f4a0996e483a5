"""What a moving scene is made of, and how it is fitted."""

from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

from gen3d.config import require_at_least
from gen3d.fields.base import Field
from gen3d.fields.hashgrid import HashField
from gen3d.fields.heads import make_head
from gen3d.fields.planes import Deformation, Fusion
from gen3d.fields.rivals import HexPlaneField, KPlanesField
from gen3d.fields.shade import ShadeField
from gen3d.fields.voxels import VoxelField
from gen3d.scenes.fit import FitConfig

PENALTIES = {
    "shade": {"density_variation": 0.001, "bending": 10.0, "acceleration": 100.0},
    "hexplane": {"variation": 1e-4},
    "kplanes": {"variation": 1e-4, "acceleration": 1e-2, "motion": 1e-4},
    "voxels": {"density_variation": 0.001},
    "hashgrid": {},
}
PRIOR_PENALTIES = {"denoising": 0.1, "prior": 0.1}
"""Weights of the penalties of each method: ours, and the published ones. Those of a prior come on top."""


@dataclass(frozen=True)
class DeformationConfig:
    """Of SHaDe's grids over two coordinates and time."""

    resolution: int = 32
    """Grid points along each coordinate."""
    frames: int = 16
    """Grid points along time."""
    features: int = 8
    """Of each grid."""
    fusion: Fusion = "sum"
    """How the three grids are put together."""
    learned: bool = False
    """Whether the projection to offsets learns; the paper's does not."""
    canonical_time: float | None = None
    """Time at which nothing is moved; None leaves the canonical shape free."""
    still: float = 0.15
    """The share of a fit in which nothing moves yet."""

    def __post_init__(self) -> None:
        require_at_least(2, self, "resolution", "frames")
        require_at_least(1, self, "features")
        require_at_least(0, self, "still")
        if self.canonical_time is not None and not 0 <= self.canonical_time <= 1:
            raise ValueError(f"canonical_time is {self.canonical_time}; allowed: 0 to 1")


@dataclass(frozen=True)
class DynamicSceneConfig:
    """The field of a moving scene."""

    method: Literal["shade", "hexplane", "kplanes", "voxels", "hashgrid"] = "shade"
    """SHaDe, one of the rivals, or a voxel or hash grid, in which nothing moves."""
    head: Literal["harmonics", "attention", "perceptron"] = "attention"
    """What makes colours of features (SHaDe, voxels)."""
    degree: int = 1
    """Of the spherical harmonics, 0 to 3 (SHaDe, voxels)."""
    deformation: DeformationConfig = field(default_factory=DeformationConfig)
    """Of SHaDe."""
    frames: int = 16
    """Grid points along time (rivals)."""
    parts: int = 16
    """Parts of time for which empty space is kept apart."""
    hull_share: float = 0.35
    """The share of the pictures in which a place must be covered to be in the scene; all of them where
    nothing moves."""
    half_side: float | None = None
    """Of the cube in which the scene is looked for; by default 1.5 with alpha, 1 without."""

    def __post_init__(self) -> None:
        require_at_least(2, self, "frames")
        require_at_least(1, self, "parts")
        if not 0 < self.hull_share <= 1:
            raise ValueError(f"hull_share is {self.hull_share}; allowed: above 0, at most 1")
        if self.half_side is not None and not self.half_side > 0:
            raise ValueError(f"half_side is {self.half_side}; it must be above 0")

    @property
    def moves(self) -> bool:
        """Whether the field depends on time."""
        return self.method not in ("voxels", "hashgrid")


@dataclass(frozen=True)
class PriorConfig:
    """How a prior of moving scenes helps where there are few pictures."""

    checkpoint: str = "scene-prior"
    """Its weights: shipped ones by name, a folder, or a hub id."""
    share: float = 0.6
    """The share of a fit in which only the prior's latents are fitted."""
    rays: int = 768
    """Rays of a step of that."""

    def __post_init__(self) -> None:
        require_at_least(1, self, "rays")
        if not 0 < self.share < 1:
            raise ValueError(f"share is {self.share}; allowed: above 0, below 1")


@dataclass(frozen=True)
class DynamicSceneRun:
    """Everything that defines a fit; the content of `configs/dynamic_scene*.yaml`."""

    domain: str = "dynamic-scene"
    """Name of the domain."""
    domain_config: DynamicSceneConfig = field(default_factory=DynamicSceneConfig)
    """The field."""
    fit: FitConfig = field(default_factory=FitConfig)
    """How it is fitted; penalties that are left out take the method's usual weights."""
    prior: PriorConfig | None = None
    """A prior that the scene starts from (SHaDe); None for none."""

    def __post_init__(self) -> None:
        if self.prior is not None and self.domain_config.method != "shade":
            raise ValueError(f"a prior starts the grids of shade, not of {self.domain_config.method}")


def make_field(config: DynamicSceneConfig, box: Tensor, resolution: int) -> Field:
    """The field of `config` in a box (2, 3), with `resolution` grid points along its longest side."""
    if config.method == "hexplane":
        return HexPlaneField(box, resolution, config.frames)
    if config.method == "kplanes":
        return KPlanesField(box, resolution, config.frames)
    if config.method == "voxels":
        return VoxelField(box, resolution, make_head(config.head, config.degree))
    if config.method == "hashgrid":
        return HashField(box, resolution)
    of = config.deformation
    deformation = Deformation(of.resolution, of.frames, of.features, of.fusion, of.learned, of.canonical_time)
    return ShadeField(box, resolution, make_head(config.head, config.degree), deformation, of.still)
