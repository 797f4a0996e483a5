"""What a checkpoint's `config.json` says: a domain, a transformer that suits it, an objective."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from gen3d import domains
from gen3d.config import from_dict, to_dict
from gen3d.diffusion.objective import DiffusionConfig
from gen3d.diffusion.samplers import SamplingConfig
from gen3d.domains.base import GenerativeDomain
from gen3d.errors import Gen3dError
from gen3d.nn.transformer import TransformerConfig


@dataclass(frozen=True)
class GeneratorConfig:
    """What a checkpoint's `config.json` holds."""

    domain: str
    """Name of the domain."""
    model: TransformerConfig
    """The transformer."""
    domain_config: dict[str, Any] = field(default_factory=dict)
    """The domain's own configuration; what is left out keeps its default."""
    diffusion: DiffusionConfig = field(default_factory=DiffusionConfig)
    """The noise process and the objective."""
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    """Defaults of sampling."""


def make_domain(name: str, values: dict[str, Any]) -> GenerativeDomain:
    """The generative domain called `name`, built from plain configuration values.

    Raises:
        Gen3dError: no such domain, one that trains no transformer, or an unusable configuration.
    """
    cls = domains.find(name)
    if not issubclass(cls, GenerativeDomain):
        raise Gen3dError(f"domain {name!r} has no generator: it optimises one scene at a time")
    return cls(from_dict(cls.Config, values, "domain_config"))  # type: ignore[call-arg]


def under_other_name(config: GeneratorConfig, domain: str, folder: Path) -> GeneratorConfig:
    """The same checkpoint as a generator of `domain`, for models of several domains.

    Raises:
        Gen3dError: it does not generate that.
    """
    made = type(make_domain(config.domain, config.domain_config))
    # With the defaults of the first name written out: those of the other may differ.
    filled: Any = from_dict(made.Config, config.domain_config)
    if domain not in made.serves(filled):
        raise Gen3dError(f"{folder} holds a checkpoint of domain {config.domain!r}, not {domain!r}")
    return replace(config, domain=domain, domain_config=to_dict(filled))


def fitted_model(domain: GenerativeDomain, diffusion: DiffusionConfig) -> dict[str, Any]:
    """The fields of `TransformerConfig` that follow from the domain and the objective."""
    return {
        **domain.model_fields,
        "classes": dict(domain.class_conditions),
        "scalars": list(domain.scalar_conditions),
        "vectors": dict(domain.vector_conditions),
        "self_conditioning": diffusion.self_condition_rate > 0,
        "step_input": diffusion.shortcut_rate > 0,
    }


def check_fit(config: GeneratorConfig, domain: GenerativeDomain) -> None:
    """Refuse a transformer that does not suit the domain and the objective.

    Raises:
        Gen3dError: it names the field.
    """
    model = to_dict(config.model)
    for name, value in fitted_model(domain, config.diffusion).items():
        if model[name] != value:
            raise Gen3dError(
                f"model.{name} is {model[name]!r}; {config.domain!r} with this diffusion needs {value!r}"
            )
    if config.sampling.autoguidance != 1 and not config.model.self_conditioning:
        raise Gen3dError(
            f"sampling.autoguidance is {config.sampling.autoguidance}; it needs self-conditioning, "
            "diffusion.self_condition_rate above 0"
        )
