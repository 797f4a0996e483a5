"""Every file in configs/ is a run that can be built, and its header says how."""

from pathlib import Path

import pytest
import torch
from test_readme import gen3d_commands

from gen3d.cli import Train, parse
from gen3d.config import from_dict, load_yaml, to_dict
from gen3d.generator import Generator
from gen3d.train import RunConfig, run_config

CONFIGS = sorted((Path(__file__).parents[1] / "configs").glob("*.yaml"))
each = pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)


@each
def test_it_builds(path: Path) -> None:
    config = run_config(load_yaml(path))
    with torch.device("meta"):
        generator = Generator(config.generator())
    assert sum(p.numel() for p in generator.parameters()) > 0


@each
def test_it_survives_a_round_trip(path: Path) -> None:
    config = run_config(load_yaml(path))
    assert from_dict(RunConfig, to_dict(config)) == config


@each
def test_its_header_has_the_command(path: Path) -> None:
    header = [line[1:].strip() for line in path.read_text().splitlines() if line.startswith("#")]
    commands = [parse(words) for words in gen3d_commands("\n".join(header))]
    trainings = [command for command in commands if isinstance(command, Train)]
    assert any(str(command.config) == f"configs/{path.name}" for command in trainings)


@each
def test_its_name_starts_with_its_domain_or_says_joint(path: Path) -> None:
    domain = load_yaml(path)["domain"]
    assert path.stem.split("_")[0] in (domain, "joint")


def test_every_domain_has_a_debug_config() -> None:
    from gen3d import domains

    assert {f"{name}_debug" for name in domains.TABLE} <= {path.stem for path in CONFIGS}
