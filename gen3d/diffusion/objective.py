"""The training objective: regress a prediction at random times along a path."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from gen3d.diffusion.paths import LinearPath, VariancePreservingPath
from gen3d.diffusion.shortcut import Shortcuts
from gen3d.draws import Draws
from gen3d.errors import require
from gen3d.nn.embeddings import drop_conditions
from gen3d.tokens import Tokens, centred, masked_mean
from gen3d.types import Conditions, TokenMask


@dataclass(frozen=True)
class DiffusionConfig:
    """What the network learns, and how."""

    path: LinearPath | VariancePreservingPath = field(default_factory=LinearPath)
    """From noise to data."""
    prediction: Literal["x", "v", "eps"] = "x"
    """What the network's output means."""
    loss: Literal["x", "v", "eps"] = "v"
    """The kind of prediction whose squared error is averaged (JiT: predict x, compare v)."""
    min_noise: float = 0.05
    """Lower bound of sigma in the loss weight."""
    time: Literal["logit_normal", "uniform"] = "logit_normal"
    """Distribution of training times (logit-normal: arXiv 2403.03206)."""
    time_mean: float = 0.0
    """Mean of logit t; negative for more noise."""
    time_std: float = 1.0
    """Standard deviation of logit t."""
    time_range: tuple[float, float] = (0.0, 1.0)
    """Times are drawn from this part of [0, 1]."""
    time_shift: float = 1.0
    """s in 1-t -> s(1-t) / (1 + (s-1)(1-t)); above 1 for more noise, as high-dimensional tokens need."""
    self_condition_rate: float = 0.5
    """Share of samples that see a first clean prediction; the transformer needs self_conditioning."""
    condition_dropout: float = 0.1
    """Chance that a condition is replaced by null, for each condition and sample."""
    coupling: Literal["independent", "optimal"] = "independent"
    """Noise paired with data at random, or by the optimal assignment of tokens within a sample."""
    centred_noise: bool = False
    """Take the mean over a sample's tokens out of its noise, in training and sampling."""
    shortcut_rate: float = 0.0
    """Share of samples that learn long steps from two half ones (shortcut models, arXiv 2410.12557)."""

    def __post_init__(self) -> None:
        if not 0 <= self.shortcut_rate < 1:
            raise ValueError(f"shortcut_rate is {self.shortcut_rate}; allowed: 0 <= shortcut_rate < 1")
        if self.shortcut_rate and not isinstance(self.path, LinearPath):
            raise ValueError(
                f"shortcut_rate is {self.shortcut_rate}; steps are straight on a linear path only"
            )
        first, last = self.time_range
        if not 0 <= first < last <= 1:
            raise ValueError(f"time_range is {self.time_range}; allowed: 0 <= first < last <= 1")


@dataclass(frozen=True)
class TrainingState:
    """What an extra objective term may look at.

    Attributes:
        model: the network.
        inputs: its keyword arguments: mask, positions, cond, self_cond.
        x_t: noisy tokens (B, N, C).
        t: times (B,).
        tokens: the clean tokens.
        clean: predicted clean tokens (B, N, C).
        velocity: predicted velocity (B, N, C).
        velocity_target: dx_t/dt (B, N, C).
    """

    model: Callable[..., Tensor]
    inputs: dict[str, Any]
    x_t: Tensor
    t: Tensor
    tokens: Tokens
    clean: Tensor
    velocity: Tensor
    velocity_target: Tensor


class Term(Protocol):
    """An addend of the objective: per-sample values (B,) with a name and a weight."""

    @property
    def name(self) -> str: ...

    @property
    def weight(self) -> float: ...

    def __call__(self, state: TrainingState) -> Tensor: ...


@dataclass(frozen=True)
class VelocityDirection:
    """1 - cos(predicted velocity, velocity) per token (LightningDiT, arXiv 2501.01423)."""

    weight: float = 1.0
    name: str = "velocity_direction"

    def __call__(self, state: TrainingState) -> Tensor:
        cosine = F.cosine_similarity(state.velocity, state.velocity_target, dim=-1)
        return masked_mean(1 - cosine, state.tokens.mask)


def diffusion_loss(
    model: Callable[..., Tensor],
    tokens: Tokens,
    cond: Conditions,
    config: DiffusionConfig,
    draws: Draws,
    terms: Sequence[Term] = (),
) -> tuple[Tensor, dict[str, Tensor]]:
    """The objective of one batch.

    Every sample's loss is a mean over its real tokens and channels and depends on (seed, index) of its
    draws alone, not on the batch; the result is the mean over samples, plus the weighted terms.

    Args:
        model: called as model(x_t, t, mask=, positions=, cond=, self_cond=).
        tokens: clean, normalised tokens.
        cond: conditions by name.
        config: the objective.
        draws: one random stream per sample.
        terms: further addends.

    Returns:
        The scalar loss and its parts: "diffusion" and the terms by name, detached scalars, and
        "per_sample" (B,).
    """
    path, x1 = config.path, tokens.x
    t = sample_times(config, draws).to(x1.device)
    shortcuts = Shortcuts.draw(config.shortcut_rate, draws, x1.device)
    t = shortcuts.times(t)
    x0 = draws.normal("noise", *x1.shape[1:]).to(x1)
    if config.centred_noise:
        x0 = centred(x0, tokens.mask)
    x0 = _paired(x0, tokens, config)
    x_t = path.interpolate(x1, x0, t)
    inputs: dict[str, Any] = {
        "mask": tokens.mask,
        "positions": tokens.positions,
        "cond": _drop(cond, config.condition_dropout, draws),
    }
    inputs["self_cond"] = _first_prediction(model, x_t, t, inputs, config, draws)
    target = {"x": x1, "eps": x0, "v": path.velocity(x1, x0, t)}
    if config.shortcut_rate:
        inputs["step"] = shortcuts.step
        shortcuts.put_targets(target, model, x_t, t, inputs, path, config.prediction, tokens.ties)
    prediction = model(x_t, t, **inputs)

    # An error of the prediction is an error of the loss's kind, scaled.
    weight = torch.ones_like(t)
    if config.loss != config.prediction:
        own = path.sensitivity(config.prediction, t, config.min_noise).clamp(min=config.min_noise)
        weight = path.sensitivity(config.loss, t, config.min_noise) / own
    errors = (prediction - target[config.prediction]).square().mean(-1)
    per_sample = weight.square() * masked_mean(errors, tokens.mask)
    loss = per_sample.mean()
    logs = {"diffusion": loss.detach(), "per_sample": per_sample.detach()}

    if terms:
        clean = path.convert(prediction, config.prediction, "x", x_t, t)
        velocity = path.convert(prediction, config.prediction, "v", x_t, t)
        state = TrainingState(model, inputs, x_t, t, tokens, clean, velocity, target["v"])
        for term in terms:
            value = term(state).mean()
            loss = loss + term.weight * value
            logs[term.name] = value.detach()
    return loss, logs


def sample_times(config: DiffusionConfig, draws: Draws) -> Tensor:
    """Training times (B,) in (0, 1)."""
    if config.time == "uniform":
        t = draws.uniform("time")
    else:
        t = torch.sigmoid(config.time_mean + config.time_std * draws.normal("time"))
    first, last = config.time_range
    return shift_times(first + (last - first) * t, config.time_shift)


def shift_times(t: Tensor, shift: float) -> Tensor:
    """Move times towards the noise: 1-t -> s(1-t) / (1 + (s-1)(1-t)) (arXiv 2403.03206, eq. 23)."""
    noise = 1 - t
    return 1 - shift * noise / (1 + (shift - 1) * noise)


def _paired(x0: Tensor, tokens: Tokens, config: DiffusionConfig) -> Tensor:
    """Noise of the tokens, ordered by the configured coupling; tied tokens share it where they are one."""
    ties = tokens.ties
    if config.coupling == "independent":
        return x0 if ties is None else ties.same(x0)
    if ties is None:
        return optimal_coupling(x0, tokens.x, tokens.mask)
    # Shared noise is that of whole groups, which no order of the tokens can change.
    free = optimal_coupling(ties.without(x0), ties.without(tokens.x), tokens.mask)
    return free + ties.same(x0) - ties.without(x0)


def optimal_coupling(x0: Tensor, x1: Tensor, mask: TokenMask) -> Tensor:
    """Reorder each sample's noise tokens to the least total squared distance from its data tokens.

    Only real tokens take part. A set of independent Gaussian tokens stays one under reordering, so
    the noise distribution is unchanged (equivariant optimal transport, arXiv 2306.15030).
    """
    optimize = require("scipy.optimize", "atoms")
    costs = torch.cdist(x1.detach().float(), x0.float()).square().cpu().numpy()
    real = mask.cpu().numpy()
    order = torch.arange(x0.shape[1]).repeat(len(x0), 1)
    for b, cost in enumerate(costs):
        index = real[b].nonzero()[0]
        _, matched = optimize.linear_sum_assignment(cost[index][:, index])
        order[b, index] = torch.from_numpy(index[matched])
    return x0.gather(1, order.to(x0.device)[..., None].expand_as(x0))


def _drop(cond: Conditions, rate: float, draws: Draws) -> Conditions:
    """Each condition replaced by null, independently, with chance `rate`."""
    names = [name for name in cond if name != "text_mask"]
    dropped = {name: (draws.uniform(f"drop/{name}") < rate).to(cond[name].device) for name in names}
    return drop_conditions(cond, dropped)


def _first_prediction(
    model: Callable[..., Tensor],
    x_t: Tensor,
    t: Tensor,
    inputs: dict[str, Any],
    config: DiffusionConfig,
    draws: Draws,
) -> Tensor | None:
    """The clean prediction that some samples are shown (analog bits, arXiv 2208.04202), zero for others."""
    if config.self_condition_rate == 0:
        return None
    rows = (draws.uniform("self_condition") < config.self_condition_rate).nonzero()[:, 0].to(x_t.device)
    # Of processes that share one sharded network, all must call it, whether or not they have such samples.
    asked = rows if len(rows) else rows.new_zeros(1)
    positions = inputs["positions"]
    with torch.no_grad():
        prediction = model(
            x_t[asked],
            t[asked],
            mask=inputs["mask"][asked],
            positions=None if positions is None else positions[asked],
            cond={name: value[asked] for name, value in inputs["cond"].items()},
        )
        clean = config.path.convert(prediction, config.prediction, "x", x_t[asked], t[asked])
    first = torch.zeros_like(x_t)
    first[rows] = clean[: len(rows)].to(first)
    return first
