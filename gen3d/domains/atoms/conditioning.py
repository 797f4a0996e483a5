"""What users ask of new molecules and crystals, as sizes, conditions and constraints.

Nothing here is trained: a composition, a set of elements and a scaffold are kept by moving every clean
prediction of the sampler to the nearest one that has them. For channels that are known outright this
is exact: they follow the path from their own noise to the known value.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from gen3d.domains.atoms.codec import AtomsCodec
from gen3d.domains.atoms.composition import SYMBOLS, parse_element
from gen3d.domains.atoms.frames import kabsch
from gen3d.domains.atoms.readers import ReadReport, read_systems
from gen3d.domains.atoms.statistics import DecodedAtoms
from gen3d.domains.atoms.system import AtomicSystem
from gen3d.errors import Gen3dError

FREE = -1e4
"""Logit of what is not allowed; finite, so that softmax over nothing allowed does not occur."""

TINY = 1e-30
"""Share of what the training data does not hold."""

SOFTNESS = 0.5
"""Width, in latent units, of the soft choice among allowed elements while sampling."""


@dataclass(frozen=True)
class GivenElements:
    """The elements of the first tokens of every sample are given.

    Attributes:
        numbers: (K,) atomic numbers.
    """

    numbers: Tensor

    def constrain(self, codec: AtomsCodec, latents: Tensor) -> Tensor:
        known = codec.element_latents(self.numbers.to(latents.device))
        latents = latents.clone()
        latents[:, : len(known), codec.slices["element"]] = known
        return latents

    def finish(self, raw: DecodedAtoms) -> DecodedAtoms:
        logits = raw.element_logits.clone()
        chosen = F.one_hot(self.numbers.to(logits.device), logits.shape[-1]).bool()
        logits[:, : len(chosen)] = torch.where(chosen, 0.0, FREE)
        return replace(raw, element_logits=logits)


@dataclass(frozen=True)
class AllowedElements:
    """Only some elements may occur.

    Attributes:
        numbers: (K,) atomic numbers.
    """

    numbers: Tensor

    def constrain(self, codec: AtomsCodec, latents: Tensor) -> Tensor:
        """Each predicted element vector becomes a mean of the allowed ones, weighted by nearness."""
        table = codec.element_latents(self.numbers.to(latents.device))
        part = codec.slices["element"]
        distances = torch.cdist(latents[..., part], table.expand(len(latents), -1, -1)).square()
        weights = torch.softmax(-distances / (2 * SOFTNESS**2), -1)
        latents = latents.clone()
        latents[..., part] = weights @ table
        return latents

    def finish(self, raw: DecodedAtoms) -> DecodedAtoms:
        allowed = torch.zeros(raw.element_logits.shape[-1], dtype=torch.bool, device=raw.mask.device)
        allowed[self.numbers] = True
        return replace(raw, element_logits=raw.element_logits.masked_fill(~allowed, FREE))


@dataclass(frozen=True)
class Scaffold:
    """The first tokens of every sample keep their places relative to each other.

    Attributes:
        positions: (K, 3) angstrom.
    """

    positions: Tensor

    def constrain(self, codec: AtomsCodec, latents: Tensor) -> Tensor:
        """The predicted places of the scaffold become the scaffold itself, laid on them."""
        part, count = codec.slices["position"], len(self.positions)
        predicted = latents[:, :count, part]
        scaffold = self.positions.to(latents).expand(len(latents), -1, -1)
        rotation, shift = kabsch(scaffold, predicted, torch.ones_like(predicted[..., 0]))
        latents = latents.clone()
        latents[:, :count, part] = scaffold @ rotation + shift
        return latents

    def finish(self, raw: DecodedAtoms) -> DecodedAtoms:
        """Turn the whole molecule to where the scaffold was given, and put the scaffold in place."""
        count = len(self.positions)
        scaffold = self.positions.to(raw.positions).expand(len(raw.positions), -1, -1)
        rotation, shift = kabsch(raw.positions[:, :count], scaffold, torch.ones_like(scaffold[..., 0]))
        positions = raw.positions @ rotation + shift
        positions[:, :count] = scaffold
        return replace(raw, positions=positions, hydrogens=raw.hydrogens @ rotation[:, None])


@dataclass(frozen=True)
class ClosedShell:
    """Radicals are as rare as in the training data.

    Elements and hydrogen counts are chosen atom by atom, each from its own distribution, and one that
    falls the other way makes a radical of a molecule. What is chosen here is the likeliest when the parity of
    the number of electrons counts too: where it is unlikely of that parity, the choice that can be changed at
    the least cost is changed. That is a hydrogen count or, where the hydrogens are given, an element.

    Attributes:
        elements_seen: (ELEMENTS + 1,) True for the elements to choose from.
        odd: share of the training molecules with an odd number of electrons.
        hydrogens: (B,) pooled hydrogens that every sample must carry, of which a batch holds some rows; None
            where each atom chooses its own.
    """

    elements_seen: Tensor
    odd: float
    hydrogens: Tensor | None = None

    def finish(self, raw: DecodedAtoms, rows: Tensor) -> DecodedAtoms:
        unseen = ~self.elements_seen.to(raw.mask.device)
        elements = raw.element_logits.masked_fill(unseen, -torch.inf)
        numbers = (elements.argmax(-1) * raw.mask).sum(-1)
        if self.hydrogens is None:
            counts = (raw.count_logits.argmax(-1) * raw.mask).sum(-1)
            logits = self._change(raw.count_logits, raw.mask, numbers + counts)
            return replace(raw, count_logits=logits)
        totals = self.hydrogens[rows.cpu()]
        logits = self._change(elements, raw.mask, numbers + totals.to(numbers.device))
        return replace(
            raw, element_logits=logits, count_logits=with_total(raw.count_logits, raw.mask, totals)
        )

    def _change(self, logits: Tensor, mask: Tensor, electrons: Tensor) -> Tensor:
        """`logits` (B, N, K) of 0 to K - 1 electrons, with the choice of one token changed where it pays."""
        scores = logits.log_softmax(-1)
        likeliest, chosen = scores.max(-1)
        same_parity = (torch.arange(scores.shape[-1], device=scores.device) - chosen[..., None]) % 2 == 0
        best, other = scores.masked_fill(same_parity, -torch.inf).max(-1)
        cost, token = (likeliest - best).masked_fill(~mask, torch.inf).min(-1)
        even_gain = math.log(max(1 - self.odd, TINY)) - math.log(max(self.odd, TINY))
        gain = torch.where(electrons % 2 == 1, even_gain, -even_gain)
        change = (cost < gain).nonzero()[:, 0]
        logits = logits.clone()
        logits[change, token[change]] = FREE
        logits[change, token[change], other[change, token[change]]] = 0.0
        return logits


def with_total(logits: Tensor, mask: Tensor, totals: Tensor) -> Tensor:
    """Logits (B, N, K + 1) of the likeliest counts of which those of a sample add up to its total (B,)."""
    scores, real = logits.log_softmax(-1).cpu().numpy(), mask.cpu().numpy()
    fixed = torch.full_like(logits, FREE)
    for i, total in enumerate(totals.tolist()):
        counts = likeliest_counts(scores[i, real[i]], int(total))
        fixed[i, torch.from_numpy(np.flatnonzero(real[i])), torch.from_numpy(counts)] = 0.0
    return fixed


def likeliest_counts(scores: np.ndarray, total: int) -> np.ndarray:
    """Counts c_n with sum `total` and the largest sum of scores[n, c_n], by dynamic programming over tokens.

    Args:
        scores: (N, K + 1) log-probability of every count 0 to K.
        total: at most N K; a larger one is cut to that.
    """
    tokens, choices = scores.shape
    total = min(total, tokens * (choices - 1))
    best = np.full((tokens + 1, total + 1), -np.inf)
    best[0, 0] = 0.0
    choice = np.zeros((tokens, total + 1), np.int64)
    for n in range(tokens):
        for k in range(min(choices, total + 1)):
            reached = np.full(total + 1, -np.inf)
            reached[k:] = best[n, : total + 1 - k] + scores[n, k]
            better = reached > best[n + 1]
            best[n + 1, better] = reached[better]
            choice[n, better] = k
    counts = np.zeros(tokens, np.int64)
    for n in range(tokens - 1, -1, -1):
        counts[n] = choice[n, total]
        total -= counts[n]
    return counts


def read_scaffold(path: str | Path) -> AtomicSystem:
    """The one molecule of a file.

    Raises:
        Gen3dError: the file is missing, empty or unreadable, or holds a crystal or several molecules.
    """
    if not Path(path).is_file():
        raise Gen3dError(f"scaffold {path} is no file")
    report = ReadReport()
    systems = list(islice(read_systems(Path(path), report), 2))
    if len(systems) > 1:
        raise Gen3dError(f"scaffold {path} holds more than one molecule; give a file of one")
    if not systems:
        reason = f": {report.failures[0].reason}" if report.failures else ""
        raise Gen3dError(f"scaffold {path} holds no molecule that can be read{reason}")
    if systems[0].periodic or not (np.asarray(systems[0].numbers) > 1).any():
        raise Gen3dError(f"scaffold {path} holds no molecule with a heavy atom")
    return systems[0]


def parse_elements(symbols: Sequence[str], seen: Tensor) -> list[int]:
    """Atomic numbers of the elements that may occur.

    Raises:
        Gen3dError: none is named, there is no such element, or the model has not seen it.
    """
    numbers = sorted({parse_element(s) for entry in symbols for s in entry.split(",") if s.strip()})
    if not numbers:
        raise Gen3dError(f"elements are {','.join(symbols)!r}; name at least one, such as C,H,O")
    check_seen(numbers, seen)
    return numbers


def check_seen(numbers: Sequence[int], seen: Tensor) -> None:
    """Raise a Gen3dError that names an element the training data does not hold, if there is one."""
    for number in numbers:
        if not seen[number]:
            known = ", ".join(SYMBOLS[z] for z in seen.nonzero()[:, 0].tolist() if z)
            raise Gen3dError(f"the model has not seen element {SYMBOLS[number]}; it knows {known}")


def parse_properties(requests: Sequence[str], names: Sequence[str]) -> dict[str, float]:
    """Values by property name from requests such as gap=0.2; a name may leave out its unit.

    Raises:
        Gen3dError: no such property, one that is asked for twice, or no number.
    """
    short = {name.partition("_")[0].lower(): name for name in names}
    values: dict[str, float] = {}
    for request in requests:
        key, _, text = request.partition("=")
        name = key if key in names else short.get(key.strip().lower())
        if name is None:
            allowed = ", ".join(names) or "none, this checkpoint was trained without"
            raise Gen3dError(f"unknown property {key!r}; allowed: {allowed}")
        if name in values:
            raise Gen3dError(f"property {key!r} is asked for twice")
        try:
            values[name] = float(text)
        except ValueError:
            raise Gen3dError(f"property {request!r} gives no number; write {key}=0.2") from None
        if not np.isfinite(values[name]):
            raise Gen3dError(f"property {request!r} is not finite")
    return values


Constraint = GivenElements | AllowedElements | Scaffold


class JointChoice(Protocol):
    """Elements or hydrogen counts of a whole sample, chosen together."""

    def finish(self, raw: DecodedAtoms, rows: Tensor) -> DecodedAtoms:
        """The decoder's output with the choice made; `rows` are the samples of the batch, (b,)."""
        ...


def combine(
    codec: AtomsCodec, constraints: Sequence[Constraint], choice: JointChoice | None
) -> tuple[Callable[[Tensor, Tensor], Tensor] | None, Callable[[DecodedAtoms, Tensor], DecodedAtoms] | None]:
    """`Layout.constrain` and `Layout.finish` that keep all of the constraints."""
    if not constraints and choice is None:
        return None, None

    def constrain(latents: Tensor, rows: Tensor) -> Tensor:
        for constraint in constraints:
            latents = constraint.constrain(codec, latents)
        return latents

    def finish(raw: DecodedAtoms, rows: Tensor) -> DecodedAtoms:
        for constraint in constraints:
            raw = constraint.finish(raw)
        return raw if choice is None else choice.finish(raw, rows)

    return constrain, finish
