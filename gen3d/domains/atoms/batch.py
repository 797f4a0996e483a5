"""Batches of atomic systems as the codec reads them: hydrogens pooled into the atoms they sit on."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from torch import Tensor

from gen3d.domains.atoms.frames import canonical_frames, random_frames
from gen3d.domains.atoms.lattice import lattice_parameters
from gen3d.domains.atoms.system import AtomicSystem
from gen3d.draws import Draws
from gen3d.types import TokenMask

SLOTS = 4
"""Hydrogens that one token can carry."""


@dataclass(frozen=True)
class AtomsBatch:
    """B atomic systems of up to N tokens. Lengths in angstrom; padding is zero.

    A token is an atom together with the hydrogens it carries. In crystals every atom is a token.

    Attributes:
        mask: (B, N), True where a token is real.
        numbers: (B, N) atomic numbers.
        positions: (B, N, 3) centred Cartesian coordinates of molecules; zero for crystals.
        hydrogen_counts: (B, N) hydrogens carried, 0 to SLOTS.
        hydrogens: (B, N, SLOTS, 3) their positions relative to the token; zero where there is none.
        fractional: (B, N, 3) fractional coordinates of crystals; zero for molecules.
        lattice: (B, 6) parameters of `gen3d.domains.atoms.lattice`; zero for molecules.
        periodic: (B,), True for crystals.
        properties: (B, P), NaN where unknown or not to be told.
    """

    mask: TokenMask
    numbers: Tensor
    positions: Tensor
    hydrogen_counts: Tensor
    hydrogens: Tensor
    fractional: Tensor
    lattice: Tensor
    periodic: Tensor
    properties: Tensor

    def to(self, device: torch.device | str) -> "AtomsBatch":
        return AtomsBatch(*(getattr(self, f.name).to(device) for f in fields(self)))

    @property
    def hydrogen_slots(self) -> Tensor:
        """(B, N, SLOTS), True where a slot holds a hydrogen."""
        slots = torch.arange(SLOTS, device=self.hydrogen_counts.device)
        return slots < self.hydrogen_counts[..., None]


@dataclass(frozen=True)
class PooledSystem:
    """One atomic system as tokens; the fields are rows of `AtomsBatch`, unpadded.

    Attributes:
        numbers: (N,) int64.
        positions: (N, 3) float32, molecules centred, crystals zero.
        hydrogen_counts: (N,) int64.
        hydrogens: (N, SLOTS, 3) float32.
        fractional: (N, 3) float32, molecules zero.
        cell: (3, 3) float64 or None.
        properties: by name.
    """

    numbers: np.ndarray
    positions: np.ndarray
    hydrogen_counts: np.ndarray
    hydrogens: np.ndarray
    fractional: np.ndarray
    cell: np.ndarray | None
    properties: dict[str, float]


def pool_hydrogens(system: AtomicSystem, pool: bool = True) -> PooledSystem:
    """Give every hydrogen of a molecule to its nearest heavy atom, up to SLOTS each.

    What finds no slot stays a token of its own, and so do the atoms of crystals, and all atoms when
    `pool` is False. Without heavy atoms the first atom carries the others. The tokens hold every atom.
    """
    numbers, positions = np.asarray(system.numbers, np.int64), np.asarray(system.positions, np.float64)
    carries = np.ones(len(numbers), bool)
    if pool and not system.periodic:
        carries = numbers > 1
        carries[0] |= not carries.any()
    carriers, riders = np.flatnonzero(carries), np.flatnonzero(~carries)
    counts = np.zeros(len(numbers), np.int64)
    hydrogens = np.zeros((len(numbers), SLOTS, 3), np.float32)
    if len(riders):
        offsets = positions[riders][:, None] - positions[carriers]
        nearest = (offsets * offsets).sum(-1).argmin(1)
        for row, rider in enumerate(riders):
            carrier = carriers[nearest[row]]
            if counts[carrier] == SLOTS:
                carries[rider] = True
            else:
                hydrogens[carrier, counts[carrier]] = offsets[row, nearest[row]]
                counts[carrier] += 1
    tokens = np.flatnonzero(carries)
    placed = positions[tokens]
    return PooledSystem(
        numbers[tokens],
        (placed * 0 if system.periodic else placed - placed.mean(0)).astype(np.float32),
        counts[tokens],
        hydrogens[tokens],
        (system.fractional if system.periodic else placed * 0).astype(np.float32),
        system.cell,
        system.properties,
    )


def collate(systems: Sequence[PooledSystem], properties: Sequence[str]) -> AtomsBatch:
    """Pad systems into a batch as they stand; `properties` are those that the batch holds, in order."""
    size = max(len(s.numbers) for s in systems)

    def stack(name: str) -> Tensor:
        rows = [getattr(s, name) for s in systems]
        padded = np.zeros((len(rows), size, *rows[0].shape[1:]), rows[0].dtype)
        for i, row in enumerate(rows):
            padded[i, : len(row)] = row
        return torch.from_numpy(padded)

    periodic = torch.tensor([s.cell is not None for s in systems])
    sizes = torch.tensor([len(s.numbers) for s in systems])
    lattice = torch.zeros(len(systems), 6)
    if periodic.any():
        cells = torch.from_numpy(np.stack([s.cell for s in systems if s.cell is not None]))
        lattice[periodic] = lattice_parameters(cells, sizes[periodic])
    told = [[s.properties.get(name, np.nan) for name in properties] for s in systems]
    return AtomsBatch(
        torch.arange(size) < sizes[:, None],
        stack("numbers"),
        stack("positions"),
        stack("hydrogen_counts"),
        stack("hydrogens"),
        stack("fractional"),
        lattice,
        periodic,
        torch.tensor(told, dtype=torch.float32).reshape(len(systems), len(properties)),
    )


def turn(batch: AtomsBatch, frames: Tensor) -> AtomsBatch:
    """The molecules of a batch turned by (B, 3, 3); fractional coordinates are not concerned."""
    return replace(
        batch,
        positions=batch.positions @ frames,
        hydrogens=batch.hydrogens @ frames[:, None],
    )


def canonical(batch: AtomsBatch) -> AtomsBatch:
    """Every molecule in its canonical frame."""
    return turn(batch, canonical_frames(batch.positions, batch.mask))


def augment(batch: AtomsBatch, draws: Draws, *, rotate: bool) -> AtomsBatch:
    """One random rotation per molecule (if asked) and one random translation per crystal."""
    if rotate:
        batch = turn(batch, random_frames(draws.normal("rotation", 4)))
    shift = draws.uniform("translation", 3)[:, None] * batch.periodic[:, None, None]
    fractional = (batch.fractional + shift) % 1.0 * batch.mask[..., None]
    return replace(batch, fractional=fractional)
