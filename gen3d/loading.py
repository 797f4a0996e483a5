"""From a name or a folder to what can be used."""

from pathlib import Path
from typing import Any

import torch

from gen3d import checkpoint, domains
from gen3d.domains.base import SceneDomain
from gen3d.generator import Generator


def load(source: str | Path, device: str | torch.device | None = None) -> Any:
    """A generator, ready to sample (see `Generator.from_pretrained`), or a fitted scene, ready to be seen.

    Args:
        source: a domain's name, a folder (of a checkpoint or a run) or a hub id.
        device: where a generator computes; a scene stays on the processor.

    Raises:
        Gen3dError: there is no such checkpoint, or it is damaged.
    """
    folder = Path(source) / "checkpoint" if (Path(source) / "checkpoint").is_dir() else Path(source)
    if folder.is_dir():
        domain = domains.find(checkpoint.read_config(folder)["domain"])
        if issubclass(domain, SceneDomain):
            return domain.load(folder)
    return Generator.from_pretrained(source, device)
