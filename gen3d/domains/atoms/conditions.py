"""What the transformer is told of molecules and crystals."""

from collections.abc import Sequence

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
        sizes = ["tokens"] * self._sizes + ["hydrogens"] * codec.pooled
        self.scalars = (*sizes, *self.properties)

    def describe(self, tokens: Tensor, hydrogens: Tensor, periodic: Tensor, properties: Tensor) -> Conditions:
        """Conditions of B systems, scaled to order one.

        Args:
            tokens: (B,) tokens of each.
            hydrogens: (B,) pooled hydrogens.
            periodic: (B,) True for crystals.
            properties: (B, P), NaN where not told.
        """
        # A layout is made on the CPU, wherever the codec is.
        mean, std = (b.to(properties.device) for b in (self.codec.property_mean, self.codec.property_std))
        scaled = (properties - mean) / std
        everything = {
            "tokens": tokens.float() / 10,
            "hydrogens": hydrogens.float() / 10,
            "kind": periodic.long(),
            **dict(zip(self.properties, scaled.unbind(1), strict=True)),
        }
        return {name: everything[name] for name in (*self.classes, *self.scalars)}
