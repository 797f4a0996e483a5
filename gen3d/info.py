"""What is installed here: versions, devices, extras, and the checkpoints that come with gen3d."""

import os
import platform
import re
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml

from gen3d import __version__, checkpoint, domains
from gen3d.locate import SHIPPED

SHOWN = ("torch", "numpy", "rdkit", "pymatgen", "ase", "accelerate", "safetensors", "tyro")
"""Packages whose versions can change what is generated."""

HEADLINES = (
    "validity",
    "uniqueness",
    "novelty",
    "molecule_stability",
    "1nna_cd",
    "cov_cd",
    "1nna_emd",
    "1nna_iou",
    "cov_iou",
    "colour_right",
    "class_right",
)
"""Metrics, all in percent, by which a model is judged first: shown where a model card has them."""


def versions() -> dict[str, str]:
    """Versions of gen3d, Python and of those packages of `SHOWN` that are installed."""
    found = {"gen3d": __version__, "python": platform.python_version()}
    for package in SHOWN:
        if (version := _version(package)) is not None:
            found[package] = version
    return found


def collect() -> dict[str, Any]:
    """Everything that `gen3d info` shows, ready for JSON."""
    return {
        "versions": versions(),
        "devices": devices(),
        "domains": domains.names(),
        "extras": {extra: missing(extra) for extra in extras()},
        "checkpoints": {folder.parent.name: shipped(folder.parent) for folder in _shipped_weights()},
    }


def devices() -> list[dict[str, Any]]:
    """The CPU and every GPU that torch sees."""
    import torch

    found: list[dict[str, Any]] = [
        {"name": "cpu", "threads": torch.get_num_threads(), "cores": os.cpu_count()}
    ]
    for index in range(torch.cuda.device_count()):
        device = torch.cuda.get_device_properties(index)
        found.append({"name": f"cuda:{index}", "model": device.name, "memory_gb": device.total_memory / 1e9})
    if torch.backends.mps.is_available():
        found.append({"name": "mps"})
    return found


def extras() -> list[str]:
    """The extras that `pip install "gen3d[EXTRA]"` knows."""
    try:
        return metadata.metadata("gen3d").get_all("Provides-Extra") or []
    except metadata.PackageNotFoundError:  # run from a checkout that is not installed
        return []


def missing(extra: str) -> list[str]:
    """The packages of one of `extras()` that are not installed."""
    lines = metadata.requires("gen3d") or []
    marked = [line for line in lines if re.search(rf"extra\s*==\s*['\"]{extra}['\"]", line)]
    names = [re.split(r"[^\w.-]", line, maxsplit=1)[0] for line in marked]
    return [name for name in names if _version(name) is None]


def shipped(folder: Path) -> dict[str, Any]:
    """Size, domain and measured numbers of a checkpoint, the latter from its model card."""
    weights = folder / checkpoint.WEIGHTS
    return {
        "domain": checkpoint.read_config(folder).get("domain"),
        "megabytes": round(weights.stat().st_size / 1e6, 1),
        "metrics": card_metrics(folder / checkpoint.CARD),
    }


def render(facts: Mapping[str, Any]) -> str:
    """`collect()` as text."""
    lines = ["versions   " + ", ".join(f"{name} {version}" for name, version in facts["versions"].items())]
    for device in facts["devices"]:
        details = ", ".join(f"{key} {value}" for key, value in device.items() if key != "name")
        lines.append(f"device     {device['name']}  {details}")
    lines.append("domains    " + ", ".join(facts["domains"]))
    for extra, absent in facts["extras"].items():
        state = "installed" if not absent else f'lacks {", ".join(absent)}: pip install "gen3d[{extra}]"'
        lines.append(f"extra      {extra}: {state}")
    for name, card in facts["checkpoints"].items():
        lines.append(f"checkpoint {name}: domain {card['domain']}, {card['megabytes']} MB; {_headline(card)}")
    if not facts["checkpoints"]:
        lines.append("checkpoint none")
    lines.append("gen3d info --json has every number of the checkpoints")
    return "\n".join(lines)


def _headline(card: Mapping[str, Any]) -> str:
    """The first things to know of a model, in one line."""
    found = {name: card["metrics"][name] for name in HEADLINES if name in card["metrics"]}
    return ", ".join(f"{name} {value:.1f}%" for name, value in found.items()) or "no numbers"


def _shipped_weights() -> list[Path]:
    return sorted(SHIPPED.glob(f"*/{checkpoint.WEIGHTS}"))


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def card_metrics(card: Path) -> dict[str, Any]:
    """The numbers under `model-index` in a model card's front matter, which is the hub's place for them."""
    if not card.is_file():
        return {}
    parts = card.read_text(encoding="utf-8").split("---\n", maxsplit=2)
    front = yaml.safe_load(parts[1]) if len(parts) == 3 and not parts[0].strip() else None
    index = (front or {}).get("model-index") or []
    results = [result for model in index for result in model.get("results", [])]
    metrics = [metric for result in results for metric in result.get("metrics", [])]
    return {metric.get("name") or metric["type"]: metric["value"] for metric in metrics}
