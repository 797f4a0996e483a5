"""Guidance: denoisers made of denoisers.

Every kind extrapolates from a worse clean prediction through a better one, worse + scale (better - worse).
At given x_t this is the same as extrapolating noise, velocity or score, which are affine in the clean
prediction. Scale 1 is no guidance. The wrappers nest freely.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from gen3d.diffusion.samplers import Denoiser, ModelDenoiser

Interval = tuple[float, float]
EVERYWHERE: Interval = (0.0, 1.0)


@dataclass(frozen=True)
class ClassifierFree:
    """Away from the prediction without conditions (arXiv 2207.12598), within an interval of times.

    Attributes:
        cond: the denoiser that is told the conditions.
        uncond: the denoiser that is not.
        scale: 1 is no guidance.
        interval: times (first, last) at which to guide (arXiv 2404.07724).
    """

    cond: Denoiser
    uncond: Denoiser
    scale: float
    interval: Interval = EVERYWHERE

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        return _extrapolate(self.cond, self.uncond, self.scale, self.interval, x, t)


@dataclass(frozen=True)
class Autoguidance:
    """Away from a weaker network: smaller, less trained, or not shown what it predicted (arXiv 2406.02507).

    The last kind needs no second network: a self-conditioned one without its previous prediction
    (`ModelDenoiser.remember`) is the same with less to go by.

    Attributes:
        main: the good denoiser.
        weak: the weak denoiser, for the same task and conditions.
        scale: 1 is no guidance.
        interval: times (first, last) at which to guide.
    """

    main: Denoiser
    weak: Denoiser
    scale: float
    interval: Interval = EVERYWHERE

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        return _extrapolate(self.main, self.weak, self.scale, self.interval, x, t)


class AttentionPerturbation:
    """Away from the same network with some attention heads blurred towards the identity.

    PAG (arXiv 2403.17377) with the soft, per-head strengths of arXiv 2506.10978; works without conditions.
    The PAG papers' scale is ours minus 1.

    Args:
        denoiser: the network.
        perturb: block -> head -> u in [0, 1], or block -> (H,) tensor.
        scale: 1 is no guidance.
        interval: times (first, last) at which to guide.
    """

    def __init__(
        self,
        denoiser: ModelDenoiser,
        perturb: Mapping[int, Mapping[int, float] | Tensor],
        scale: float,
        interval: Interval = EVERYWHERE,
    ):
        self.denoiser = denoiser
        self.perturbed = replace(denoiser, perturb=perturb)
        self.scale, self.interval = scale, interval

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        return _extrapolate(self.denoiser, self.perturbed, self.scale, self.interval, x, t)


def _extrapolate(
    better: Denoiser, worse: Denoiser, scale: float, interval: Interval, x: Tensor, t: Tensor
) -> Tensor:
    good = better(x, t)
    inside = (t >= interval[0]) & (t <= interval[1])
    if scale == 1 or not bool(inside.any()):
        return good
    bad = worse(x, t)
    return torch.where(inside[:, None, None], bad + scale * (good - bad), good)
