"""Every file in configs/ is a run that can be built, and its header says how."""

from contextlib import suppress
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
import torch
import yaml
from hypothesis import given, settings
from test_readme import gen3d_commands

from gen3d.cli import parse
from gen3d.config import from_dict, load_yaml, merge, to_dict
from gen3d.domains import find
from gen3d.domains.atoms.options import MoleculeOptions
from gen3d.domains.base import SceneDomain
from gen3d.errors import Gen3dError
from gen3d.generator import Generator
from gen3d.train import RunConfig, run_config
from gen3d.verbs import Sample, Train

CONFIGS = sorted((Path(__file__).parents[1] / "configs").glob("*.yaml"))
each = pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)


SCENES = [path for path in CONFIGS if issubclass(find(load_yaml(path)["domain"]), SceneDomain)]
drawn = pytest.mark.parametrize(
    "path", [path for path in CONFIGS if path not in SCENES], ids=lambda path: path.stem
)
fitted = pytest.mark.parametrize("path", SCENES, ids=lambda path: path.stem)


@fitted
def test_a_fit_survives_a_round_trip(path: Path) -> None:
    kind = find(load_yaml(path)["domain"]).RunConfig
    config = from_dict(kind, load_yaml(path))
    assert from_dict(kind, to_dict(config)) == config


@drawn
def test_it_builds(path: Path) -> None:
    config = run_config(load_yaml(path))
    with torch.device("meta"):
        generator = Generator(config.generator())
    assert sum(p.numel() for p in generator.parameters()) > 0


@drawn
def test_it_survives_a_round_trip(path: Path) -> None:
    config = run_config(load_yaml(path))
    assert from_dict(RunConfig, to_dict(config)) == config


@each
def test_its_header_has_the_command(path: Path) -> None:
    header = [line[1:].strip() for line in path.read_text().splitlines() if line.startswith("#")]
    commands = [parse(words) for words in gen3d_commands("\n".join(header))]
    named = [command.config for command in commands if isinstance(command, Train)]
    named += [getattr(command.options, "config", None) for command in commands if isinstance(command, Sample)]
    assert f"configs/{path.name}" in {str(config) for config in named}


@each
def test_its_name_starts_with_its_domain_or_says_joint(path: Path) -> None:
    domain = load_yaml(path)["domain"]
    assert path.stem.split("_")[0] in (domain, "joint")


@pytest.mark.parametrize(("size", "millions"), [("s", 32.8), ("b", 130.2), ("l", 579.0), ("xl", 674.7)])
def test_dit_3d_has_the_published_sizes(size: str, millions: float) -> None:
    """Table 4 of arXiv 2307.01831 counts a fixed table of 512 positions; ours are computed. One class."""
    values = load_yaml(Path(__file__).parents[1] / "configs" / f"shape_{size}_paper.yaml")
    values["domain_config"]["classes"] = ["chair"]
    config = run_config(values)
    with torch.device("meta"):
        generator = Generator(config.generator())
    count = sum(p.numel() for p in generator.parameters()) + 512 * config.model.width
    assert round(count / 1e6, 1) == millions


def test_every_domain_has_a_debug_config() -> None:
    from gen3d import domains

    assert {f"{name}_debug" for name in domains.TABLE} <= {path.stem for path in CONFIGS}


def test_options_may_be_written_as_on_the_command_line() -> None:
    found = from_dict(
        MoleculeOptions, {"elements": "C, H,O", "property": "gap=0.2", "scaffold": Path("a.sdf")}
    )
    assert found == MoleculeOptions(elements=("C", "H", "O"), property=("gap=0.2",), scaffold="a.sdf")


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 10) | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=5,
)
"""What YAML can hold."""
DEBUG = load_yaml(Path(__file__).parents[1] / "configs" / "molecule_debug.yaml")


def places(values: dict[str, Any], above: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Where something stands in nested mappings, the mappings themselves included."""
    found = []
    for key, value in values.items():
        found += [(*above, key), *(places(value, (*above, key)) if isinstance(value, dict) else [])]
    return found


@pytest.mark.parametrize("place", places(to_dict(run_config(DEBUG))), ids=".".join)
@settings(max_examples=15, deadline=None)
@given(value=PLAIN)
def test_anything_in_any_place_builds_or_is_refused(place: tuple[str, ...], value: Any) -> None:
    for key in reversed(place):
        value = {key: value}
    with suppress(Gen3dError):
        config = run_config(merge(DEBUG, value))
        with torch.device("meta"):
            Generator(config.generator())


@settings(max_examples=300, deadline=None)
@given(text=st.text(alphabet="ab:-[]{}&*!|>'\"#%@, \n\t0.", max_size=40) | PLAIN.map(yaml.safe_dump))
def test_any_text_is_yaml_or_is_refused(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_text(text, encoding="utf-8")
    with suppress(Gen3dError):
        assert isinstance(load_yaml(path), dict)


def test_yaml_without_an_end_is_refused(tmp_path: Path) -> None:
    (tmp_path / "deep.yaml").write_text("[" * 3000)
    with pytest.raises(Gen3dError, match="is not valid YAML"):
        load_yaml(tmp_path / "deep.yaml")
