"""Learning to take long steps: two steps of half the size say where one should lead (arXiv 2410.12557).

A network that is told the size of the sampler's step predicts not the velocity at its beginning but the mean
velocity over it. For steps that are infinitely small the two are one, and learnt from data; for others the
target is the mean of what the network itself says of both halves. So a few steps, or one, can do.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from gen3d.diffusion.paths import Path
from gen3d.draws import Draws
from gen3d.tokens import Ties

MOST_STEPS = 64
"""Steps are learnt from 1 to 1/MOST_STEPS long; shorter ones count as infinitely small."""


def told_step(step: Tensor) -> Tensor:
    """What a network is told of steps (B,): their size, or 0 for those too short to have been learnt."""
    # A step of 1/MOST_STEPS between rounded times may come out a little shorter.
    return torch.where(step * MOST_STEPS < 1 - 1e-3, torch.zeros_like(step), step)


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
        # A uniform number may round to 1; no step begins at the data.
        which = (draws.uniform("shortcut/which")[rows] * count).floor().minimum(count - 1)
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
        ties: Ties | None = None,
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
            ties: which tokens are one, of the whole batch; the sampler takes the mean of what is predicted
                of them, and so do both halves.
        """
        # Of processes that share one sharded network, all must call it, whether or not they have long steps.
        rows = self.rows if len(self.rows) else self.rows.new_zeros(1)
        x, begin, step = x_t[rows], t[rows], self.step[rows]
        chosen = {**_rows(inputs, rows), "step": told_step(step / 2)}
        tied = None if ties is None else replace(ties, source=ties.source[rows])
        velocities = []
        for time in (begin, begin + step / 2):
            output = model(x, time, **chosen)
            velocity = path.convert(output, prediction, "v", x, time)
            if chosen.get("self_cond") is not None:
                chosen["self_cond"] = path.convert(output, prediction, "x", x, time)
            # Where x is tied, tying the velocity is tying the clean tokens.
            velocities.append(velocity if tied is None else tied.mean(velocity))
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
