"""The diffusion transformer: one stack of adaLN-zero blocks for tokens of every domain.

It predicts something per token of a noisy set and knows nothing of the noise process. Tokens form a
set: their order carries no information, positions are an input (DiT, arXiv 2212.09748; the default
RMSNorm, SwiGLU and QK-norm follow LightningDiT, arXiv 2501.01423).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gen3d.config import require_at_least
from gen3d.errors import Gen3dError
from gen3d.nn.attention import MIXERS, Geometry, GlobalMixer, Mixer, SelfAttention, TextAttention
from gen3d.nn.embeddings import ConditionEmbedding, PairEmbedding, ZeroLinear, rotary_angles, sincos_positions
from gen3d.types import Conditions, Times, TokenMask, TokenPositions, TokenValues

SIZES: dict[str, tuple[int, int, int]] = {
    "xs": (256, 6, 4),
    "s": (384, 12, 6),
    "b": (768, 12, 12),
    "l": (1024, 24, 16),
    "xl": (1152, 28, 16),
}
"""Width, depth and heads by name; all but xs are the sizes of DiT."""

WIDEST = 64.0
"""Largest `mlp_ratio`."""


@dataclass(frozen=True)
class TransformerConfig:
    """The architecture.

    Raises:
        ValueError: a number that is too small.
        Gen3dError: fields that contradict each other.
    """

    channels: int
    """C, channels of a noisy token."""
    width: int = 256
    """D, width of the residual stream."""
    depth: int = 6
    """Number of blocks."""
    heads: int = 4
    """H, attention heads of a block."""
    mlp_ratio: float = 4.0
    """Hidden width of the GELU feed-forward over D; SwiGLU takes 2/3 of it, for equal parameters."""
    norm: Literal["rms", "layer"] = "rms"
    """Normalisation of the blocks."""
    mlp: Literal["swiglu", "gelu", "gelu_exact"] = "swiglu"
    """Feed-forward of the blocks; "gelu" is DiT's tanh approximation, "gelu_exact" what DiT-3D has."""
    qk_norm: bool = True
    """Normalise queries and keys."""
    positions: Literal["none", "sincos", "rotary", "distance"] = "none"
    """How positions act: added sinusoids, rotated queries and keys, or pairwise-distance biases."""
    axes: int = 0
    """A, position axes."""
    position_base: float = 10_000.0
    """Longest wavelength of sincos and rotary positions, over 2 pi, in position units."""
    position_channels: int = 0
    """When positive, this many first channels of x_t serve as positions where none are given."""
    distance_centres: int = 32
    """Gaussians that resolve a pairwise distance."""
    distance_cutoff: float = 10.0
    """Distance beyond which pairs look alike, in position units."""
    mixer: Literal["global", "window", "kv_reduce"] = "global"
    """Who attends to whom: all tokens to all, those in one cell of position space to each other, or all
    to one key per neighbourhood of the token grid, for window^A D^2 more parameters a block."""
    window: float = 1.0
    """Edge of a window cell or of a neighbourhood, in position units."""
    window_shift: bool = True
    """Whether the window cells of odd blocks are shifted by half an edge."""
    mixer_blocks: tuple[int, ...] = ()
    """The only blocks with this mixer, the others being global; empty for all. DiT-3D: 0, 3, 6, 9."""
    modulation: Literal["full", "single"] = "single"
    """adaLN parameters: a linear layer per block (DiT), or one shared plus a table (PixArt)."""
    self_conditioning: bool = False
    """Whether a previous clean prediction is a second input (arXiv 2208.04202)."""
    step_input: bool = False
    """Whether the size of the sampler's step is told (shortcut models, arXiv 2410.12557)."""
    classes: dict[str, int] = field(default_factory=dict)
    """Number of classes of every categorical condition."""
    scalars: tuple[str, ...] = ()
    """Names of the continuous conditions, given standardised; NaN is null."""
    vectors: dict[str, int] = field(default_factory=dict)
    """Width of every condition of several numbers, of size 1 or so; NaN is null."""
    text_width: int = 0
    """E, width of the text embedding that is cross-attended; 0 for no text."""
    out_channels: int | None = None
    """Channels of the prediction; C when None."""

    def __post_init__(self) -> None:
        require_at_least(1, self, "channels", "width", "depth", "heads", "distance_centres", "out_channels")
        require_at_least(0, self, "axes", "position_channels", "text_width")
        if not 0 < self.mlp_ratio <= WIDEST:
            raise ValueError(f"mlp_ratio is {self.mlp_ratio}; allowed: above 0, at most {WIDEST}")
        if not self.window > 0:
            raise ValueError(f"window is {self.window}; it must be positive")
        if self.width % self.heads:
            raise Gen3dError(f"width {self.width} is not a multiple of heads {self.heads}")
        placed = self.positions != "none" or self.mixer != "global"
        if placed and self.axes < 1:
            raise Gen3dError(f"positions {self.positions!r} and mixer {self.mixer!r} need axes >= 1")
        if self.positions == "rotary" and self.width // self.heads < 2 * self.axes:
            raise Gen3dError(f"rotary positions in {self.axes} axes need heads of width >= {2 * self.axes}")
        if self.position_channels not in (0, self.axes):
            raise Gen3dError(
                f"position_channels is {self.position_channels}; allowed: 0 or axes, {self.axes}"
            )
        if self.positions == "distance" and self.mixer != "global":
            raise Gen3dError(f"positions 'distance' work with mixer 'global', not {self.mixer!r}")
        self._check_mixer()
        self._check_names()

    def mixes(self, layer: int) -> bool:
        """Whether block `layer` has the mixer of the configuration; else it is global."""
        return not self.mixer_blocks or layer in self.mixer_blocks

    def _check_mixer(self) -> None:
        if self.mixer == "kv_reduce":
            if self.window != int(self.window):
                raise Gen3dError(f"window is {self.window}; mixer 'kv_reduce' needs a whole number")
            if self.positions == "rotary":
                raise Gen3dError("positions 'rotary' turn single keys, mixer 'kv_reduce' has none")
        if self.mixer == "global" and self.mixer_blocks:
            raise Gen3dError(f"mixer_blocks is {self.mixer_blocks}; mixer 'global' is the same in all blocks")
        for layer in self.mixer_blocks:
            if not 0 <= layer < self.depth:
                raise Gen3dError(f"mixer_blocks has block {layer}; allowed: 0..{self.depth - 1}")

    def _check_names(self) -> None:
        names = ("text", "text_mask", *self.classes, *self.scalars, *self.vectors)
        for name in names:
            # Embeddings are kept under their names, beside what a torch module has under names of its own.
            if not name or "." in name or hasattr(nn.ModuleDict(), name):
                raise Gen3dError(
                    f"condition {name!r} needs another name: it may not be empty, hold a dot, or be what "
                    "torch calls something else"
                )
            if names.count(name) > 1:
                raise Gen3dError(f"condition {name!r} is there twice; names must be distinct")


def preset(size: str, channels: int, **changes: Any) -> TransformerConfig:
    """The configuration called `size` (xs, s, b, l, xl), with fields changed by name.

    Raises:
        Gen3dError: there is no such size.
    """
    if size not in SIZES:
        raise Gen3dError(f"unknown size {size!r}; allowed: {', '.join(SIZES)}")
    width, depth, heads = SIZES[size]
    return replace(TransformerConfig(channels, width, depth, heads), **changes)


class Network(nn.Module):
    """What can stand at the core of a generator: the transformer, or a module around it.

    It is called as `DiffusionTransformer.forward` is.

    Attributes:
        config: of the transformer.
        blocks: its blocks.
    """

    config: TransformerConfig
    blocks: nn.ModuleList


class DiffusionTransformer(Network):
    """Predicts per-token values from noisy tokens and a time; zero everywhere when untrained."""

    def __init__(self, config: TransformerConfig):
        super().__init__()
        self.config = config
        width = config.width
        self.embed = nn.Linear(config.channels, width)
        if config.self_conditioning:
            self.embed_self = nn.Linear(config.channels, width, bias=False)
        self.conditions = ConditionEmbedding(
            width, config.classes, config.scalars, config.step_input, config.vectors, config.text_width
        )
        if config.modulation == "single":
            self.modulation = ZeroLinear(width, 6 * width)
        if config.positions == "distance":
            estimated = config.self_conditioning and config.position_channels > 0
            self.pairs = PairEmbedding(
                width,
                config.depth,
                config.heads,
                config.distance_centres,
                config.distance_cutoff,
                sets=2 if estimated else 1,
            )
        self.blocks = nn.ModuleList(Block(config, layer) for layer in range(config.depth))
        self.norm = NORMS[config.norm](width, affine=False)
        self.final_modulation = ZeroLinear(width, 2 * width)
        self.out = ZeroLinear(width, config.out_channels or config.channels)
        self._initialise()

    def forward(
        self,
        x: TokenValues,
        t: Times,
        *,
        mask: TokenMask | None = None,
        positions: TokenPositions | None = None,
        cond: Conditions | None = None,
        self_cond: TokenValues | None = None,
        step: Tensor | None = None,
        perturb: Mapping[int, Mapping[int, float] | Tensor] | None = None,
        keep: Tensor | None = None,
        features: Sequence[int] = (),
    ) -> Tensor | tuple[Tensor, dict[int, Tensor]]:
        """Predict.

        Args:
            x: noisy tokens (B, N, C).
            t: times in [0, 1], 0 noise and 1 data: (B,), or (B, N) for one time per token.
            mask: (B, N) True where a token is real; None when all are. Padding comes out zero.
            positions: (B, N, A).
            cond: (B,) integers for classes, (B,) floats for scalars, (B, V) floats for vectors, "text"
                (B, L, E) with "text_mask" (B, L). Names left out, class -1, NaN and an empty mask: not given.
            self_cond: an earlier prediction of the clean tokens (B, N, C); None counts as zero.
            step: (B,) sizes of the steps that the predictions are for; None for infinitely small ones.
            perturb: block -> head -> u in [0, 1], or block -> (H,) tensor: attention of these heads
                is blended with the identity (SoftPAG).
            keep: (B, K) indices of the only tokens to be run; the others come out zero.
            features: numbers of the blocks whose output is wanted.

        Returns:
            Predictions (B, N, out_channels); with `features` also {block: (B, N, D)}, of the kept
            tokens when `keep` is given.

        Raises:
            Gen3dError: an input that does not fit the configuration.
        """
        if keep is not None:
            inputs = {"mask": mask, "positions": positions, "self_cond": self_cond}
            kept = {name: None if v is None else _take(v, keep) for name, v in inputs.items()}
            kept_t = t if t.ndim == 1 else _take(t, keep)
            result = self(
                _take(x, keep), kept_t, **kept, cond=cond, step=step, perturb=perturb, features=features
            )
            return (_put(result[0], keep, x), result[1]) if features else _put(result, keep, x)

        self._check(x, self_cond, cond or {}, perturb or {}, features)
        if step is not None and not self.config.step_input:
            raise Gen3dError("a step size needs a transformer with step_input True, this one has False")
        if mask is not None and bool(mask.all()):
            mask = None
        if mask is not None:
            x = x.masked_fill(~mask[..., None], 0.0)
        if positions is None and self.config.position_channels:
            positions = x[..., : self.config.position_channels]
        self._check_positions(positions)

        h = self.embed(x)
        if self_cond is not None:
            h = h + self.embed_self(self_cond)
        h, mixers, rotary = self._place(h, mask, positions, self_cond)
        text = _text(cond or {}, x, self.config.text_width) if self.config.text_width else None
        signal = F.silu(self.conditions(t, cond or {}, step))
        shared = self.modulation(signal) if self.config.modulation == "single" else signal

        collected = {}
        for layer, block in enumerate(self.blocks):
            strengths = _strengths(perturb, layer, self.config.heads, x.device)
            h = block(h, shared, mixers[layer], layer, rotary, strengths, text)
            if layer in features:
                collected[layer] = h
        shift, scale = self.final_modulation(signal).chunk(2, -1)
        y = self.out(_modulate(self.norm(h), shift, scale)).to(x.dtype)
        if mask is not None:
            y = y.masked_fill(~mask[..., None], 0.0)
        return (y, collected) if features else y

    def _place(
        self,
        h: Tensor,
        mask: TokenMask | None,
        positions: TokenPositions | None,
        self_cond: Tensor | None,
    ) -> tuple[Tensor, list[Mixer], tuple[Tensor, Tensor] | None]:
        """Let positions act: on the tokens, on who attends to whom, and on queries and keys."""
        config = self.config
        rotary, bias = None, None
        if positions is not None:
            if config.positions == "sincos":
                h = h + sincos_positions(positions, config.width, config.position_base).to(h.dtype)
            elif config.positions == "rotary":
                rotary = rotary_angles(positions, config.width // config.heads, config.position_base)
            elif config.positions == "distance":
                sets = [positions]
                if self.pairs.sets == 2:
                    # Distances in the earlier prediction: much closer to the clean ones than those of noise.
                    known = torch.zeros_like(positions) if self_cond is None else self_cond
                    sets.append(known[..., : config.position_channels])
                h, bias = self.pairs(h, mask, sets)
        geometry = Geometry(mask, positions, bias, config.window, config.window_shift)
        chosen, elsewhere = MIXERS[config.mixer](geometry), GlobalMixer(geometry)
        mixers = [chosen if config.mixes(layer) else elsewhere for layer in range(config.depth)]
        return h, mixers, rotary

    def _check(
        self,
        x: Tensor,
        self_cond: Tensor | None,
        cond: Conditions,
        perturb: Mapping[int, Any],
        features: Sequence[int],
    ) -> None:
        config = self.config
        if x.shape[-1] != config.channels:
            raise Gen3dError(f"tokens have {x.shape[-1]} channels; the transformer takes {config.channels}")
        if self_cond is not None and not config.self_conditioning:
            raise Gen3dError("self_cond needs a transformer with self_conditioning True, this one has False")
        allowed = {*config.classes, *config.scalars, *config.vectors}
        allowed |= {"text", "text_mask"} if config.text_width else set()
        for name in cond:
            if name not in allowed:
                raise Gen3dError(
                    f"unknown condition {name!r}; allowed: {', '.join(sorted(allowed)) or 'none'}"
                )
        for layer in (*perturb, *features):
            if not 0 <= layer < config.depth:
                raise Gen3dError(f"block {layer} does not exist; allowed: 0..{config.depth - 1}")

    def _check_positions(self, positions: Tensor | None) -> None:
        config = self.config
        if config.axes and (positions is None or positions.shape[-1] != config.axes):
            found = "none" if positions is None else positions.shape[-1]
            raise Gen3dError(f"positions have {found} axes; the transformer takes {config.axes}")

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear) and not isinstance(module, ZeroLinear):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
        for layer in self.conditions.time.mlp:
            if isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, std=0.02)


class Block(nn.Module):
    """x += gate * attention(adaLN(x)); x += text attention; x += gate * feed-forward(adaLN(x))."""

    def __init__(self, config: TransformerConfig, layer: int):
        super().__init__()
        width, norm = config.width, NORMS[config.norm]
        full = config.modulation == "full"
        self.modulation = ZeroLinear(width, 6 * width) if full else ModulationTable(6 * width)
        self.norm_1 = norm(width, affine=False)
        pooled = config.mixer == "kv_reduce" and config.mixes(layer)
        reduce = int(config.window) ** config.axes if pooled else 0
        self.attention = SelfAttention(width, config.heads, norm if config.qk_norm else None, reduce)
        if config.text_width:
            self.norm_text = norm(width, affine=True)
            self.text = TextAttention(width, config.heads, config.text_width)
        self.norm_2 = norm(width, affine=False)
        self.mlp = FEED_FORWARDS[config.mlp](width, config.mlp_ratio)

    def forward(
        self,
        x: Tensor,
        signal: Tensor,
        mixer: Mixer,
        layer: int,
        rotary: tuple[Tensor, Tensor] | None,
        perturb: Tensor | None,
        text: tuple[Tensor, Tensor] | None,
    ) -> Tensor:
        shift_1, scale_1, gate_1, shift_2, scale_2, gate_2 = self.modulation(signal).chunk(6, -1)
        attended = self.attention(_modulate(self.norm_1(x), shift_1, scale_1), mixer, layer, rotary, perturb)
        x = torch.addcmul(x, gate_1, attended)
        if text is not None:
            x = x + self.text(self.norm_text(x), *text)
        return torch.addcmul(x, gate_2, self.mlp(_modulate(self.norm_2(x), shift_2, scale_2)))


class ModulationTable(nn.Module):
    """A block's own offset to the shared modulation (adaLN-single, PixArt, arXiv 2310.00426)."""

    def __init__(self, size: int):
        super().__init__()
        self.table = nn.Parameter(torch.zeros(size))

    def forward(self, shared: Tensor) -> Tensor:
        return shared + self.table.to(shared.dtype)


class RMSNorm(nn.Module):
    """x / rms(x), optionally times a learned weight."""

    def __init__(self, width: int, affine: bool = True):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width)) if affine else None

    def forward(self, x: Tensor) -> Tensor:
        # Written out: the composite F.rms_norm makes twice as many passes on CPU, through float32.
        scale = torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6)
        return x * scale if self.weight is None else x * (scale * self.weight.to(x.dtype))


class LayerNorm(nn.LayerNorm):
    """Layer normalisation, optionally with learned weight and bias."""

    def __init__(self, width: int, affine: bool = True):
        super().__init__(width, eps=1e-6, elementwise_affine=affine)


class SwiGLU(nn.Module):
    """down(silu(gate(x)) * up(x)) with 2/3 of the hidden width of a GELU layer (arXiv 2002.05202)."""

    def __init__(self, width: int, ratio: float):
        super().__init__()
        hidden = max(32, round(2 / 3 * ratio * width / 32) * 32)
        self.gate_up = nn.Linear(width, 2 * hidden)
        self.down = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.gate_up(x).chunk(2, -1)
        return self.down(F.silu(gate) * up)


class GELU(nn.Module):
    """The two-layer perceptron of DiT, with the tanh approximation of GELU or with the exact one."""

    def __init__(self, width: int, ratio: float, approximate: Literal["tanh", "none"] = "tanh"):
        super().__init__()
        self.approximate = approximate
        hidden = round(ratio * width)
        self.up = nn.Linear(width, hidden)
        self.down = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.gelu(self.up(x), approximate=self.approximate))


NORMS: dict[str, Callable[..., nn.Module]] = {"rms": RMSNorm, "layer": LayerNorm}
FEED_FORWARDS: dict[str, Callable[[int, float], nn.Module]] = {
    "swiglu": SwiGLU,
    "gelu": GELU,
    "gelu_exact": partial(GELU, approximate="none"),
}


def _modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    return torch.addcmul(shift, x, 1 + scale)


def _take(values: Tensor, keep: Tensor) -> Tensor:
    """(B, N, ...) -> (B, K, ...)."""
    rows = torch.arange(len(values), device=values.device)[:, None]
    return values[rows, keep]


def _put(kept: Tensor, keep: Tensor, like: Tensor) -> Tensor:
    """(B, K, ...) -> (B, N, ...), zero elsewhere."""
    rows = torch.arange(len(like), device=like.device)[:, None]
    full = kept.new_zeros(*like.shape[:2], kept.shape[-1])
    full[rows, keep] = kept
    return full


def _strengths(
    perturb: Mapping[int, Mapping[int, float] | Tensor] | None, layer: int, heads: int, device: torch.device
) -> Tensor | None:
    """The (H,) perturbation of one block."""
    if perturb is None or layer not in perturb:
        return None
    chosen = perturb[layer]
    if isinstance(chosen, Tensor):
        return chosen
    strengths = torch.zeros(heads, device=device)
    for head, u in chosen.items():
        if not 0 <= head < heads:
            raise Gen3dError(f"head {head} does not exist; allowed: 0..{heads - 1}")
        strengths[head] = u
    return strengths


def _text(cond: Conditions, x: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """The text (B, L, E) and its mask (B, L); none for nobody when it is left out."""
    if "text" not in cond:
        return x.new_zeros(len(x), 0, width), x.new_zeros(len(x), 0, dtype=torch.bool)
    if "text_mask" not in cond:
        raise Gen3dError("condition 'text' comes without 'text_mask' (B, L), True where a token is real")
    return cond["text"], cond["text_mask"]
