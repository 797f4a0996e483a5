"""From decoder outputs to atomic systems: choose elements and hydrogens, unroll what was pooled."""

import numpy as np
import torch
from torch import Tensor

from gen3d.domains.atoms.statistics import DecodedAtoms
from gen3d.domains.atoms.system import AtomicSystem


def to_systems(raw: DecodedAtoms, elements_seen: Tensor, *, periodic: bool) -> list[AtomicSystem | None]:
    """Most likely elements (among those of the training data) and hydrogen counts.

    Args:
        raw: the decoder's outputs.
        elements_seen: (101,) True by atomic number.
        periodic: crystals, otherwise molecules.

    Returns:
        One system per sample; None where a coordinate or the cell is not finite.
    """
    numbers = raw.element_logits.masked_fill(~elements_seen, -torch.inf).argmax(-1).cpu().numpy()
    counts = raw.count_logits.argmax(-1).cpu().numpy()
    mask = raw.mask.cpu().numpy()
    if periodic:
        assert raw.cells is not None
        cells, fractional = raw.cells.double().cpu().numpy(), raw.fractional.double().cpu().numpy()
        return [_crystal(numbers[i, m], fractional[i, m], cells[i]) for i, m in enumerate(mask)]
    positions = raw.positions.double().cpu().numpy()
    hydrogens = raw.hydrogens.double().cpu().numpy()
    return [
        _molecule(numbers[i, m], positions[i, m], counts[i, m], hydrogens[i, m]) for i, m in enumerate(mask)
    ]


def _crystal(numbers: np.ndarray, fractional: np.ndarray, cell: np.ndarray) -> AtomicSystem | None:
    if not (np.isfinite(fractional).all() and np.isfinite(cell).all()):
        return None
    return AtomicSystem(numbers.astype(np.int64), fractional @ cell, cell)


def _molecule(
    numbers: np.ndarray, positions: np.ndarray, counts: np.ndarray, hydrogens: np.ndarray
) -> AtomicSystem | None:
    """Heavy atoms first, then their hydrogens in the same order, as SDF files are usually written."""
    used = np.arange(hydrogens.shape[1]) < counts[:, None]
    carried = (positions[:, None] + hydrogens)[used]
    everything = np.concatenate([positions, carried])
    if not np.isfinite(everything).all():
        return None
    return AtomicSystem(np.concatenate([numbers, np.ones(len(carried))]).astype(np.int64), everything)
