"""How far what was asked for explains a sample.

Told what noisy data are of, a denoiser finds them again with less error than untold, the more so the better
they fit. The difference of squared errors, weighed and integrated over noise levels, is the pointwise mutual
information log p(x | c) - log p(x) (arXiv 2310.07972). Among several conditions it classifies (arXiv
2303.16203), among several samples of one condition it chooses. It needs no judge but the model itself.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from gen3d.diffusion.paths import Path
from gen3d.diffusion.samplers import Denoiser
from gen3d.tokens import masked_mean
from gen3d.types import TokenMask, TokenValues

TIMES = (0.1, 0.3)
"""Where errors are compared: with much noise, where what a thing is gets decided."""
REPEATS = 8
"""Draws of noise at each."""


@torch.no_grad()
def evidence(
    told: Denoiser,
    untold: Denoiser,
    x: TokenValues,
    mask: TokenMask,
    path: Path,
    noise: Callable[[str], Tensor],
) -> Tensor:
    """(B,) means of the squared error of `untold` less that of `told`; 0 where they are told the same.

    Args:
        told, untold: denoisers with and without the conditions, without a memory of earlier predictions.
        x: clean, normalised tokens (B, N, C).
        mask: (B, N), True where a token is real.
        path: between noise and data.
        noise: (B, N, C) of a named stream; the same for all that are compared.
    """
    found = x.new_zeros(len(x))
    for time in TIMES:
        t = x.new_full((len(x),), time)
        for repeat in range(REPEATS):
            noisy = path.interpolate(x, noise(f"evidence/{time}/{repeat}"), t)
            without, given = (
                masked_mean((each(noisy, t) - x).square().mean(-1), mask) for each in (untold, told)
            )
            found += (without - given) / (REPEATS * len(TIMES))
    return found
