"""The two contracts every kind of generated thing fulfils.

`Domain` is what the command line and the evaluation driver need. `GenerativeDomain` adds what the
shared transformer needs: data, a codec between native objects and tokens, and a layout that decides
how many tokens there are. To add a domain: one folder, one line in `domains/__init__.py`, one debug
config, one notebook.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from gen3d import media
from gen3d.draws import Draws
from gen3d.errors import Gen3dError
from gen3d.metrics import Metric
from gen3d.nn.transformer import DiffusionTransformer, Network, TransformerConfig
from gen3d.tokens import Ties, Tokens
from gen3d.types import Conditions, TokenMask, TokenPositions

AROUND, SMALL = 12, 160
"""Pictures around a scene on its contact sheet, and their width in pixels."""


@dataclass(frozen=True)
class SampleOptions:
    """Flags of `gen3d sample` that one domain adds to the common ones; each field is one flag."""


class Batch(Protocol):
    """What `collate` returns: a bundle of tensors that can move to a device."""

    def to(self, device: torch.device | str) -> "Batch": ...


class Dataset(Protocol):
    """A finite, indexable set of items.

    `sizes` holds the token count of every item (int64, one per item), so that batches can be
    bucketed by length without loading an item.
    """

    sizes: np.ndarray

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Any: ...


@dataclass(frozen=True)
class Layout:
    """Where tokens are, and what is known of them, before noise is drawn.

    Attributes:
        mask: (B, N), True where a token is real.
        positions: (B, N, A) or None.
        conditions: what the transformer is told, by name, each with leading dimension B.
        unguided: names of the conditions that classifier-free guidance leaves alone: what it moves away
            from is told them, too.
        known: latent values (B, N, C) that sampling must keep, or None.
        known_mask: (B, N, C), True where `known` counts, or None.
        constrain: maps every clean prediction of the sampler, unnormalised latents (B, N, C), to the
            nearest that keeps what is given (a composition, a scaffold); None when all is free. Takes
            the row numbers of the samples at hand, (b,), beside the latents (b, n, C), n <= N.
        ties: which tokens are one in some channels, or None.
        finish: makes the decoder's raw output keep exactly what is given; takes the row numbers, too.
    """

    mask: TokenMask
    positions: TokenPositions | None = None
    conditions: Conditions = field(default_factory=dict)
    unguided: frozenset[str] = frozenset()
    known: Tensor | None = None
    known_mask: Tensor | None = None
    constrain: Callable[[Tensor, Tensor], Tensor] | None = None
    finish: Callable[[Any, Tensor], Any] | None = None
    ties: Ties | None = None

    def to(self, device: torch.device | str) -> "Layout":
        conditions = {name: value.to(device) for name, value in self.conditions.items()}
        return self._changed(conditions, lambda tensor: tensor.to(device))

    def select(self, rows: Tensor) -> "Layout":
        """Some samples, without the padding that all of them share."""
        used = int(self.mask[rows].any(0).nonzero().max()) + 1
        conditions = {name: value[rows] for name, value in self.conditions.items()}
        return self._changed(conditions, lambda tensor: tensor[rows, :used])

    def _changed(self, conditions: Conditions, change: Callable[[Tensor], Tensor]) -> "Layout":
        """Other conditions, and `change` applied to whatever else there is."""

        def maybe(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else change(tensor)

        return replace(
            self,
            mask=change(self.mask),
            positions=maybe(self.positions),
            conditions=conditions,
            known=maybe(self.known),
            known_mask=maybe(self.known_mask),
            ties=None if self.ties is None else replace(self.ties, source=change(self.ties.source)),
        )


@dataclass(frozen=True)
class ChannelGroup:
    """Neighbouring latent channels that normalisation treats as one."""

    width: int
    """Number of channels."""
    scale: float = 1.0
    """Their root-mean-square deviation after normalisation."""


class Codec(nn.Module, ABC):
    """The map between a batch of native data and tokens.

    Attributes:
        channels: C, the number of latent channels of a token.
        channel_groups: how latents are normalised; the widths add up to C. Empty: every channel alone,
            to unit variance.
        normalised: False for a codec whose latents the transformer takes as they are.
    """

    channels: int
    channel_groups: tuple[ChannelGroup, ...] = ()
    normalised: bool = True

    @abstractmethod
    def encode(self, batch: Any, draws: Draws | None = None) -> Tokens:
        """Latent tokens of a batch, (B, N, C), unnormalised; a random encoder draws from `draws`."""

    @abstractmethod
    def decode(self, tokens: Tokens) -> Any:
        """The domain's raw output for latent tokens; `GenerativeDomain.to_native` finishes it."""

    @abstractmethod
    def loss(self, batch: Any, draws: Draws) -> tuple[Tensor, dict[str, Tensor]]:
        """The scalar reconstruction objective and its parts by name; randomness from `draws`."""


class Domain(ABC):
    """One kind of generated thing."""

    name: ClassVar[str]
    Config: ClassVar[type]
    """Frozen dataclass with the domain's own configuration; stored in the checkpoint."""
    SampleOptions: ClassVar[type[SampleOptions]] = SampleOptions
    extension: ClassVar[str]
    """File extension written when the user names none, with its dot."""

    @classmethod
    def prepare(
        cls, source: str, out: Path, *, limit: int | None = None, seed: int = 0, progress: bool = True
    ) -> str:
        """Turn a source of data into what training reads.

        Args:
            source: the name of a public set, or a file or folder of one's own.
            out: the folder to write to.
            limit: keep at most so many entries.
            seed: of a split that the source does not define.
            progress: show progress bars.

        Returns:
            A summary for people.

        Raises:
            Gen3dError: the source is unusable, or the domain prepares nothing.
        """
        raise Gen3dError(f"domain {cls.name!r} prepares no data; its training reads what it is given")

    @abstractmethod
    def metrics(self, samples: Sequence[Any], reference: Any, **options: Any) -> list[Metric]:
        """Measure samples against a reference set; failed samples (None) stay in the denominator."""

    @classmethod
    def default_checkpoint(cls, options: Any) -> str:
        """Name of the shipped checkpoint that samples with these options come from."""
        return cls.name

    @abstractmethod
    def valid(self, sample: Any) -> bool:
        """Whether a generated object is of any use, by a quick check; None never is."""

    @classmethod
    def extension_of(cls, made: Any) -> str:
        """Extension, with its dot, of the file that a native object goes into when the user names none."""
        return cls.extension

    def draw(self, objects: Sequence[Any], path: Path) -> Path | None:
        """Write a picture of the objects, a PNG, and return where; None where the domain draws none."""
        return None

    @abstractmethod
    def save(self, objects: Sequence[Any], path: Path) -> list[Path]:
        """Write native objects; the extension picks the writer. Returns the files, several numbered ones
        where the format holds one object each."""


class GenerativeDomain(Domain):
    """A kind of thing generated by the shared transformer from tokens of a codec.

    Built from its `Config` alone: `DomainClass(config)`. Everything learned or counted from data lives in
    `codec` (parameters and buffers), so that the checkpoint holds all of it.
    """

    codec: Codec
    class_conditions: Mapping[str, int]
    """Name -> number of classes of every categorical condition of the transformer."""
    scalar_conditions: Sequence[str]
    """Names of the continuous conditions of the transformer."""
    vector_conditions: Mapping[str, int] = MappingProxyType({})
    """Name -> width of every condition of several numbers that are known or not together."""
    fine_tuning: ClassVar[Mapping[str, Any]] = {
        "batch_size": 64,
        "steps": 2000,
        "optimizer": "muon",
        "learning_rate": 5e-4,
        "warmup": 50,
        "schedule": "linear",
        "ema": 0.995,
    }
    """Values of `train` that fine-tuning on one's own data begins with, for an hour or so on a processor."""

    @classmethod
    def serves(cls, config: Any) -> Sequence[str]:
        """Names of the domains that a checkpoint of this domain with this `Config` can generate."""
        return (cls.name,)

    @property
    def model_fields(self) -> dict[str, Any]:
        """Fields of `TransformerConfig` that follow from the domain, beside its conditions."""
        return {"channels": self.codec.channels}

    def network(self, config: TransformerConfig) -> Network:
        """What predicts from noisy tokens of the codec: the transformer, or a module around it that is
        called as it is and has its `config`."""
        return DiffusionTransformer(config)

    @abstractmethod
    def dataset(self, source: str | Path, split: str) -> Dataset:
        """Open prepared data; `split` is "train", "valid" or "test"."""

    def reference(self, source: str | Path, split: str) -> Any:
        """Prepared data as `metrics` compares with it; by default the data set that training reads."""
        return self.dataset(source, split)

    @abstractmethod
    def fit(self, dataset: Dataset) -> None:
        """Store what sampling needs of the training set (size histogram, scales) in codec buffers.

        In fine-tuning the buffers already hold those of another set: sizes are counted anew, and scales
        that the weights depend on stay.
        """

    @abstractmethod
    def collate(self, items: Sequence[Any], draws: Draws | None) -> Batch:
        """Pad items into a batch; augment with `draws`, or not at all when it is None."""

    @abstractmethod
    def conditions(self, batch: Any) -> Conditions:
        """The conditions of a training batch, by name."""

    @abstractmethod
    def layout(self, options: Any, draws: Draws) -> Layout:
        """Token counts, positions and conditions for `len(draws.index)` new samples.

        Raises:
            Gen3dError: an option that the checkpoint cannot fulfil.
        """

    def items(self, objects: Sequence[Any]) -> list[Any]:
        """What `collate` takes, of native objects: the way back from `to_native`.

        Raises:
            Gen3dError: this domain does not take its objects back.
        """
        raise Gen3dError(f"domain {self.name!r} cannot edit what it has made")

    def layout_of(self, batch: Any, tokens: Tokens) -> Layout:
        """The layout of samples that are laid out as `tokens` of `batch` are.

        What is told of them is what they are already: guidance has nothing to move towards.
        """
        conditions = self.conditions(batch)
        return Layout(tokens.mask, tokens.positions, conditions, frozenset(conditions), ties=tokens.ties)

    @abstractmethod
    def to_native(self, raw: Any) -> list[Any]:
        """Finished objects of the library people use, one per sample."""


class Fitting(Protocol):
    """A scene on its way, as `gen3d.optimise` drives it.

    Attributes:
        step: steps taken.
        seconds: spent on them.
    """

    step: int
    seconds: float

    def begin(self) -> None:
        """What comes before the first step of a fresh run, if anything."""

    def share(self, max_seconds: float | None) -> float:
        """How much of it is over, in [0, 1], by steps or by time, whichever is further."""

    def advance(self, max_seconds: float | None) -> None:
        """Take one step."""

    def measure(self) -> dict[str, float]:
        """Numbers for people: how good it is by now."""

    def save(self, path: Path) -> None:
        """Everything that going on needs, in one file."""

    def restore(self, path: Path) -> Any:
        """Go on where `save` was called."""

    def write(self, folder: Path) -> None:
        """The scene of now, as a checkpoint."""

    def preview(self, path: Path) -> bool:
        """Draw the scene of now, a PNG, if that is quick; returns whether it was."""


class SceneDomain(Domain):
    """A kind of thing that is not drawn but fitted, one scene at a time, to pictures or to a prior."""

    RunConfig: ClassVar[type]
    """Frozen dataclass with everything that defines a fit; its field `domain` holds the domain's name."""

    @classmethod
    @abstractmethod
    def fitting(cls, config: Any, data: Path | None, prior: Any = None) -> Fitting:
        """A fit that has not begun, of a `RunConfig` to a capture; `prior` is the `gen3d.generator.Generator`
        that the configuration's `prior` names, if any."""

    @classmethod
    @abstractmethod
    def load(cls, folder: Path) -> Any:
        """The scene of a checkpoint or run folder."""

    @classmethod
    @abstractmethod
    def show(cls, scene: Any, options: Any, out: Path | None, *, progress: bool = True) -> list[Path]:
        """Write what `options`, the domain's `SampleOptions`, ask of a scene; returns the files."""

    @classmethod
    @abstractmethod
    def turntable(cls, scene: Any, count: int, width: int) -> list[Tensor]:
        """Pictures (H, width, 3) in [0, 1] from all around, evenly; a scene that moves does so meanwhile."""

    def draw(self, objects: Sequence[Any], path: Path) -> Path | None:
        scene = next((scene for scene in objects if scene is not None), None)
        if scene is None:
            return None
        media.write_sheet([media.pixels(p) for p in self.turntable(scene, AROUND, SMALL)], path)
        return path

    @classmethod
    @abstractmethod
    def reference(cls, source: Path, split: str) -> Any:
        """What `metrics` compares a scene with: the views of a split of a capture."""


class PromptedDomain(SceneDomain):
    """A kind of scene that `gen3d sample` makes from words, guided by a prior of pictures."""

    @classmethod
    def reference(cls, source: Path, split: str) -> str:
        """Words that a scene is held to; `metrics` says what "-" stands for."""
        return str(source)

    def save(self, objects: Sequence[Any], path: Path) -> list[Path]:
        raise Gen3dError(f"scenes of domain {self.name!r} are written by gen3d sample, into a folder")

    @classmethod
    @abstractmethod
    def run_config(cls, options: Any, given: dict[str, Any]) -> Any:
        """The `RunConfig` that `options`, the domain's `SampleOptions`, ask for; `given` are values of its
        `fit` that common flags gave.

        Raises:
            Gen3dError: an option is missing or of no use.
        """

    @classmethod
    def data(cls, options: Any) -> Path | None:
        """What a run starts from, beside words; None for nothing."""
        return None
