"""A field that begins as what a prior can imagine, and goes on as grids that keep near it.

SHaDe (arXiv 2505.16535) trains a latent diffusion model of planes and deformations, and then fine-tunes with
image, denoising and temporal losses. How is our choice, near to SSDNeRF (arXiv 2304.06714), in two stages:

1. The latents of one scene are fitted through the prior's decoder to the pictures, held among likely ones
   by the denoiser: noise is added to them, much at first and little at last, and
   they are drawn to what the denoiser makes of that.
2. SHaDe's grids take over the scene that was found and are fitted as ever. Where no picture tells, a penalty
   keeps them to what the prior says.
"""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from gen3d.domains.dynamic_scene.config import PriorConfig
from gen3d.errors import Gen3dError
from gen3d.fields.base import Field, Located
from gen3d.fields.harmonics import HARMONIC_0
from gen3d.fields.heads import HarmonicsAttentionHead, HarmonicsHead
from gen3d.fields.occupancy import Occupancy
from gen3d.fields.planescene import PAIRS, PlaneScene, density_of
from gen3d.fields.shade import ShadeField
from gen3d.fields.tables import corners, read

TIMES, WIDTH = (0.2, 0.9), 0.1
"""Of the noise that is added to latents, 0 noise and 1 data: at first and at last, and how far from that."""
COMPARED = 4096
"""Places at which grids and prior are compared in one step."""
STEP = 0.03
"""Length over which opacities are compared."""
RATE = 0.25
"""Learning rate of latents beside that of densities."""
LEAST = 1e-3
"""Density below which a grid is not started: a gradient must find its way out."""


class GuidedField(Field):
    """A `ShadeField` and the latents it starts from.

    Args:
        shade: the grids.
        prior: a trained generator of scenes (`scene-prior`).
        occupancy: where the scene may be.
        config: how the prior is used.
    """

    latents: nn.Parameter
    turn: Tensor
    started: Tensor

    def __init__(self, shade: ShadeField, prior: Any, occupancy: Occupancy, config: PriorConfig) -> None:
        super().__init__()
        if not hasattr(prior.codec, "scenes"):
            raise Gen3dError("prior.checkpoint is no prior of moving scenes; allowed: those of scene-prior")
        self.shade, self.config = shade, config
        # Not modules of this one: neither is trained or stored.
        self._prior: tuple[Any] = (prior.eval().requires_grad_(False),)
        self._occupancy = (occupancy,)
        self.channels = shade.channels
        positions = prior.codec.positions
        self.latents = nn.Parameter(torch.zeros(1, len(positions), prior.codec.channels))
        self.register_buffer("turn", torch.zeros((), dtype=torch.long))
        self.register_buffer("started", torch.zeros((), dtype=torch.bool))
        self._imagined: PlaneScene | None = None
        self._done = 0.0

    @property
    def box(self) -> Tensor:  # type: ignore[override]
        return self.shade.box

    @property
    def settled(self) -> bool:  # type: ignore[override]
        return bool(self.started)

    @property
    def imagined(self) -> PlaneScene:
        """What the latents of now stand for."""
        if self._imagined is None:
            prior = self._prior[0]
            self._imagined = prior.codec.scenes(prior.denormalise(self.latents))[0]
        return self._imagined

    def finished(self) -> ShadeField:
        """The grids; before they have started, grids of what the latents stand for."""
        if self.started:
            return self.shade
        grids = copy.deepcopy(self.shade)
        start_from(grids, self.imagined)
        return grids

    def density(self, points: Tensor, times: Tensor | None) -> tuple[Tensor, Located]:
        return (self.shade if self.started else self.imagined).density(points, times)

    def colour(self, located: Located, directions: Tensor, times: Tensor | None) -> Tensor:
        return (self.shade if self.started else self.imagined).colour(located, directions, times)

    def penalties(self) -> dict[str, Tensor]:
        """Those of the grids; `denoising` of the latents before they start, `prior` after."""
        nothing = self.latents.new_zeros(())
        if not self.started:
            own = {name: nothing for name in self.shade.penalties()}
            calm = self.imagined.penalties()["acceleration"]
            return {**own, "acceleration": calm, "denoising": self._denoising(), "prior": nothing}
        return {**self.shade.penalties(), "denoising": nothing, "prior": self._distance()}

    def rates(self) -> list[tuple[list[nn.Parameter], float]]:
        return [([self.latents], RATE), *self.shade.rates()]

    @torch.no_grad()
    def progress(self, share: float) -> None:
        self.turn += 1
        if self.started:
            self.shade.progress(share)
            return
        self._imagined = None
        self._done = min(1.0, share / self.config.share)
        if share >= self.config.share:
            start_from(self.shade, self.imagined)
            self.shade.progress(share)
            self.started.fill_(True)

    def refine(self, resolution: int) -> None:
        self.shade.refine(resolution)

    def _generator(self) -> torch.Generator:
        return torch.Generator().manual_seed(int(self.turn))

    def _denoising(self) -> Tensor:
        """Mean squared distance of the latents from what the denoiser makes of them with noise."""
        prior, generator = self._prior[0], self._generator()
        first, last = TIMES
        t = first + (last - first) * self._done + WIDTH * (2 * torch.rand(1, generator=generator) - 1)
        noise = torch.randn(self.latents.shape, generator=generator)
        diffusion = prior.config.diffusion
        with torch.no_grad():
            noisy = diffusion.path.interpolate(self.latents, noise, t)
            positions = prior.codec.positions[None]
            guess = prior.core(noisy, t, positions=positions)
            clean = diffusion.path.convert(guess, diffusion.prediction, "x", noisy, t)
        return (self.latents - clean).square().mean()

    def _distance(self) -> Tensor:
        """Mean squared difference of opacity and visible colour between grids and prior, at random places."""
        generator, occupancy = self._generator(), self._occupancy[0]
        low, high = self.box
        places = low + torch.rand(4 * COMPARED, 3, generator=generator) * (high - low)
        times = torch.rand(len(places), generator=generator)
        kept = occupancy.contains(places, times).nonzero()[:COMPARED, 0]
        places, times = places[kept], times[kept]
        with torch.no_grad():
            wanted, logits = self.imagined.density(places, times)
            wanted_colour = torch.sigmoid(logits[0])
        found, located = self.shade.density(places, times)
        opacity = 1 - torch.exp(-STEP * found)
        wanted = 1 - torch.exp(-STEP * wanted)
        directions = nn.functional.normalize(torch.randn(len(places), 3, generator=generator), dim=1)
        colour = self.shade.colour(located, directions, times)
        difference = (colour - wanted_colour).square().mean(1) * wanted
        return ((opacity - wanted).square() + difference).mean()


@torch.no_grad()
def start_from(shade: ShadeField, scene: PlaneScene) -> None:
    """Put into the grids of `shade` what `scene` shows; its cube and their box need not be the same.

    Raises:
        Gen3dError: colours of a kind that cannot be put in.
    """
    low, high = shade.box
    half = (high - low) / 2
    planes, weight = shade.deformation.planes, shade.deformation.weight
    if planes.fusion != "sum":
        raise Gen3dError(f"a prior starts planes that are summed, not deformation.fusion {planes.fusion!r}")
    shape = scene.offsets.shape[1:4]
    for table, pair, plane, own in zip(planes.tables, PAIRS, scene.offsets, planes.shapes, strict=True):
        along = [low[axis] + half[axis] * (torch.linspace(-1, 1, own[0]) + 1) for axis in pair]
        where = torch.stack(torch.meshgrid(*along, torch.linspace(-1, 1, own[2]), indexing="ij"), -1)
        offset = read(plane.flatten(0, 2), *corners(where.view(-1, 3), shape))
        # The rows of the projection are orthonormal: what is lifted by it comes back.
        table.copy_(offset / half @ weight)
    canonical = shade.canonical
    axes = [low[a] + half[a] * (torch.linspace(-1, 1, n) + 1) for a, n in enumerate(canonical.shape)]
    points = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).view(-1, 3)
    logits = torch.cat([scene.logits(some) for some in points.split(1 << 16)])
    density = density_of(logits[:, 0]).clamp(min=LEAST)
    canonical.density_table[:, 0] = _inverse_softplus(density / canonical.scale) - canonical.bias
    head = canonical.head
    if not isinstance(head, (HarmonicsHead, HarmonicsAttentionHead)):
        raise Gen3dError("a prior starts colours of harmonics; allowed for head: harmonics, attention")
    coefficients = head.channels * (head.degree + 1) ** 2
    colours = canonical.colour_table[:, :coefficients].view(len(points), head.channels, -1)
    colours[..., 0] = logits[:, 1:] / HARMONIC_0


def _inverse_softplus(value: Tensor) -> Tensor:
    return value + torch.log(-torch.expm1(-value))
