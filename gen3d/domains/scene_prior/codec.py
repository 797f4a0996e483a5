"""Moving scenes as tokens: an autoencoder of canonical planes and planes of offsets.

Surface points are laid down on the three coordinate planes as they are seen from either side: at time 0 with
their colours, and at every instant with their offsets to time 0. Convolutions make of each plane an 8 times
coarser grid of tokens, and of the offsets 4 times fewer instants. In the decoder a transformer lets the
tokens of all planes and times see each other; convolutions bring them back to the planes of a
`gen3d.fields.planescene.PlaneScene`. SHaDe (arXiv 2505.16535) has a latent of planes and deformation features
and does not publish how it is made: all of this is our choice.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gen3d.config import require_at_least
from gen3d.domains.base import Codec
from gen3d.domains.scene_prior.dataset import SceneBatch
from gen3d.domains.scene_prior.variations import FRAMES
from gen3d.draws import Draws
from gen3d.fields.planescene import PAIRS, PlaneHead, PlaneScene
from gen3d.nn.transformer import DiffusionTransformer, TransformerConfig
from gen3d.tokens import Tokens

CANONICAL, MOVED = 64, 32
"""Grid points along the canonical planes and along those of offsets."""
SIDES = (8, 4)
"""Tokens along them."""
INSTANTS = 4
"""Tokens along time."""
SEEN = 9
"""Channels of a plane seen from both sides: covered, two depths, two vectors."""
SHARPNESS = 20.0
"""How strictly the nearest point hides those behind it."""
THICKNESS, SOFTNESS = 0.01, 0.01
"""A place is occupied up to this distance outside of the surface; the width of the transition."""
NEAR = 0.1
"""Offsets are learnt up to this distance from the surface."""
OFFSET_UNIT = 0.03
"""An error of the offset that weighs as much as an error of one in the others."""


@dataclass(frozen=True)
class ScenePriorConfig:
    """The autoencoder of moving scenes."""

    latent_channels: int = 16
    """Channels of a token."""
    features: int = 16
    """Channels of the canonical planes."""
    width: int = 128
    """Of the decoder's transformer, and of the convolutions next to it; a multiple of 32."""
    depth: int = 3
    """Blocks of it."""
    noise: float = 0.1
    """Deviation of the noise on latents that the decoder learns to bear."""
    shrink: float = 1e-3
    """Weight of the mean squared latent."""
    asked: int = 768
    """Places of a scene that one step of training asks about."""

    def __post_init__(self) -> None:
        require_at_least(1, self, "latent_channels", "features", "width", "depth", "asked")
        require_at_least(0, self, "noise", "shrink")
        if self.width % 32:
            raise ValueError(f"width is {self.width}; allowed: multiples of 32")


class SceneCodec(Codec):
    """Encodes a moving scene in 384 tokens (a variational autoencoder of fixed variance).

    Attributes:
        positions: (N, 5), of the tokens: x, y, z and time in units of canonical tokens, and the plane.
    """

    positions: Tensor

    def __init__(self, config: ScenePriorConfig) -> None:
        super().__init__()
        self.config, self.channels = config, config.latent_channels
        wide = config.width
        half, quarter = wide // 2, wide // 4
        flat, solid = (wide, half + quarter, half, quarter), (wide, half, quarter)
        self.see_canonical = nn.Sequential(
            nn.Conv2d(SEEN + 3, quarter, 3, padding=1), *_down(nn.Conv2d, flat[::-1])
        )
        self.see_moved = nn.Sequential(
            nn.Conv3d(SEEN + 3, quarter, (4, 4, 3), stride=(2, 2, 1), padding=1),
            *_down(nn.Conv3d, solid[::-1]),
        )
        self.to_latent = nn.ModuleList(nn.Linear(wide, self.channels) for _ in SIDES)
        self.mixing = DiffusionTransformer(
            TransformerConfig(
                channels=self.channels,
                width=wide,
                depth=config.depth,
                heads=max(1, wide // 32),
                positions="sincos",
                position_base=100.0,
                axes=5,
                out_channels=wide,
            )
        )
        self.show_canonical = nn.Sequential(
            *_up(nn.Conv2d, flat, [2, 2, 2]), nn.Conv2d(quarter, config.features, 3, padding=1)
        )
        # The finest grid is unfolded from channels: convolutions over it would be most of the work.
        self.show_moved = nn.Sequential(
            *_up(nn.Conv3d, solid, [2, (2, 2, 1)]), nn.Conv3d(quarter, 3 * 8, 3, padding=1)
        )
        self.head = PlaneHead(config.features)
        self.register_buffer("positions", _positions(), persistent=False)

    def encode(self, batch: SceneBatch, draws: Draws | None = None) -> Tokens:
        first = seen(batch.points[:, :, :1], batch.colours[:, :, None], CANONICAL)
        moved = seen(batch.points, batch.points[:, :, :1] - batch.points, MOVED)
        canonical = self.to_latent[0](_tokens(self.see_canonical(_named(first)[..., 0])))
        offsets = self.to_latent[1](_tokens(self.see_moved(_named(moved))))
        count = len(batch.points)
        latents = torch.cat([each.view(count, -1, self.channels) for each in (canonical, offsets)], 1)
        mask = torch.ones(latents.shape[:2], dtype=torch.bool, device=latents.device)
        return Tokens(latents, mask, self.positions.expand(count, -1, -1))

    def planes(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        """Canonical planes (B, 3, R, R, F) and planes of offsets (B, 3, r, r, T, 3) of latents (B, N, C)."""
        count = len(latents)
        known = self.mixing(latents, latents.new_ones(count), positions=self.positions.expand(count, -1, -1))
        side, coarse = SIDES
        split = 3 * side**2
        flat = known[:, :split].reshape(count * 3, side, side, -1).permute(0, 3, 1, 2)
        solid = known[:, split:].reshape(count * 3, coarse, coarse, INSTANTS, -1).permute(0, 4, 1, 2, 3)
        canonical = self.show_canonical(flat).permute(0, 2, 3, 1).unflatten(0, (count, 3))
        offsets = _unfolded(self.show_moved(solid)).unflatten(0, (count, 3))
        return canonical.contiguous().float(), (OFFSET_UNIT * offsets).contiguous().float()

    def scenes(self, latents: Tensor) -> list[PlaneScene]:
        """What latents (B, N, C) stand for."""
        return [PlaneScene(self.head, *planes) for planes in zip(*self.planes(latents), strict=True)]

    def decode(self, tokens: Tokens) -> list[PlaneScene]:
        return self.scenes(tokens.x)

    def loss(self, batch: SceneBatch, draws: Draws) -> tuple[Tensor, dict[str, Tensor]]:
        latents = self.encode(batch).x
        noise = draws.normal("latent", *latents.shape[1:]).to(latents)
        made = self.scenes(latents + self.config.noise * noise)
        found = [self._compared(scene, batch, row) for row, scene in enumerate(made)]
        parts = {name: torch.stack([each[name] for each in found]).mean() for name in found[0]}
        size = latents.square().mean()
        total = sum(parts[name] for name in ("shape", "colour", "motion", "offset"))
        total = total + self.config.shrink * size
        kept = {name: value.detach() for name, value in parts.items()}
        return total, {**kept, "latent_size": size.detach()}

    def _compared(self, scene: PlaneScene, batch: SceneBatch, row: int) -> dict[str, Tensor]:
        places, distance, true = batch.places[row], batch.distance[row], batch.offset[row]
        wanted = torch.sigmoid((THICKNESS - distance) / SOFTNESS)
        entropy = _entropy(wanted)
        near = distance.abs() < NEAR
        first = batch.instant[row] == 0
        # The canonical planes learn at places that are where they should be: learnt through offsets that are
        # still wrong, they blur.
        known = (near | first).float()
        logits = scene.logits(places + true)
        shape = F.binary_cross_entropy_with_logits(logits[:, 0], wanted, reduction="none") - entropy
        inside = (distance < THICKNESS + 2 * SOFTNESS).float()
        colours = (torch.sigmoid(logits[:, 1:]) - batch.nearest[row]).abs().mean(1)
        # Offsets learn from those of the surface, and anywhere from what is found where they lead.
        offset = scene.moved(places, batch.instant[row].float() / (FRAMES - 1))
        frozen = PlaneScene(scene.head, scene.canonical.detach(), scene.offsets)
        led = frozen.logits(places + offset)[:, 0]
        motion = F.binary_cross_entropy_with_logits(led, wanted, reduction="none") - entropy
        errors = F.smooth_l1_loss(offset / OFFSET_UNIT, true / OFFSET_UNIT, reduction="none").mean(1)
        return {
            "shape": _mean(shape, known),
            "colour": _mean(colours, inside),
            "motion": motion.mean(),
            "offset": 0.2 * _mean(errors, near.float()),
            "wrong_places": ((led > 0) != (wanted > 0.5)).float().mean(),
            "offset_error": _mean((offset - true).norm(dim=1), near.float()),
        }


def seen(points: Tensor, values: Tensor, side: int) -> Tensor:
    """Points laid down on the three planes, seen from either side.

    Args:
        points: (B, P, T, 3) in [-1, 1].
        values: (B, P, T, 3), a vector of each.
        side: grid cells along a plane.

    Returns:
        (B, 3, 9, side, side, T): whether a cell is covered, the depths and the vectors that are seen from
        the far and from the near end of the third axis; zeros where nothing is.
    """
    count, _, instants, _ = points.shape
    cell = ((points + 1) / 2 * side).long().clamp(0, side - 1)
    frame = torch.arange(count * instants, device=points.device).view(count, 1, instants) * side * side
    planes = []
    for first, second in PAIRS:
        depth = points[..., 3 - first - second]
        index = (frame + cell[..., first] * side + cell[..., second]).flatten()
        sides = []
        for sign in (1.0, -1.0):
            # A soft maximum: weights fall steeply behind what is nearest.
            weight = torch.exp(SHARPNESS * (sign * depth - 1))
            told = torch.cat(
                [weight[..., None], weight[..., None] * depth[..., None], weight[..., None] * values], -1
            )
            sums = told.new_zeros(count * instants * side * side, 5)
            sums.index_add_(0, index, told.view(-1, 5))
            sides.append(sums[:, 1:] / sums[:, :1].clamp(min=1e-20))
        covered = (sums[:, :1] > 0).float()
        both = torch.cat([covered, *sides], 1)
        planes.append(both.view(count, instants, side, side, SEEN).permute(0, 4, 2, 3, 1))
    return torch.stack(planes, 1)


def _entropy(chance: Tensor) -> Tensor:
    """What is left of a cross entropy when all is right."""
    inside = chance.clamp(1e-6, 1 - 1e-6)
    return -(inside * inside.log() + (1 - inside) * (1 - inside).log())


def _mean(values: Tensor, weights: Tensor) -> Tensor:
    return (values * weights).sum() / weights.sum().clamp(min=1)


def _named(planes: Tensor) -> Tensor:
    """(B * 3, channels + 3, ...) of planes (B, 3, channels, ...): each told which it is."""
    which = torch.eye(3, device=planes.device, dtype=planes.dtype)
    shape = planes.shape
    told = which.view(1, 3, 3, *[1] * (len(shape) - 3)).expand(shape[0], 3, 3, *shape[3:])
    return torch.cat([planes, told], 2).flatten(0, 1)


def _tokens(grid: Tensor) -> Tensor:
    """(B, cells, channels) of (B, channels, ...)."""
    return grid.flatten(2).transpose(1, 2)


def _positions() -> Tensor:
    """(N, 5): see `SceneCodec`."""
    found = []
    for kind, side in enumerate(SIDES):
        along = (torch.arange(side) + 0.5) * (SIDES[0] / side)
        instants = (torch.arange(INSTANTS) + 0.5) * 2 if kind else torch.zeros(1)
        for number, (first, second) in enumerate(PAIRS):
            grid = torch.stack(torch.meshgrid(along, along, instants, indexing="ij"), -1).view(-1, 3)
            place = torch.full((len(grid), 5), SIDES[0] / 2)
            place[:, first], place[:, second], place[:, 3] = grid.unbind(1)
            place[:, 4] = 2 * (number + 3 * kind)
            found.append(place)
    return torch.cat(found)


def _down(convolution: type, widths: tuple[int, ...]) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for narrow, wide in pairwise(widths):
        layers += [nn.GroupNorm(narrow // 8, narrow), nn.SiLU()]
        layers += [convolution(narrow, wide, 3, stride=2, padding=1)]
    return [*layers, nn.GroupNorm(widths[-1] // 8, widths[-1]), nn.SiLU()]


def _up(convolution: type, widths: tuple[int, ...], factors: list[Any]) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for (wide, narrow), factor in zip(pairwise(widths), factors, strict=True):
        layers += [nn.SiLU(), nn.Upsample(scale_factor=factor), convolution(wide, narrow, 3, padding=1)]
        layers += [nn.GroupNorm(narrow // 8, narrow)]
    return [*layers, nn.SiLU()]


def _unfolded(grid: Tensor) -> Tensor:
    """(B, 2 H, 2 W, 2 T, C) of (B, 8 C, H, W, T)."""
    count, channels, height, width, instants = grid.shape
    parts = grid.view(count, channels // 8, 2, 2, 2, height, width, instants)
    order = parts.permute(0, 5, 2, 6, 3, 7, 4, 1)
    return order.reshape(count, 2 * height, 2 * width, 2 * instants, channels // 8)
