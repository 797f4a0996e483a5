"""Pages of the model cards that lie beside the shipped weights."""

import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

WEIGHTS = Path(__file__).parents[2] / "gen3d" / "weights"


def on_files(files: Files, config: MkDocsConfig, **_: Any) -> Files:
    for card in sorted(WEIGHTS.glob("*/README.md")):
        # The front matter is for the hub; the comments mark tables that a script fills.
        text = card.read_text(encoding="utf-8").split("---\n", maxsplit=2)[2]
        text = re.sub(r"^<!-- .* -->\n", "", text, flags=re.MULTILINE)
        text = re.sub(r"\.\./([\w-]+)/README\.md", r"\1.md", text)
        files.append(File.generated(config, f"cards/{card.parent.name}.md", content=text))
    return files
