"""What the README and the documentation tell people to type: their pages, code blocks and commands."""

import os
import re
import shlex
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(page: Path, language: str) -> list[str]:
    """The fenced blocks of a language."""
    text = page.read_text(encoding="utf-8")
    return re.findall(rf"^\s*```{language}\n(.*?)^\s*```$", text, re.DOTALL | re.MULTILINE)


def shell_blocks(page: Path) -> list[str]:
    return blocks(page, "bash")


def shell_commands(text: str) -> list[list[str]]:
    """The words of every command of a shell text, without comments."""
    commands = []
    # What a shell sources is a command as well; what it computes for a variable is not looked into.
    text = re.sub(r"source <\((.*?)\)", r"\1", text.replace("\\\n", " "))
    text = re.sub(r"\$\(.*?\)", "$()", text)
    for line in re.sub(r"(^|\s)#.*", "", text, flags=re.MULTILINE).splitlines():
        for part in re.split(r"&&|\|\||[;|]", line):
            try:
                words = shlex.split(part)
            except ValueError:  # prose with an apostrophe
                continue
            if words:
                commands.append([word for word in words if word not in (">", "&")])
    return commands


def of_gen3d(words: list[str]) -> list[str] | None:
    """The words after `gen3d`, also where another program starts it; None where it is not run."""
    places = [i for i, word in enumerate(words) if os.path.basename(word) == "gen3d"]
    runs = [i for i in places if i == 0 or words[i - 1] == "-m"]
    return words[runs[0] + 1 :] if runs else None


def gen3d_commands(text: str) -> list[list[str]]:
    """The words after `gen3d` in every command of a shell text that runs it."""
    return [words for command in shell_commands(text) if (words := of_gen3d(command)) is not None]
