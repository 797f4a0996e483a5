"""Self-attention with exchangeable token mixers, and cross-attention to text."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gen3d.errors import Gen3dError
from gen3d.nn.embeddings import ZeroLinear, rotate
from gen3d.types import TokenMask, TokenPositions

FEW = 128
"""Keys up to which attention in bf16 on a processor is written out."""


@dataclass(frozen=True)
class Geometry:
    """What a mixer may know of the token sets of one forward pass.

    Attributes:
        mask: (B, N) True where a token is real, or None when all are.
        positions: (B, N, A) or None.
        bias: one (B, H, N, N) addend of the attention logits per block, or None; -inf at padded keys.
        window: edge of a window cell or of a neighbourhood, in position units.
        shift: whether the window cells of odd blocks are shifted.
    """

    mask: TokenMask | None
    positions: TokenPositions | None = None
    bias: list[Tensor] | None = None
    window: float = 0.0
    shift: bool = True

    def placed(self, mixer: str) -> tuple[TokenMask, TokenPositions]:
        """The mask, written out, and the positions, for a mixer that goes by them.

        Raises:
            Gen3dError: there are no positions.
        """
        if self.positions is None:
            raise Gen3dError(f"mixer {mixer!r} needs positions; give positions (B, N, A)")
        if self.mask is not None:
            return self.mask, self.positions
        return torch.ones_like(self.positions[..., 0], dtype=torch.bool), self.positions


class Mixer(ABC):
    """Moves information between tokens."""

    def sources(self, x: Tensor) -> Tensor:
        """What a block that reduces its keys and values maps to them: tokens (B, N, D) -> (B, M, E)."""
        return x

    @abstractmethod
    def __call__(self, q: Tensor, k: Tensor, v: Tensor, layer: int) -> Tensor:
        """Queries (B, H, N, d), keys and values (B, H, M, d) of block `layer` -> (B, H, N, d)."""


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """softmax(q k^T / sqrt(d)) v, as `F.scaled_dot_product_attention` has it, by whatever is fastest.

    On a processor in bf16 the fused kernel takes several times as long for short sequences as what it fuses
    does, its gradient above all.

    Args:
        q, k, v: queries (B, H, N, d), keys and values (B, H, M, d).
        mask: to (B, H, N, M): True where a query may look, or numbers that are added; a query that may look
            nowhere looks everywhere or gives NaN.
    """
    half = torch.is_autocast_enabled("cpu") or q.dtype == torch.bfloat16
    if q.device.type != "cpu" or not half or k.shape[-2] > FEW:
        return F.scaled_dot_product_attention(q, k, v, mask)
    logits = (q * q.shape[-1] ** -0.5) @ k.mT
    if mask is not None and mask.dtype == torch.bool:
        logits = logits.masked_fill(~mask, torch.finfo(logits.dtype).min)
    elif mask is not None:
        logits = logits + mask
    return logits.softmax(-1, dtype=torch.float32).to(logits.dtype) @ v


class GlobalMixer(Mixer):
    """Every token attends to every real token."""

    def __init__(self, geometry: Geometry):
        self.bias = geometry.bias
        self.key_mask = None if geometry.mask is None else geometry.mask[:, None, None]

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, layer: int) -> Tensor:
        if self.bias is not None:
            return attend(q, k, v, self.bias[layer].to(q.dtype))
        return attend(q, k, v, self.key_mask)


class WindowMixer(Mixer):
    """Tokens attend to the tokens of their own cubic cell of position space.

    The cells of odd blocks are shifted by half an edge, unless `Geometry.shift` is False, so that
    neighbouring cells exchange information (Swin, arXiv 2103.14030). Cells may hold any number of tokens;
    the cost is that of the fullest cell.
    """

    def __init__(self, geometry: Geometry):
        mask, positions = geometry.placed("window")
        cells = positions / geometry.window
        offsets = (0.0, 0.5) if geometry.shift else (0.0,)
        self.cells = [_Cells(mask, cells + offset) for offset in offsets]

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, layer: int) -> Tensor:
        cells = self.cells[layer % len(self.cells)]
        mixed = attend(cells.gather(q), cells.gather(k), cells.gather(v), cells.key_mask)
        return cells.scatter(mixed, len(q))


class ReduceMixer(Mixer):
    """Every token attends to one key per neighbourhood of R^A cells of the token grid.

    The tokens of a neighbourhood are concatenated, (R^A D), and a linear layer of the block maps them back
    to D before keys and values are made of them (DiT-3D, arXiv 2307.01831, equation 3, which is the spatial
    reduction of PVT, arXiv 2102.12122): N^2 / R^A logits. A cell without a token counts as zero; a
    neighbourhood without any has no key.
    """

    def __init__(self, geometry: Geometry):
        mask, positions = geometry.placed("kv_reduce")
        batch, grid = mask.nonzero()[:, 0], positions.detach()[mask]
        if not torch.equal(grid, grid.round()):
            raise Gen3dError("mixer 'kv_reduce' needs positions on a grid of whole numbers")
        edge, axes = int(geometry.window), grid.shape[-1]
        place = grid.long()
        cell, counts = _number(batch, place // edge)
        owner = torch.empty_like(counts).index_copy_(0, cell, batch)
        per_sample = torch.bincount(owner, minlength=len(mask))
        self.shape = (len(mask), int(per_sample.max()))
        starts = per_sample.cumsum(0) - per_sample
        slot = batch * self.shape[1] + cell - starts[batch]
        for axis in range(axes):
            slot = slot * edge + place[:, axis] % edge
        self.slots = _Slots(mask, slot, self.shape[0] * self.shape[1] * edge**axes)
        if len(slot) + len(self.slots.empty) > len(self.slots.token):
            raise Gen3dError("mixer 'kv_reduce' needs positions on a grid; two tokens are in one place")
        self.key_mask = None
        if int(per_sample.min()) < self.shape[1]:
            numbers = torch.arange(self.shape[1], device=mask.device)
            self.key_mask = (numbers < per_sample[:, None])[:, None, None]

    def sources(self, x: Tensor) -> Tensor:
        """The tokens (B, N, D) of each neighbourhood side by side, (B, M, R^A D)."""
        return self.slots.take(x.flatten(0, 1)).view(*self.shape, -1)

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, layer: int) -> Tensor:
        return attend(q, k, v, self.key_mask)


MIXERS: dict[str, Callable[[Geometry], Mixer]] = {
    "global": GlobalMixer,
    "window": WindowMixer,
    "kv_reduce": ReduceMixer,
}


class SelfAttention(nn.Module):
    """Multi-head self-attention over a token set, (B, N, D) -> (B, N, D).

    Args:
        width: D.
        heads: H.
        qk_norm: normalise queries and keys per head (arXiv 2302.05442); None for no normalisation.
        reduce: tokens that are mapped to one before keys and values are made (`ReduceMixer`); 0 for no map.
    """

    def __init__(self, width: int, heads: int, qk_norm: Callable[[int], nn.Module] | None, reduce: int = 0):
        super().__init__()
        self.heads = heads
        self.reduce = nn.Linear(reduce * width, width) if reduce else None
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.norm_q = qk_norm(width // heads) if qk_norm else nn.Identity()
        self.norm_k = qk_norm(width // heads) if qk_norm else nn.Identity()

    def forward(
        self,
        x: Tensor,
        mixer: Mixer,
        layer: int,
        rotary: tuple[Tensor, Tensor] | None = None,
        perturb: Tensor | None = None,
    ) -> Tensor:
        """Attend.

        Args:
            x: tokens (B, N, D).
            mixer: who attends to whom.
            layer: number of the block, for the mixer.
            rotary: cosines and sines of `rotary_angles`.
            perturb: (H,) strengths u; a head's output becomes (1 - u) A V + u V, attention blended
                with the identity (SoftPAG, arXiv 2506.10978).
        """
        if perturb is not None and self.reduce is not None:
            raise Gen3dError("perturb needs a key per token, which mixer 'kv_reduce' has not")
        q, k, v = self._project(x, mixer)
        q, k = self.norm_q(q), self.norm_k(k)
        if rotary is not None:
            q, k = rotate(q, *rotary), rotate(k, *rotary)
        mixed = mixer(q, k, v, layer)
        if perturb is not None:
            mixed = torch.lerp(mixed, v, perturb.to(v)[:, None, None])
        return self.out(mixed.transpose(1, 2).flatten(-2))

    def _project(self, x: Tensor, mixer: Mixer) -> tuple[Tensor, Tensor, Tensor]:
        """Queries (B, H, N, d), keys and values (B, H, M, d)."""
        if self.reduce is None:
            q, k, v = self.qkv(x).chunk(3, -1)
        else:
            width, (weight, bias) = x.shape[-1], (self.qkv.weight, self.qkv.bias)
            q = F.linear(x, weight[:width], bias[:width])
            k, v = F.linear(self.reduce(mixer.sources(x)), weight[width:], bias[width:]).chunk(2, -1)
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (q, k, v))
        return q, k, v


class TextAttention(nn.Module):
    """Cross-attention of tokens to text, zero at initialisation.

    Rows without any text attend to one learned null token.
    """

    def __init__(self, width: int, heads: int, text_width: int):
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(width, width)
        self.kv = nn.Linear(text_width, 2 * width)
        self.out = ZeroLinear(width, width)
        self.null = nn.Parameter(0.02 * torch.randn(text_width))

    def forward(self, x: Tensor, text: Tensor, text_mask: Tensor) -> Tensor:
        """Tokens (B, N, D) read text (B, L, E) where `text_mask` (B, L) is True."""
        q, k, v, mask = self._heads(x, text, text_mask)
        return self.out(attend(q, k, v, mask).transpose(1, 2).flatten(-2))

    def weights(self, x: Tensor, text: Tensor, text_mask: Tensor) -> Tensor:
        """(B, H, N, 1 + L): how much the heads of each token look at the null token and at those of the
        text."""
        q, k, _, mask = self._heads(x, text, text_mask)
        logits = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
        return logits.masked_fill(~mask, -torch.inf).softmax(-1)

    def _heads(self, x: Tensor, text: Tensor, text_mask: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Queries (B, H, N, d), keys and values (B, H, 1 + L, d), and the mask (B, 1, 1, 1 + L) of the
        keys."""
        null = self.null.to(text.dtype).expand(len(text), 1, -1)
        text = torch.cat([null, text.masked_fill(~text_mask[..., None], 0.0)], 1)
        mask = torch.cat([~text_mask.any(1, keepdim=True), text_mask], 1)[:, None, None]
        q = self.q(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        k, v = self.kv(text).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return q, k, v, mask


class _Slots:
    """Numbered slots, each with one real token or empty.

    Args:
        mask: (B, N).
        slot: the slot of every real token, in the order of `mask.nonzero()`.
        count: S, number of slots.
    """

    def __init__(self, mask: TokenMask, slot: Tensor, count: int):
        real = mask.flatten()
        tokens = real.nonzero()[:, 0]
        self.padding = (~real).nonzero()[:, 0]
        # Empty slots and padding point to number 0: whatever is read there is overwritten.
        self.token = slot.new_zeros(count).index_copy_(0, slot, tokens)
        self.slot = slot.new_zeros(len(real)).index_copy_(0, tokens, slot)
        filled = torch.zeros(count, dtype=torch.bool, device=mask.device).index_fill_(0, slot, True)
        self.empty = (~filled).nonzero()[:, 0]

    def take(self, rows: Tensor) -> Tensor:
        """Rows of all tokens (B N, W) -> rows of the slots (S, W); empty ones are zero."""
        return _Move.apply(rows, (self.token, self.empty), (self.slot, self.padding))

    def give(self, rows: Tensor) -> Tensor:
        """Rows of the slots (S, W) -> rows of all tokens (B N, W); padding is zero."""
        return _Move.apply(rows, (self.slot, self.padding), (self.token, self.empty))


class _Move(torch.autograd.Function):
    """Rows in another order, each used once at most: the gradient, too, is a selection and no sum."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, there: tuple[Tensor, Tensor], back: tuple[Tensor, Tensor]) -> Tensor:
        ctx.there, ctx.back = there, back
        index, zero = there
        return rows.index_select(0, index).index_fill_(0, zero, 0.0)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        return _Move.apply(gradient, ctx.back, ctx.there), None, None


class _Cells:
    """Real tokens sorted into window cells: (B, N) <-> (cells, tokens of the fullest cell)."""

    def __init__(self, mask: TokenMask, cells: Tensor):
        cell, counts = _number(mask.nonzero()[:, 0], cells.detach()[mask].floor().long())
        order = cell.argsort(stable=True)
        starts = counts.cumsum(0) - counts
        rank = torch.empty_like(cell)
        rank[order] = torch.arange(len(cell), device=cell.device) - starts[cell[order]]
        self.shape = (len(counts), int(counts.max()))
        self.slots = _Slots(mask, cell * self.shape[1] + rank, self.shape[0] * self.shape[1])
        self.key_mask = None
        if len(self.slots.empty):
            numbers = torch.arange(self.shape[1], device=cell.device)
            self.key_mask = (numbers < counts[:, None])[:, None, None]

    def gather(self, x: Tensor) -> Tensor:
        """(B, H, N, d) -> (cells, H, slots, d)."""
        rows = x.transpose(1, 2).flatten(2).flatten(0, 1)
        return self.slots.take(rows).view(*self.shape, x.shape[1], x.shape[3]).transpose(1, 2)

    def scatter(self, grouped: Tensor, batch: int) -> Tensor:
        """(cells, H, slots, d) -> (B, H, N, d); padding is zero."""
        rows = self.slots.give(grouped.transpose(1, 2).flatten(2).flatten(0, 1))
        return rows.view(batch, -1, grouped.shape[1], grouped.shape[3]).transpose(1, 2)


def _number(batch: Tensor, cells: Tensor) -> tuple[Tensor, Tensor]:
    """Number the different rows (batch, cell) of (T,) and (T, A), by batch first: numbers (T,), counts."""
    number = batch
    for column in cells.unbind(-1):
        column = column - column.min()
        # Numbered anew after every axis, so that far apart cells do not overflow.
        keys = number * (column.max() + 1) + column
        _, number, counts = torch.unique(keys, return_inverse=True, return_counts=True)
    return number, counts
