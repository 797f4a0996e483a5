"""Pages of the notebooks: their text, their code, and what they showed when they were last executed."""

import base64
import json
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

FOLDER = Path(__file__).parents[2] / "notebooks"


def on_files(files: Files, config: MkDocsConfig, **_: Any) -> Files:
    for path in sorted(FOLDER.glob("*.ipynb")):
        parts = []
        for number, cell in enumerate(json.loads(path.read_text(encoding="utf-8"))["cells"]):
            source = "".join(cell["source"])
            parts.append(source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```")
            for count, output in enumerate(cell.get("outputs", [])):
                shown, picture = _shown(output)
                if picture is not None:
                    name = f"{path.stem}_{number}_{count}.png"
                    files.append(File.generated(config, f"notebooks/{name}", content=picture))
                    shown = f"![What the cell above shows]({name})"
                parts.append(shown)
        files.append(File.generated(config, f"notebooks/{path.stem}.md", content="\n\n".join(parts)))
    return files


def _shown(output: dict[str, Any]) -> tuple[str, bytes | None]:
    """The text of an output, and its picture if it is one."""
    data = output.get("data", {})
    if "image/png" in data:
        return "", base64.b64decode(data["image/png"])
    if "text/markdown" in data:
        return "".join(data["text/markdown"]), None
    text = "".join(output.get("text", data.get("text/plain", []))).rstrip()
    return (f"```text\n{text}\n```" if text else ""), None
