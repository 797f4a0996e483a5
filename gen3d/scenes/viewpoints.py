"""Where pictures of single things are taken from, and the words for it: the same for the prior and for
fields.

Things are in the ball of radius 1 around the origin, +z up, their front towards -y.
"""

import numpy as np
import torch
from torch import Tensor

from gen3d.fields.cameras import Cameras, around

RADIUS, FIELD_OF_VIEW = 2.9, 40.0
"""Distance of all cameras from the origin, and degrees across a picture."""
OVERHEAD, LOWEST, HIGHEST = 60.0, -10.0, 88.0
"""Degrees above the horizon from which one looks from overhead; of the lowest and of the highest camera."""
HIGH_SHARE = 0.12
"""Share of the cameras that look from overhead."""


def cameras(azimuth: Tensor, elevation: Tensor, size: int) -> Cameras:
    """Cameras of square pictures; azimuth 0 degrees sees the front (-y), 90 what is to the right of it
    (+x)."""
    return around(
        azimuth - 90, elevation, radius=RADIUS, field_of_view=FIELD_OF_VIEW, width=size, height=size
    )


def view_words(azimuth: float, elevation: float) -> str:
    """The direction in the words of Latent-NeRF's prompts: front, side, back or overhead view."""
    if elevation > OVERHEAD:
        return "overhead view"
    turn = abs((azimuth + 180) % 360 - 180)
    return "front view" if turn < 45 else "side view" if turn <= 135 else "back view"


def directions(azimuth: Tensor, elevation: Tensor) -> Tensor:
    """(B, 3) unit vectors from the origin to the cameras, as a prior is told them."""
    turn, rise = torch.deg2rad(azimuth - 90), torch.deg2rad(elevation)
    return torch.stack([rise.cos() * turn.cos(), rise.cos() * turn.sin(), rise.sin()], -1)


def random_view(random: np.random.Generator) -> tuple[float, float]:
    """Azimuth and elevation in degrees, from all sides, mostly from somewhat above."""
    low, high = (OVERHEAD, HIGHEST) if random.random() < HIGH_SHARE else (LOWEST, OVERHEAD)
    return random.uniform(-180, 180), random.uniform(low, high)
