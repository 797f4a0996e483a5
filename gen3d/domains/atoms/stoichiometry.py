"""How many atoms of each element a crystal has, whatever the elements: counted, drawn, told and kept.

Falling numbers: Mg4Si2O8 has 8, 4, 2. Round multiplicities are what atoms that choose their elements side
by side get wrong first, and they are few: the 12,467 training crystals have 501 stoichiometries, which are
those of 99% of the validation crystals. So they are drawn with the number of atoms, and the atoms of
one element are one in its channels (`gen3d.tokens.Ties`): an element for each group is left to choose.
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

    A size that was never seen with so few elements gets those of other sizes, stretched or shrunk.

    Args:
        codec: holds the stoichiometries of the training data; where it has none, the result is zero.
        tokens: atoms of each.
        draws: one stream per new crystal.
        most: elements to choose from.
    """
    seen = codec.stoichiometry_counts.cpu() > 0
    table, counts = codec.stoichiometries.cpu()[seen].long(), codec.stoichiometry_counts.cpu()[seen].double()
    species, sizes = (table > 0).sum(1), table.sum(1)
    uniform = draws.uniform("stoichiometry").cpu().double()
    drawn = torch.zeros(len(tokens), MAX_SPECIES, dtype=torch.long)
    for size in tokens.unique().tolist():
        few = species <= min(most, size)
        fits = (few & (sizes == size)).nonzero()[:, 0]
        fits = fits if len(fits) else few.nonzero()[:, 0]
        if len(fits):
            rows = (tokens == size).nonzero()[:, 0]
            reached = counts[fits].cumsum(0)
            chosen = torch.searchsorted(reached, uniform[rows] * reached[-1], right=True)
            atoms = table[fits[chosen.clamp(max=len(fits) - 1)]].numpy()
            drawn[rows] = torch.from_numpy(np.stack([stretch(row, size) for row in atoms]))
        elif len(counts):  # every known one has more elements than may occur
            drawn[tokens == size] = torch.tensor([size] + [0] * (MAX_SPECIES - 1))
    return drawn


def stretch(atoms: np.ndarray, size: int) -> np.ndarray:
    """A stoichiometry (S,) of `size` atoms in much the same proportions; every element keeps an atom."""
    exact = atoms * (size / atoms.sum())
    result = np.where(atoms > 0, np.maximum(np.floor(exact), 1), 0).astype(np.int64)
    while result.sum() < size:
        result[np.argmax(exact - result)] += 1
    while result.sum() > size:
        result[np.argmax(np.where(result > 1, result - exact, -np.inf))] -= 1
    return -np.sort(-result)


def tie_groups(atoms: Tensor, length: int) -> Tensor:
    """For tokens in the order of their groups, the first of the own group, (B, length).

    Args:
        atoms: (B, S) tokens of each group; tokens beyond their sum stand alone.
        length: number of tokens, padding included.
    """
    ends = atoms.cumsum(1)
    order = torch.arange(length).expand(len(atoms), -1).contiguous()
    group = torch.searchsorted(ends, order, right=True)
    starts = F.pad(ends, (1, 0)).gather(1, group)
    return torch.where(group < atoms.shape[1], starts, order)


@dataclass(frozen=True)
class Stoichiometry:
    """Every group of atoms gets one element, and no two groups the same.

    Attributes:
        elements_seen: (ELEMENTS + 1,) True for the elements to choose from.
        atoms: (B, MAX_SPECIES) atoms of each group of all samples, 0 at the end, of which a batch holds some
            rows; tokens stand in the order of their groups. All zero where nothing is known.
    """

    elements_seen: Tensor
    atoms: Tensor

    def finish(self, raw: DecodedAtoms, rows: Tensor) -> DecodedAtoms:
        seen = raw.element_logits.double().masked_fill(~self.elements_seen.to(raw.mask.device), FREE)
        scores = torch.log_softmax(seen, -1).cpu().numpy()
        logits = raw.element_logits.clone()
        for i, atoms in enumerate(self.atoms[rows.cpu()].numpy()):
            if atoms.any():
                numbers = np.repeat(likeliest_elements(scores[i], atoms[atoms > 0]), atoms[atoms > 0])
                tokens = np.arange(len(numbers))
                logits[i, tokens] = FREE
                logits[i, tokens, torch.from_numpy(numbers)] = 0.0
        return replace(raw, element_logits=logits)


def likeliest_elements(scores: np.ndarray, atoms: np.ndarray) -> np.ndarray:
    """Different atomic numbers (S,) for groups of atoms, of the largest sum of scores.

    Args:
        scores: (N, K) log-probability of every atomic number, the atoms in the order of their groups.
        atoms: (S,) atoms of each group; their sum is at most N.
    """
    starts = np.cumsum(atoms) - atoms
    totals = np.add.reduceat(scores[: atoms.sum()], starts)
    optimize = require("scipy.optimize", "atoms")
    _, numbers = optimize.linear_sum_assignment(totals, maximize=True)
    return np.asarray(numbers)
