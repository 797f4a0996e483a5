"""Tokens: the one thing that codecs make, the transformer reads and samplers move."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from gen3d.types import TokenMask, TokenPositions, TokenValues


@dataclass(frozen=True)
class Ties:
    """Channels in which some tokens of a set are one: they have the same value, and so the same noise.

    Attributes:
        source: (B, N), for every token the first one that it is tied to; its own number where it is free.
        channels: the channels that are tied; the others are free.
    """

    source: Tensor
    channels: slice

    def to(self, device: torch.device | str) -> "Ties":
        return replace(self, source=self.source.to(device))

    def same(self, values: Tensor) -> Tensor:
        """`values` (B, N, C), the tied channels of every token those of its source."""
        return self._with(values, values[..., self.channels].gather(1, self._index()))

    def mean(self, values: Tensor) -> Tensor:
        """`values` (B, N, C), the tied channels of every token the mean of all that it is tied to."""
        index, own = self._index(), values[..., self.channels]
        sums = torch.zeros_like(own).scatter_add(1, index, own)
        counts = torch.zeros_like(own).scatter_add(1, index, torch.ones_like(own))
        return self._with(values, (sums / counts.clamp(min=1)).gather(1, index))

    def without(self, values: Tensor) -> Tensor:
        """`values` (B, N, C) with zeros in the tied channels."""
        return self._with(values, torch.zeros_like(values[..., self.channels]))

    def _index(self) -> Tensor:
        return self.source[..., None].expand(-1, -1, self.channels.stop - self.channels.start)

    def _with(self, values: Tensor, tied: Tensor) -> Tensor:
        values = values.clone()
        values[..., self.channels] = tied
        return values


@dataclass(frozen=True)
class Tokens:
    """A batch of token sets, padded to a common length.

    Attributes:
        x: latent values (B, N, C); zero where `mask` is False.
        mask: (B, N), True where a token is real.
        positions: (B, N, A) coordinates the transformer may encode, or None.
        ties: which tokens are one in some channels, or None.
    """

    x: TokenValues
    mask: TokenMask
    positions: TokenPositions | None = None
    ties: Ties | None = None

    def __post_init__(self) -> None:
        if self.x.shape[:2] != self.mask.shape:
            raise ValueError(
                f"x is (B, N, C) = {tuple(self.x.shape)} but mask is (B, N) = {tuple(self.mask.shape)}"
            )

    def to(self, device: torch.device | str) -> "Tokens":
        positions = None if self.positions is None else self.positions.to(device)
        ties = None if self.ties is None else self.ties.to(device)
        return Tokens(self.x.to(device), self.mask.to(device), positions, ties)

    def with_values(self, x: TokenValues) -> "Tokens":
        """The same layout holding other values; padding is set to zero."""
        return replace(self, x=x * self.mask[..., None])


def masked_mean(values: Tensor, mask: TokenMask) -> Tensor:
    """Mean over the real tokens of `values` (B, N, ...) -> (B, ...); every set needs one token."""
    weights = mask.reshape(*mask.shape, *[1] * (values.ndim - 2)).to(values.dtype)
    return (values * weights).sum(1) / weights.sum(1)


def centred(values: Tensor, mask: TokenMask) -> Tensor:
    """`values` (B, N, C) without the mean of each set's real tokens; padding is zero."""
    return (values - masked_mean(values, mask)[:, None]) * mask[..., None]
