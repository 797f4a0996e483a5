"""Fitting a field to what a prior of pictures believes, given words: score distillation in 3D."""

import math
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from gen3d import media
from gen3d.config import require_at_least
from gen3d.diffusion.distillation import DistillationConfig, ImagePrior, pull
from gen3d.errors import Gen3dError
from gen3d.fields.base import Field
from gen3d.fields.latent import LatentField, Look
from gen3d.fields.occupancy import Occupancy
from gen3d.fields.rendering import Rendering, render
from gen3d.scenes.fit import Descent, DescentConfig, step_length
from gen3d.scenes.scene import Scene
from gen3d.scenes.viewpoints import cameras, directions, random_view, view_words
from gen3d.types import Conditions

CELLS = 48
"""Along a side of the grid that spares rendering empty space."""
SHOWN = 8
"""Views of a preview."""
ASKED, PLAIN_PICTURES = 8, 32
"""Pictures that a prior makes to learn how its latents look, and plain ones that count as much together."""
NEAR_WHITE, FAR_FROM_WHITE = 0.05, 0.15
"""Largest distance of the three colours from white, up to which a pixel is empty and from which it is
full."""
VIEWS_IN_WORDS, PLAIN = ("front view", "side view", "back view", "overhead view"), "plain"
"""What prompts are told beside themselves, and the name of them as they are."""
STABLE = "stable-diffusion:"
"""What the names of pipelines of diffusers begin with, as priors."""
FAINTEST = 1e-5
"""Opacities are kept so far from 0 and 1 in the sparsity loss."""


@dataclass(frozen=True)
class TextPriorConfig:
    """The diffusion model of pictures that guides."""

    checkpoint: str = "image"
    """Shipped weights by name, a folder or a hub id of domain image; or stable-diffusion:PATH, with a folder
    or hub id of a pipeline of diffusers."""


@dataclass(frozen=True)
class DistilConfig(DescentConfig):
    """How a field is fitted to a prior."""

    steps: int = 400
    """Steps of Adam; fewer where --max-minutes ends the run."""
    learning_rate: float = 0.03
    """At the start."""
    final_rate: float = 0.3
    """The learning rate at the end, as a share of the one at the start."""
    resolutions: tuple[int, ...] = (48,)
    """Grid points along the longest side; coarser grids are part of the field."""
    grow_at: tuple[float, ...] = (0.0,)
    """Shares of the run at which stages begin; there is one."""
    samples: int = 64
    """Steps of a ray along a side of the box."""
    penalties: dict[str, float] = field(default_factory=lambda: {"density_variation": 0.01})
    """Weights of the field's penalties, by name."""
    pull: DistillationConfig = field(
        default_factory=lambda: DistillationConfig("targets", "even", noise=(0.5, 0.95), prior_steps=1)
    )
    """How the prior pulls."""
    views: int = 4
    """Pictures of one step in latents."""
    rgb_views: int = 2
    """Pictures of one step in RGB."""
    fine: int = 1
    """Rays along a side of a cell of latents."""
    rgb_size: int = 48
    """Pixels along a side of pictures rendered in RGB, which are then made as large as the prior's."""
    refine_at: float = 0.6
    """The share of the run after which a field of latents goes on in RGB, and the prior pulls as `refine`
    says; 1 for never."""
    refine: DistillationConfig = field(
        default_factory=lambda: DistillationConfig("targets", "even", noise=(0.5, 0.8), prior_steps=2)
    )
    """How the prior pulls then; annealing begins anew."""
    sparsity: float = 0.02
    """Weight of the entropy of the opacity of rays (Latent-NeRF)."""
    silhouette: float = 0.3
    """Weight of the cross entropy of opacities and what a prior of things before white takes for the
    thing."""
    tell_camera: bool = True
    """Whether a prior that knows cameras is told them."""
    tell_view: bool = True
    """Whether prompts say front, side, back or overhead view."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_at_least(1, self, "views", "rgb_views", "fine", "rgb_size")
        require_at_least(0, self, "sparsity", "silhouette")
        if not 0 < self.refine_at <= 1:
            raise ValueError(f"refine_at is {self.refine_at}; allowed: above 0, at most 1")


class Distilled(Descent):
    """A field on its way to what a prompt says.

    Args:
        field_: of latents, or of colours.
        occupancy: where it may be.
        prior: of pictures.
        prompt: what is to be seen.
        config: how.

    Attributes:
        loss: mean square of the prior's gradient in the last step.
    """

    config: DistilConfig

    def __init__(
        self, field_: Field, occupancy: Occupancy, prior: ImagePrior, prompt: str, config: DistilConfig
    ) -> None:
        if not prompt.strip():
            raise Gen3dError("the prompt is empty; say what should be seen")
        super().__init__(field_, occupancy, config)
        self.prior, self.prompt = prior, prompt.strip().rstrip(".")
        self.told = _told(prior, self.prompt, config.tell_view)
        self.white = _white(prior)
        self.look: Look | None = getattr(field_, "look", None)
        if self.look is not None and prior.in_colours:
            self.look.of_colours()
        elif self.look is not None:
            self.look.to_rgb.copy_(look_of(prior, self.prompt, config.seed))

    @property
    def in_latents(self) -> bool:
        return self.look is not None and not bool(self.look.in_rgb)

    def terms(self) -> Tensor:
        """What is minimised beside the prior's and the field's own."""
        return torch.zeros(())

    def losses(self, share: float) -> tuple[Tensor, Tensor]:
        config = self.config
        refining = share >= config.refine_at
        if self.look is not None and refining:
            self.look.in_rgb.fill_(True)
        count = config.views if self.in_latents else config.rgb_views
        random = np.random.default_rng([config.seed, self.step])
        places = torch.tensor([random_view(random) for _ in range(count)], dtype=torch.float32)
        azimuth, elevation = places.unbind(1)
        latents, opacity = self._latents(azimuth, elevation)
        told, untold = self.conditions(azimuth, elevation)
        how, over = config.pull, share
        if refining and config.refine_at < 1:
            how, over = config.refine, (share - config.refine_at) / (1 - config.refine_at)
        found = pull(self.prior, latents, told, untold, how, over, self.generator)
        if not bool(found.gradient.isfinite().all()):
            raise Gen3dError(
                f"the prior's gradient is not finite after {self.step} steps; what there is is kept"
            )
        loss = found.loss(latents) / latents[0].numel()
        loss = loss + config.sparsity * entropy(opacity)
        if config.silhouette and self.prior.before_white:
            loss = loss + config.silhouette * self._silhouette(found.clean, opacity)
        return found.gradient.square().mean(), loss + self.penalties() + self.terms()

    def _silhouette(self, clean: Tensor, opacity: Tensor) -> Tensor:
        """Cross entropy of opacities (rays,) and of how far pictures of clean latents (B, c, s, s) are from
        white.

        Without it a field may as well paint white what should be empty. Not in the papers, whose priors know
        any background.
        """
        away = 1 - self.prior.decode(clean).amin(1)
        full = ((away - NEAR_WHITE) / (FAR_FROM_WHITE - NEAR_WHITE)).clamp(0, 1)
        side = round((len(opacity) / len(clean)) ** 0.5)
        seen = opacity.view(len(clean), side, side).clamp(FAINTEST, 1 - FAINTEST)
        return F.binary_cross_entropy(seen, F.adaptive_avg_pool2d(full, side))

    def _latents(self, azimuth: Tensor, elevation: Tensor) -> tuple[Tensor, Tensor]:
        """Latents (B, c, s, s) that the prior sees, and opacities (rays,)."""
        config, prior = self.config, self.prior
        if self.in_latents:
            seen = self.render(azimuth, elevation, prior.cells * config.fine, self.white)
            grid = seen.colour.view(len(azimuth), *2 * [prior.cells * config.fine], -1).permute(0, 3, 1, 2)
            return F.avg_pool2d(grid, config.fine), seen.opacity
        seen = self.render(azimuth, elevation, config.rgb_size, torch.ones(3))
        pictures = seen.colour.view(len(azimuth), config.rgb_size, config.rgb_size, 3).permute(0, 3, 1, 2)
        pictures = F.interpolate(pictures, 2 * [prior.size], mode="bilinear", antialias=True)
        return prior.encode(pictures), seen.opacity

    def render(self, azimuth: Tensor, elevation: Tensor, size: int, background: Tensor) -> Rendering:
        """Square pictures (B) of `size` pixels a side before a colour (channels,), ray by ray."""
        return self.render_of(self.field, azimuth, elevation, size, background)

    def render_of(
        self, field_: Field, azimuth: Tensor, elevation: Tensor, size: int, background: Tensor
    ) -> Rendering:
        """As `render`, of any field in the same box."""
        shots = cameras(azimuth, elevation, size)
        pixel = torch.arange(size * size)
        view = torch.arange(len(azimuth)).repeat_interleave(size * size)
        x, y = pixel % size, pixel // size
        return render(
            field_,
            shots.rays(view, x.repeat(len(azimuth)), y.repeat(len(azimuth))),
            length=step_length(field_, self._samples()),
            background=background,
            occupancy=self.occupancy,
            generator=self.generator,
            jitter=True,
        )

    def conditions(
        self, azimuth: Tensor, elevation: Tensor, *, tell_view: bool = True
    ) -> tuple[Conditions, Conditions]:
        """What the prior is told of views, and what tells it nothing; `tell_view` False keeps to the
        prompt."""
        told = self.told if tell_view else {**self.told, **dict.fromkeys(VIEWS_IN_WORDS, self.told[PLAIN])}
        return conditions_of(self.prior, told, azimuth, elevation, self.config.tell_camera)

    def scene(self) -> Scene:
        """What has been found so far, in colours."""
        count = 48
        turn = torch.arange(count) * (360 / count)
        own = cameras(turn, torch.full((count,), 20.0), self.prior.size)
        field_ = self.field.seen() if isinstance(self.field, LatentField) else self.field
        return Scene(field_, self.occupancy, own, self.config.samples * 2)

    @torch.no_grad()
    def preview(self, path: Path) -> bool:
        """Views all around, decoded by the prior as long as they are of latents."""
        azimuth = torch.arange(SHOWN) * (360 / SHOWN)
        elevation = torch.full((SHOWN,), 20.0)
        if self.in_latents:
            pictures = self.prior.decode(self._latents(azimuth, elevation)[0])
        else:
            seen = self.render(azimuth, elevation, self.prior.size, torch.ones(3))
            pictures = seen.colour.view(SHOWN, self.prior.size, self.prior.size, 3).permute(0, 3, 1, 2)
        rows = pictures.clamp(0, 1).permute(0, 2, 3, 1).unflatten(0, (2, SHOWN // 2))
        media.write_png(rows.permute(0, 2, 1, 3, 4).flatten(2, 3).flatten(0, 1), path)
        return True

    def measure(self) -> dict[str, float]:
        return {"pull": math.sqrt(max(self.loss, 0.0)), "filled": 100 * self.occupancy.share}


def entropy(opacity: Tensor) -> Tensor:
    """Mean binary entropy, in bits, of opacities: small where rays end on something or on nothing."""
    p = opacity.clamp(FAINTEST, 1 - FAINTEST)
    return -(p * p.log2() + (1 - p) * (1 - p).log2()).mean()


def conditions_of(
    prior: ImagePrior, told: dict[str, Conditions], azimuth: Tensor, elevation: Tensor, tell_camera: bool
) -> tuple[Conditions, Conditions]:
    """What a prior is told of views, and what tells it nothing.

    Args:
        prior: of pictures.
        told: conditions (1, ...) of the prompt for every view in words, and under "" those of no prompt.
        azimuth, elevation: (B,), degrees.
        tell_camera: whether it is told from where, if it can be.
    """
    rows = [told[view_words(float(a), float(e))] for a, e in zip(azimuth, elevation, strict=True)]
    given = {name: torch.cat([row[name] for row in rows]) for name in rows[0]}
    nothing = {name: value.expand(len(azimuth), *value.shape[1:]) for name, value in told[""].items()}
    if prior.knows_cameras and tell_camera:
        given["camera"] = directions(azimuth, elevation)
    return given, nothing


def _told(prior: ImagePrior, prompt: str, tell_view: bool) -> dict[str, Conditions]:
    """Conditions (1, ...) of the prompt by view in words, of the prompt alone under PLAIN, and of none under
    "".

    Words are embedded once.
    """
    prompts = [f"{prompt}, {view}" if tell_view else prompt for view in VIEWS_IN_WORDS]
    joined = prior.conditions([*prompts, prompt, ""], None)
    names = [*VIEWS_IN_WORDS, PLAIN, ""]
    return {own: {name: value[[row]] for name, value in joined.items()} for row, own in enumerate(names)}


@torch.no_grad()
def _white(prior: ImagePrior) -> Tensor:
    """(c,) latents of white: those in the middle of a white picture."""
    latents = prior.encode(torch.ones(1, 3, prior.size, prior.size))
    middle = prior.cells // 2
    return latents[0, :, middle, middle]


@torch.no_grad()
def look_of(prior: ImagePrior, prompt: str, seed: int, steps: int = 12) -> Tensor:
    """(3, c + 1): the linear map from latents, with a 1 at their end, to the mean colour of their cell.

    Fitted to pictures that the prior makes of the prompt, by DDIM (arXiv 2010.02502), as Latent-NeRF's matrix
    was to pictures of Stable Diffusion; and to plain pictures of all colours, as those of one prompt may have
    but one.
    """
    generator = torch.Generator().manual_seed(seed)
    random = np.random.default_rng(seed)
    places = torch.tensor([random_view(random) for _ in range(ASKED)], dtype=torch.float32)
    told, _ = conditions_of(prior, _told(prior, prompt, True), places[:, 0], places[:, 1], True)
    z = torch.randn(ASKED, prior.channels, prior.cells, prior.cells, generator=generator)
    levels = torch.linspace(0.98, 0.02, steps + 1)
    clean = z
    for now, then in pairwise(levels):
        u = now.expand(ASKED)
        alpha, sigma = (each.view(-1, 1, 1, 1) for each in prior.schedule(u))
        clean = prior.denoise(z, u, told)
        noise = (z - alpha * clean) / sigma
        alpha, sigma = (each.view(-1, 1, 1, 1) for each in prior.schedule(then.expand(ASKED)))
        z = alpha * clean + sigma * noise
    pictures = prior.decode(clean)
    colours = F.adaptive_avg_pool2d(pictures, prior.cells).permute(0, 2, 3, 1).reshape(-1, 3)
    latents = clean.permute(0, 2, 3, 1).reshape(-1, prior.channels)
    plain = torch.rand(PLAIN_PICTURES, 3, generator=generator)
    shown = plain[:, :, None, None].expand(-1, -1, prior.size, prior.size)
    middle = prior.encode(shown)[:, :, prior.cells // 2, prior.cells // 2]
    share = len(latents) // PLAIN_PICTURES
    latents = torch.cat([latents, middle.repeat(share, 1)])
    colours = torch.cat([colours, plain.repeat(share, 1)])
    known = torch.cat([latents, torch.ones(len(latents), 1)], 1)
    ridge = 1e-3 * len(known) * torch.eye(known.shape[1])
    return torch.linalg.solve(known.T @ known + ridge, known.T @ colours).T
