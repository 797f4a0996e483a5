"""How many atoms of each element a crystal has, whatever the elements: counted, drawn, told and kept.

Falling numbers: Mg4Si2O8 has 8, 4, 2. Round multiplicities are what atoms that choose their elements side
by side get wrong first, and they are few: the 12,467 training crystals have 501 stoichiometries, which are
those of 99% of the validation crystals. So they are drawn with the number of atoms.
"""

from collections import Counter
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from gen3d.domains.atoms.conditioning import FREE
from gen3d.domains.atoms.statistics import (
    ELEMENTS,
    MAX_SPECIES,
    MAX_STOICHIOMETRIES,
    MAX_TOKENS,
    DecodedAtoms,
    StatisticsCodec,
)
from gen3d.draws import Draws
from gen3d.errors import require


def count_atoms(numbers: Tensor) -> Tensor:
    """Atoms of each element of every crystal, in falling order, (B, MAX_SPECIES).

    Args:
        numbers: (B, N) atomic numbers, 0 for padding.
    """
    counts = F.one_hot(numbers, ELEMENTS + 1)[:, :, 1:].sum(1)
    return counts.sort(1, descending=True).values[:, :MAX_SPECIES]


def fit_stoichiometries(codec: StatisticsCodec, numbers: np.ndarray, sizes: np.ndarray) -> None:
    """Fill the codec's table with the commonest stoichiometries of crystals.

    Args:
        codec: whose buffers are filled.
        numbers: atomic numbers of all crystals, one after the other.
        sizes: atoms of each.
    """
    ends = np.cumsum(sizes)
    found: Counter[tuple[int, ...]] = Counter()
    for start, end in zip(ends - sizes, ends, strict=True):
        atoms = np.unique(numbers[start:end], return_counts=True)[1]
        if len(atoms) <= MAX_SPECIES and len(atoms) and end - start <= MAX_TOKENS:
            found[tuple(sorted(atoms.tolist(), reverse=True))] += 1
    codec.stoichiometries.zero_()
    codec.stoichiometry_counts.zero_()
    # In an order that does not depend on that of the data.
    common = sorted(found.items(), key=lambda entry: (-entry[1], entry[0]))[:MAX_STOICHIOMETRIES]
    for row, (falling, count) in enumerate(common):
        codec.stoichiometries[row, : len(falling)] = torch.tensor(falling)
        codec.stoichiometry_counts[row] = count


def draw_stoichiometries(codec: StatisticsCodec, tokens: Tensor, draws: Draws, most: int) -> Tensor:
    """Stoichiometries (B, MAX_SPECIES) of crystals of `tokens` (B,) atoms, as often as in the training data.

    A size that was never seen with so few elements gets none, all zero.

    Args:
        codec: holds the stoichiometries of the training data.
        tokens: atoms of each.
        draws: one stream per new crystal.
        most: elements to choose from.
    """
    table, counts = codec.stoichiometries.cpu().long(), codec.stoichiometry_counts.cpu().double()
    uniform = draws.uniform("stoichiometry").cpu().double()
    drawn = torch.zeros(len(tokens), MAX_SPECIES, dtype=torch.long)
    for size in tokens.unique().tolist():
        fits = ((table.sum(1) == size) & ((table > 0).sum(1) <= most) & (counts > 0)).nonzero()[:, 0]
        if len(fits):
            rows = (tokens == size).nonzero()[:, 0]
            reached = counts[fits].cumsum(0)
            chosen = torch.searchsorted(reached, uniform[rows] * reached[-1], right=True)
            drawn[rows] = table[fits[chosen.clamp(max=len(fits) - 1)]]
    return drawn


@dataclass(frozen=True)
class Stoichiometry:
    """Every sample has as many atoms of each of its elements as drawn, whatever the elements.

    Attributes:
        elements_seen: (ELEMENTS + 1,) True for the elements to choose from.
        atoms: (B, MAX_SPECIES) of all samples, falling and 0 at the end, of which a batch holds some rows;
            all zero where nothing is drawn.
    """

    elements_seen: Tensor
    atoms: Tensor

    def finish(self, raw: DecodedAtoms, rows: Tensor) -> DecodedAtoms:
        seen = raw.element_logits.double().masked_fill(~self.elements_seen.to(raw.mask.device), FREE)
        scores = torch.log_softmax(seen, -1).cpu().numpy()
        mask = raw.mask.cpu().numpy()
        logits = raw.element_logits.clone()
        for i, atoms in enumerate(self.atoms[rows.cpu()].numpy()):
            if atoms.any():
                tokens = np.flatnonzero(mask[i])
                numbers = likeliest_elements(scores[i, tokens], atoms[atoms > 0])
                logits[i, tokens] = FREE
                logits[i, tokens, torch.from_numpy(numbers)] = 0.0
        return replace(raw, element_logits=logits)


def likeliest_elements(scores: np.ndarray, atoms: np.ndarray) -> np.ndarray:
    """Atomic numbers (N,) of which one occurs atoms[0] times, the next atoms[1] times and so on.

    The elements are those that are expected most often, in this order; which atom gets which of them is the
    assignment of the largest sum of scores.

    Args:
        scores: (N, K) log-probability of every atomic number.
        atoms: (S,) falling, with sum N.
    """
    expected = np.exp(scores).sum(0)
    places = np.repeat(np.argsort(-expected, kind="stable")[: len(atoms)], atoms)
    optimize = require("scipy.optimize", "atoms")
    rows, columns = optimize.linear_sum_assignment(scores[:, places].clip(min=FREE), maximize=True)
    numbers = np.empty(len(scores), np.int64)
    numbers[rows] = places[columns]
    return numbers
