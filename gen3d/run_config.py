"""What defines a training run: the content of `configs/*.yaml` and of a run folder's `config.yaml`."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from gen3d.config import from_dict, require_at_least
from gen3d.diffusion.objective import DiffusionConfig
from gen3d.diffusion.samplers import SamplingConfig
from gen3d.errors import Gen3dError
from gen3d.generator_config import GeneratorConfig, fitted_model, make_domain
from gen3d.nn.transformer import SIZES, TransformerConfig

RESUMABLE = {
    "train.steps",
    "train.accumulate",
    "train.shard",
    "train.checkpoint_minutes",
    "train.log_every",
    "train.valid_every",
    "train.valid_samples",
    "fit.steps",
}
"""Keys, beside those of `sampling`, that may change between a run's parts."""


@dataclass(frozen=True)
class TrainConfig:
    """How to train."""

    batch_size: int = 256
    """Samples of one optimizer step, over all processes and micro-batches together."""
    steps: int = 100_000
    """Optimizer steps of the whole run, both stages together."""
    codec_steps: int = 0
    """The first that many steps train only the codec; the rest only the transformer."""
    decoder_only: bool = False
    """Whether the codec stage leaves the encoder, and so the latents that a transformer knows, alone."""
    trainable: Literal["all", "biases"] = "all"
    """Parameters of the transformer that train; "biases": only biases, gains, modulation and class tables
    (DiffFit), a percent or less of a trained one that is to be adapted."""
    learning_rate: float = 2e-4
    """Peak learning rate of the transformer."""
    codec_learning_rate: float = 1e-3
    """Peak learning rate of the codec."""
    optimizer: Literal["adamw", "muon"] = "adamw"
    """"muon": the matrices of the blocks take Muon's steps, scaled to AdamW's size; the rest AdamW's."""
    betas: tuple[float, float] = (0.9, 0.95)
    """AdamW's decay rates of the first and second moment."""
    weight_decay: float = 0.0
    """AdamW's decay, applied to matrices only."""
    warmup: int = 500
    """Steps over which each stage's learning rate rises linearly from zero."""
    schedule: Literal["constant", "cosine", "linear"] = "constant"
    """The learning rate after the warm-up; "cosine" and "linear" reach zero at the stage's end."""
    clip: float = 1.0
    """Largest norm of the gradient."""
    ema: float = 0.9999
    """Decay of the averaged weights; after k updates it is at most (1 + k) / (10 + k)."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """"auto": bf16 autocast where the processor multiplies bf16 natively."""
    seed: int = 0
    """Of initial weights, data order, augmentation and noise."""
    accumulate: int = 1
    """Micro-batches into which each process divides its part of a batch, to save memory."""
    shard: bool = False
    """Spread the transformer over the processes (FSDP2), for models that are too large for one."""
    latent_batches: int = 64
    """Batches that fit the latent statistics when the codec is done."""
    checkpoint_minutes: float = 10.0
    """Wall time between saves."""
    log_every: int = 50
    """Steps between lines of metrics.jsonl; each line averages over them."""
    valid_every: int = 0
    """Steps between validations; 0 for never."""
    valid_samples: int = 1024
    """Items of the "valid" split that a validation measures, always the same."""

    def __post_init__(self) -> None:
        require_at_least(
            1, self, "batch_size", "steps", "accumulate", "latent_batches", "log_every", "valid_samples"
        )
        for name in ("learning_rate", "codec_learning_rate", "clip"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be positive")
        require_at_least(0, self, "warmup", "valid_every", "weight_decay", "checkpoint_minutes", "seed")
        if not 0 <= self.ema < 1:
            raise ValueError(f"ema is {self.ema}; allowed: 0 <= ema < 1")
        if not 0 <= self.codec_steps <= self.steps:
            raise ValueError(f"codec_steps is {self.codec_steps}; allowed: 0 to steps = {self.steps}")


@dataclass(frozen=True)
class RunConfig:
    """Everything that defines a run; the content of `configs/*.yaml` and of a run's `config.yaml`."""

    domain: str
    """Name of the domain."""
    model: TransformerConfig
    """The transformer."""
    domain_config: dict[str, Any] = field(default_factory=dict)
    """The domain's own configuration; what is left out keeps its default."""
    diffusion: DiffusionConfig = field(default_factory=DiffusionConfig)
    """The noise process and the objective."""
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    """Defaults of sampling, stored in the checkpoint."""
    train: TrainConfig = field(default_factory=TrainConfig)
    """How to train."""

    def generator(self) -> GeneratorConfig:
        """The part that a checkpoint keeps."""
        return GeneratorConfig(self.domain, self.model, self.domain_config, self.diffusion, self.sampling)


def run_config(values: Mapping[str, Any]) -> RunConfig:
    """The run that plain values (of a YAML file, say) describe.

    `model` may name a `size` of `gen3d.nn.transformer.SIZES`, and may leave out what follows from the
    domain and the objective: channels, conditions and self-conditioning.

    Raises:
        Gen3dError: an unknown key, or a missing or wrong value.
    """
    given = mapping(values, "model")
    size = given.pop("size", None)
    if size is not None:
        if size not in list(SIZES):
            raise Gen3dError(f"model.size is {size!r}; allowed: {', '.join(SIZES)}")
        given = dict(zip(("width", "depth", "heads"), SIZES[size], strict=True)) | given
    if "domain" not in values:
        raise Gen3dError("configuration key 'domain' is missing")
    if not isinstance(values["domain"], str):
        raise Gen3dError(f"domain is {values['domain']!r}; expected a name")
    domain = make_domain(values["domain"], mapping(values, "domain_config"))
    diffusion = from_dict(DiffusionConfig, values.get("diffusion") or {}, "diffusion")
    return from_dict(RunConfig, {**values, "model": fitted_model(domain, diffusion) | given})


def mapping(values: Mapping[str, Any], key: str) -> dict[str, Any]:
    """A copy of the mapping under `key`, empty where there is none.

    Raises:
        Gen3dError: something else is there.
    """
    found = values.get(key)
    if found is None:
        return {}
    if not isinstance(found, Mapping):
        raise Gen3dError(f"{key} must be a mapping, got {found!r}")
    return dict(found)


def check_same_run(saved: dict[str, Any], asked: dict[str, Any], out: Path) -> None:
    """Refuse to go on with a run of another configuration."""
    saved, asked = _flat(saved), _flat(asked)
    for key in sorted(saved.keys() | asked.keys()):
        free = key in RESUMABLE or key.startswith("sampling.")
        if not free and saved.get(key) != asked.get(key):
            raise Gen3dError(
                f"{out} holds a run with {key} = {saved.get(key)!r}, not {asked.get(key)!r}: "
                "name another folder, or start over without resuming"
            )


def _flat(values: dict[str, Any], where: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{where}{key}.") if isinstance(value, dict) else {f"{where}{key}": value}
    return flat
