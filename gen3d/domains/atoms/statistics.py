"""What every codec of atoms shares: the kinds, what was counted from the training data, the output."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from gen3d.domains.base import Codec

ELEMENTS = 100
"""Highest atomic number."""

MAX_TOKENS, MAX_HYDROGENS = 128, 256
"""Size of the stored histogram; larger systems train, but sizes beyond it are not drawn."""

MAX_STOICHIOMETRIES, MAX_SPECIES = 4096, 8
"""Size of the stored table of stoichiometries; rarer ones and those of more elements are not drawn."""

Kind = Literal["molecule", "crystal"]


class StatisticsCodec(Codec):
    """A codec with the buffers that sampling needs.

    Attributes:
        pooled: whether molecules' hydrogens are pooled into the atoms they sit on.
        elements_seen: (ELEMENTS + 1,) True for atomic numbers that the training data holds.
        stoichiometries: (MAX_STOICHIOMETRIES, MAX_SPECIES) atoms of each element of a cell, in falling order
            and whatever the elements, of the training crystals; Mg4Si2O8 has 8, 4, 2, 0, ...
        stoichiometry_counts: (MAX_STOICHIOMETRIES,) how many training crystals have each.
        odd_electrons: share of the training molecules with an odd number of electrons.
        property_mean: (P,) mean of each property over the training data.
        property_std: (P,) its standard deviation.
    """

    pooled: bool
    elements_seen: Tensor
    stoichiometries: Tensor
    stoichiometry_counts: Tensor
    odd_electrons: Tensor
    property_mean: Tensor
    property_std: Tensor

    def __init__(self, kinds: tuple[Kind, ...], properties: int) -> None:
        super().__init__()
        for kind in kinds:
            empty = torch.zeros(MAX_TOKENS + 1, MAX_HYDROGENS + 1, dtype=torch.int32)
            self.register_buffer(f"{kind}_histogram", empty)
        if "crystal" in kinds:
            rows = torch.zeros(MAX_STOICHIOMETRIES, MAX_SPECIES, dtype=torch.int32)
            self.register_buffer("stoichiometries", rows)
            self.register_buffer("stoichiometry_counts", torch.zeros(len(rows), dtype=torch.int32))
        self.register_buffer("elements_seen", torch.zeros(ELEMENTS + 1, dtype=torch.bool))
        self.register_buffer("odd_electrons", torch.zeros(()))
        self.register_buffer("property_mean", torch.zeros(properties))
        self.register_buffer("property_std", torch.ones(properties))

    def histogram(self, kind: Kind) -> Tensor:
        """Counts of training systems by tokens and pooled hydrogens, (MAX_TOKENS + 1, MAX_HYDROGENS + 1)."""
        return self.get_buffer(f"{kind}_histogram")


@dataclass(frozen=True)
class DecodedAtoms:
    """What the decoder says of B systems of N tokens; `mask` tells the real ones.

    Attributes:
        mask: (B, N).
        element_logits: (B, N, ELEMENTS + 1) by atomic number.
        count_logits: (B, N, SLOTS + 1) by number of hydrogens.
        hydrogens: (B, N, SLOTS, 3) relative positions of hydrogens, angstrom.
        positions: (B, N, 3) angstrom, for molecules.
        fractional: (B, N, 3) in [0, 1), for crystals.
        cells: (B, 3, 3) lattice vectors in rows, angstrom, for crystals.
    """

    mask: Tensor
    element_logits: Tensor
    count_logits: Tensor
    hydrogens: Tensor
    positions: Tensor
    fractional: Tensor
    cells: Tensor | None = None
