"""Fitting a field, coarse to fine, in a given number of steps or minutes: to random rays of a capture."""

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gen3d import checkpoint
from gen3d.captures.views import Views
from gen3d.config import require_at_least
from gen3d.errors import Gen3dError
from gen3d.fields.base import Field
from gen3d.fields.occupancy import Occupancy
from gen3d.fields.rendering import render, render_image
from gen3d.scenes.bounds import near_silhouettes

BETAS = (0.9, 0.99)
PRUNE_EVERY, PRUNE_FIRST = 500, (250, 500)
"""Steps at which empty cells are looked for."""


@dataclass(frozen=True)
class DescentConfig:
    """How long, how fast and how finely a field is fitted, to whatever it is."""

    steps: int = 4000
    """Steps of Adam; fewer where --max-minutes ends the run."""
    learning_rate: float = 0.2
    """Of densities at the start; other parameters learn at fixed fractions of it."""
    final_rate: float = 0.05
    """The learning rate at the end, as a share of the one at the start; it falls exponentially."""
    resolutions: tuple[int, ...] = (32, 64, 96)
    """Grid points along the longest side, stage by stage."""
    grow_at: tuple[float, ...] = (0.0, 0.2, 0.5)
    """Shares of the run at which the stages begin."""
    samples: int = 160
    """Steps of a ray that crosses the box along its longest side; fewer, at least half, in coarser stages."""
    penalties: dict[str, float] = field(default_factory=dict)
    """Weights of the field's penalties, by name."""
    prune_below: float = 0.3
    """Density under which a cell counts as empty."""
    seed: int = 0
    """Of all that is drawn at random."""

    def __post_init__(self) -> None:
        require_at_least(1, self, "steps", "samples")
        require_at_least(0, self, "prune_below", "seed")
        if not self.learning_rate > 0 or not 0 < self.final_rate <= 1:
            raise ValueError("learning_rate must be above 0, final_rate in (0, 1]")
        if len(self.resolutions) != len(self.grow_at) or not self.resolutions or self.grow_at[0] != 0:
            raise ValueError("resolutions and grow_at must be equally many, and grow_at begin with 0")
        if list(self.grow_at) != sorted(self.grow_at) or min(self.resolutions) < 2:
            raise ValueError("grow_at must ascend, and resolutions be at least 2")


@dataclass(frozen=True)
class FitConfig(DescentConfig):
    """How a field is fitted to a capture."""

    rays: int = 2048
    """Rays of one step."""
    finer: int = 0
    """Steps that a ray gains where most is seen: see `gen3d.fields.rendering.render`."""
    foreground: float = 0.5
    """The share of the rays that is drawn near silhouettes."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_at_least(1, self, "rays")
        require_at_least(0, self, "finer", "foreground")
        if self.foreground > 1:
            raise ValueError(f"foreground is {self.foreground}; allowed: 0 to 1")


class Descent(ABC):
    """A field on its way.

    Args:
        field_: the field, at the first of the resolutions.
        occupancy: where it may be; cells found empty are removed.
        config: how.

    Attributes:
        step: steps taken.
        seconds: spent on them.
        loss: of the last step, as `losses` tells it.
    """

    def __init__(self, field_: Field, occupancy: Occupancy, config: DescentConfig) -> None:
        self.field, self.occupancy, self.config = field_, occupancy, config
        unknown = config.penalties.keys() - field_.penalties().keys()
        if unknown:
            allowed = ", ".join(sorted(field_.penalties()))
            raise Gen3dError(f"penalty {sorted(unknown)[0]!r} is unknown to this field; allowed: {allowed}")
        self.step, self.seconds, self.stage, self.loss = 0, 0.0, 0, math.nan
        self.generator = torch.Generator().manual_seed(config.seed)
        self.optimizer = self._optimizer()

    @abstractmethod
    def losses(self, share: float) -> tuple[Tensor, Tensor]:
        """What people are told of a step, and what is minimised, both scalars; `share` of the run is over."""

    def begin(self) -> None:
        """What comes before the first step of a fresh run: nothing, most often."""
        return

    def share(self, max_seconds: float | None = None) -> float:
        """How much of the run is over, in [0, 1], by steps or by time, whichever is further."""
        by_time = 0.0 if max_seconds is None else self.seconds / max_seconds
        return min(1.0, max(self.step / self.config.steps, by_time))

    def advance(self, max_seconds: float | None = None) -> None:
        """One step."""
        start = time.perf_counter()
        config, share = self.config, self.share(max_seconds)
        if self.stage + 1 < len(config.resolutions) and share >= config.grow_at[self.stage + 1]:
            self.stage += 1
            self.field.refine(config.resolutions[self.stage])
            self._carry_over()
        self.field.progress(share)
        for group in self.optimizer.param_groups:
            group["lr"] = config.learning_rate * group["share"] * config.final_rate**share
        error, loss = self.losses(share)
        self.loss = float(error.detach())
        # Before it is taken: what has been found so far must not be lost.
        if not (math.isfinite(self.loss) and bool(loss.isfinite())):
            raise Gen3dError(f"the error is {self.loss} after {self.step} steps; lower learning_rate")
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.step += 1
        if self.field.settled and (self.step in PRUNE_FIRST or self.step % PRUNE_EVERY == 0):
            self.occupancy.update(self.field, config.prune_below, self.generator)
        self.seconds += time.perf_counter() - start

    def preview(self, path: Path) -> bool:
        """Draw the scene of now, a PNG, if that is quick; returns whether it was."""
        return False

    def penalties(self) -> Tensor:
        """The field's, weighed and summed."""
        weights = self.config.penalties
        found = self.field.penalties() if weights else {}
        return sum((weight * found[name] for name, weight in weights.items()), torch.zeros(()))

    def _samples(self) -> int:
        """Steps along the longest side: a coarse grid needs fewer."""
        all_of_them, sizes = self.config.samples, self.config.resolutions
        return max(all_of_them // 2, all_of_them * sizes[self.stage] // sizes[-1])

    def _optimizer(self) -> torch.optim.Adam:
        groups = [
            {"params": parameters, "share": share} for parameters, share in self.field.rates() if parameters
        ]
        return torch.optim.Adam(groups, lr=self.config.learning_rate, betas=BETAS, fused=True)

    def _carry_over(self) -> None:
        """An optimiser of the field's parameters of now; those that are still the same keep their moments."""
        old = self.optimizer.state
        self.optimizer = self._optimizer()
        for group in self.optimizer.param_groups:
            for parameter in group["params"]:
                if parameter in old:
                    self.optimizer.state[parameter] = old[parameter]

    def save(self, path: Path) -> None:
        """Everything that going on needs, in one file."""
        tensors = {f"field.{name}": value for name, value in self.field.state_dict().items()}
        tensors["occupancy"] = self.occupancy.cells
        tensors["generator"] = self.generator.get_state()
        for name, parameter in self.field.named_parameters():
            for key, value in self.optimizer.state.get(parameter, {}).items():
                tensors[f"adam.{name}.{key}"] = value
        checkpoint.write_tensors(path, tensors, self.header())

    def header(self) -> dict[str, Any]:
        """What else going on needs, as `restore` returns it."""
        return {"step": self.step, "seconds": self.seconds, "stage": self.stage}

    def restore(self, path: Path) -> dict[str, Any]:
        """Go on where `save` was called; returns the `header` of then.

        Raises:
            Gen3dError: the file is damaged or of another field.
        """
        tensors, header = checkpoint.read_tensors(path)
        self.step, self.seconds, self.stage = header["step"], header["seconds"], header["stage"]
        if self.stage:
            self.field.refine(self.config.resolutions[self.stage])
            self.optimizer = self._optimizer()
        prefixed: Callable[[str], Mapping[str, Tensor]] = lambda start: {  # noqa: E731
            name.removeprefix(start): value for name, value in tensors.items() if name.startswith(start)
        }
        checkpoint.fill(self.field, prefixed("field."), path)
        self.occupancy.cells.copy_(tensors["occupancy"])
        self.generator.set_state(tensors["generator"])
        for name, parameter in self.field.named_parameters():
            state: dict[str, Any] = dict(prefixed(f"adam.{name}."))
            if state:
                self.optimizer.state[parameter] = state
        return header


class Fit(Descent):
    """A field on its way to a capture.

    Args:
        field_, occupancy: as of `Descent`.
        views: what it is fitted to. Behind their alpha stands a random colour for every ray, so that
            nothing but emptiness can explain a background.
        config: how.

    Attributes:
        loss: mean squared error of the last step's rays.
    """

    config: FitConfig

    def __init__(self, field_: Field, occupancy: Occupancy, views: Views, config: FitConfig) -> None:
        super().__init__(field_, occupancy, config)
        self.views = views
        self.pixels = torch.from_numpy(views.images).view(-1, 4)
        # A twelfth of a step of the widest silhouettes; edges are where a field is learnt.
        self.near = (
            near_silhouettes(views, max(1, views.cameras.width // 16)) if views.has_alpha else torch.empty(0)
        )

    def losses(self, share: float) -> tuple[Tensor, Tensor]:
        """The mean squared error of some rays, and what is minimised."""
        config, cameras = self.config, self.views.cameras
        chosen = self._choose()
        per_view = cameras.height * cameras.width
        view, y, x = chosen // per_view, chosen % per_view // cameras.width, chosen % cameras.width
        pixels = self.pixels[chosen].float() / 255
        background = torch.rand(len(chosen), 3, generator=self.generator)
        seen = render(
            self.field,
            cameras.rays(view, x, y),
            length=step_length(self.field, self._samples()),
            background=background,
            occupancy=self.occupancy,
            generator=self.generator,
            jitter=True,
            finer=config.finer,
        )
        target = pixels[:, :3] * pixels[:, 3:] + (1 - pixels[:, 3:]) * background
        error = (seen.colour - target).square().mean()
        return error, error + self.penalties()

    @property
    def rays(self) -> int:
        """Rays of the next step."""
        return self.config.rays

    def _choose(self) -> Tensor:
        """(rays,) flat numbers of pixels."""
        rays = self.rays
        anywhere = torch.randint(len(self.pixels), (rays,), generator=self.generator)
        if not len(self.near):
            return anywhere
        close = self.near[torch.randint(len(self.near), (rays,), generator=self.generator)]
        chance = torch.rand(rays, generator=self.generator)
        return torch.where(chance < self.config.foreground, close, anywhere)


def step_length(field_: Field, samples: int) -> float:
    """Of a ray that crosses the longest side of the field's box in so many steps."""
    return float((field_.box[1] - field_.box[0]).max()) / samples


@torch.no_grad()
def mean_psnr(
    field_: Field, occupancy: Occupancy, views: Views, samples: int, background: tuple[float, float, float]
) -> float:
    """Mean over views of the peak signal-to-noise ratio, dB, before one background."""
    truth = torch.from_numpy(views.composited(background))
    colour = torch.tensor(background)
    length = step_length(field_, samples)
    values = []
    for number, image in enumerate(truth):
        seen = render_image(
            field_, views.cameras, number, length=length, background=colour, occupancy=occupancy
        )
        error = (seen.colour.clamp(0, 1) - image).square().mean()
        values.append(-10 * math.log10(max(float(error), 1e-12)))
    return sum(values) / len(values)
