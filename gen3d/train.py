"""One training loop for every generative domain.

Training has two stages: first the codec learns to reconstruct, then, with the codec frozen and the
latent statistics fitted once, the transformer learns to generate its tokens. Step k of a run is a pure
function of (seed, k) and the state before it: batches, augmentation and noise come from `BatchOrder` and
`Draws`. So the same command resumes exactly where it stopped, and n processes under `torchrun` follow the
curve of one. Losses must be means over samples for that; every codec loss and `diffusion_loss` are.

A run folder holds `config.yaml`, `metrics.jsonl`, `curves.png` (where matplotlib is installed), `checkpoint/`
(what `gen3d.load` reads, with averaged weights) and `state.safetensors` (what a resume reads).
"""

import json
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from gen3d import checkpoint
from gen3d.batches import BatchOrder, prefetch
from gen3d.config import to_dict
from gen3d.curves import draw_training, drawn
from gen3d.draws import Draws
from gen3d.errors import Gen3dError, require
from gen3d.files import atomic_write, remove_stale
from gen3d.generator import Generator
from gen3d.locate import locate
from gen3d.nn.partial import light_parameters
from gen3d.run_config import RunConfig, TrainConfig, check_same_run, run_config
from gen3d.sharding import whole
from gen3d.stage import Stage

__all__ = ["RunConfig", "TrainConfig", "run_config", "train"]

STATE = "state.safetensors"


def train(
    config: RunConfig,
    data: str | Path,
    out: str | Path,
    *,
    init_from: str | Path | None = None,
    max_minutes: float | None = None,
    resume: bool = True,
    progress: bool = True,
) -> Path:
    """Train a generator, or go on with the training that `out` holds.

    Ctrl-C and SIGTERM save and return; a second Ctrl-C aborts. Under `torchrun` every process calls this.

    Args:
        config: the run.
        data: prepared data, as `GenerativeDomain.dataset` opens it.
        out: the run folder.
        init_from: a checkpoint (anything `gen3d.load` takes) whose weights and statistics a fresh run
            starts from.
        max_minutes: stop and save after this wall time of this call.
        resume: False starts over where `out` already holds a run.
        progress: show a progress bar, if the error stream is a terminal, and draw `curves.png` at the end.

    Returns:
        The checkpoint folder.

    Raises:
        Gen3dError: unusable configuration, data, checkpoint or run folder, or a loss that diverged.
    """
    if max_minutes is not None and not 0 < max_minutes < math.inf:
        raise Gen3dError(f"max_minutes is {max_minutes}; it must be above 0")
    deadline = math.inf if max_minutes is None else time.monotonic() + 60 * max_minutes
    with stop_signal() as stopped:
        trainer = _Trainer(config, data, Path(out), init_from, resume)
        return trainer.run(lambda: stopped.is_set() or time.monotonic() >= deadline, progress)


class _Trainer:
    """What a run holds in memory, and its loop."""

    def __init__(
        self, config: RunConfig, data: str | Path, out: Path, init_from: str | Path | None, resume: bool
    ) -> None:
        self.run_config, self.config = config, config.train
        self.data, self.out = data, out
        self.fine_tunes = init_from is not None
        self.accelerator = _accelerator()
        self.micro_batch = _micro_batch(config.train, self.accelerator.num_processes)
        torch.manual_seed(self.config.seed)
        self.generator = Generator(config.generator())
        self.trainable = [n for n, p in self.generator.named_parameters() if p.requires_grad]
        if self.config.trainable == "biases":
            light = {f"core.{name}" for name in light_parameters(self.generator.core)}
            self.trainable = [n for n in self.trainable if n in light or not n.startswith("core.")]
        self.domain = self.generator.domain
        self.dataset = self.domain.dataset(data, "train")
        if not len(self.dataset):
            raise Gen3dError(f"the train split of {data} is empty")
        self._use_seed(self.config.seed)
        self.step, self.minutes = 0, 0.0
        self.totals: dict[str, Tensor] = {}
        """Sums over the steps since the last line of metrics.jsonl."""
        if resume and (out / STATE).exists():
            self._restore()
        else:
            self._begin(init_from)
        if self.accelerator.is_main_process:
            self._open_folder()

    def run(self, should_stop: Callable[[], bool], progress: bool) -> Path:
        """Train until the last step or until told to stop; returns the checkpoint folder."""
        from gen3d.progress import tqdm

        config, main = self.config, self.accelerator.is_main_process
        self.started = saved = time.monotonic()
        self._reset_rates()
        quiet = None if progress and main else True  # None: quiet unless it is a terminal
        bar = tqdm(total=config.steps, initial=self.step, unit="step", disable=quiet, dynamic_ncols=True)
        if main and self.config.trainable == "biases":
            bar.write(self._share())
        if self.fine_tunes and not self.step and config.valid_every:
            self._write_metrics(self._validate())  # what training begins with
        for micro_batches in prefetch(self._load, range(self.step, config.steps)):
            due = time.monotonic() - saved >= 60 * config.checkpoint_minutes
            stop, save = self._agree(should_stop(), due)
            if stop:
                break
            if save:
                self._save()
                saved = time.monotonic()
            self._update(micro_batches)
            if self.step % config.log_every == 0 or self.step == config.codec_steps:
                bar.set_postfix(loss=f"{self._log():.4g}", refresh=False)
            if self.step == config.codec_steps:
                self._begin_prior()
            if config.valid_every and self.step % config.valid_every == 0:
                self._write_metrics(self._validate())  # by all processes: they may share one transformer
            bar.update()
        bar.close()
        self._save()
        if main and progress:
            drawn(draw_training, self.out)
        if main and self.step < config.steps:
            bar.write(f"stopped after step {self.step} of {config.steps}; the same command resumes")
        self.accelerator.wait_for_everyone()
        return self.out / "checkpoint"

    def _begin(self, init_from: str | Path | None) -> None:
        """Before the first step of a fresh run."""
        if init_from is None and self.config.decoder_only:
            raise Gen3dError("decoder_only needs a checkpoint to start from, whose encoder it keeps")
        if init_from is None and self.config.trainable == "biases":
            raise Gen3dError("trainable 'biases' needs a checkpoint to start from, whose rest it keeps")
        if self.accelerator.is_main_process:
            (self.out / STATE).unlink(missing_ok=True)
        if init_from is not None:
            tensors, _ = checkpoint.read(locate(init_from))
            # What tells step sizes begins with an output of zero: it can join weights that were made without.
            fresh = [name for name in self.generator.state_dict() if ".conditions.step." in name]
            checkpoint.fill(self.generator, tensors, init_from, fresh)
            # With the seed of the run that made the checkpoint, its noise would come again, sample by sample:
            # the loss falls on it and on nothing else.
            self._use_seed(self.config.seed + checkpoint.fingerprint(tensors))
        self.domain.fit(self.dataset)
        self.generator.to(self.accelerator.device)
        if self.config.codec_steps:
            self.stage = self._make_stage("codec")
        elif init_from is None:
            self._begin_prior()
        else:
            self.stage = self._make_stage("prior")

    def _begin_prior(self) -> None:
        """The codec is done: keep its averaged weights, fit the latent statistics, train the rest."""
        if self.config.codec_steps:
            self.stage.keep_averages()
        self.generator.eval()
        if not self.config.decoder_only:
            self._fit_latents()
        self.stage = self._make_stage("prior")

    def _fit_latents(self) -> None:
        batches = min(self.config.latent_batches, math.ceil(len(self.dataset) / self.config.batch_size))
        self.generator.fit_latents(
            self._collate(step, first)[0].to(self.accelerator.device)
            for step in range(batches)
            for first in range(0, self.config.batch_size, self.micro_batch)
        )

    def _make_stage(self, name: Literal["codec", "prior"]) -> Stage:
        return Stage(name, self.generator, self.trainable, self.config, self.accelerator)

    def _share(self) -> str:
        """How much of the transformer trains."""
        sizes = {f"core.{name}": p.numel() for name, p in self.generator.core.named_parameters()}
        trained, total = sum(sizes[n] for n in self.trainable if n in sizes), sum(sizes.values())
        return f"training {trained:,} of the transformer's {total:,} parameters ({trained / total:.2%})"

    def _restore(self) -> None:
        """Take up the state of the run folder."""
        tensors, header = checkpoint.read_tensors(self.out / STATE)
        check_same_run(header["run"], to_dict(self.run_config), self.out)
        for name, count in self._amounts().items():
            if header[name] != count:
                raise Gen3dError(
                    f"{self.out} holds a run on {header[name]} {name}, and {self.data} has {count}: "
                    "name another folder, or start over without resuming"
                )
        self._use_seed(header["seed"])
        parts: dict[str, dict[str, Tensor]] = {"model": {}, "average": {}, "optimizer": {}}
        for name, tensor in tensors.items():
            part, _, rest = name.partition(".")
            parts[part][rest] = tensor
        checkpoint.fill(self.generator, parts["model"], self.out / STATE)
        self.generator.to(self.accelerator.device)
        self.step, self.minutes = header["step"], header["minutes"]
        self.totals = {
            k: torch.tensor(v, device=self.accelerator.device) for k, v in header["totals"].items()
        }
        self.stage = self._make_stage("codec" if self.step < self.config.codec_steps else "prior")
        self.stage.load(parts["average"], parts["optimizer"], header["updates"])

    def _use_seed(self, seed: int) -> None:
        """What batches, augmentation and noise come from."""
        self.seed = seed
        self.order = BatchOrder(self.dataset.sizes, self.config.batch_size, seed)

    def _open_folder(self) -> None:
        """Write the resolved configuration; drop metrics of steps that will be taken again."""
        import yaml

        for folder in (self.out, self.out / "checkpoint"):
            remove_stale(folder)
        with atomic_write(self.out / "config.yaml") as temporary:
            temporary.write_text(yaml.safe_dump(to_dict(self.run_config), sort_keys=False), encoding="utf-8")
        path = self.out / "metrics.jsonl"
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        kept = [line for line in lines if self.step and _step_of(line) <= self.step]
        with atomic_write(path) as temporary:
            temporary.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")

    def _load(self, step: int) -> list[tuple[Any, Draws]]:
        """This process's micro-batches of `step`, each with its random streams."""
        accumulate, process = self.config.accumulate, self.accelerator.process_index
        parts = range(process * accumulate, (process + 1) * accumulate)
        return [self._collate(step, part * self.micro_batch) for part in parts]

    def _collate(self, step: int, first: int) -> tuple[Any, Draws]:
        """Samples `first` to `first + micro_batch` of the batch of `step`."""
        positions = torch.arange(first, first + self.micro_batch)
        draws = Draws(self.seed, step * self.config.batch_size + positions)
        items = self.order[step][positions.numpy()]
        return self.domain.collate([self.dataset[int(i)] for i in items], draws), draws

    def _update(self, micro_batches: list[tuple[Any, Draws]]) -> None:
        """One optimizer step."""
        device = self.accelerator.device
        # Dropout and the like draw from the global generator: make it a function of the step too.
        torch.manual_seed(self.seed + (self.step << 20) + self.accelerator.process_index)
        for number, (batch, draws) in enumerate(micro_batches, start=1):
            last = number == len(micro_batches)
            draws = Draws(draws.seed, draws.index.to(device))
            with nullcontext() if last else self.accelerator.no_sync(self.stage.objective):
                loss, logs = self.stage.objective(batch.to(device), draws)
                (loss / len(micro_batches)).backward()
            scalars = {name: value for name, value in logs.items() if value.ndim == 0}
            for name, value in {"loss": loss, **scalars}.items():
                value = value.detach().float() / len(micro_batches)
                self.totals[name] = self.totals.get(name, 0) + value
        grad_norm = self.stage.update(self.step)
        for name, value in {"grad_norm": grad_norm, "steps": torch.ones_like(grad_norm)}.items():
            self.totals[name] = self.totals.get(name, 0) + value
        self.tokens += int(self.order.sizes[self.order[self.step]].sum())
        self.samples += self.config.batch_size
        self.step += 1

    def _agree(self, *flags: bool) -> list[bool]:
        """The flags of the main process, in every process."""
        if self.accelerator.num_processes == 1:
            return list(flags)
        own = torch.tensor(flags, dtype=torch.int32, device=self.accelerator.device)
        torch.distributed.broadcast(own, src=0)
        return [bool(flag) for flag in own.tolist()]

    def _settle_totals(self) -> dict[str, float]:
        """Average the totals over processes, and return them; refuse numbers that are none."""
        for name in sorted(self.totals):
            self.totals[name] = self.accelerator.reduce(self.totals[name], "mean")
        totals = {name: value.item() for name, value in self.totals.items()}
        if not all(map(math.isfinite, totals.values())):
            raise Gen3dError(
                f"the loss or its gradient is not finite by step {self.step}; {self.out} holds the last good "
                "state; try a smaller learning rate"
            )
        return totals

    def _log(self) -> float:
        """Write the means since the last line to metrics.jsonl; returns the loss."""
        totals = self._settle_totals()
        seconds = time.monotonic() - self.since
        steps = totals.pop("steps")
        means = {name: value / steps for name, value in totals.items()}
        self._write_metrics(
            {"step": self.step, "stage": self.stage.name, **means, "lr": self.stage.rate(self.step - 1)}
            | {"tokens_per_second": self.tokens / seconds, "samples_per_second": self.samples / seconds}
            | {"minutes": self._minutes()}
        )
        self.totals = {}
        self._reset_rates()
        return means["loss"]

    def _write_metrics(self, line: dict[str, Any]) -> None:
        if self.accelerator.is_main_process:
            with open(self.out / "metrics.jsonl", "a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")

    def _reset_rates(self) -> None:
        self.since, self.tokens, self.samples = time.monotonic(), 0, 0

    def _minutes(self) -> float:
        """Training time of the whole run, all calls together."""
        return self.minutes + (time.monotonic() - self.started) / 60

    def _save(self) -> None:
        """Write the training state, then the checkpoint."""
        totals = self._settle_totals()
        averages, moments, updates = self.stage.save()
        model = {name: whole(tensor) for name, tensor in self.generator.state_dict().items()}
        if self.accelerator.is_main_process:
            parts = {"model": model, "average": averages, "optimizer": moments}
            tensors = {f"{part}.{name}": t for part, named in parts.items() for name, t in named.items()}
            header = {"run": to_dict(self.run_config), "step": self.step, "minutes": self._minutes()}
            header |= {"seed": self.seed, **self._amounts()}
            checkpoint.write_tensors(
                self.out / STATE, tensors, {**header, "totals": totals, "updates": updates}
            )
            self.generator.save_pretrained(self.out / "checkpoint", weights={**model, **averages})
        self.accelerator.wait_for_everyone()

    def _amounts(self) -> dict[str, int]:
        """What tells one training set from another."""
        return {"samples": len(self.dataset), "tokens": int(self.dataset.sizes.sum())}

    def _validate(self) -> dict[str, Any]:
        """The loss of the averaged weights on a fixed part of the "valid" split, with fixed noise."""
        config, device = self.config, self.accelerator.device
        dataset = self.domain.dataset(self.data, "valid")
        draws = Draws(config.seed, torch.arange(len(dataset)))
        chosen = torch.argsort(draws.uniform("validation"), stable=True)[: config.valid_samples].numpy()
        chosen = chosen[np.argsort(dataset.sizes[chosen], kind="stable")]
        total = 0.0
        self.generator.eval()
        with self.stage.averaged(), torch.no_grad():
            for part in np.array_split(chosen, math.ceil(len(chosen) / self.micro_batch)):
                index = torch.as_tensor(part)
                # Augmented as in training, or the model would meet conditions that it never sees.
                batch = self.domain.collate([dataset[int(i)] for i in part], Draws(config.seed, index))
                loss, _ = self.stage.loss(batch.to(device), Draws(config.seed, index.to(device)))
                total += loss.item() * len(part)
        self.stage.train_mode()
        return {"step": self.step, "stage": self.stage.name, "valid_loss": total / len(chosen)}


def _accelerator() -> Any:
    accelerate = require("accelerate", "train")
    # A parameter may go unused in a step (a condition that was dropped, a hook that was not drawn).
    ddp = accelerate.DistributedDataParallelKwargs(find_unused_parameters=True)
    # Without `cpu`, processes of a machine that has no GPU would not find each other.
    return accelerate.Accelerator(cpu=not torch.cuda.is_available(), kwargs_handlers=[ddp])


def _micro_batch(config: TrainConfig, processes: int) -> int:
    """Samples of one micro-batch of one process."""
    size, rest = divmod(config.batch_size, processes * config.accumulate)
    if rest:
        raise Gen3dError(
            f"batch_size is {config.batch_size}; it must be a multiple of processes x accumulate = "
            f"{processes} x {config.accumulate}"
        )
    return size


def _step_of(line: str) -> float:
    """The step of a line of metrics.jsonl; infinity for a line cut short by a kill."""
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):
        return math.inf


@contextmanager
def stop_signal() -> Iterator[threading.Event]:
    """An event that the first SIGINT or SIGTERM sets; the second one acts as it always did."""
    stopped = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stopped  # only the main thread may handle signals
        return
    signals = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.getsignal(number) for number in signals}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def stop(number: int, frame: Any) -> None:
        stopped.set()
        restore()

    for number in signals:
        signal.signal(number, stop)
    try:
        yield stopped
    finally:
        restore()
