"""Tokens: the one thing that codecs make, the transformer reads and samplers move."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from gen3d.types import TokenMask, TokenPositions, TokenValues


@dataclass(frozen=True)
class Tokens:
    """A batch of token sets, padded to a common length.

    Attributes:
        x: latent values (B, N, C); zero where `mask` is False.
        mask: (B, N), True where a token is real.
        positions: (B, N, A) coordinates the transformer may encode, or None.
    """

    x: TokenValues
    mask: TokenMask
    positions: TokenPositions | None = None

    def __post_init__(self) -> None:
        if self.x.shape[:2] != self.mask.shape:
            raise ValueError(
                f"x is (B, N, C) = {tuple(self.x.shape)} but mask is (B, N) = {tuple(self.mask.shape)}"
            )

    def to(self, device: torch.device | str) -> "Tokens":
        positions = None if self.positions is None else self.positions.to(device)
        return Tokens(self.x.to(device), self.mask.to(device), positions)

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
