"""Random numbers that depend only on (seed, sample, stream): counter-based, not sequential.

Sample i gets the same noise whether it is drawn alone, in a batch of a thousand, on another shard or
after a resume. So sharded sampling equals unsharded sampling, an interrupted training equals an
uninterrupted one, and n processes see the same batch as one, with no generator state to save.

The generator hashes a counter with the finaliser of SplitMix64 (Steele, Lea & Flood, "Fast
splittable pseudorandom number generators", OOPSLA 2014), in 64-bit integers with wrap-around, so the
bits are the same on every device.
"""

import math
import zlib
from dataclasses import dataclass

import torch
from torch import Tensor

from gen3d.errors import Gen3dError

APART = 1 << 40
"""Between the numbers of one sample's attempts: more than there are samples."""


@dataclass(frozen=True)
class Draws:
    """One independent random stream for each sample.

    Attributes:
        seed: the run's seed.
        index: (B,) int64, the number of each sample; any non-negative values, in any order.
    """

    seed: int
    index: Tensor

    def uniform(self, stream: str, *shape: int) -> Tensor:
        """Uniform float32 numbers in (0, 1), (B, *shape). Different streams are independent."""
        # 24 random bits fill a float32 mantissa; the half keeps 0 out, and the last number would round to 1.
        drawn = ((self._bits(stream, shape) & 0xFFFFFF).to(torch.float32) + 0.5) / (1 << 24)
        return drawn.clamp_(max=1 - 2.0**-24)

    def normal(self, stream: str, *shape: int) -> Tensor:
        """Standard normal float32 numbers, (B, *shape), by the Box-Muller transform."""
        bits = self._bits(stream, shape)
        # Two 31-bit halves of one hash, in float64 so that the tail is not clipped at 5.4 sigma.
        u = (((bits >> 32) & 0x7FFFFFFF).double() + 0.5) / (1 << 31)
        v = ((bits & 0x7FFFFFFF).double() + 0.5) / (1 << 31)
        return (torch.sqrt(-2 * torch.log(u)) * torch.cos(2 * math.pi * v)).float()

    def select(self, rows: slice | Tensor) -> "Draws":
        """The streams of some of the samples."""
        return Draws(self.seed, self.index[rows])

    def again(self, number: int) -> "Draws":
        """Other streams of the same samples, another set for each number; 0 for these."""
        return Draws(self.seed, self.index + number * APART)

    def _bits(self, stream: str, shape: tuple[int, ...]) -> Tensor:
        size = math.prod(shape)
        key = _hash(torch.tensor(_signed(self.seed * 0x9E3779B97F4A7C15 + zlib.crc32(stream.encode()))))
        rows = _hash(self.index.to(torch.int64) + key.to(self.index.device))
        columns = torch.arange(size, dtype=torch.int64, device=rows.device)
        # The odd constant is SplitMix64's golden-ratio increment.
        bits = _hash(rows[:, None] + columns * _signed(0x9E3779B97F4A7C15))
        return bits.reshape(len(self.index), *shape)


def numbers(n: int, shard: tuple[int, int]) -> Tensor:
    """Numbers of the samples of part i of k, `shard`, of n samples.

    Raises:
        Gen3dError: there is no such part.
    """
    part, parts = shard
    if n < 0 or not 0 <= part < parts:
        raise Gen3dError(
            f"shard {part}/{parts} of {n} samples does not exist; allowed: 0/k to (k-1)/k, n >= 0"
        )
    return torch.arange(n * part // parts, n * (part + 1) // parts)


def _hash(z: Tensor) -> Tensor:
    z = (z ^ _shift(z, 30)) * _signed(0xBF58476D1CE4E5B9)
    z = (z ^ _shift(z, 27)) * _signed(0x94D049BB133111EB)
    return z ^ _shift(z, 31)


def _shift(z: Tensor, by: int) -> Tensor:
    """Logical (not arithmetic) right shift of int64."""
    return (z >> by) & ((1 << (64 - by)) - 1)


def _signed(value: int) -> int:
    """The int64 with the low 64 bits of `value`."""
    value &= (1 << 64) - 1
    return value - (1 << 64) if value >= 1 << 63 else value
