"""How many tokens new systems get, and what is given of them."""

import warnings

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from gen3d.domains.atoms.batch import SLOTS
from gen3d.domains.atoms.codec import AtomsCodec
from gen3d.domains.atoms.composition import parse_formula
from gen3d.domains.atoms.conditioning import (
    AllowedElements,
    ClosedShell,
    Constraint,
    GivenElements,
    JointChoice,
    Scaffold,
    check_seen,
    combine,
    parse_elements,
    parse_properties,
    read_scaffold,
)
from gen3d.domains.atoms.conditions import ConditionScheme
from gen3d.domains.atoms.options import CrystalOptions, MoleculeOptions
from gen3d.domains.atoms.statistics import MAX_SPECIES, MAX_TOKENS, StatisticsCodec
from gen3d.domains.atoms.stoichiometry import Stoichiometry, draw_stoichiometries, tie_groups
from gen3d.domains.base import Layout
from gen3d.draws import Draws
from gen3d.errors import Gen3dError
from gen3d.tokens import Ties

HYDROGEN = 1
FAR = 5.0
"""Standard deviations from the mean beyond which a wanted property is remarked upon."""

Sizes = tuple[Tensor, Tensor]
"""Tokens (B,) of new systems, and (B,) their pooled hydrogens."""


def molecule_layout(scheme: ConditionScheme, options: MoleculeOptions, draws: Draws) -> Layout:
    """Sizes, conditions and constraints of new molecules.

    Raises:
        Gen3dError: options that contradict each other or that the model cannot fulfil.
    """
    _one_of(options, "formula", "scaffold", "elements")
    _one_of(options, "formula", "num_atoms")
    _check_num_atoms(options)
    _check_explicit(scheme, options, "formula", "scaffold", "elements")
    codec = scheme.codec
    histogram = codec.histogram("molecule")
    constraints: list[Constraint] = []
    hydrogens_given = options.num_atoms is not None
    if options.formula is not None:
        numbers, hydrogens = _molecular_formula(options.formula, codec.elements_seen, codec.pooled)
        _check_size(histogram, len(numbers), hydrogens)
        sizes = _constant(len(numbers), hydrogens, draws)
        constraints.append(GivenElements(torch.tensor(numbers)))
        hydrogens_given = True
    elif options.scaffold is not None:
        system = read_scaffold(options.scaffold)
        heavy = np.asarray(system.numbers) > 1
        numbers = system.numbers[heavy].tolist()
        check_seen(numbers, codec.elements_seen)
        sizes = draw_sizes(histogram, draws, num_atoms=options.num_atoms, least_tokens=len(numbers))
        places = torch.from_numpy(system.positions[heavy]).float()
        constraints += [GivenElements(torch.tensor(numbers)), Scaffold(places)]
    elif options.elements:
        numbers = parse_elements(options.elements, codec.elements_seen)
        without = HYDROGEN not in numbers
        if not (heavy_only := [z for z in numbers if z != HYDROGEN]):
            raise Gen3dError(
                f"elements are {', '.join(options.elements)}; at least one heavy element is needed"
            )
        sizes = draw_sizes(histogram, draws, num_atoms=options.num_atoms, no_hydrogens=without)
        constraints.append(AllowedElements(torch.tensor(heavy_only if codec.pooled else numbers)))
        hydrogens_given |= without
    else:
        sizes = draw_sizes(histogram, draws, num_atoms=options.num_atoms)
    told = parse_properties(options.property, scheme.properties)
    _check_told(scheme, told)
    choice: JointChoice | None = None
    if codec.pooled:
        choice = closed_shell(codec, sizes[1] if hydrogens_given else None)
    return _layout(
        scheme, sizes, constraints, choice, told, periodic=False, tell_hydrogens=options.scaffold is None
    )


def closed_shell(codec: StatisticsCodec, hydrogens: Tensor | None = None) -> ClosedShell:
    """Radicals as rare as in the codec's training data; every sample with so many `hydrogens`, if given."""
    return ClosedShell(codec.elements_seen, float(codec.odd_electrons), hydrogens)


def crystal_layout(scheme: ConditionScheme, options: CrystalOptions, draws: Draws) -> Layout:
    """Sizes and constraints of new crystals.

    Raises:
        Gen3dError: options that contradict each other or that the model cannot fulfil.
    """
    _one_of(options, "formula", "elements")
    _check_num_atoms(options)
    _check_explicit(scheme, options, "formula", "elements")
    codec = scheme.codec
    constraints: list[Constraint] = []
    histogram = codec.histogram("crystal")
    choice: JointChoice | None = None
    if options.formula is not None:
        counts = parse_formula(options.formula)
        check_seen(sorted(counts), codec.elements_seen)
        unit = sum(counts.values())
        if options.num_atoms is not None and options.num_atoms % unit:
            raise Gen3dError(
                f"num_atoms is {options.num_atoms}; formula {options.formula} needs a multiple of {unit}"
            )
        elements = sorted(counts, key=lambda z: (-counts[z], z))
        atoms = torch.tensor([counts[z] for z in elements]) * ((options.num_atoms or unit) // unit)
        sizes = _constant(int(atoms.sum()), 0, draws)
        _check_size(histogram, int(atoms.sum()), 0)
        constraints.append(GivenElements(torch.tensor(elements).repeat_interleave(atoms)))
        groups = F.pad(atoms, (0, max(0, MAX_SPECIES - len(atoms)))).expand(len(draws.index), -1)
    else:
        sizes = draw_sizes(histogram, draws, num_atoms=options.num_atoms)
        numbers = parse_elements(options.elements, codec.elements_seen) if options.elements else None
        groups = draw_stoichiometries(codec, sizes[0], draws, len(numbers) if numbers else MAX_SPECIES)
        choice = Stoichiometry(codec.elements_seen, groups)
        if numbers:
            constraints.append(AllowedElements(torch.tensor(numbers)))
    return _layout(
        scheme,
        sizes,
        constraints,
        choice,
        {},
        periodic=True,
        tell_hydrogens=True,
        groups=groups,
    )


def draw_sizes(
    histogram: Tensor,
    draws: Draws,
    *,
    num_atoms: int | None = None,
    least_tokens: int = 1,
    no_hydrogens: bool = False,
) -> Sizes:
    """Sizes from the training histogram, restricted; a size that was never seen is used with a warning.

    Args:
        histogram: training systems by tokens and pooled hydrogens.
        draws: one stream per new system.
        num_atoms: tokens and hydrogens together.
        least_tokens: fewer are not drawn.
        no_hydrogens: only sizes without pooled hydrogens.

    Raises:
        Gen3dError: nothing in the histogram fits, or there is none, or what is given does not fit.
    """
    counts = histogram.cpu().numpy()
    sizes = np.argwhere(counts)
    if not len(sizes):
        raise Gen3dError("the checkpoint has no size histogram: it was never fitted to data")
    weights = counts[tuple(sizes.T)].astype(np.float64)
    fits = (sizes[:, 0] >= least_tokens) & ((sizes[:, 1] == 0) | (not no_hydrogens))
    if num_atoms is not None:
        fits &= sizes.sum(1) == num_atoms
        if num_atoms < least_tokens:
            raise Gen3dError(f"num_atoms is {num_atoms}; what is given needs at least {least_tokens}")
    if not fits.any():
        if num_atoms is not None:
            tokens, hydrogens = _extrapolated(sizes, weights, num_atoms, least_tokens, no_hydrogens)
            _check_size(histogram, tokens, hydrogens)
            return _constant(tokens, hydrogens, draws)
        if least_tokens > (most := sizes[:, 0].max()):
            message = f"{least_tokens} heavy atoms are given; the model has seen up to {most}"
            warnings.warn(message, stacklevel=2)
            return _constant(least_tokens, 0, draws)
        raise Gen3dError("no system of the training data is without hydrogens; allow H, or give num_atoms")
    cumulative = np.cumsum(weights[fits]) / weights[fits].sum()
    rows = np.searchsorted(cumulative, draws.uniform("size").cpu().numpy(), side="right")
    rows = rows.clip(max=len(cumulative) - 1)
    return torch.from_numpy(sizes[fits][rows, 0]), torch.from_numpy(sizes[fits][rows, 1])


def _check_size(histogram: Tensor, tokens: int, hydrogens: int) -> None:
    """Warn of a size that the training data does not hold; refuse one that would exhaust memory."""
    sizes = histogram.nonzero().sum(1)
    asked = tokens + hydrogens
    if tokens > MAX_TOKENS:
        raise Gen3dError(f"{asked} atoms make {tokens} tokens; at most {MAX_TOKENS} can be generated")
    if len(sizes) and asked not in sizes:
        seen = f"{int(sizes.min())} to {int(sizes.max())}"
        none = f", none of them {asked}" if sizes.min() < asked < sizes.max() else ""
        warnings.warn(f"num_atoms is {asked}; the model has seen {seen} atoms{none}", stacklevel=2)


def _extrapolated(
    sizes: np.ndarray, weights: np.ndarray, num_atoms: int, least: int, bare: bool
) -> tuple[int, int]:
    """A size that was never seen, with the mean share of hydrogens of the training data."""
    share = 0.0 if bare else float((sizes[:, 1] * weights).sum() / (sizes.sum(1) * weights).sum())
    carriers = -(-num_atoms // (1 + SLOTS))  # fewer tokens could not carry the rest
    tokens = min(max(round(num_atoms * (1 - share)), least, carriers), num_atoms)
    return tokens, num_atoms - tokens


def _constant(tokens: int, hydrogens: int, draws: Draws) -> Sizes:
    count = len(draws.index)
    return torch.full((count,), tokens), torch.full((count,), hydrogens)


def _molecular_formula(formula: str, seen: Tensor, pooled: bool) -> tuple[list[int], int]:
    """Elements of the tokens of a formula, and the hydrogens they carry."""
    counts = parse_formula(formula)
    check_seen(sorted(counts), seen)
    numbers = [z for z, k in sorted(counts.items()) for _ in range(k)]
    if not pooled:
        return numbers, 0
    heavy = [z for z in numbers if z != HYDROGEN] or [HYDROGEN]
    hydrogens = len(numbers) - len(heavy)
    if sum(numbers) % 2:
        warnings.warn(f"formula {formula} has an odd number of electrons: all are radicals", stacklevel=2)
    if hydrogens > SLOTS * len(heavy):
        raise Gen3dError(
            f"formula {formula} has {hydrogens} hydrogens for {len(heavy)} carriers; at most {SLOTS} each"
        )
    return heavy, hydrogens


def _layout(
    scheme: ConditionScheme,
    sizes: Sizes,
    constraints: list[Constraint],
    choice: JointChoice | None,
    told: dict[str, float],
    *,
    periodic: bool,
    tell_hydrogens: bool,
    groups: Tensor | None = None,
) -> Layout:
    tokens, hydrogens = sizes
    codec, names = scheme.codec, list(scheme.properties)
    properties = torch.full((len(tokens), len(names)), torch.nan)
    for name, value in told.items():
        properties[:, names.index(name)] = value
    kinds = torch.full((len(tokens),), periodic)
    ties = None
    if groups is None:
        groups = torch.zeros(len(tokens), MAX_SPECIES, dtype=torch.long)
    elif isinstance(codec, AtomsCodec):
        ties = Ties(tie_groups(groups, int(tokens.max())), codec.slices["element"])
    conditions = scheme.describe(tokens, hydrogens, groups, kinds, properties)
    if not tell_hydrogens:
        conditions.pop("hydrogens", None)
    constrain, finish = combine(codec, constraints, choice) if isinstance(codec, AtomsCodec) else (None, None)
    order = torch.arange(int(tokens.max()))
    mask = order < tokens[:, None]
    # ADiT numbers its atoms.
    numbered = None if isinstance(codec, AtomsCodec) else order.float().expand(mask.shape)[..., None]
    # What is known of the size holds whether or not a sample has the property that is asked for.
    unguided = frozenset(conditions) - {*told, "kind"}
    return Layout(mask, numbered, conditions, unguided, constrain=constrain, finish=finish, ties=ties)


def _check_explicit(scheme: ConditionScheme, options: MoleculeOptions | CrystalOptions, *names: str) -> None:
    """Raise a Gen3dError if one of the options `names` is asked for and the latents do not show elements."""
    for name in names:
        if getattr(options, name) and not isinstance(scheme.codec, AtomsCodec):
            raise Gen3dError(f"{name} needs a model whose latents show elements; this one has an ADiT codec")


def _check_told(scheme: ConditionScheme, told: dict[str, float]) -> None:
    """Warn of a value far outside the training data."""
    for name, value in told.items():
        place = scheme.properties.index(name)
        mean, std = float(scheme.codec.property_mean[place]), float(scheme.codec.property_std[place])
        if abs(value - mean) > FAR * std:
            warnings.warn(f"{name} is {value:g}; the training data has {mean:.3g} +- {std:.2g}", stacklevel=2)


def _check_num_atoms(options: MoleculeOptions | CrystalOptions) -> None:
    if options.num_atoms is not None and options.num_atoms < 1:
        raise Gen3dError(f"num_atoms is {options.num_atoms}; at least 1")


def _one_of(options: MoleculeOptions | CrystalOptions, *names: str) -> None:
    given = [name for name in names if getattr(options, name) not in (None, ())]
    if len(given) > 1:
        raise Gen3dError(
            f"{' and '.join(given)} cannot be asked for together; give one of {', '.join(names)}"
        )
