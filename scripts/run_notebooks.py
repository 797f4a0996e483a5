"""Executes notebooks in place, each in a fresh kernel and an empty folder, and keeps what they show.

python scripts/run_notebooks.py                          # all of notebooks/
python scripts/run_notebooks.py notebooks/01_*.ipynb     # some

What a cell tagged "live" shows, a viewer to turn with the mouse, is left out: its script is megabytes long,
and pages that run none show nothing of it.
"""

import argparse
import os
import re
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).parents[1] / "notebooks"
LIVE = "live"
CELL_SECONDS = 300
"""After which a cell counts as stuck."""
BAR = re.compile(r"\d+%\|.*\|.*\[.*\]$")
WIDGET = "application/vnd.jupyter.widget-view+json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("notebooks", type=Path, nargs="*")
    for path in parser.parse_args().notebooks or sorted(FOLDER.glob("*.ipynb")):
        start = time.perf_counter()
        notebook = execute(path)
        nbformat.write(notebook, path)
        seconds, size = time.perf_counter() - start, path.stat().st_size / 1e3
        print(f"{path.name}: {seconds:.0f} s, {size:.0f} kB, {pictures(notebook)} pictures")


def execute(path: Path) -> Any:
    """A notebook with the outputs of now; what it writes is gone with its folder.

    Raises:
        CellExecutionError: a cell failed.
    """
    notebook = nbformat.read(path, as_version=4)
    # `!gen3d` must be the one of this interpreter, and so must what it computes.
    here = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    env = {**os.environ, "PATH": here, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
    # Figures are shown in the notebook, whatever is set for scripts without a display.
    env.pop("MPLBACKEND", None)
    with tempfile.TemporaryDirectory() as folder:
        client = NotebookClient(
            notebook,
            timeout=CELL_SECONDS,
            kernel_name="python3",
            record_timing=False,
            resources={"metadata": {"path": folder}},
        )
        client.execute(env=env)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            live = LIVE in cell.metadata.get("tags", [])
            cell.outputs = [] if live else _kept(cell.outputs)
    notebook.metadata = nbformat.from_dict(
        {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        }
    )
    return notebook


def _kept(outputs: list[Any]) -> list[Any]:
    """Outputs without progress bars; one stream's pieces are one output."""
    kept: list[Any] = []
    for output in outputs:
        if WIDGET in output.get("data", {}):
            continue
        if output.output_type == "stream" and kept and kept[-1].get("name") == output.name:
            kept[-1].text += output.text
        else:
            kept.append(output)
    for output in kept:
        if output.output_type == "stream":
            # What a carriage return has written over is not seen on a terminal either.
            lines = [line.rsplit("\r")[-1] for line in output.text.replace("\r\n", "\n").split("\n")]
            output.text = "\n".join(line for line in lines if not BAR.search(line)).lstrip("\n")
    return [output for output in kept if output.output_type != "stream" or output.text.strip()]


def pictures(notebook: Any) -> int:
    """How many PNGs a notebook shows."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return sum("image/png" in output.get("data", {}) for output in outputs)


if __name__ == "__main__":
    main()
