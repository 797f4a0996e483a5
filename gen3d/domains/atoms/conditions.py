"""What the transformer is told of molecules and crystals."""

from collections.abc import Sequence

import torch
from torch import Tensor

from gen3d.domains.atoms.codec import AtomsCodec
from gen3d.domains.atoms.statistics import Kind, StatisticsCodec
from gen3d.types import Conditions


class ConditionScheme:
    """The conditions of one model, by name.

    Attributes:
        codec: whose training statistics scale the conditions.
        properties: names of the properties that can be told.
        classes: categorical conditions and their numbers of classes.
        scalars: names of the continuous conditions.
    """

    def __init__(self, codec: StatisticsCodec, kinds: Sequence[Kind], properties: Sequence[str]) -> None:
        self.codec, self.properties = codec, tuple(properties)
        # ADiT tells its transformer the kind of system alone, even when there is only one.
        self._sizes = isinstance(codec, AtomsCodec)
        self.classes = {"kind": 2} if len(kinds) > 1 or not self._sizes else {}
        species = self._sizes and "crystal" in kinds
        sizes = ["tokens"] * self._sizes + ["hydrogens"] * codec.pooled + ["species"] * species
        self.scalars = (*sizes, *self.properties)

    def describe(
        self, tokens: Tensor, hydrogens: Tensor, species: Tensor, periodic: Tensor, properties: Tensor
    ) -> Conditions:
        """Conditions of B systems, scaled to order one.

        Args:
            tokens: (B,) tokens of each.
            hydrogens: (B,) pooled hydrogens.
            species: (B,) distinct elements; told of crystals alone.
            periodic: (B,) True for crystals.
            properties: (B, P), NaN where not told.
        """
        # A layout is made on the CPU, wherever the codec is.
        mean, std = (b.to(properties.device) for b in (self.codec.property_mean, self.codec.property_std))
        scaled = (properties - mean) / std
        everything = {
            "tokens": tokens.float() / 10,
            "hydrogens": hydrogens.float() / 10,
            "species": (species.float() / 3).masked_fill(~periodic, torch.nan),
            "kind": periodic.long(),
            **dict(zip(self.properties, scaled.unbind(1), strict=True)),
        }
        return {name: everything[name] for name in (*self.classes, *self.scalars)}


def count_species(numbers: Tensor) -> Tensor:
    """Distinct elements (B,) of atomic numbers (B, N); 0 is padding."""
    ordered = numbers.sort(1).values
    new = torch.diff(ordered, dim=1, prepend=torch.zeros_like(ordered[:, :1])) > 0
    return new.sum(1)
