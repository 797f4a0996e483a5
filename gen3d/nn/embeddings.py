"""How times, conditions and positions enter the transformer."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from gen3d.errors import Gen3dError
from gen3d.types import Conditions, TokenMask, TokenPositions

TIME_FREQUENCIES = 256
TIME_SCALE = 1000.0
"""Times in [0, 1] are stretched to the range of the 1000 DDPM steps that DiT embeds."""
SCALAR_FREQUENCIES = 32
NULL = -1
"""The class index that means "not given"; the index one past the last class means the same."""


class ZeroLinear(nn.Linear):
    """A linear layer that starts as zero, so that what it feeds starts as if it were absent."""

    def reset_parameters(self) -> None:
        nn.init.zeros_(self.weight)
        if self.bias is not None:
            nn.init.zeros_(self.bias)


class TimeEmbedding(nn.Module):
    """256-frequency sinusoid of 1000 t and a two-layer MLP, (...,) -> (..., D) (DiT, arXiv 2212.09748)."""

    def __init__(self, width: int):
        super().__init__()
        self.mlp = _mlp(TIME_FREQUENCIES, width)

    def forward(self, t: Tensor) -> Tensor:
        return self.mlp(sinusoid(t.float() * TIME_SCALE, TIME_FREQUENCIES))


class StepEmbedding(TimeEmbedding):
    """A step size embedded as times are, (...,) -> (..., D), zero at initialisation.

    A network that was trained without it can therefore learn it later.
    """

    def __init__(self, width: int):
        super().__init__(width)
        self.out = ZeroLinear(width, width)

    def forward(self, step: Tensor) -> Tensor:
        return self.out(super().forward(step))


class ScalarEmbedding(nn.Module):
    """Fourier features of a standardised continuous condition and an MLP, (B,) -> (B, D); NaN is null."""

    frequencies: Tensor

    def __init__(self, width: int):
        super().__init__()
        # A standardised value spans a few units: wavelengths from 64 down to 1/4 of a unit.
        frequencies = 2 * math.pi * torch.logspace(-6, 2, SCALAR_FREQUENCIES, base=2.0)
        self.register_buffer("frequencies", frequencies, persistent=False)
        self.mlp = _mlp(2 * SCALAR_FREQUENCIES, width)
        self.null = nn.Parameter(0.02 * torch.randn(width))

    def forward(self, value: Tensor) -> Tensor:
        missing = value.isnan()
        angles = value.float().masked_fill(missing, 0.0)[..., None] * self.frequencies
        known = self.mlp(torch.cat([angles.cos(), angles.sin()], -1))
        return torch.where(missing[..., None], self.null.to(known.dtype), known)


class VectorEmbedding(nn.Module):
    """Several numbers of size 1 or so that are known together, (B, V) -> (B, D); NaN is null.

    An MLP sees them as they are, and waves of four lengths of each.
    """

    frequencies: Tensor

    def __init__(self, size: int, width: int):
        super().__init__()
        frequencies = math.pi * torch.tensor([0.5, 1.0, 2.0, 4.0])
        self.register_buffer("frequencies", frequencies, persistent=False)
        self.mlp = _mlp(size * (1 + 2 * len(frequencies)), width)
        self.null = nn.Parameter(0.02 * torch.randn(width))

    def forward(self, value: Tensor) -> Tensor:
        missing = value.isnan().any(-1, keepdim=True)
        known = value.float().masked_fill(missing, 0.0)
        angles = (known[..., None] * self.frequencies).flatten(-2)
        seen = self.mlp(torch.cat([known, angles.cos(), angles.sin()], -1))
        return torch.where(missing, self.null.to(seen.dtype), seen)


class ClassEmbedding(nn.Module):
    """A learned vector per class and one for null (index -1 or `count`), (B,) -> (B, D)."""

    def __init__(self, name: str, count: int, width: int):
        super().__init__()
        self.name, self.count = name, count
        self.table = nn.Embedding(count + 1, width)

    def forward(self, index: Tensor) -> Tensor:
        if torch.any((index < NULL) | (index > self.count)):
            raise Gen3dError(
                f"class {index.min().item()}..{index.max().item()} of condition {self.name!r}; "
                f"allowed: 0..{self.count - 1}, or {NULL} for none"
            )
        return self.table(index.masked_fill(index == NULL, self.count))


class SentenceEmbedding(nn.Module):
    """A text as a whole, (B, L, E) with mask (B, L) -> (B, D), zero at initialisation and for no text.

    The mean of the token vectors, brought to one length, is the sentence vector of the encoders that we use
    (Sentence-BERT, arXiv 1908.10084). Beside cross-attention it lets nouns act on whole pictures (SDXL, arXiv
    2307.01952).
    """

    def __init__(self, text_width: int, width: int):
        super().__init__()
        self.out = ZeroLinear(text_width, width, bias=False)

    def forward(self, text: Tensor, mask: Tensor) -> Tensor:
        total = text.masked_fill(~mask[..., None], 0.0).sum(1)
        return self.out(nn.functional.normalize(total, dim=-1) * text.shape[-1] ** 0.5)


class ConditionEmbedding(nn.Module):
    """The sum of the embedded time, the step size where it is told, and all class, scalar, vector and text
    conditions.

    Conditions that are absent from the dictionary count as null, an absent step as infinitely small.
    """

    def __init__(
        self,
        width: int,
        classes: dict[str, int],
        scalars: tuple[str, ...],
        steps: bool = False,
        vectors: dict[str, int] | None = None,
        text_width: int = 0,
    ):
        super().__init__()
        self.sizes = dict(vectors or {})
        self.time = TimeEmbedding(width)
        self.step = StepEmbedding(width) if steps else None
        self.classes = nn.ModuleDict({k: ClassEmbedding(k, count, width) for k, count in classes.items()})
        self.scalars = nn.ModuleDict({k: ScalarEmbedding(width) for k in scalars})
        self.vectors = nn.ModuleDict({k: VectorEmbedding(size, width) for k, size in self.sizes.items()})
        self.sentence = SentenceEmbedding(text_width, width) if text_width else None

    def forward(self, t: Tensor, cond: Conditions, step: Tensor | None = None) -> Tensor:
        """Vectors (B, 1, D) for times (B,), (B, N, D) for times (B, N); step sizes are (B,)."""
        batch = len(t)
        signal = self.time(t if t.ndim == 2 else t[:, None])
        if self.step is not None:
            sizes = torch.zeros(batch, device=t.device) if step is None else step
            signal = signal + self.step(sizes[:, None])
        for name, embed in self.classes.items():
            index = cond.get(name)
            index = torch.full((batch,), NULL, device=t.device) if index is None else index
            signal = signal + embed(index)[:, None]
        for name, embed in self.scalars.items():
            value = cond.get(name)
            value = torch.full((batch,), math.nan, device=t.device) if value is None else value
            signal = signal + embed(value)[:, None]
        for name, embed in self.vectors.items():
            value = cond.get(name)
            value = (
                torch.full((batch, self.sizes[name]), math.nan, device=t.device) if value is None else value
            )
            signal = signal + embed(value)[:, None]
        if self.sentence is not None and "text" in cond:
            signal = signal + self.sentence(cond["text"], cond["text_mask"])[:, None]
        return signal


class PairEmbedding(nn.Module):
    """Distances between tokens: biases of the attention of every block, and messages to the tokens.

    A token receives the sum over all tokens j of basis_k(r_ij) * p(h_j), where p projects to a few
    channels: a radial density of its surroundings. Invariant to motions of the positions.

    Args:
        width: D.
        depth: number of blocks.
        heads: H.
        centres: Gaussians that resolve a distance.
        cutoff: distance beyond which pairs look alike.
        sets: sets of positions whose distances are looked at together.
    """

    MESSAGE_CHANNELS = 16

    def __init__(self, width: int, depth: int, heads: int, centres: int, cutoff: float, sets: int = 1):
        super().__init__()
        self.depth, self.heads, self.centres, self.cutoff = depth, heads, centres, cutoff
        self.sets = sets
        self.bias = ZeroLinear(sets * centres, depth * heads, bias=False)
        self.project = nn.Linear(width, self.MESSAGE_CHANNELS)
        self.out = ZeroLinear(sets * centres * self.MESSAGE_CHANNELS, width)

    def forward(
        self, h: Tensor, mask: TokenMask | None, sets: Sequence[TokenPositions]
    ) -> tuple[Tensor, list[Tensor]]:
        """Tokens (B, N, D) with messages added, and (B, H, N, N) biases, one per block."""
        bases = [distance_basis(positions, self.centres, self.cutoff) for positions in sets]
        basis = torch.cat(bases, -1).to(h.dtype)
        sources = self.project(h)
        if mask is not None:
            sources = sources.masked_fill(~mask[..., None], 0.0)
        messages = (basis.transpose(-1, -2) @ sources[:, None]).flatten(-2)
        bias = self.bias(basis).unflatten(-1, (self.depth, self.heads)).permute(3, 0, 4, 1, 2)
        if mask is not None:
            bias = bias.masked_fill(~mask[:, None, None], -torch.inf)
        return h + self.out(messages), list(bias.unbind())


def drop_conditions(cond: Conditions, dropped: dict[str, Tensor]) -> Conditions:
    """`cond` with some of its rows replaced by null.

    Args:
        cond: conditions by name; integers are classes, floats are scalars or vectors, "text" goes with
            "text_mask".
        dropped: for some names, (B,) True where the condition is to be null.
    """
    changed = dict(cond)
    for name, rows in dropped.items():
        if name == "text":
            changed["text_mask"] = cond["text_mask"] & ~rows[:, None]
        elif cond[name].is_floating_point():
            changed[name] = cond[name].masked_fill(rows.view(-1, *[1] * (cond[name].ndim - 1)), math.nan)
        else:
            changed[name] = cond[name].masked_fill(rows, NULL)
    return changed


def sinusoid(values: Tensor, width: int, base: float = 10_000.0) -> Tensor:
    """Cosines and sines of `values` (...) at width/2 geometric frequencies 1 .. 1/base, (..., width)."""
    half = width // 2
    frequencies = base ** (-torch.arange(half, device=values.device, dtype=torch.float32) / half)
    angles = values[..., None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], -1)


def sincos_positions(positions: TokenPositions, width: int, base: float) -> Tensor:
    """Fixed sinusoids of every axis side by side, (B, N, A) -> (B, N, D); a remainder is zero."""
    axes = positions.shape[-1]
    per_axis = width // (2 * axes) * 2
    waves = sinusoid(positions.float(), per_axis, base).flatten(-2)
    return nn.functional.pad(waves, (0, width - axes * per_axis))


def rotary_angles(positions: TokenPositions, head_width: int, base: float) -> tuple[Tensor, Tensor]:
    """Cosines and sines (B, 1, N, head_width/2) that rotate channel pairs by position.

    Every axis turns an equal share of the pairs; pairs that do not divide evenly stay unrotated. An
    attention logit then depends on positions only through their differences (RoFormer, arXiv 2104.09864).
    """
    pairs = head_width // 2
    per_axis = pairs // positions.shape[-1]
    exponents = torch.arange(per_axis, device=positions.device, dtype=torch.float32) / per_axis
    angles = (positions.float()[..., None] * base**-exponents).flatten(-2)
    angles = nn.functional.pad(angles, (0, pairs - angles.shape[-1]))[:, None]
    return angles.cos(), angles.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn the channel pairs (i, i + d/2) of queries or keys (B, H, N, d)."""
    first, second = x.chunk(2, -1)
    cos, sin = cos.to(x.dtype), sin.to(x.dtype)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], -1)


def distance_basis(positions: TokenPositions, centres: int, cutoff: float) -> Tensor:
    """Gaussians of all pairwise distances, (B, N, A) -> (B, N, N, centres) in float32.

    The centres are spaced evenly in [0, cutoff], one standard deviation apart (SchNet, arXiv 1706.08566).
    """
    p = positions.float()
    squared = (p[:, :, None] - p[:, None]).square().sum(-1)
    distance = (squared + 1e-12).sqrt()  # the root's slope at zero is infinite
    spacing = cutoff / (centres - 1)
    grid = torch.arange(centres, device=p.device) * spacing
    return torch.exp(-0.5 * ((distance[..., None] - grid) / spacing).square())


def _mlp(inputs: int, width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, width), nn.SiLU(), nn.Linear(width, width))
