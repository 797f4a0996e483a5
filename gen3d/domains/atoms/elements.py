"""Chemical facts of the elements, and vectors in which alike elements are near each other."""

from math import nan as NONE

import numpy as np
import torch
from torch import Tensor

NOBLE_GASES = (2, 10, 18, 36, 54, 86)

# Values of hydrogen to fermium, as pymatgen has them.
# fmt: off
ELECTRONEGATIVITY = (
    2.2, NONE, 0.98, 1.57, 2.04, 2.55, 3.04, 3.44, 3.98, NONE, 0.93, 1.31, 1.61, 1.9, 2.19, 2.58, 3.16,
    NONE, 0.82, 1, 1.36, 1.54, 1.63, 1.66, 1.55, 1.83, 1.88, 1.91, 1.9, 1.65, 1.81, 2.01, 2.18, 2.55, 2.96,
    3, 0.82, 0.95, 1.22, 1.33, 1.6, 2.16, 1.9, 2.2, 2.28, 2.2, 1.93, 1.69, 1.78, 1.96, 2.05, 2.1, 2.66, 2.6,
    0.79, 0.89, 1.1, 1.12, 1.13, 1.14, 1.13, 1.17, 1.2, 1.2, 1.1, 1.22, 1.23, 1.24, 1.25, 1.1, 1.27, 1.3,
    1.5, 2.36, 1.9, 2.2, 2.2, 2.28, 2.54, 2, 1.62, 2.33, 2.02, 2, 2.2, 2.2, 0.7, 0.9, 1.1, 1.3, 1.5, 1.38,
    1.36, 1.28, 1.3, 1.3, 1.3, 1.3, 1.3, 1.3,
)
"""Pauling's scale."""
ATOMIC_RADIUS = (
    0.53, 0.31, 1.67, 1.12, 0.87, 0.67, 0.56, 0.48, 0.42, 0.38, 1.9, 1.45, 1.18, 1.11, 0.98, 0.88, 0.79,
    0.71, 2.43, 1.94, 1.84, 1.76, 1.71, 1.66, 1.61, 1.56, 1.52, 1.49, 1.45, 1.42, 1.36, 1.25, 1.14, 1.03,
    0.94, 0.88, 2.65, 2.19, 2.12, 2.06, 1.98, 1.9, 1.83, 1.78, 1.73, 1.69, 1.65, 1.61, 1.56, 1.45, 1.33,
    1.23, 1.15, 1.08, 2.98, 2.53, 1.95, 1.85, 2.47, 2.06, 2.05, 2.38, 2.31, 2.33, 2.25, 2.28, 1.75, 2.26,
    2.22, 2.22, 2.17, 2.08, 2, 1.93, 1.88, 1.85, 1.8, 1.77, 1.74, 1.71, 1.56, 1.54, 1.43, 1.35, NONE, 1.2,
    NONE, 2.15, 1.95, 1.8, 1.8, 1.75, 1.75, 1.75, 1.75, NONE, NONE, NONE, NONE, NONE,
)
"""Angstrom (Clementi et al. 1967), elsewhere empirical."""
HIGHEST_OXIDATION_STATE = (
    1, 0, 1, 2, 3, 4, 5, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7, 0, 1, 2, 3, 4, 5, 6, 7, 3, 3, 2, 2, 2, 3, 4, 5, 6,
    5, 2, 1, 2, 3, 4, 5, 6, 7, 4, 3, 4, 1, 2, 3, 4, 5, 6, 7, 6, 1, 2, 3, 4, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3,
    3, 3, 4, 5, 6, 7, 4, 4, 4, 3, 2, 3, 4, 3, 4, 1, 0, 1, 2, 3, 4, 5, 6, 5, 4, 3, 3, 3, 3, 3, 3,
)
LOWEST_OXIDATION_STATE = (
    -1, 0, 1, 2, 3, -4, -3, -2, -1, 0, 1, 2, 3, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 3, 2, 2, 2, 2, 2, 2, 3,
    -4, -3, -2, -1, 2, 1, 2, 3, 4, 5, 4, 4, 3, 3, 2, 1, 2, 3, -4, -3, -2, -1, 2, 1, 2, 3, 3, 3, 3, 3, 3, 2,
    3, 3, 3, 3, 3, 3, 3, 3, 4, 5, 4, 4, 4, 3, 2, 3, 1, 1, 2, 3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 5, 4, 3, 3, 3,
    3, 3, 3,
)
"""Among the common ones."""
# fmt: on


def descriptors() -> np.ndarray:
    """(100, 8): period, group, electronegativity, radius, oxidation states, block, outer electrons."""
    places = [_place(number) for number in range(1, 101)]
    columns = [
        [period for period, _, _, _ in places],
        [group for _, group, _, _ in places],
        np.nan_to_num(ELECTRONEGATIVITY, nan=2.5),
        np.nan_to_num(ATOMIC_RADIUS, nan=float(np.nanmean(ATOMIC_RADIUS))),
        HIGHEST_OXIDATION_STATE,
        LOWEST_OXIDATION_STATE,
        [block for _, _, block, _ in places],
        [outer for _, _, _, outer in places],
    ]
    return np.array(columns, dtype=np.float64).T


def element_vectors(channels: int) -> Tensor:
    """The principal components of the standardised descriptors, each of unit variance over the elements.

    Returns:
        (101, channels) by atomic number; row 0 and channels beyond the eighth are zero.
    """
    table = descriptors()
    table = (table - table.mean(0)) / table.std(0)
    left, _, right = np.linalg.svd(table, full_matrices=False)
    # The sign of a singular vector is a matter of the library.
    left = left * np.where(right.sum(1) < 0, -1.0, 1.0) * np.sqrt(len(table))
    vectors = torch.zeros(101, channels)
    used = min(channels, left.shape[1])
    vectors[1:, :used] = torch.from_numpy(left[:, :used]).float()
    return vectors


def _place(number: int) -> tuple[int, int, int, int]:
    """Period, group, block (s p d f as 0 1 2 3) and electrons beyond the noble gas before."""
    core = max((noble for noble in NOBLE_GASES if noble < number), default=0)
    period = 1 + sum(noble < number for noble in NOBLE_GASES)
    outer = number - core
    length = {1: 2, 2: 8, 3: 8, 4: 18, 5: 18}.get(period, 32)
    left = length - outer
    if number == 2:
        return period, 18, 1, outer
    if outer <= 2:
        return period, outer, 0, outer
    if left < 6:
        return period, 18 - left, 1, outer
    if length == 32 and outer <= 16:
        return period, 3, 3, outer
    return period, 18 - left, 2, outer
