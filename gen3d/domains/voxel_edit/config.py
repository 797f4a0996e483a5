"""How a scene is edited."""

from dataclasses import dataclass, field

from gen3d.config import require_at_least, to_dict
from gen3d.diffusion.distillation import DistillationConfig
from gen3d.domains.voxel_edit.cut import CutConfig
from gen3d.scenes.distil import DistilConfig, TextPriorConfig
from gen3d.scenes.fit import FitConfig


@dataclass(frozen=True)
class RefineConfig:
    """How an edit is kept to where the words are."""

    share: float = 0.2
    """The share of a run, at its end, in which attention is fitted to the grid."""
    noise: float | None = None
    """Noise level at which the prior's attention is read; None for what suits the prior: 0.2 with Stable
    Diffusion, the 200th of 1,000 steps, as published."""
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
            value = getattr(self, name)
            if value is not None and not 0 < value < 1:
                raise ValueError(f"{name} is {value}; allowed: above 0, below 1")


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
    """Degrees about the vertical axis to which the front faces: 0 is -y, 90 is +x."""
    room: float = 0.7
    """Of the scene's height, left free above it for what `edit_words` name: what is not in the picture cannot
    be added, and a prior of things that fill their pictures adds nothing to one that does already."""
    image_l2: float = 0.0
    """Weight of the mean squared difference of pictures from those of the scene as it was: what the paper
    compares its volumetric regulariser with."""
    refine: RefineConfig = field(default_factory=RefineConfig)
    """How an edit with `edit_words` is kept to where these are."""

    def __post_init__(self) -> None:
        require_at_least(2, self, "pictures")
        require_at_least(8, self, "size")
        require_at_least(0, self, "room", "image_l2")


AS_PUBLISHED = {
    "steps": 8000,
    "learning_rate": 0.03,
    "rgb_views": 1,
    "rgb_size": 266,
    "refine_at": 1.0,
    "sparsity": 0.0,
    "penalties": {"correlation": 0.0122},
    "pull": to_dict(DistillationConfig(weight="dreamfusion", anneal="voxe", guidance=101.0)),
}
"""How Stable Diffusion edits, where nothing else is said: score distillation, as in the paper."""


def editing(local: bool = False) -> DistilConfig:
    """How a prior edits, where nothing else is said.

    Args:
        local: whether something is added, and the rest put back afterwards; then the shape is held less, for
            what holds it also holds empty space.
    """
    return DistilConfig(
        steps=500 if local else 300,
        learning_rate=0.08,
        resolutions=(64,),
        penalties={"correlation": 0.1 if local else 1.0},
        pull=DistillationConfig("targets", "even", noise=(0.5, 0.95), prior_steps=2),
        sparsity=0.01,
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
