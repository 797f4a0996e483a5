"""Probability paths x_t = alpha(t) x1 + sigma(t) x0 from noise x0 (t = 0) to data x1 (t = 1).

Conventions of stochastic interpolants (SiT, arXiv 2401.08740): a network may predict the clean data "x",
the noise "eps", the velocity "v" = dx_t/dt or the score; at given x_t they determine one another.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from gen3d.errors import Gen3dError

FLOOR = 1e-4
"""Divisors are kept this far from zero, where a path's end makes a conversion undefined."""


class Path(ABC):
    """What every path can do, given its coefficients alpha and sigma. Times have the shape (B,) or (B, N)."""

    @abstractmethod
    def alpha(self, t: Tensor) -> Tensor:
        """Weight of the data."""

    @abstractmethod
    def sigma(self, t: Tensor) -> Tensor:
        """Weight of the noise."""

    @abstractmethod
    def alpha_dot(self, t: Tensor) -> Tensor:
        """d alpha / dt."""

    @abstractmethod
    def sigma_dot(self, t: Tensor) -> Tensor:
        """d sigma / dt."""

    def interpolate(self, x1: Tensor, x0: Tensor, t: Tensor) -> Tensor:
        """x_t of data x1 and noise x0, both (B, N, C)."""
        t = _over(t, x1)
        return self.alpha(t) * x1 + self.sigma(t) * x0

    def velocity(self, x1: Tensor, x0: Tensor, t: Tensor) -> Tensor:
        """dx_t/dt of data x1 and noise x0."""
        t = _over(t, x1)
        return self.alpha_dot(t) * x1 + self.sigma_dot(t) * x0

    def convert(self, value: Tensor, source: str, target: str, x_t: Tensor, t: Tensor) -> Tensor:
        """Turn a prediction of one kind into another kind at the noisy tokens x_t.

        Args:
            value: the prediction (B, N, C).
            source, target: "x", "eps", "v" or "score".
            x_t: noisy tokens (B, N, C).
            t: times (B,) or (B, N).

        Raises:
            Gen3dError: an unknown kind of prediction.
        """
        if source == target:
            return value
        s = _over(t, x_t)
        x1, x0 = self._split(value, source, x_t, s)
        if target == "x":
            return x1
        if target == "eps":
            return x0
        if target == "v":
            return self.velocity(x1, x0, t)
        if target == "score":
            return -x0 / self.sigma(s).clamp(min=FLOOR)
        raise _unknown(target)

    def sensitivity(self, kind: str, t: Tensor, floor: float = FLOOR) -> Tensor:
        """|d kind / d x1| at fixed x_t: how an error of the clean prediction shows in another kind.

        `floor` keeps sigma from zero, which bounds the weight of an x-prediction's v-loss by 1 / floor
        (JiT, arXiv 2511.13720).
        """
        sigma = self.sigma(t).clamp(min=floor)
        if kind == "x":
            return torch.ones_like(t)
        if kind == "eps":
            return self.alpha(t) / sigma
        if kind == "v":
            return self._wronskian(t).abs() / sigma
        raise _unknown(kind)

    def _split(self, value: Tensor, kind: str, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """The clean data and the noise that a prediction implies."""
        alpha, sigma = self.alpha(t), self.sigma(t)
        if kind == "x":
            return value, (x_t - alpha * value) / sigma.clamp(min=FLOOR)
        if kind == "score":
            kind, value = "eps", -sigma * value
        if kind == "eps":
            return (x_t - sigma * value) / alpha.clamp(min=FLOOR), value
        if kind == "v":
            determinant = self._wronskian(t)
            x1 = (sigma * value - self.sigma_dot(t) * x_t) / determinant
            return x1, (self.alpha_dot(t) * x_t - alpha * value) / determinant
        raise _unknown(kind)

    def _wronskian(self, t: Tensor) -> Tensor:
        """alpha' sigma - alpha sigma', positive everywhere."""
        return self.alpha_dot(t) * self.sigma(t) - self.alpha(t) * self.sigma_dot(t)


@dataclass(frozen=True)
class LinearPath(Path):
    """The straight line x_t = t x1 + (1 - t) x0 (rectified flow, arXiv 2209.03003)."""

    kind: Literal["linear"] = "linear"

    def alpha(self, t: Tensor) -> Tensor:
        return t

    def sigma(self, t: Tensor) -> Tensor:
        return 1 - t

    def alpha_dot(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def sigma_dot(self, t: Tensor) -> Tensor:
        return -torch.ones_like(t)


@dataclass(frozen=True)
class VariancePreservingPath(Path):
    """alpha^2 + sigma^2 = 1: the continuous limit of DDPM.

    "linear" is beta from 1e-4 to 0.02 per step (DDPM, arXiv 2006.11239; in continuous time arXiv 2011.13456,
    eq. 33); "cosine" is alpha = cos(pi/2 (1 - t + 0.008) / 1.008), scaled to 1 at the data (arXiv
    2102.09672).
    """

    kind: Literal["variance_preserving"] = "variance_preserving"
    schedule: Literal["linear", "cosine"] = "linear"
    """Which noise schedule."""
    steps: int = 1000
    """Steps of the discrete process whose limit this is; the cosine schedule does not depend on it."""

    def alpha(self, t: Tensor) -> Tensor:
        if self.schedule == "cosine":
            return (_COSINE_RATE * (1 - t) + _COSINE_START).cos() / math.cos(_COSINE_START)
        return self._log_alpha(t).exp()

    def sigma(self, t: Tensor) -> Tensor:
        if self.schedule == "cosine":
            return (1 - self.alpha(t).square()).clamp(min=0).sqrt()
        return (-torch.expm1(2 * self._log_alpha(t))).sqrt()

    def alpha_dot(self, t: Tensor) -> Tensor:
        if self.schedule == "cosine":
            angle = _COSINE_RATE * (1 - t) + _COSINE_START
            return _COSINE_RATE * angle.sin() / math.cos(_COSINE_START)
        low, high = self._betas()
        return 0.5 * (low + (high - low) * (1 - t)) * self.alpha(t)

    def sigma_dot(self, t: Tensor) -> Tensor:
        # From alpha^2 + sigma^2 = 1; infinite at the data.
        return -self.alpha(t) * self.alpha_dot(t) / self.sigma(t).clamp(min=FLOOR)

    def _log_alpha(self, t: Tensor) -> Tensor:
        low, high = self._betas()
        return -0.25 * (1 - t).square() * (high - low) - 0.5 * (1 - t) * low

    def _betas(self) -> tuple[float, float]:
        """The rate of noise at the data and at the noise end."""
        return 1e-4 * self.steps, 0.02 * self.steps


_COSINE_START = math.pi / 2 * 0.008 / 1.008
_COSINE_RATE = math.pi / 2 / 1.008


def _over(t: Tensor, x: Tensor) -> Tensor:
    """Times (B,) or (B, N) broadcast against tokens (B, N, C)."""
    return t.reshape(*t.shape, *[1] * (x.ndim - t.ndim))


def _unknown(kind: str) -> Gen3dError:
    return Gen3dError(f"unknown prediction {kind!r}; allowed: x, eps, v, score")
