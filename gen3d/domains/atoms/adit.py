"""The codec of the ADiT paper: a variational autoencoder of two plain transformers.

Joshi et al., "All-atom Diffusion Transformers" (arXiv 2503.03965), section 3.1. Every atom, hydrogens
included, is a token with a Gaussian posterior over a few channels. Kept here for comparison: it knows
atoms by their place in the file, and its latents are not normalised.

Where this departs from the published recipe: rotations are drawn per sample, not per batch, and the cells
of crystals are not rotated; molecules stay centred. As there, the error of fractional coordinates is not
wrapped.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gen3d.config import require_at_least
from gen3d.domains.atoms.batch import SLOTS, AtomsBatch
from gen3d.domains.atoms.lattice import lattice_cells
from gen3d.domains.atoms.statistics import ELEMENTS, DecodedAtoms, Kind, StatisticsCodec
from gen3d.draws import Draws
from gen3d.nn.embeddings import sinusoid
from gen3d.tokens import Tokens, masked_mean

LOG_VARIANCE = (-30.0, 20.0)
NANOMETRE = 10.0
"""In angstrom; the paper's loss measures positions in nanometres."""


@dataclass(frozen=True)
class AditCodecConfig:
    """Sizes and loss of ADiT's autoencoder; the defaults are the published ones."""

    type: Literal["adit"]
    """Tells this codec from the others in a configuration."""
    latent_channels: int = 8
    """Latent channels of an atom."""
    width: int = 512
    """Width of encoder and decoder."""
    depth: int = 8
    """Layers of each."""
    heads: int = 8
    """Attention heads of each."""
    kl: float = 1e-5
    """Weight of the KL divergence, summed over channels."""
    type_corruption: float = 0.1
    """Share of atoms whose type the encoder does not see in training."""
    position_corruption: float = 0.1
    """Share of atoms whose position it sees with noise of 0.1 angstrom."""

    def __post_init__(self) -> None:
        require_at_least(1, self, "latent_channels", "width", "depth", "heads")


class AditCodec(StatisticsCodec):
    """ADiT's variational autoencoder."""

    pooled = False
    normalised = False

    def __init__(self, config: AditCodecConfig, kinds: tuple[Kind, ...], properties: int = 0) -> None:
        super().__init__(kinds, properties)
        self.config = config
        self.channels = config.latent_channels
        width = config.width
        self.element_table = nn.Embedding(ELEMENTS + 1, width)
        self.embed_positions = _mlp(width)
        self.embed_fractional = _mlp(width)
        self.encoder = _transformer(config)
        self.posterior = nn.Linear(width, 2 * config.latent_channels, bias=False)
        self.embed_latent = nn.Linear(config.latent_channels, width, bias=False)
        self.decoder = _transformer(config)
        self.head_elements = nn.Linear(width, ELEMENTS + 1)
        self.head_positions = nn.Linear(width, 3, bias=False)
        self.head_fractional = nn.Linear(width, 3, bias=False)
        self.head_lattice = nn.Linear(width, 6)

    def encode(self, batch: AtomsBatch, draws: Draws | None = None) -> Tokens:
        """A sample of the posterior, or its mean without `draws`; tokens are numbered in file order."""
        mean, log_variance = self._posterior(batch, batch.numbers, batch.positions, batch.fractional)
        if draws is not None:
            noise = draws.normal("adit/posterior", *mean.shape[1:]).to(mean)
            mean = mean + torch.exp(log_variance / 2) * noise
        order = torch.arange(mean.shape[1], device=mean.device, dtype=mean.dtype)
        positions = order.expand(len(mean), -1)[..., None]
        return Tokens(mean * batch.mask[..., None], batch.mask, positions)

    def decode(self, tokens: Tokens) -> DecodedAtoms:
        """The decoder's outputs; a fractional coordinate is taken modulo 1."""
        h = self._run(self.decoder, self.embed_latent(tokens.x), tokens.mask)
        fractional = self.head_fractional(h)
        scaled = self.head_lattice(masked_mean(h, tokens.mask))
        none = torch.zeros_like(tokens.mask, dtype=torch.long)
        return DecodedAtoms(
            mask=tokens.mask,
            element_logits=self.head_elements(h),
            count_logits=F.one_hot(none, SLOTS + 1).float(),
            hydrogens=h.new_zeros(*tokens.mask.shape, SLOTS, 3),
            positions=self.head_positions(h) * NANOMETRE,
            fractional=fractional % 1.0,
            cells=_cells(scaled, tokens.mask.sum(1)),
        )

    def loss(self, batch: AtomsBatch, draws: Draws) -> tuple[Tensor, dict[str, Tensor]]:
        """The paper's sum: types, positions (nm), fractional coordinates, lengths, angles and KL."""
        config, mask = self.config, batch.mask
        hidden = draws.uniform("adit/hide", mask.shape[1]).to(mask.device) < config.type_corruption
        moved = draws.uniform("adit/move", mask.shape[1]).to(mask.device) < config.position_corruption
        noise = 0.1 * draws.normal("adit/shift", mask.shape[1], 3).to(batch.positions) * moved[..., None]
        molecular, periodic = mask & ~batch.periodic[:, None], mask & batch.periodic[:, None]
        cells = lattice_cells(batch.lattice, mask.sum(1)).to(noise)
        mean, log_variance = self._posterior(
            batch,
            batch.numbers.masked_fill(hidden, 0),
            batch.positions + noise * molecular[..., None],
            (batch.fractional + torch.linalg.solve(cells, noise, left=False) * periodic[..., None]) % 1.0,
        )
        posterior_noise = draws.normal("adit/posterior", *mean.shape[1:]).to(mean)
        latent = mean + torch.exp(log_variance / 2) * posterior_noise
        h = self._run(self.decoder, self.embed_latent(latent), mask)
        types = F.cross_entropy(self.head_elements(h).transpose(1, 2), batch.numbers, reduction="none")
        predicted = self.head_positions(h)
        predicted = predicted - masked_mean(predicted, mask)[:, None]
        offsets = (predicted - batch.positions / NANOMETRE).square().mean(-1)
        wraps = (self.head_fractional(h) - batch.fractional).square().mean(-1)
        scaled = self.head_lattice(masked_mean(h, mask))
        target = _scaled(cells, mask.sum(1)).to(scaled)
        lattice = (scaled - target).square()
        divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(-1)
        # Means over atoms within a sample, then over samples, so that halves of a batch average to it.
        parts = {
            "element": masked_mean(types, mask),
            "position": masked_mean(offsets, mask) * ~batch.periodic,
            "fractional": masked_mean(wraps, mask) * batch.periodic,
            "length": lattice[:, :3].mean(-1) * batch.periodic,
            "angle": lattice[:, 3:].mean(-1) * batch.periodic,
            "kl": masked_mean(divergence, mask),
        }
        means = {name: value.mean() for name, value in parts.items()}
        weights = WEIGHTS | {"kl": config.kl}
        loss = torch.stack([weights[name] * value for name, value in means.items()]).sum()
        return loss, {name: value.detach() for name, value in means.items()}

    def _posterior(
        self, batch: AtomsBatch, numbers: Tensor, positions: Tensor, fractional: Tensor
    ) -> tuple[Tensor, Tensor]:
        # Crystals show their cell by their Cartesian coordinates alone; those of molecules are `positions`.
        cells = lattice_cells(batch.lattice, batch.mask.sum(1)).to(fractional)
        positions = torch.where(batch.periodic[:, None, None], fractional @ cells, positions)
        h = self.element_table(numbers) + self.embed_positions(positions) + self.embed_fractional(fractional)
        mean, log_variance = self.posterior(self._run(self.encoder, h, batch.mask)).chunk(2, -1)
        return mean, log_variance.clamp(*LOG_VARIANCE)

    def _run(self, transformer: nn.TransformerEncoder, h: Tensor, mask: Tensor) -> Tensor:
        order = torch.arange(h.shape[1], device=h.device, dtype=torch.float32)
        h = h + sinusoid(order, self.config.width).to(h)
        return transformer(h, src_key_padding_mask=~mask)


WEIGHTS = {"element": 1.0, "position": 10.0, "fractional": 10.0, "length": 1.0, "angle": 10.0}


def _transformer(config: AditCodecConfig) -> nn.TransformerEncoder:
    layer = nn.TransformerEncoderLayer(
        config.width,
        config.heads,
        4 * config.width,
        dropout=0.0,
        activation=lambda x: F.gelu(x, approximate="tanh"),
        batch_first=True,
        norm_first=True,
    )
    norm = nn.LayerNorm(config.width)
    return nn.TransformerEncoder(layer, config.depth, norm, enable_nested_tensor=False)


def _mlp(width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, width, bias=False), nn.SiLU(), nn.Linear(width, width))


def _scaled(cells: Tensor, sizes: Tensor) -> Tensor:
    """Cells (B, 3, 3) -> lengths over N^(1/3) in angstrom and angles in radians, (B, 6)."""
    lengths = cells.norm(dim=-1)
    a, b, c = (cells / lengths[..., None]).unbind(1)
    cosines = torch.stack([(b * c).sum(-1), (a * c).sum(-1), (a * b).sum(-1)], -1)
    return torch.cat([lengths / sizes[:, None] ** (1 / 3), torch.acos(cosines.clamp(-1, 1))], -1)


def _cells(scaled: Tensor, sizes: Tensor) -> Tensor:
    """The inverse of `_scaled`, float64; angles that close no cell give one of NaN."""
    scaled = scaled.double()
    lengths = scaled[:, :3].abs() * sizes[:, None].double() ** (1 / 3)
    alpha, beta, gamma = scaled[:, 3:].clamp(1e-3, math.pi - 1e-3).unbind(-1)
    zero = torch.zeros_like(alpha)
    # Rows of the lower triangular cell: a along x, b in the xy plane.
    y = (alpha.cos() - beta.cos() * gamma.cos()) / gamma.sin()
    height = 1 - beta.cos() ** 2 - y**2
    c = torch.stack([beta.cos(), y, torch.where(height > 0, height, torch.nan).sqrt()], -1)
    b = torch.stack([gamma.cos(), gamma.sin(), zero], -1)
    a = torch.stack([zero + 1, zero, zero], -1)
    return torch.stack([a, b, c], 1) * lengths[..., None]
