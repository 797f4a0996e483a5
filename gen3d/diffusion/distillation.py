"""Score distillation: gradients that make a picture, and through it a field, likely under a prior.

A prior sees a picture's latents x with noise, z = alpha x + sigma e, and tells the clean latents it believes
in, D(z). With e the noise that was added, and e(z) = (z - alpha D) / sigma that which the prior sees,

    SDS  (DreamFusion, arXiv 2209.14988)             w (e(z) - e)
    CSD  (classifier score, arXiv 2310.19415)        w (e(z; text) - e(z))
    SDI  (by inversion, arXiv 2405.15891)            SDS with the noise that the prior itself finds in x
    targets  (several steps, arXiv 2312.02981)       w (x - what the prior's sampler makes of z)

where e(z) of SDS, SDI and targets is guided, e(z) + guidance (e(z; text) - e(z)) as it is written in
Latent-NeRF. CSD has no sampled noise in it, SDI hardly any: gradients that vary less from step to step. One
step from a high noise level sees a mean of pictures, several see one of them: targets are sharp.

Noise levels are told as shares u of the schedule, from 0, clean, to 1, noise alone, which for the 1,000 steps
of DDPM is step / 1000. All weights are functions of the cumulative abar = alpha^2 / (alpha^2 + sigma^2).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from gen3d.errors import Gen3dError
from gen3d.types import Conditions

Weight = Literal["latent_nerf", "dreamfusion", "even"]
WEIGHTS: dict[str, Callable[[Tensor], Tensor]] = {
    "latent_nerf": lambda abar: abar.sqrt() * (1 - abar),
    "dreamfusion": lambda abar: 1 - abar,
    "even": torch.ones_like,
}
"""Names of weights w(abar): Latent-NeRF's, that of DreamFusion and Vox-E, and 1."""
VOXE_FALL, VOXE_FLOOR = 0.75, 0.22
"""Vox-E: the largest noise level falls to so many times itself, down to so much,"""
VOXE_EVERY, VOXE_AFTER = 600 / 8000, 4000 / 8000
"""at the multiples of 600 after the 4,000th of 8,000 steps."""


class ImagePrior(Protocol):
    """A diffusion model of pictures, told by words and maybe by cameras what they show.

    Attributes:
        channels: c, of latents.
        cells: s, cells along a side of the latents of a whole picture.
        size: pixels along a side of a picture.
        knows_cameras: whether conditions tell it from where a picture is taken.
        before_white: whether all that it knows are things before white.
        in_colours: whether latents are colours in other coordinates; a field may as well hold colours then.
        guidance: that suits it, for distillation.
        attention_noise: noise level at which its attention to words tells most of where things are.
    """

    channels: int
    cells: int
    size: int
    knows_cameras: bool
    before_white: bool
    in_colours: bool
    guidance: float
    attention_noise: float

    def conditions(self, prompts: list[str], directions: Tensor | None) -> Conditions:
        """What tells of pictures (B): prompts, an empty one telling nothing, and directions (B, 3) to
        cameras."""

    def encode(self, pictures: Tensor) -> Tensor:
        """Latents (B, c, s, s), of variance 1 or so, of pictures (B, 3, S, S) in [0, 1]; differentiable."""

    def decode(self, latents: Tensor) -> Tensor:
        """Pictures (B, 3, S, S) of latents (B, c, s, s)."""

    def schedule(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """alpha and sigma (B,) at noise levels u (B,) in (0, 1)."""

    def denoise(self, noisy: Tensor, u: Tensor, conditions: Conditions) -> Tensor:
        """Clean latents (B, c, s, s) that the prior believes in."""

    def limited(self, clean: Tensor) -> Tensor:
        """The nearest latents of a picture whose colours exist, where that is known: guidance goes beyond
        them."""


@dataclass(frozen=True)
class DistillationConfig:
    """How a prior pulls.

    Raises:
        ValueError: a number out of range.
    """

    kind: Literal["sds", "csd", "sdi", "targets"] = "sds"
    """The gradient; see the module."""
    weight: Weight = "latent_nerf"
    """Of noise levels."""
    guidance: float | None = None
    """How far beyond the unguided prediction; None for what suits the prior: 100 with Stable Diffusion, as
    in both papers, 5 with ours."""
    noise: tuple[float, float] = (0.02, 0.98)
    """Least and largest noise level that is drawn."""
    anneal: Literal["none", "voxe", "linear"] = "none"
    """How the largest level falls: not at all, as Vox-E's does, or evenly to the least one."""
    prior_steps: int = 4
    """Of SDI: from the clean latents to the noise level; of targets: from there to clean ones."""

    def __post_init__(self) -> None:
        low, high = self.noise
        if not 0 < low <= high < 1:
            raise ValueError(f"noise is {self.noise}; allowed: 0 < least <= largest < 1")
        if self.guidance is not None and not self.guidance >= 0:
            raise ValueError(f"guidance is {self.guidance}; it must not be negative")
        if self.prior_steps < 1:
            raise ValueError(f"prior_steps is {self.prior_steps}; at least 1")

    def levels(self, share: float) -> tuple[float, float]:
        """Least and largest noise level when `share` in [0, 1] of a fit is over."""
        low, high = self.noise
        if self.anneal == "linear":
            return low, high + (low - high) * share
        if self.anneal == "voxe":
            falls = max(0, int(share / VOXE_EVERY + 1e-9) - int(VOXE_AFTER / VOXE_EVERY))
            return low, max(high * VOXE_FALL**falls, min(VOXE_FLOOR, high), low)
        return low, high


@dataclass(frozen=True)
class Pull:
    """One step of distillation.

    Attributes:
        gradient: (B, c, s, s), of the objective by the latents.
        clean: (B, c, s, s), the guided latents that the prior believes in.
        u: (B,) noise levels.
    """

    gradient: Tensor
    clean: Tensor
    u: Tensor

    def loss(self, latents: Tensor) -> Tensor:
        """A scalar whose gradient by `latents`, those it was made of, is `gradient` over the batch size."""
        return (latents * self.gradient).sum() / len(latents)


@torch.no_grad()
def pull(
    prior: ImagePrior,
    latents: Tensor,
    told: Conditions,
    untold: Conditions,
    config: DistillationConfig,
    share: float,
    generator: torch.Generator,
) -> Pull:
    """Where a prior would move latents.

    Args:
        prior: of pictures.
        latents: (B, c, s, s).
        told: conditions that tell what they are to show.
        untold: conditions that do not.
        config: the kind of gradient.
        share: how much of the fit is over, in [0, 1].
        generator: of noise and noise levels.

    Raises:
        Gen3dError: the latents are not finite.
    """
    if not bool(latents.isfinite().all()):
        raise Gen3dError("latents of the rendered picture are not finite")
    x = latents.detach()
    low, high = config.levels(share)
    u = low + (high - low) * torch.rand(len(x), generator=generator).to(x)
    if config.kind == "sdi":
        noise = _inverted(prior, x, u, told, config.prior_steps)
    else:
        noise = torch.randn(x.shape, generator=generator).to(x)
    alpha, sigma = (_wide(each, x) for each in prior.schedule(u))
    noisy = alpha * x + sigma * noise
    guidance = prior.guidance if config.guidance is None else config.guidance
    guided = Guided(prior, told, untold, guidance)
    clean = guided(noisy, u)
    abar = alpha**2 / (alpha**2 + sigma**2)
    if config.kind == "csd":
        difference = -(alpha / sigma) * guided.difference
    elif config.kind == "targets":
        clean = _sampled(guided, noisy, clean, u, config.prior_steps)
        difference = x - clean
    else:
        difference = (noisy - alpha * clean) / sigma - noise
    return Pull(WEIGHTS[config.weight](abar) * difference, clean, u)


class Guided:
    """A prior that is told something, with guidance (arXiv 2207.12598), held to colours that exist: static
    thresholding (Imagen, arXiv 2205.11487), without which large guidance ends in black.

    Attributes:
        difference: (B, c, s, s), of the last clean latents with and without what is told.
    """

    difference: Tensor

    def __init__(self, prior: ImagePrior, told: Conditions, untold: Conditions, guidance: float) -> None:
        self.prior, self.told, self.untold, self.guidance = prior, told, untold, guidance

    def __call__(self, noisy: Tensor, u: Tensor) -> Tensor:
        """Clean latents (B, c, s, s)."""
        free, given = both(self.prior, noisy, u, self.untold, self.told)
        self.difference = given - free
        return self.prior.limited(free + self.guidance * self.difference)


def both(
    prior: ImagePrior, noisy: Tensor, u: Tensor, untold: Conditions, told: Conditions
) -> tuple[Tensor, Tensor]:
    """Clean latents with and without what is told, by one call of the prior."""
    count = len(noisy)
    joined = {name: torch.cat([untold[name], told[name]]) for name in told}
    found = prior.denoise(torch.cat([noisy, noisy]), torch.cat([u, u]), joined)
    return found[:count], found[count:]


def _inverted(prior: ImagePrior, x: Tensor, u: Tensor, told: Conditions, steps: int) -> Tensor:
    """The noise that takes x to level u along the prior's own path (DDIM backwards, arXiv 2010.02502)."""
    noise = torch.zeros_like(x)
    z = x
    for step in range(steps):
        now, then = u * max(step, 0.2) / steps, u * (step + 1) / steps
        alpha, sigma = (_wide(each, x) for each in prior.schedule(now))
        if step == 0:
            z = alpha * x
        clean = prior.denoise(z, now, told)
        noise = (z - alpha * clean) / sigma
        alpha, sigma = (_wide(each, x) for each in prior.schedule(then))
        z = alpha * clean + sigma * noise
    # What is left between z and x at the level that was reached.
    return (z - alpha * x) / sigma


def _sampled(guided: Guided, z: Tensor, clean: Tensor, u: Tensor, steps: int) -> Tensor:
    """What DDIM (arXiv 2010.02502) makes of z at level u in even steps; `clean` is what the first sees."""
    now = u
    for step in range(1, steps):
        then = u * (steps - step) / steps
        alpha, sigma = (_wide(each, z) for each in guided.prior.schedule(now))
        noise = (z - alpha * clean) / sigma
        alpha, sigma = (_wide(each, z) for each in guided.prior.schedule(then))
        z, now = alpha * clean + sigma * noise, then
        clean = guided(z, now)
    return clean


def _wide(values: Tensor, like: Tensor) -> Tensor:
    """(B, 1, 1, 1)."""
    return values.to(like).view(-1, 1, 1, 1)
