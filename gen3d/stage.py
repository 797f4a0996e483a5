"""A stage of training: what trains at one time, and how a step of it is taken."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from gen3d.draws import Draws
from gen3d.errors import Gen3dError
from gen3d.generator import Generator
from gen3d.nn.precision import autocast, native_bf16
from gen3d.optim import Muon
from gen3d.run_config import TrainConfig
from gen3d.sharding import own_part, shard, spread_like, whole


class Stage:
    """What trains at one time: some parameters, with their optimizer, learning rates and averages."""

    def __init__(
        self, name: str, generator: Generator, trainable: list[str], config: TrainConfig, accelerator: Any
    ) -> None:
        self.name, self.config = name, config
        codec = name == "codec"
        self.module = generator.codec if codec else generator.core
        sharded = config.shard and not codec
        if sharded:
            shard(generator.core)
        self.start, self.length = (
            (0, config.codec_steps) if codec else (config.codec_steps, config.steps - config.codec_steps)
        )
        self.peak = config.codec_learning_rate if codec else config.learning_rate
        prefix = ("codec.decoder." if config.decoder_only else "codec.") if codec else "core."
        named = dict(generator.named_parameters())
        self.named = {n: named[n] for n in trainable if n.startswith(prefix)}
        if not self.named:
            raise Gen3dError(f"the {name} stage has nothing to train; set codec_steps to 0")
        for key, parameter in named.items():
            parameter.requires_grad_(key in self.named)
        self.generator = generator
        self.train_mode()
        self.loss = _Loss(generator, name, _autocast(config.precision, accelerator.device))
        self.objective = self.loss if sharded else accelerator.prepare(self.loss)
        self.optimizers = make_optimizers(self.named, config)
        self.averages = {n: p.detach().clone() for n, p in self.named.items()}
        self.updates = 0

    def rate(self, step: int) -> float:
        """The learning rate of `step`."""
        k, config = step - self.start, self.config
        warm = min(1.0, (k + 1) / config.warmup) if config.warmup else 1.0
        done = k / max(self.length, 1)
        decay = {"constant": 1.0, "linear": 1 - done, "cosine": (1 + math.cos(math.pi * done)) / 2}
        return self.peak * warm * decay[config.schedule]

    def update(self, step: int) -> Tensor:
        """Move the parameters along their gradients, and the averages after them; returns the norm."""
        norm = whole(nn.utils.clip_grad_norm_(self.named.values(), self.config.clip))
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = self.rate(step)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        decay = min(self.config.ema, (1 + self.updates) / (10 + self.updates))
        values = [own_part(p.detach()) for p in self.named.values()]
        averages = [own_part(average) for average in self.averages.values()]
        torch._foreach_lerp_(averages, values, 1 - decay)
        self.updates += 1
        return norm

    def train_mode(self) -> None:
        self.generator.eval()
        self.module.train()

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Inside the block, the generator has the averaged weights."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def keep_averages(self) -> None:
        """Make the averages the weights, for good."""
        self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        # In place: a sharded transformer keeps hold of its tensors.
        for name, parameter in self.named.items():
            value, average = own_part(parameter.detach()), own_part(self.averages[name])
            kept = value.clone()
            value.copy_(average)
            average.copy_(kept)

    def save(self) -> tuple[dict[str, Tensor], dict[str, Tensor], int]:
        """The averages, the tensors of the optimizers by "optimizer.parameter.name", the count of updates.

        Every process must call it: what is sharded is gathered.
        """
        averages = {name: whole(average) for name, average in self.averages.items()}
        moments = {
            f"{which}.{number}.{name}": whole(tensor)
            for which, optimizer in enumerate(self.optimizers)
            for number, entry in sorted(optimizer.state_dict()["state"].items())
            for name, tensor in sorted(entry.items())
        }
        return averages, moments, self.updates

    def load(self, averages: dict[str, Tensor], moments: dict[str, Tensor], updates: int) -> None:
        """Take up what `save` returned."""
        for name, average in self.averages.items():
            own_part(average).copy_(own_part(spread_like(averages[name], average)))
        states: list[dict[int, dict[str, Tensor]]] = [{} for _ in self.optimizers]
        parameters = [[p for group in o.param_groups for p in group["params"]] for o in self.optimizers]
        for key, tensor in moments.items():
            which, number, name = key.split(".")
            parameter = parameters[int(which)][int(number)]
            whole_shape = tensor.shape == parameter.shape  # a step count is spread nowhere
            states[int(which)].setdefault(int(number), {})[name] = (
                spread_like(tensor, parameter) if whole_shape else tensor
            )
        for optimizer, state in zip(self.optimizers, states, strict=True):
            optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
        self.updates = updates


class _Loss(nn.Module):
    """The stage's loss as a module, which is what data parallelism wraps."""

    def __init__(self, generator: Generator, stage: str, autocast: Callable[[], Any]) -> None:
        super().__init__()
        self.generator, self.stage, self.autocast = generator, stage, autocast

    def forward(self, batch: Any, draws: Draws) -> tuple[Tensor, dict[str, Tensor]]:
        with self.autocast():
            loss = self.generator.codec_loss if self.stage == "codec" else self.generator.prior_loss
            return loss(batch, draws)


def make_optimizers(parameters: dict[str, nn.Parameter], config: TrainConfig) -> list[torch.optim.Optimizer]:
    """AdamW, or with `optimizer: muon` Muon for the matrices of the blocks and AdamW for everything else.

    Weight decay falls on matrices only, not on biases, gains and embeddings of one row.
    """
    muon = config.optimizer == "muon"
    blocks = [p for n, p in parameters.items() if muon and p.ndim == 2 and ".blocks." in n]
    chosen = {id(p) for p in blocks}
    rest = [p for p in parameters.values() if id(p) not in chosen]
    groups = [
        {"params": [p for p in rest if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in rest if p.ndim < 2], "weight_decay": 0.0},
    ]
    made: list[torch.optim.Optimizer] = [
        torch.optim.AdamW([g for g in groups if g["params"]], betas=config.betas, fused=True)
    ]
    if blocks:
        made.append(Muon(blocks, weight_decay=config.weight_decay, half=config.precision != "fp32"))
    return made


def _autocast(precision: str, device: torch.device) -> Callable[[], Any]:
    """A maker of autocast contexts for the asked precision."""
    bf16 = precision == "bf16" or (precision == "auto" and native_bf16(device))
    return lambda: autocast(device, bf16)
