"""The codec of molecules and crystals: one token per atom that is no pooled hydrogen.

The latent of a token is explicit where geometry already is a good latent, and learned where it is not:

| channels    | in          | meaning                                                                    |
|-------------|-------------|----------------------------------------------------------------------------|
| position    | molecules   | Cartesian coordinates, angstrom                                            |
| torus       | crystals    | cos and sin of 2 pi times the fractional coordinates: no seam at the cell   |
| lattice     | crystals    | six lattice parameters, the same in every token; decoding averages them    |
| element     | both        | learned vector of the element, normalised; alike elements begin as neighbours |
| hydrogen    | molecules   | learned code of the hydrogens a token carries, normalised                  |

The decoder is a transformer that names elements and places hydrogens. It is trained on noisy latents,
so that it forgives what the sampler gets slightly wrong: a robust bottleneck in place of a KL term (cf. the
noise-augmented decoders of RAE, arXiv 2510.11690). Coordinates are an explicit latent because learned
ones end up as the identity (GeoLDM, arXiv 2305.01140, keeps its encoder untrained), and the decoder
leaves them alone: one that corrects them for noise moves atoms that need no correction.
"""

import itertools
import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gen3d.config import require_at_least
from gen3d.domains.atoms.batch import SLOTS, AtomsBatch
from gen3d.domains.atoms.elements import element_vectors
from gen3d.domains.atoms.lattice import lattice_cells
from gen3d.domains.atoms.statistics import ELEMENTS, DecodedAtoms, Kind, StatisticsCodec
from gen3d.domains.base import ChannelGroup
from gen3d.draws import Draws
from gen3d.nn.transformer import DiffusionTransformer, TransformerConfig
from gen3d.tokens import Ties, Tokens, masked_mean


@dataclass(frozen=True)
class CodecConfig:
    """Sizes of the codec and the noise its decoder learns to forgive."""

    type: Literal["explicit"] = "explicit"
    """Tells this codec from the others in a configuration."""
    element_channels: int = 4
    """Latent channels of the element."""
    hydrogen_channels: int = 6
    """Latent channels of the pooled hydrogens; 0 makes every hydrogen a token of its own."""
    width: int = 192
    """Width of the decoder."""
    depth: int = 3
    """Blocks of the decoder."""
    heads: int = 6
    """Attention heads of the decoder."""
    position_noise: float = 0.15
    """Largest standard deviation of the noise on coordinates that the decoder sees in training, angstrom."""
    torus_noise: float = 0.15
    """The same on the torus channels and, a fifth of it, on the lattice channels."""
    content_noise: float = 0.6
    """The same on the element and hydrogen channels, whose values have unit variance."""
    swapped_content: float = 0.0
    """Largest share of atoms that the decoder, in training, sees with the element or hydrogen channels of
    another atom of the system, so that it learns to weigh them against the geometry and each other."""
    content_scale: float = 0.4
    """Standard deviation of normalised element and hydrogen channels beside 1 of the geometry: the
    smaller, the later in sampling they are decided (EDM, arXiv 2203.17003, scales types by 0.25). Crystals
    do better with 2, composition first."""

    def __post_init__(self) -> None:
        require_at_least(1, self, "width", "depth", "heads")
        # One normalised channel would be constant.
        if self.element_channels < 2:
            raise ValueError(f"element_channels is {self.element_channels}; at least 2")
        if not 0 <= self.swapped_content <= 1:
            raise ValueError(f"swapped_content is {self.swapped_content}; allowed: 0 to 1")
        if self.hydrogen_channels < 0 or self.hydrogen_channels == 1:
            raise ValueError(f"hydrogen_channels is {self.hydrogen_channels}; allowed: 0, or at least 2")


class AtomsCodec(StatisticsCodec):
    """The default encoder and robust decoder.

    Attributes:
        slices: the latent channels of each part, by name.
    """

    def __init__(self, config: CodecConfig, kinds: tuple[Kind, ...], properties: int = 0) -> None:
        super().__init__(kinds, properties)
        self.config, self.kinds = config, kinds
        self.pooled = "molecule" in kinds and config.hydrogen_channels > 0
        crystal = "crystal" in kinds
        widths = {
            "position": 3 * ("molecule" in kinds),
            "torus": 6 * crystal,
            "lattice": 6 * crystal,
            "element": config.element_channels,
            "hydrogen": config.hydrogen_channels * self.pooled,
        }
        starts = itertools.accumulate(widths.values(), initial=0)
        self.slices = {n: slice(s, s + w) for (n, w), s in zip(widths.items(), starts, strict=False)}
        self.channels = sum(widths.values())
        self.geometry_channels = widths["position"] + widths["torus"]
        self.channel_groups = _groups(widths, config.content_scale)
        self.element_table = nn.Embedding.from_pretrained(
            element_vectors(config.element_channels), freeze=False
        )
        if self.pooled:
            self.hydrogen_sites = _mlp(3, 64, 64)
            self.hydrogen_counts = nn.Embedding(SLOTS + 1, 64)
            self.hydrogen_code = _mlp(128, 128, config.hydrogen_channels)
        self.outputs = {
            "element": ELEMENTS + 1,
            "count": (SLOTS + 1) * self.pooled,
            "hydrogens": 3 * SLOTS * self.pooled,
        }
        self.decoder = DiffusionTransformer(
            TransformerConfig(
                channels=self.channels,
                out_channels=sum(self.outputs.values()),
                width=config.width,
                depth=config.depth,
                heads=config.heads,
                positions="distance",
                axes=self.geometry_channels,
                position_channels=self.geometry_channels,
            )
        )

    def encode(self, batch: AtomsBatch, draws: Draws | None = None) -> Tokens:
        """Latents (B, N, C), unnormalised."""
        element = self.element_latents(batch.numbers)
        turns = 2 * math.pi * batch.fractional
        periodic = batch.periodic[:, None, None]
        parts = {
            "position": batch.positions,
            "torus": torch.cat([turns.cos(), turns.sin()], -1) * periodic,
            "lattice": batch.lattice[:, None].expand(-1, batch.mask.shape[1], -1),
            "element": element,
            "hydrogen": self._encode_hydrogens(batch) * ~periodic if self.pooled else element[..., :0],
        }
        used = [parts[name] for name, part in self.slices.items() if part.stop > part.start]
        return Tokens(torch.cat(used, -1) * batch.mask[..., None], batch.mask, ties=self._ties(batch))

    def _ties(self, batch: AtomsBatch) -> Ties | None:
        """Atoms of one element of a crystal are one in the channels of the element."""
        if "crystal" not in self.kinds:
            return None
        alike = batch.numbers[:, :, None] == batch.numbers[:, None, :]
        itself = torch.arange(batch.mask.shape[1], device=batch.mask.device)
        tied = batch.mask & batch.periodic[:, None]
        return Ties(torch.where(tied, alike.int().argmax(-1), itself), self.slices["element"])

    def decode(self, tokens: Tokens) -> DecodedAtoms:
        """Everything but the choice of elements and hydrogen counts, which the caller may constrain."""
        x, mask = tokens.x, tokens.mask
        raw = self.decoder(x, torch.ones(len(x), device=x.device), mask=mask)
        assert isinstance(raw, Tensor)
        out = dict(zip(self.outputs, raw.float().split(list(self.outputs.values()), -1), strict=True))
        count_logits, hydrogens = out["count"], out["hydrogens"].unflatten(-1, (-1, 3))
        if not self.pooled:
            count_logits = F.one_hot(torch.zeros_like(mask, dtype=torch.long), SLOTS + 1).float()
            hydrogens = x.new_zeros(*mask.shape, SLOTS, 3)
        # Geometry is what the latent says: corrections would blur what the sampler has settled.
        geometry = {name: x[..., part] for name, part in self.slices.items() if part.stop > part.start}
        position = fractional = x.new_zeros(*mask.shape, 3)
        cells = None
        if "position" in geometry:
            position = geometry["position"]
        if "torus" in geometry:
            cos, sin = geometry["torus"].chunk(2, -1)
            fractional = torch.atan2(sin, cos) / (2 * math.pi) % 1.0
            cells = lattice_cells(masked_mean(geometry["lattice"], mask), mask.sum(1))
        return DecodedAtoms(mask, out["element"], count_logits, hydrogens, position, fractional, cells)

    def loss(self, batch: AtomsBatch, draws: Draws) -> tuple[Tensor, dict[str, Tensor]]:
        """Cross-entropies plus squared errors of hydrogens (square angstrom) under latent noise.

        Hydrogens of one atom have no order: the best assignment of slots counts.
        """
        tokens = self.encode(batch)
        spoilt = self._swap(tokens, draws)
        decoded = self.decode(tokens.with_values(spoilt + self._noise(spoilt, draws)))
        mask = batch.mask
        parts = {"element": masked_mean(_cross_entropy(decoded.element_logits, batch.numbers), mask)}
        if self.pooled:
            parts["count"] = masked_mean(_cross_entropy(decoded.count_logits, batch.hydrogen_counts), mask)
            errors = _assignment_error(decoded.hydrogens, batch.hydrogens, batch.hydrogen_slots)
            carried = batch.hydrogen_counts.sum(1).clamp(min=1)
            parts["hydrogens"] = (errors * mask).sum(1) / carried
        # Every part is a mean over samples, so that halves of a batch average to the whole.
        means = {name: value.mean() for name, value in parts.items()}
        loss = torch.stack([WEIGHTS[name] * value for name, value in means.items()]).sum()
        return loss, {name: value.detach() for name, value in means.items()}

    def element_latents(self, numbers: Tensor) -> Tensor:
        """Element channels (..., E) of atomic numbers (...), unnormalised."""
        return F.layer_norm(self.element_table(numbers), (self.config.element_channels,))

    def _encode_hydrogens(self, batch: AtomsBatch) -> Tensor:
        sites = self.hydrogen_sites(batch.hydrogens) * batch.hydrogen_slots[..., None]
        counts = self.hydrogen_counts(batch.hydrogen_counts)
        code = self.hydrogen_code(torch.cat([counts, sites.sum(-2)], -1))
        return F.layer_norm(code, (self.config.hydrogen_channels,))

    def _swap(self, tokens: Tokens, draws: Draws) -> Tensor:
        """Latents (B, N, C), some atoms with the element or hydrogen channels of a random other one."""
        x, mask = tokens.x, tokens.mask
        if not self.config.swapped_content:
            return x
        x, count = x.clone(), mask.shape[1]
        for name in ("element", "hydrogen"):
            part = self.slices[name]
            share = self.config.swapped_content * draws.uniform(f"codec/swap/{name}/share", 1)
            chosen = draws.uniform(f"codec/swap/{name}/atoms", count) < share
            other = (
                draws.uniform(f"codec/swap/{name}/others", count).to(x.device) * mask.sum(1, keepdim=True)
            ).long()
            swapped = tokens.x[..., part].gather(1, other[..., None].expand(-1, -1, part.stop - part.start))
            x[..., part] = torch.where((chosen.to(x.device) & mask)[..., None], swapped, x[..., part])
        return x

    def _noise(self, x: Tensor, draws: Draws) -> Tensor:
        """Gaussian latent noise whose strength is uniform, for each sample and kind of channel."""
        config = self.config
        largest = {
            "position": config.position_noise,
            "torus": config.torus_noise,
            "lattice": config.torus_noise / 5,
            "element": config.content_noise,
            "hydrogen": config.content_noise,
        }
        noise = draws.normal("codec/noise", *x.shape[1:]).to(x)
        for name, part in self.slices.items():
            strength = largest[name] * draws.uniform(f"codec/{name}", 1, 1).to(x)
            noise[..., part] *= strength
        return noise


WEIGHTS = {"element": 1.0, "count": 1.0, "hydrogens": 10.0}
"""Weights of the parts of the loss; ADiT's ratio of lengths to classes."""

PERMUTATIONS = torch.tensor(list(itertools.permutations(range(SLOTS))))


def _cross_entropy(logits: Tensor, classes: Tensor) -> Tensor:
    """(B, N, K) and (B, N) -> (B, N)."""
    return F.cross_entropy(logits.transpose(1, 2), classes, reduction="none")


def _assignment_error(predicted: Tensor, target: Tensor, real: Tensor) -> Tensor:
    """Least summed squared distance between slots, over all orders of the real slots.

    Args:
        predicted: (..., SLOTS, 3).
        target: (..., SLOTS, 3), real slots first.
        real: (..., SLOTS).
    """
    costs = (predicted[..., :, None, :] - target[..., None, :, :]).square().sum(-1)
    both = real[..., :, None] & real[..., None, :]
    one = real[..., :, None] ^ real[..., None, :]
    costs = costs.masked_fill(~both, 0.0).masked_fill(one, 1e6)
    orders = PERMUTATIONS.to(costs.device)
    rows = torch.arange(SLOTS, device=costs.device)
    return costs[..., rows, orders].sum(-1).amin(-1)


def _groups(widths: dict[str, int], content_scale: float) -> tuple[ChannelGroup, ...]:
    """Coordinates are scaled together, since distances are taken in them; the rest channel by channel."""
    groups = []
    for name in ("position", "torus"):
        if widths[name]:
            groups.append(ChannelGroup(widths[name], 1.0))
    groups += [ChannelGroup(1, 1.0)] * widths["lattice"]
    groups += [ChannelGroup(1, content_scale)] * (widths["element"] + widths["hydrogen"])
    return tuple(groups)


def _mlp(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, hidden), nn.SiLU(), nn.Linear(hidden, outputs))
