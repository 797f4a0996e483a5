"""What the transformer is told of molecules and crystals."""

from collections.abc import Sequence

import torch
from torch import Tensor

from gen3d.domains.atoms.codec import AtomsCodec
from gen3d.domains.atoms.statistics import Kind, StatisticsCodec
from gen3d.types import Conditions

STOICHIOMETRY = ("species", "atoms_1", "atoms_2", "atoms_3", "atoms_4")
"""Conditions of crystals: how many elements, and how many atoms the commonest four have in a cell."""


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
        crystal = self._sizes and "crystal" in kinds
        sizes = ["tokens"] * self._sizes + ["hydrogens"] * codec.pooled
        self.scalars = (*sizes, *STOICHIOMETRY * crystal, *self.properties)

    def describe(
        self, tokens: Tensor, hydrogens: Tensor, stoichiometry: Tensor, periodic: Tensor, properties: Tensor
    ) -> Conditions:
        """Conditions of B systems, scaled to order one.

        Args:
            tokens: (B,) tokens of each.
            hydrogens: (B,) pooled hydrogens.
            stoichiometry: (B, MAX_SPECIES) atoms of each element, falling; told of crystals alone, and not
                where it is all zero.
            periodic: (B,) True for crystals.
            properties: (B, P), NaN where not told.
        """
        # A layout is made on the CPU, wherever the codec is.
        mean, std = (b.to(properties.device) for b in (self.codec.property_mean, self.codec.property_std))
        scaled = (properties - mean) / std
        species = (stoichiometry > 0).sum(1, keepdim=True) / 3
        composed = torch.cat([species, stoichiometry[:, : len(STOICHIOMETRY) - 1] / 10], 1)
        composed = composed.masked_fill((~periodic | (stoichiometry == 0).all(1))[:, None], torch.nan)
        everything = {
            "tokens": tokens.float() / 10,
            "hydrogens": hydrogens.float() / 10,
            **dict(zip(STOICHIOMETRY, composed.unbind(1), strict=True)),
            "kind": periodic.long(),
            **dict(zip(self.properties, scaled.unbind(1), strict=True)),
        }
        return {name: everything[name] for name in (*self.classes, *self.scalars)}
