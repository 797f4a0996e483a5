"""Samplers: plain functions that carry noise to data with a denoiser.

A denoiser is any callable denoise(x, t) -> clean prediction, x (B, N, C) and t (B,). Behaviour is added by
wrapping the denoiser (see `gen3d.diffusion.guidance`), and watched through a callback. The last step of
every sampler, to sigma = 0, returns the clean prediction: the velocity itself is singular there.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, Protocol

import torch
from torch import Tensor

from gen3d.config import from_dict, to_dict
from gen3d.diffusion.objective import shift_times
from gen3d.diffusion.paths import Path
from gen3d.diffusion.shortcut import told_step
from gen3d.draws import Draws
from gen3d.errors import Gen3dError
from gen3d.nn.transformer import Network
from gen3d.tokens import Ties
from gen3d.types import Conditions, TokenMask, TokenPositions

Denoiser = Callable[[Tensor, Tensor], Tensor]

LAST = 1e-3
"""Length of the final step that an adaptive solver leaves to the denoiser."""
INVERSION_NOISE = 0.01
"""How far from the data an inversion evaluates its first velocity."""


@dataclass(frozen=True)
class SamplerState:
    """What a callback sees after each step.

    Attributes:
        step: number of steps done.
        steps: number of steps in all.
        t: the time reached.
        x: tokens at that time (B, N, C).
        denoised: the last clean prediction (B, N, C).
    """

    step: int
    steps: int
    t: float
    x: Tensor
    denoised: Tensor


Callback = Callable[[SamplerState], None]


class Sampler(Protocol):
    """Carry x from times[0] to times[-1]."""

    def __call__(
        self,
        denoise: Denoiser,
        x: Tensor,
        path: Path,
        times: Tensor,
        *,
        callback: Callback | None = None,
        draws: Draws | None = None,
    ) -> Tensor: ...


def schedule(
    steps: int, shift: float = 1.0, spacing: Literal["uniform", "log"] = "uniform", start: float = 0.0
) -> Tensor:
    """Times (steps + 1,) from `start` to 1.

    Args:
        steps: number of sampler steps.
        shift: moves times towards the noise, as `DiffusionConfig.time_shift`; use the training value.
        spacing: "uniform" in t, or "log": noise levels 1 - t in geometric progression down to 1% (arXiv
            2406.07266), which resolves the end where atoms settle.
        start: where to begin; above 0 to edit given data.

    Raises:
        Gen3dError: a value out of range.
    """
    if steps < 1:
        raise Gen3dError(f"steps is {steps}; at least 1")
    if not 0 <= start < 1:
        raise Gen3dError(f"start is {start}; allowed: 0 <= start < 1")
    if spacing == "uniform":
        t = torch.linspace(0, 1, steps + 1)
    elif spacing == "log":
        noise = torch.logspace(0, -2, steps)
        t = torch.cat([1 - noise, torch.ones(1)])
    else:
        raise Gen3dError(f"unknown spacing {spacing!r}; allowed: uniform, log")
    return start + (1 - start) * shift_times(t, shift)


def euler(
    denoise: Denoiser,
    x: Tensor,
    path: Path,
    times: Tensor,
    *,
    callback: Callback | None = None,
    draws: Draws | None = None,
) -> Tensor:
    """Explicit Euler on the probability-flow ODE dx/dt = v(x, t); first order."""

    def step(x: Tensor, t: Tensor, s: Tensor, _: int) -> tuple[Tensor, Tensor]:
        denoised = denoise(x, t)
        if _is_clean(path, s):
            return denoised, denoised
        return x + _column(s - t) * path.convert(denoised, "x", "v", x, t), denoised

    return _walk(step, x, times, callback)


def heun(
    denoise: Denoiser,
    x: Tensor,
    path: Path,
    times: Tensor,
    *,
    callback: Callback | None = None,
    draws: Draws | None = None,
) -> Tensor:
    """Heun's trapezoidal method; second order, two evaluations a step (EDM, arXiv 2206.00364, alg. 1)."""

    def step(x: Tensor, t: Tensor, s: Tensor, _: int) -> tuple[Tensor, Tensor]:
        if _is_clean(path, s):
            denoised = denoise(x, t)
            return denoised, denoised
        return _heun_step(denoise, path, x, t, s, t, s)

    return _walk(step, x, times, callback)


def ddim(
    denoise: Denoiser,
    x: Tensor,
    path: Path,
    times: Tensor,
    *,
    callback: Callback | None = None,
    draws: Draws | None = None,
) -> Tensor:
    """Deterministic DDIM: keep the implied noise, move the levels (arXiv 2010.02502, eq. 12).

    First order; the same as Euler on the linear path.
    """

    def step(x: Tensor, t: Tensor, s: Tensor, _: int) -> tuple[Tensor, Tensor]:
        denoised = denoise(x, t)
        return path.interpolate(denoised, path.convert(denoised, "x", "eps", x, t), s), denoised

    return _walk(step, x, times, callback)


def ancestral(
    denoise: Denoiser,
    x: Tensor,
    path: Path,
    times: Tensor,
    *,
    callback: Callback | None = None,
    draws: Draws | None = None,
    eta: float = 1.0,
) -> Tensor:
    """Stochastic sampling: each step replaces part of the implied noise by fresh noise.

    With `eta` 1 this is the posterior of the Markov chain that `path` marginalises, DDPM's ancestral
    sampling (arXiv 2006.11239, alg. 2; arXiv 2010.02502, eq. 16); with 0 it is DDIM.

    Raises:
        Gen3dError: `draws` is missing.
    """
    if draws is None:
        raise Gen3dError("the ancestral sampler needs draws for its noise")

    def step(x: Tensor, t: Tensor, s: Tensor, number: int) -> tuple[Tensor, Tensor]:
        denoised = denoise(x, t)
        implied = path.convert(denoised, "x", "eps", x, t)
        sigma_t, sigma_s = path.sigma(t), path.sigma(s)
        decay = path.alpha(t) / path.alpha(s)
        variance = (sigma_t.square() - (decay * sigma_s).square()).clamp(min=0)
        fresh = eta * sigma_s / sigma_t * variance.sqrt()
        kept = (sigma_s.square() - fresh.square()).clamp(min=0).sqrt()
        noise = draws.normal(f"ancestral/{number}", *x.shape[1:]).to(x)
        return _column(path.alpha(s)) * denoised + _column(kept) * implied + _column(fresh) * noise, denoised

    return _walk(step, x, times, callback)


def adaptive(
    denoise: Denoiser,
    x: Tensor,
    path: Path,
    times: Tensor,
    *,
    callback: Callback | None = None,
    draws: Draws | None = None,
    method: str = "dopri5",
    tolerance: float = 1e-4,
) -> Tensor:
    """Adaptive integration between consecutive `times` with torchdiffeq.

    Step sizes follow the error of the whole batch, so that a sample depends, within the tolerance, on its
    companions.

    Args:
        denoise, x, path, callback, draws: as for every sampler.
        times: where the solver stops for the callback; [0, 1] is enough.
        method: an adaptive method of torchdiffeq.
        tolerance: relative and absolute.
    """
    from torchdiffeq import odeint

    def step(x: Tensor, t: Tensor, s: Tensor, _: int) -> tuple[Tensor, Tensor]:
        clean = _is_clean(path, s)
        span = torch.stack([t[0], s[0] - LAST if clean else s[0]])

        def velocity(u: Tensor, y: Tensor) -> Tensor:
            u = u.to(y).expand(len(y))
            return path.convert(denoise(y, u), "x", "v", y, u)

        if span[1] > span[0]:
            # Without a step forced to the end, trial steps would reach beyond the data.
            stops = {"step_t": span[1:]}
            x = odeint(velocity, x, span, rtol=tolerance, atol=tolerance, method=method, options=stops)[-1]
        denoised = denoise(x, span.max().expand(len(x)))
        return (denoised if clean else x), denoised

    return _walk(step, x, times, callback)


SAMPLERS: dict[str, Sampler] = {
    "euler": euler,
    "heun": heun,
    "ddim": ddim,
    "ancestral": ancestral,
    "adaptive": adaptive,
}


@dataclass(frozen=True)
class SamplingConfig:
    """Defaults of sampling."""

    steps: int = 100
    """Sampler steps."""
    sampler: str = "euler"
    """Name of the sampler."""
    guidance: float = 1.0
    """Scale of classifier-free guidance; 1 for none."""
    guidance_interval: tuple[float, float] = (0.0, 1.0)
    """Times between which guidance acts."""
    autoguidance: float = 1.0
    """Scale of guidance away from the same network without its previous prediction; 1 for none."""
    autoguidance_interval: tuple[float, float] = (0.0, 1.0)
    """Times between which autoguidance acts."""
    shift: float = 1.0
    """Moves the sampler's times towards the noise; use the shift of training."""
    spacing: Literal["uniform", "log"] = "uniform"
    """The sampler's times: even, or noise levels in geometric progression."""

    def __post_init__(self) -> None:
        if self.sampler not in SAMPLERS:
            raise ValueError(f"sampler is {self.sampler!r}; allowed: {', '.join(sorted(SAMPLERS))}")
        if self.steps < 1:
            raise ValueError(f"steps is {self.steps}; at least 1")


def sampling_settings(
    defaults: SamplingConfig, steps: int | None, guidance: float | None, sampler: str | None
) -> SamplingConfig:
    """The defaults with what is given in their place."""
    given = {"steps": steps, "guidance": guidance, "sampler": sampler}
    changes = {name: value for name, value in given.items() if value is not None}
    return from_dict(SamplingConfig, {**to_dict(defaults), **changes})


def invert(
    denoise: Denoiser, x: Tensor, path: Path, times: Tensor, *, callback: Callback | None = None
) -> Tensor:
    """Carry data to the noise that the ODE would turn into it: Heun backwards along `times`.

    The velocity at the data itself is singular and is taken at t = 1 - 0.01 instead.

    Args:
        denoise: as for the samplers.
        x: data (B, N, C).
        path: the path.
        times: increasing, as for the samplers; the walk starts at the last.
        callback: as for the samplers.
    """

    def step(x: Tensor, t: Tensor, s: Tensor, _: int) -> tuple[Tensor, Tensor]:
        return _heun_step(denoise, path, x, t, s, t.clamp(max=1 - INVERSION_NOISE), s)

    return _walk(step, x, times.flip(0), callback)


def partial_start(x1: Tensor, path: Path, t: float, draws: Draws) -> Tensor:
    """Data (B, N, C) noised to time t; continue from `start=t` to edit it (SDEdit, arXiv 2108.01073)."""
    noise = draws.normal("noise", *x1.shape[1:]).to(x1)
    return path.interpolate(x1, noise, x1.new_full((len(x1),), t))


@dataclass
class ModelDenoiser:
    """A network as a denoiser, for one trajectory of one batch.

    A self-conditioned network sees its previous prediction, so every trajectory needs a new instance.

    Attributes:
        model: the network.
        path: the path it was trained on.
        prediction: what its output means: "x", "v" or "eps".
        mask: (B, N) True where a token is real.
        positions: (B, N, A).
        cond: conditions by name.
        perturb: attention perturbation, as in `DiffusionTransformer.forward`.
        remember: show a self-conditioned network its previous prediction.
        times: where the sampler stops; a network that is told step sizes is told those in between.
    """

    model: Network
    path: Path
    prediction: str = "x"
    mask: TokenMask | None = None
    positions: TokenPositions | None = None
    cond: Conditions | None = None
    perturb: Mapping[int, Mapping[int, float] | Tensor] | None = None
    remember: bool = True
    times: Tensor | None = None

    def __post_init__(self) -> None:
        self._previous: Tensor | None = None

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        told = {} if self.times is None else {"step": self._step(t)}
        output = self.model(
            x,
            t,
            **told,
            mask=self.mask,
            positions=self.positions,
            cond=self.cond,
            self_cond=self._previous,
            perturb=self.perturb,
        )
        denoised = self.path.convert(output, self.prediction, "x", x, t)
        if self.mask is not None:
            denoised = denoised * self.mask[..., None]
        if self.model.config.self_conditioning and self.remember:
            self._previous = denoised
        return denoised

    def _step(self, t: Tensor) -> Tensor:
        """How far the sampler goes from t."""
        assert self.times is not None
        times = self.times.to(t)
        following = torch.searchsorted(times, t, right=True).clamp(max=len(times) - 1)
        return told_step(times[following] - t)


@dataclass(frozen=True)
class KnownRegion:
    """A denoiser that already knows some channels: inpainting and completion.

    The implied noise of a known channel is then its own initial noise, so that every sampler moves
    it along the path to exactly the known value while the rest is generated around it.

    Attributes:
        denoise: the denoiser of the rest.
        known: clean values (B, N, C).
        known_mask: (B, N, C) True where `known` counts.
    """

    denoise: Denoiser
    known: Tensor
    known_mask: Tensor

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        return torch.where(self.known_mask, self.known, self.denoise(x, t))


@dataclass(frozen=True)
class Tied:
    """A denoiser of tokens that are one in some channels: what they have in common is predicted as one.

    Attributes:
        denoise: the denoiser of the tokens.
        ties: which tokens, and in which channels.
    """

    denoise: Denoiser
    ties: Ties

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        # Samplers that add noise add it token by token; that of the first of each group counts.
        return self.ties.mean(self.denoise(self.ties.same(x), t))


def _walk(
    step: Callable[[Tensor, Tensor, Tensor, int], tuple[Tensor, Tensor]],
    x: Tensor,
    times: Tensor,
    callback: Callback | None,
) -> Tensor:
    """Apply step(x, t, s, number) -> (x at s, clean prediction) between consecutive times t, s."""
    steps = len(times) - 1
    with torch.no_grad():
        for i, (t, s) in enumerate(pairwise(times.tolist())):
            x, denoised = step(x, x.new_full((len(x),), t), x.new_full((len(x),), s), i)
            if callback is not None:
                callback(SamplerState(i + 1, steps, s, x, denoised))
    return x


def _heun_step(
    denoise: Denoiser, path: Path, x: Tensor, t: Tensor, s: Tensor, at_t: Tensor, at_s: Tensor
) -> tuple[Tensor, Tensor]:
    """From t to s with the mean of the velocities, evaluated at the times `at_t` and `at_s`."""
    first = path.convert(denoise(x, at_t), "x", "v", x, at_t)
    guess = x + _column(s - t) * first
    denoised = denoise(guess, at_s)
    second = path.convert(denoised, "x", "v", guess, at_s)
    return x + _column(s - t) * (first + second) / 2, denoised


def _is_clean(path: Path, s: Tensor) -> bool:
    return bool(path.sigma(s).max() == 0)


def _column(per_sample: Tensor) -> Tensor:
    return per_sample[:, None, None]
