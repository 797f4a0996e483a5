"""The floors of the house, read from the imports: none goes up, none goes round."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import gen3d

ROOT = Path(gen3d.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))

FLOORS = [
    {
        "errors",
        "types",
        "files",
        "fetch",
        "sweethome",
        "colours",
        "judges",
        "clip",
        "config",
        "draws",
        "metrics",
        "sets",
        "moments",
        "parallel",
        "progress",
        "heap",
        "media",
        "tokens",
        "checkpoint",
        "io",
        "batches",
        "version",
        "weights",
    },
    {"nn", "diffusion", "fields", "captures", "scenes", "optim", "sharding"},
    {"domains"},
    {"generator", "generator_config", "loading", "interpolation", "locate"},
    {"train", "optimise", "run_config", "stage", "evaluate", "curves", "viz", "report", "info", "viewer"},
    {"cli", "completion", "flags", "plugins", "verbs", "__main__"},
]
ROOT_MODULE = "gen3d"


def module_name(file: Path) -> str:
    parts = [ROOT_MODULE, *file.relative_to(ROOT).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(file): file for file in FILES}


def imported(file: Path, lazy: bool) -> set[str]:
    """Modules of ours that a file imports when it is; with `lazy`, also those its functions import."""
    found: set[str] = set()
    for node in _imports(ast.parse(file.read_text(encoding="utf-8")), lazy):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        else:
            assert node.level == 0, f"{file} has a relative import"
            base = node.module or ""
            found |= {f"{base}.{a.name}" if f"{base}.{a.name}" in MODULES else base for a in node.names}
    return found & MODULES.keys()


def _imports(node: ast.AST, lazy: bool) -> Iterator[ast.Import | ast.ImportFrom]:
    for child in ast.iter_child_nodes(node):
        in_function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)
        for_types_only = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child
        elif not for_types_only and (lazy or not in_function):
            yield from _imports(child, lazy)


def floor(module: str) -> int:
    name = module.split(".")[1]
    floors = [number for number, names in enumerate(FLOORS) if name in names]
    assert floors, f"{module} stands on no floor; give it one in tests/test_architecture.py"
    return floors[0]


@pytest.mark.parametrize("module", sorted(MODULES.keys() - {ROOT_MODULE}))
def test_no_import_goes_up(module: str) -> None:
    up = {m for m in imported(MODULES[module], lazy=True) - {ROOT_MODULE} if floor(m) > floor(module)}
    assert not up


def test_no_cycles() -> None:
    graph = {module: imported(file, lazy=False) - {module, ROOT_MODULE} for module, file in MODULES.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_the_network_knows_no_noise_process() -> None:
    nn = [file for module, file in MODULES.items() if module.startswith("gen3d.nn")]
    assert not any(m.startswith("gen3d.diffusion") for file in nn for m in imported(file, lazy=True))


def test_a_domain_imports_no_other_domain() -> None:
    for module, file in MODULES.items():
        parts = module.split(".")
        if parts[1:2] != ["domains"] or len(parts) < 3:
            continue
        others = [m.split(".")[2] for m in imported(file, lazy=True) if m.startswith("gen3d.domains.")]
        assert set(others) <= {parts[2], "base"}, module


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_files_are_short(file: Path) -> None:
    assert len(file.read_text(encoding="utf-8").splitlines()) < 500


def test_importing_gen3d_imports_no_torch() -> None:
    code = "import gen3d, sys; print('torch' in sys.modules, 'numpy' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).split() == ["False", "False"]


def test_nothing_is_unpickled() -> None:
    for file in FILES:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("np.load", "numpy.load"):
                assert "allow_pickle=False" in ast.unparse(node), file
            if isinstance(node, ast.Call):
                if ast.unparse(node.func) == "torch.load":
                    assert "weights_only=True" in ast.unparse(node), file
                unsafe = ("pickle.load", "pickle.loads", "joblib.load", "yaml.load")
                assert ast.unparse(node.func) not in unsafe, file
