"""Self-attention with exchangeable token mixers, and cross-attention to text."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gen3d.errors import Gen3dError
from gen3d.nn.embeddings import ZeroLinear, rotate
from gen3d.types import TokenMask, TokenPositions


@dataclass(frozen=True)
class Geometry:
    """What a mixer may know of the token sets of one forward pass.

    Attributes:
        mask: (B, N) True where a token is real, or None when all are.
        positions: (B, N, A) or None.
        bias: one (B, H, N, N) addend of the attention logits per block, or None; -inf at padded keys.
        window: edge of a window cell in position units.
    """

    mask: TokenMask | None
    positions: TokenPositions | None = None
    bias: list[Tensor] | None = None
    window: float = 0.0


class Mixer(Protocol):
    """Moves information between tokens: queries, keys and values (B, H, N, d) of a block -> (B, H, N, d)."""

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, layer: int) -> Tensor: ...


class FullMixer:
    """Every token attends to every real token."""

    def __init__(self, geometry: Geometry):
        self.bias = geometry.bias
        self.key_mask = None if geometry.mask is None else geometry.mask[:, None, None]

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, layer: int) -> Tensor:
        if self.bias is not None:
            return F.scaled_dot_product_attention(q, k, v, self.bias[layer].to(q.dtype))
        return F.scaled_dot_product_attention(q, k, v, self.key_mask)


class WindowMixer:
    """Tokens attend to the tokens of their own cubic cell of position space.

    The cells of odd blocks are shifted by half an edge, so that neighbouring cells exchange information
    (Swin, arXiv 2103.14030). Cells may hold any number of tokens; the cost is that of the fullest cell.
    """

    def __init__(self, geometry: Geometry):
        positions = geometry.positions
        if positions is None:
            raise Gen3dError('mixer "window" needs positions; give positions (B, N, A)')
        mask = geometry.mask
        if mask is None:
            mask = torch.ones(positions.shape[:2], dtype=torch.bool, device=positions.device)
        cells = positions / geometry.window
        self.groupings = [_Grouping(mask, cells), _Grouping(mask, cells + 0.5)]

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, layer: int) -> Tensor:
        grouping = self.groupings[layer % 2]
        mixed = F.scaled_dot_product_attention(
            grouping.gather(q), grouping.gather(k), grouping.gather(v), grouping.key_mask
        )
        return grouping.scatter(mixed, v)


MIXERS: dict[str, Callable[[Geometry], Mixer]] = {"full": FullMixer, "window": WindowMixer}


class SelfAttention(nn.Module):
    """Multi-head self-attention over a token set, (B, N, D) -> (B, N, D).

    Args:
        width: D.
        heads: H.
        qk_norm: normalise queries and keys per head (arXiv 2302.05442); None for no normalisation.
    """

    def __init__(self, width: int, heads: int, qk_norm: Callable[[int], nn.Module] | None):
        super().__init__()
        self.heads = heads
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
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        q, k = self.norm_q(q), self.norm_k(k)
        if rotary is not None:
            q, k = rotate(q, *rotary), rotate(k, *rotary)
        mixed = mixer(q, k, v, layer)
        if perturb is not None:
            mixed = torch.lerp(mixed, v, perturb.to(v)[:, None, None])
        return self.out(mixed.transpose(1, 2).flatten(-2))


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
        null = self.null.to(text.dtype).expand(len(text), 1, -1)
        text = torch.cat([null, text.masked_fill(~text_mask[..., None], 0.0)], 1)
        mask = torch.cat([~text_mask.any(1, keepdim=True), text_mask], 1)[:, None, None]
        q = self.q(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        k, v = self.kv(text).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return self.out(F.scaled_dot_product_attention(q, k, v, mask).transpose(1, 2).flatten(-2))


class _Grouping:
    """Real tokens sorted into window cells: (B, N) <-> (cells, tokens of the fullest cell)."""

    def __init__(self, mask: TokenMask, cells: Tensor):
        self.mask = mask
        batch = mask.nonzero()[:, :1]
        keys = torch.cat([batch, cells.detach()[mask].floor().long()], 1)
        _, cell, counts = torch.unique(keys, dim=0, return_inverse=True, return_counts=True)
        order = cell.argsort(stable=True)
        starts = counts.cumsum(0) - counts
        rank = torch.empty_like(cell)
        rank[order] = torch.arange(len(cell), device=cell.device) - starts[cell[order]]
        self.cell, self.rank, self.shape = cell, rank, (len(counts), int(counts.max()))
        slots = torch.arange(self.shape[1], device=cell.device)
        self.key_mask = (slots < counts[:, None])[:, None, None]

    def gather(self, x: Tensor) -> Tensor:
        """(B, H, N, d) -> (cells, H, slots, d)."""
        grouped = x.new_zeros(*self.shape, x.shape[1], x.shape[3])
        grouped[self.cell, self.rank] = x.transpose(1, 2)[self.mask]
        return grouped.transpose(1, 2)

    def scatter(self, grouped: Tensor, like: Tensor) -> Tensor:
        """Back to the shape of `like` (B, H, N, d); padding is zero."""
        x = like.new_zeros(like.transpose(1, 2).shape)
        x[self.mask] = grouped.transpose(1, 2)[self.cell, self.rank]
        return x.transpose(1, 2)
