"""Every notebook runs from the first cell to the last, and what is committed of it can be looked at."""

import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import nbformat
import pytest

from scripts.run_notebooks import FOLDER, LIVE, WIDGET, execute, pictures

NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
MOST = 1_000_000
"""Bytes of a notebook, pictures included."""
PATHS = re.compile(rf"/home/|/Users/|/root/|{re.escape(str(FOLDER.parent))}|/tmp/|[A-Z]:\\\\|site-packages")
"""Of somebody's machine."""
EXTRAS = {
    "atoms": ("rdkit", "pymatgen", "ase"),
    "shapes": ("trimesh", "skimage"),
    "scenes": ("kornia", "imageio", "embreex"),
    "text": ("transformers", "xatlas"),
    "viewer": ("py3Dmol", "plotly"),
    "eval": ("chgnet", "tblite", "smact"),
    "dev": ("ipykernel", "matplotlib"),
}
NEEDS = {
    "00": "atoms shapes text viewer dev",
    "01": "atoms eval viewer dev",
    "02": "atoms eval viewer dev",
    "03": "shapes viewer dev",
    "04": "scenes dev",
    "05": "text scenes dev",
    "06": "text scenes dev",
    "07": "atoms shapes dev",
    "08": "dev",
}


def named(path: Path) -> str:
    return path.stem


def read(path: Path) -> Any:
    return nbformat.read(path, as_version=4)


def test_there_are_notebooks_and_all_are_listed() -> None:
    listed = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert NOTEBOOKS
    assert {path.name[:2] for path in NOTEBOOKS} == set(NEEDS)
    assert all(f"({path.name})" in listed for path in NOTEBOOKS)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=named)
def test_what_is_committed_can_be_looked_at(path: Path) -> None:
    notebook = read(path)
    nbformat.validate(notebook)
    assert path.stat().st_size < MOST
    assert pictures(notebook) >= 1
    assert notebook.metadata.kernelspec.name == "python3"
    assert not PATHS.search(path.read_text(encoding="utf-8"))
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    for cell in code:
        assert set(cell.metadata) <= {"tags"}
        assert not cell.outputs or LIVE not in cell.metadata.get("tags", [])
        for output in cell.outputs:
            assert output.output_type != "error"
            assert output.get("name") != "stderr", output.text
            kinds = set(output.get("data", {}))
            assert not {k for k in kinds if k == WIDGET or "plotly" in k or "3dmol" in k}
            assert "<script" not in "".join(output.get("data", {}).get("text/html", ""))


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=named)
def test_it_runs_and_shows_as_many_pictures(path: Path) -> None:
    for extra in NEEDS[path.name[:2]].split():
        missing = [module for module in EXTRAS[extra] if find_spec(module) is None]
        if missing:
            pytest.skip(f"{', '.join(missing)} of the extra {extra!r} is not installed")
    executed = execute(path)
    outputs = [output for cell in executed.cells for output in cell.get("outputs", [])]
    assert not [output for output in outputs if output.output_type == "error"]
    assert pictures(executed) == pictures(read(path))
