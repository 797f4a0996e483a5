"""Learning to take long steps: two steps of half the size say where one should lead (arXiv 2410.12557).

A network that is told the size of the sampler's step predicts not the velocity at its beginning but the mean
velocity over it. For steps that are infinitely small the two are one, and learnt from data; for others the
target is the mean of what the network itself says of both halves. So a few steps, or one, can do.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gen3d.diffusion.paths import Path
from gen3d.draws import Draws

MOST_STEPS = 64
"""Steps are learnt from 1 to 1/MOST_STEPS long; those of half that size count as infinitely small."""


@dataclass(frozen=True)
class Shortcuts:
    """Which samples of a batch learn a long step, and which one.

    Attributes:
        rows: (b,) numbers of these samples.
        step: (B,) sizes, 0 for the others.
        start: (b,) times at which the steps begin.
    """

    rows: Tensor
    step: Tensor
    start: Tensor

    @classmethod
    def draw(cls, rate: float, draws: Draws, device: torch.device) -> "Shortcuts":
        """Steps 1/n with n up to MOST_STEPS, log-uniform, that begin at any multiple of theirs."""
        batch = len(draws.index)
        if rate == 0:
            none = torch.zeros(0, device=device)
            return cls(none.long(), torch.zeros(batch, device=device), none)
        rows = (draws.uniform("shortcut") < rate).nonzero()[:, 0]
        count = (MOST_STEPS ** draws.uniform("shortcut/count")).round()[rows]
        which = (draws.uniform("shortcut/which")[rows] * count).floor()
        step = torch.zeros(batch, device=rows.device)
        step[rows] = 1 / count
        return cls(rows.to(device), step.to(device), (which / count).to(device))

    def times(self, t: Tensor) -> Tensor:
        """Training times (B,), those of long steps being their beginnings."""
        return t.index_copy(0, self.rows, self.start.to(t)) if len(self.rows) else t

    @torch.no_grad()
    def put_targets(
        self,
        target: dict[str, Tensor],
        model: Callable[..., Tensor],
        x_t: Tensor,
        t: Tensor,
        inputs: dict[str, Any],
        path: Path,
        prediction: str,
    ) -> None:
        """Replace, in every kind of target, the rows of long steps by the mean of their halves.

        Args:
            target: "x", "eps" and "v" of the data, each (B, N, C).
            model: the network.
            x_t: noisy tokens (B, N, C).
            t: times (B,).
            inputs: keyword arguments of the network, of the whole batch.
            path: a linear one.
            prediction: what the network's output means.
        """
        # Of processes that share one sharded network, all must call it, whether or not they have long steps.
        rows = self.rows if len(self.rows) else self.rows.new_zeros(1)
        x, begin, step = x_t[rows], t[rows], self.step[rows]
        told = step / 2
        chosen = {
            **_rows(inputs, rows),
            "step": torch.where(told * MOST_STEPS < 1, torch.zeros_like(told), told),
        }
        velocities = []
        for time in (begin, begin + step / 2):
            output = model(x, time, **chosen)
            velocities.append(path.convert(output, prediction, "v", x, time))
            if chosen.get("self_cond") is not None:
                chosen["self_cond"] = path.convert(output, prediction, "x", x, time)
            x = x + (step / 2)[:, None, None] * velocities[-1]
        mean = (velocities[0] + velocities[1]) / 2
        if len(self.rows):
            for kind, values in target.items():
                made = path.convert(mean, "v", kind, x_t[rows], begin)
                target[kind] = values.index_copy(0, rows, made.to(values))


def _rows(inputs: dict[str, Any], rows: Tensor) -> dict[str, Any]:
    """Keyword arguments of the network for some samples."""

    def some(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: entry[rows] for name, entry in value.items()}
        return None if value is None else value[rows]

    return {name: some(value) for name, value in inputs.items()}
