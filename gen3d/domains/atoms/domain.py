"""Molecules and crystals as generative domains: data in, native objects out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from gen3d import io
from gen3d.domains.atoms import native
from gen3d.domains.atoms.adit import AditCodec, AditCodecConfig
from gen3d.domains.atoms.batch import (
    SLOTS,
    AtomsBatch,
    PooledSystem,
    augment,
    canonical,
    collate,
    pool_hydrogens,
)
from gen3d.domains.atoms.codec import AtomsCodec, CodecConfig
from gen3d.domains.atoms.composition import SYMBOLS
from gen3d.domains.atoms.conditions import ConditionScheme
from gen3d.domains.atoms.dataset import AtomsDataset, open_dataset
from gen3d.domains.atoms.decoding import to_systems
from gen3d.domains.atoms.layout import closed_shell, crystal_layout, molecule_layout
from gen3d.domains.atoms.options import CrystalOptions, MoleculeOptions
from gen3d.domains.atoms.statistics import ELEMENTS, MAX_HYDROGENS, MAX_TOKENS, DecodedAtoms, Kind
from gen3d.domains.atoms.stoichiometry import count_atoms, fit_stoichiometries
from gen3d.domains.atoms.system import AtomicSystem
from gen3d.domains.base import GenerativeDomain, Layout, Metric
from gen3d.draws import Draws
from gen3d.errors import Gen3dError
from gen3d.tokens import Tokens
from gen3d.types import Conditions

SHOWN = 64
"""Samples of a contact sheet, at most."""
PROPERTY_RATE = 0.3
"""Share of training samples that are told one of their properties; the others are told none."""


@dataclass(frozen=True)
class AtomsConfig:
    """What a model of atoms is trained on and how systems become tokens."""

    kinds: tuple[Kind, ...] = ("molecule",)
    """What the model generates; both for a joint model."""
    codec: AditCodecConfig | CodecConfig = field(default_factory=CodecConfig)
    """The codec."""
    canonical_frame: bool = True
    """Molecules in their canonical frame; otherwise a random rotation for every sample."""
    properties: tuple[str, ...] = ()
    """Properties that sampling can ask for, by their names in the data."""

    def __post_init__(self) -> None:
        if not self.kinds or len(set(self.kinds)) < len(self.kinds):
            raise Gen3dError(f"kinds are {list(self.kinds)}; allowed: molecule, crystal, each once")


class Systems:
    """Atomic systems as tokens, each pooled once and then kept.

    Attributes:
        parts: the data sets, one after the other.
        sizes: (M,) int64 tokens per system.
    """

    def __init__(self, parts: Sequence[AtomsDataset], pooled: bool) -> None:
        self.parts = parts
        self.pooled = pooled
        self._kept: dict[int, PooledSystem] = {}
        self.sizes = np.concatenate([token_counts(part, pooled) for part in parts])
        self._ends = np.cumsum([len(part) for part in parts])

    def __len__(self) -> int:
        return len(self.sizes)

    def __getitem__(self, index: int) -> PooledSystem:
        if index not in self._kept:
            part = int(np.searchsorted(self._ends, index, side="right"))
            system = self.parts[part][index - (int(self._ends[part - 1]) if part else 0)]
            self._kept[index] = pool_hydrogens(system, self.pooled)
        return self._kept[index]


def token_counts(dataset: AtomsDataset, pooled: bool) -> np.ndarray:
    """Tokens of every system when hydrogens are pooled: its heavy atoms, or as many as carry the rest.

    Where many hydrogens crowd around one atom, some find no slot; those tokens are not counted here.
    """
    if not pooled or dataset.periodic:
        return dataset.sizes
    owner = np.repeat(np.arange(len(dataset)), dataset.sizes)
    heavy = np.bincount(owner, weights=dataset.numbers > 1, minlength=len(dataset))
    return np.maximum(heavy, -(-dataset.sizes // (1 + SLOTS))).astype(np.int64)


class AtomsDomain(GenerativeDomain):
    """What molecules and crystals share; a joint model serves under either name."""

    Config: ClassVar[type] = AtomsConfig
    kind: ClassVar[Kind]

    def __init__(self, config: AtomsConfig) -> None:
        if self.kind not in config.kinds:
            raise Gen3dError(
                f"kinds are {', '.join(config.kinds)}; domain {self.name!r} needs {self.kind!r} among them"
            )
        self.config = config
        self.codec: AtomsCodec | AditCodec
        if isinstance(config.codec, AditCodecConfig):
            self.codec = AditCodec(config.codec, config.kinds, len(config.properties))
        else:
            self.codec = AtomsCodec(config.codec, config.kinds, len(config.properties))
        self.scheme = ConditionScheme(self.codec, config.kinds, config.properties)

    @classmethod
    def serves(cls, config: AtomsConfig) -> Sequence[str]:
        return config.kinds

    @property
    def class_conditions(self) -> Mapping[str, int]:  # type: ignore[override]
        return self.scheme.classes

    @property
    def scalar_conditions(self) -> Sequence[str]:  # type: ignore[override]
        return self.scheme.scalars

    def dataset(self, source: str | Path, split: str) -> Systems:
        """Prepared data; a joint model takes two sources with a comma between them."""
        parts = [open_dataset(part, split) for part in str(source).split(",")]
        kinds = {"crystal" if part.periodic else "molecule" for part in parts}
        if kinds != set(self.config.kinds):
            raise Gen3dError(
                f"{source} holds {' and '.join(sorted(kinds))} data; "
                f"this model is for {' and '.join(sorted(self.config.kinds))}"
            )
        highest = max(int(part.numbers.max(initial=0)) for part in parts)
        if highest > ELEMENTS:
            raise Gen3dError(f"{source} holds element {highest}; allowed: atomic numbers 1 to {ELEMENTS}")
        return Systems(parts, self.codec.pooled)

    def reference(self, source: str | Path, split: str) -> AtomsDataset:
        """The systems of this kind as they are in the data."""
        parts = [open_dataset(part, split) for part in str(source).split(",")]
        for part in parts:
            if part.periodic == (self.kind == "crystal"):
                return part
        raise Gen3dError(f"{source} holds no {self.kind} data")

    def fit(self, dataset: Any) -> None:
        codec = self.codec
        fresh = not codec.elements_seen.any()
        values = []
        for part in dataset.parts:
            kind: Kind = "crystal" if part.periodic else "molecule"
            tokens = token_counts(part, codec.pooled)
            hydrogens = part.sizes - tokens
            inside = (tokens <= MAX_TOKENS) & (hydrogens <= MAX_HYDROGENS)
            histogram = codec.histogram(kind).numpy()
            histogram[:] = 0
            np.add.at(histogram, (tokens[inside], hydrogens[inside]), 1)
            present = torch.from_numpy(np.unique(part.numbers).astype(np.int64))
            strange = present[~codec.elements_seen[present]].tolist()
            if strange and not fresh:
                symbols = ", ".join(SYMBOLS[number] for number in strange)
                raise Gen3dError(f"the model has not seen {symbols}: it cannot be fine-tuned on this data")
            codec.elements_seen[present] = True
            if kind == "crystal":
                fit_stoichiometries(codec, part.numbers, part.sizes)
            else:
                owner = np.repeat(np.arange(len(part)), part.sizes)
                electrons = np.bincount(owner, weights=part.numbers, minlength=len(part))
                codec.odd_electrons.fill_(float((electrons % 2).mean()))
            values.append(_columns(part, self.config.properties))
        if self.config.properties and fresh:
            table = np.concatenate(values)
            for name, column in zip(self.config.properties, table.T, strict=True):
                if np.isnan(column).all():
                    raise Gen3dError(f"property {name!r} is unknown for every system of the training data")
            std = np.nanstd(table, 0)
            codec.property_mean.copy_(torch.from_numpy(np.nanmean(table, 0)))
            codec.property_std.copy_(torch.from_numpy(np.where(std > 0, std, 1.0)))

    def collate(self, items: Sequence[PooledSystem], draws: Draws | None) -> AtomsBatch:
        batch = collate(items, self.config.properties)
        if self.config.canonical_frame:
            batch = canonical(batch)
        if draws is not None:
            batch = augment(batch, draws, rotate=not self.config.canonical_frame)
            batch = hide_properties(batch, draws)
        return batch

    def conditions(self, batch: AtomsBatch) -> Conditions:
        return self.scheme.describe(
            batch.mask.sum(1),
            batch.hydrogen_counts.sum(1),
            count_atoms(batch.numbers * batch.mask),
            batch.periodic,
            batch.properties,
        )

    def items(self, objects: Sequence[Any]) -> list[PooledSystem]:
        return [pool_hydrogens(native.from_native(made), self.codec.pooled) for made in objects]

    def to_native(self, raw: DecodedAtoms) -> list[Any]:
        return [None if system is None else native.to_native(system) for system in self.to_systems(raw)]

    def to_systems(self, raw: DecodedAtoms) -> list[AtomicSystem | None]:
        """The decoded systems; None where numbers are not finite."""
        return to_systems(raw, self.codec.elements_seen, periodic=self.kind == "crystal")

    @classmethod
    def prepare(
        cls, source: str, out: Path, *, limit: int | None = None, seed: int = 0, progress: bool = True
    ) -> str:
        from gen3d.domains.atoms.prepare import prepare

        return prepare(source, out, domain=cls.kind, limit=limit, seed=seed, progress=progress).summary()

    def draw(self, objects: Sequence[Any], path: Path) -> Path | None:
        from gen3d.domains.atoms.contact_sheet import contact_sheet

        contact_sheet(objects[:SHOWN], path)
        return path

    def save(self, objects: Sequence[Any], path: Path) -> list[Path]:
        return io.write([o for o in objects if o is not None], path)


@dataclass(frozen=True)
class CrystalConfig(AtomsConfig):
    """The same with the defaults of crystals."""

    kinds: tuple[Kind, ...] = ("crystal",)
    """What the model generates; both for a joint model."""
    codec: AditCodecConfig | CodecConfig = field(default_factory=lambda: CodecConfig(element_channels=8))
    """The codec."""


class MoleculeDomain(AtomsDomain):
    """Molecules as RDKit molecules with bonds and a conformer."""

    name = "molecule"
    kind = "molecule"
    SampleOptions = MoleculeOptions  # type: ignore[assignment]
    extension = ".sdf"

    def valid(self, sample: Any) -> bool:
        """Whether bonds of a neutral, connected molecule could be perceived."""
        return sample is not None and sample.HasProp(native.VALID) and sample.GetBoolProp(native.VALID)

    def layout(self, options: MoleculeOptions, draws: Draws) -> Layout:
        return molecule_layout(self.scheme, options, draws)

    def layout_of(self, batch: AtomsBatch, tokens: Tokens) -> Layout:
        layout = super().layout_of(batch, tokens)
        return replace(layout, finish=closed_shell(self.codec).finish) if self.codec.pooled else layout

    def metrics(  # type: ignore[override]
        self,
        samples: Sequence[Any],
        reference: Any,
        *,
        workers: int | None = None,
        posebusters: bool = False,
        xtb: int = 0,
        progress: bool = False,
    ) -> list[Metric]:
        from gen3d.domains.atoms.metrics.molecules import molecule_metrics

        return molecule_metrics(
            samples,
            as_systems(reference),
            workers=workers,
            posebusters=posebusters,
            xtb=xtb,
            progress=progress,
        )


class CrystalDomain(AtomsDomain):
    """Crystals as pymatgen structures."""

    name = "crystal"
    kind = "crystal"
    Config = CrystalConfig
    SampleOptions = CrystalOptions  # type: ignore[assignment]
    extension = ".cif"

    def valid(self, sample: Any) -> bool:
        """Whether no atoms overlap and the cell has a volume (see `structure_valid`)."""
        from gen3d.domains.atoms.metrics.crystals import structure_valid

        return sample is not None and structure_valid(native.from_native(sample))

    def layout(self, options: CrystalOptions, draws: Draws) -> Layout:
        return crystal_layout(self.scheme, options, draws)

    def metrics(  # type: ignore[override]
        self,
        samples: Sequence[Any],
        reference: Any,
        *,
        workers: int | None = None,
        matcher: str = "mattergen",
        chgnet: int = 0,
        progress: bool = False,
    ) -> list[Metric]:
        from gen3d.domains.atoms.metrics.crystals import crystal_metrics

        return crystal_metrics(
            as_systems(samples),
            as_systems(reference),
            workers=workers,
            matcher=matcher,
            chgnet=chgnet,
            progress=progress,
        )


def as_systems(objects: Sequence[Any]) -> Sequence[Any]:
    """The atoms of native objects; None stays None, and a data set is left as it is."""
    if isinstance(objects, AtomsDataset):
        return objects
    return [None if made is None else native.from_native(made) for made in objects]


def _columns(dataset: AtomsDataset, names: Sequence[str]) -> np.ndarray:
    """Values (M, P) of named properties, NaN where the data set has none."""
    table = np.full((len(dataset), len(names)), np.nan)
    for column, name in enumerate(names):
        if name in dataset.property_names:
            table[:, column] = dataset.properties[:, dataset.property_names.index(name)]
    return table


def hide_properties(batch: AtomsBatch, draws: Draws) -> AtomsBatch:
    """Keep one property of some samples and none of the others, so that the model learns to do without."""
    count = batch.properties.shape[1]
    if not count:
        return batch
    told = draws.uniform("property/told") < PROPERTY_RATE
    chosen = (draws.uniform("property/which") * count).long().clamp(max=count - 1)
    keep = told[:, None] & (torch.arange(count) == chosen[:, None])
    return replace(batch, properties=batch.properties.masked_fill(~keep, torch.nan))
