"""Real spherical harmonics up to degree 3, as functions of a direction."""

import math

import torch
from torch import Tensor

from gen3d.errors import Gen3dError

DEGREES = 3
HARMONIC_0 = 0.5 / math.sqrt(math.pi)
"""The one of degree 0, the same in all directions."""


def count(degree: int) -> int:
    """How many harmonics there are up to `degree`.

    Raises:
        Gen3dError: a degree below 0 or above 3.
    """
    if not 0 <= degree <= DEGREES:
        raise Gen3dError(f"degree of spherical harmonics is {degree}; allowed: 0 to {DEGREES}")
    return (degree + 1) ** 2


def harmonics(directions: Tensor, degree: int) -> Tensor:
    """Orthonormal real spherical harmonics, without the Condon-Shortley phase.

    Args:
        directions: (P, 3), of unit length.
        degree: the highest, 0 to 3.

    Returns:
        (P, (degree + 1)^2), by degree l and then by order m from -l to l.
    """
    total = count(degree)
    x, y, z = directions.unbind(1)
    basis = [torch.full_like(x, HARMONIC_0)]
    if degree >= 1:
        c = math.sqrt(3 / (4 * math.pi))
        basis += [c * y, c * z, c * x]
    if degree >= 2:
        c = math.sqrt(15 / (4 * math.pi))
        basis += [c * x * y, c * y * z, math.sqrt(5 / (16 * math.pi)) * (3 * z * z - 1), c * x * z]
        basis += [c / 2 * (x * x - y * y)]
    if degree >= 3:
        a, b, c = (
            math.sqrt(35 / (32 * math.pi)),
            math.sqrt(105 / (4 * math.pi)),
            math.sqrt(21 / (32 * math.pi)),
        )
        basis += [a * y * (3 * x * x - y * y), b * x * y * z, c * y * (5 * z * z - 1)]
        basis += [math.sqrt(7 / (16 * math.pi)) * z * (5 * z * z - 3), c * x * (5 * z * z - 1)]
        basis += [b / 2 * z * (x * x - y * y), a * x * (x * x - 3 * y * y)]
    assert len(basis) == total
    return torch.stack(basis, 1)


def bands(degree: int) -> list[int]:
    """The degree of each harmonic: [0, 1, 1, 1, 2, ...]."""
    return [l for l in range(degree + 1) for _ in range(2 * l + 1)]  # noqa: E741
