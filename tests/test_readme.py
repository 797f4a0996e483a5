"""What the README and the documentation tell people to type is what the command line understands."""

import os
import re
import tomllib
from importlib import metadata

import pytest
import yaml
from documented import PAGES, ROOT, gen3d_commands, shell_blocks

from gen3d import cli

COMMANDS = [
    pytest.param(words, id=f"{page.stem}: {' '.join(words)}")
    for page in PAGES
    for block in shell_blocks(page)
    for words in gen3d_commands(block)
]


@pytest.mark.parametrize("words", COMMANDS)
def test_every_command_parses(words: list[str]) -> None:
    if words[-1] == "--help" or words[0].startswith("-"):
        with pytest.raises(SystemExit, match=r"^0$"):
            cli.parse(words)
    else:
        assert cli.parse(words) is not None


def test_there_are_commands_of_every_verb() -> None:
    first = {param.values[0][0] for param in COMMANDS}
    assert {word for word in first if not word.startswith("-")} == set(cli.VERBS)


def test_ci_runs_the_two_commands_of_the_readme() -> None:
    install = [
        line for block in shell_blocks(ROOT / "README.md") for line in block.splitlines() if "venv" in line
    ]
    main, tests = install
    assert "gen3d sample --domain molecule --n 100 --out molecules.sdf" in main
    assert "pytest" in tests
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    lines = [line.removesuffix(' 2>&1 | tee "$work/pytest.log"') for line in script.splitlines()]
    assert main in lines
    assert tests in lines
    assert os.access(ROOT / ".ci" / "run", os.X_OK)


def test_links_of_the_readme_lead_somewhere() -> None:
    for page in (ROOT / "README.md", ROOT / "CONTRIBUTING.md"):
        links = re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text(encoding="utf-8"))
        assert links
        assert [link for link in links if not (ROOT / link).exists()] == []


def test_the_tree_of_the_readme_exists() -> None:
    (tree,) = re.findall(r"```text\n(gen3d/\n.*?)```", (ROOT / "README.md").read_text("utf-8"), re.DOTALL)
    folders: list[str] = []
    for line in tree.splitlines():
        depth = (len(line) - len(line.lstrip())) // 2
        names = [name for name in re.split(r"\s{2,}", line.strip())[0].split() if name != "..."]
        assert [n for n in names if not ROOT.joinpath(*folders[:depth], n).exists()] == []
        folders[depth:] = names[:1]


def test_constraints_pin_what_the_project_depends_on() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    pinned = dict(line.split("==") for line in lines if not line.startswith("#"))
    assert pinned["torch"] == "2.13.0"
    wanted = [
        *project["dependencies"],
        *(r for extra in project["optional-dependencies"].values() for r in extra),
    ]
    names = {re.split(r"[^\w.-]", requirement, maxsplit=1)[0].replace("_", "-") for requirement in wanted}
    assert names - {"gen3d"} <= pinned.keys()


def test_versions_agree() -> None:
    import gen3d

    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    assert citation["version"] == gen3d.__version__ == metadata.version("gen3d")
