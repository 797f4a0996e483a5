"""How a scene is edited."""

from dataclasses import dataclass, field

from gen3d.config import require_at_least
from gen3d.diffusion.distillation import DistillationConfig
from gen3d.domains.voxel_edit.cut import CutConfig
from gen3d.scenes.distil import DistilConfig, TextPriorConfig
from gen3d.scenes.fit import FitConfig


@dataclass(frozen=True)
class RefineConfig:
    """How an edit is kept to where the words are."""

    share: float = 0.2
    """The share of a run, at its end, in which attention is fitted to the grid."""
    noise: float = 0.2
    """Noise level at which the prior's attention is read; of 1,000 steps the 200th, as published."""
    views: int = 24
    """Pictures whose attention is read, once: the shape does not change any more."""
    variation: float = 0.01
    """Weight of the differences of neighbouring grid points."""
    cut: CutConfig = field(default_factory=CutConfig)
    """How the edit is cut out."""

    def __post_init__(self) -> None:
        require_at_least(1, self, "views")
        require_at_least(0, self, "variation")
        for name in ("share", "noise"):
            if not 0 < getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; allowed: above 0, below 1")


@dataclass(frozen=True)
class VoxelEditConfig:
    """What is edited."""

    initial: FitConfig = field(
        default_factory=lambda: FitConfig(
            steps=1500, resolutions=(24, 40, 64), grow_at=(0.0, 0.2, 0.5), samples=96, prune_below=0.3
        )
    )
    """How pictures become a grid, where the input is not one."""
    pictures: int = 40
    """Taken of a mesh."""
    size: int = 128
    """Of these, in pixels."""
    front: float = 0.0
    """Degrees about the vertical axis from which the front is seen, 0 along +y."""
    image_l2: float = 0.0
    """Weight of the mean squared difference of pictures from those of the scene as it was: what the paper
    compares its volumetric regulariser with."""
    refine: RefineConfig = field(default_factory=RefineConfig)
    """How an edit with `edit_words` is kept to where these are."""

    def __post_init__(self) -> None:
        require_at_least(2, self, "pictures")
        require_at_least(8, self, "size")
        require_at_least(0, self, "image_l2")


def editing() -> DistilConfig:
    """How a prior edits, where nothing else is said."""
    return DistilConfig(
        steps=1200,
        learning_rate=0.03,
        resolutions=(64,),
        grow_at=(0.0,),
        penalties={"correlation": 1.0},
        pull=DistillationConfig(weight="dreamfusion", anneal="voxe"),
        refine_at=1.0,
        sparsity=0.0,
    )


@dataclass(frozen=True)
class VoxelEditRun:
    """Everything that defines an edit."""

    domain: str = "voxel-edit"
    """Name of the domain."""
    prompt: str = ""
    """What should be seen after it."""
    edit_words: tuple[str, ...] = ()
    """Words of the prompt that name what is new; none for an edit of the whole."""
    domain_config: VoxelEditConfig = field(default_factory=VoxelEditConfig)
    """What is edited."""
    fit: DistilConfig = field(default_factory=editing)
    """How the prior edits."""
    prior: TextPriorConfig = field(default_factory=TextPriorConfig)
    """What guides it."""

    def __post_init__(self) -> None:
        if len(self.fit.resolutions) != 1:
            raise ValueError(f"fit.resolutions is {self.fit.resolutions}; the grid that is edited has one")
        words = self.prompt.lower().replace(",", " ").split()
        for word in self.edit_words:
            if word.lower() not in words:
                raise ValueError(
                    f"edit word {word!r} is not in the prompt {self.prompt!r}; allowed: {', '.join(words)}"
                )
