"""mkdocs hook: a line `{{ gen3d VERB --help }}` of a page becomes the help text of that command."""

import contextlib
import io
import os
import re
from typing import Any

from gen3d.cli import parse


def on_page_markdown(markdown: str, **_: Any) -> str:
    return re.sub(r"^\{\{ gen3d (.*) \}\}$", lambda match: _help(match[1]), markdown, flags=re.MULTILINE)


def _help(arguments: str) -> str:
    os.environ["COLUMNS"] = "100"
    text = io.StringIO()
    with contextlib.redirect_stdout(text), contextlib.suppress(SystemExit):
        parse(arguments.split())
    return f"```text\n{text.getvalue().rstrip()}\n```"
