"""Every command and every Python block of the README and of the documentation is run, small."""

import re
import urllib.request
from pathlib import Path

import pytest
from documented import PAGES, blocks, of_gen3d, shell_blocks, shell_commands
from small_commands import NOT_RUN, STARTERS, bring, domain_of, smaller

from gen3d import cli
from gen3d.flags import flag_value
from gen3d.generator import Generator

pytestmark = pytest.mark.slow

SIZES = (
    "--n",
    "--seed",
    "--max-minutes",
    "--limit",
    "--strictness",
    "--train.steps",
    "--train.batch_size",
    "--train.learning_rate",
)
"""Flags whose values a small command does not keep, or by which nothing else is run."""


def alike(words: list[str]) -> list[str]:
    """A command without sizes, and without the names of what it writes: alike ones need to run but once."""
    pairs = list(zip(words, ["", *words], strict=False))
    kept = [(word, before) for word, before in pairs if word not in SIZES and before not in SIZES]
    return [f"*{Path(word).suffix}" if before == "--out" else word for word, before in kept]


READ = [page for page in PAGES if page.name != "CONTRIBUTING.md"]
COMMANDS = {
    " ".join(words): words
    for page in READ
    for block in shell_blocks(page)
    for words in shell_commands(block)
    if not words[0].startswith("#")
}
"""Each command once, wherever it stands."""
STARTED = {
    " ".join(gen3d): gen3d
    for words in COMMANDS.values()
    if (gen3d := of_gen3d(words)) is not None and (len(words) == len(gen3d) + 1 or words[0] in STARTERS
                                                   or words[0].endswith("/gen3d"))
}  # fmt: skip
RUN = {" ".join(alike(words)): words for words in STARTED.values()}
"""One of those that are the same when small."""
BLOCKS = [
    pytest.param(code, id=f"{page.stem} {number}")
    for page in READ
    for number, code in enumerate(blocks(page, "python"))
]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where files that commands read are made, once each."""
    return tmp_path_factory.mktemp("store")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that a command runs in."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GEN3D_CACHE", str(tmp_path))
    return tmp_path


def test_what_is_not_run_is_listed() -> None:
    left = [text for text, words in COMMANDS.items() if " ".join(of_gen3d(words) or [""]) not in STARTED]
    assert [text for text in left if not text.startswith(tuple(NOT_RUN))] == []
    assert [start for start in NOT_RUN if not any(text.startswith(start) for text in left)] == []


@pytest.mark.parametrize("words", [pytest.param(words, id=" ".join(words)) for words in RUN.values()])
def test_a_command_does_what_it_says(
    words: list[str],
    store: Path,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = [word.replace("$SLURM_ARRAY_TASK_ID", "0") for word in words]
    if words[-1] == "--help" or words[0].startswith("-"):
        with pytest.raises(SystemExit, match=r"^0$"):
            cli.main(words)
        assert capsys.readouterr().out
        return
    bring(["configs/"], store, folder)
    small = smaller(words, folder) if words[0] != "view" else words
    bring(small, store, folder)
    before = {path for path in folder.rglob("*")}
    if words[0] == "view":
        look(words, monkeypatch)
        return
    status = cli.main(small)
    assert (status, capsys.readouterr().err if status else "") == (0, "")
    written = {path for path in folder.rglob("*")} - before
    for path in outputs(words):
        found = [file for file in written if file == folder / path or (folder / path) in file.parents
                 or (file.parent == (folder / path).parent and file.stem.startswith(path.stem))]  # fmt: skip
        assert any(file.is_file() and file.stat().st_size for file in found), f"{path} was not written"


def look(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """`gen3d view` serves a page until Ctrl-C."""
    pages = []

    def browse(address: str) -> None:
        with urllib.request.urlopen(address, timeout=20) as response:
            pages.append(response.read())

    def interrupt(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("webbrowser.open", browse)
    monkeypatch.setattr("gen3d.verbs.view.time", type("time", (), {"sleep": staticmethod(interrupt)}))
    assert cli.main(words) == cli.INTERRUPTED
    assert b"<html" in pages[0].lower()


def outputs(words: list[str]) -> list[Path]:
    """The files and folders that a command says it writes."""
    if words[0] == "export":
        return [Path(words[2])]
    named = flag_value(words, "--out")
    if named is not None:
        out = Path(named)
        pages = {"sample": f"{out.stem}.report.html"}
        return [out, *([out.with_name(pages[words[0]])] if "--report" in words and words[0] in pages else [])]
    if words[0] == "sample":
        return [Path(f"{domain_of(words)}s")]
    if words[0] == "evaluate":
        samples = Path(flag_value(words, "--samples") or "")
        beside = samples.parent if samples.suffix else samples
        return [beside / "metrics.json", *([beside / "report.html"] if "--report" in words else [])]
    return []


@pytest.mark.parametrize("code", BLOCKS)
def test_a_block_of_python_runs(
    code: str, store: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bring(re.findall(r'"([^"\n]+)"', code), store, folder)
    sample, edit = Generator.sample, Generator.edit
    few = {"steps": 2}
    monkeypatch.setattr(Generator, "sample", lambda self, n, **given: sample(self, min(n, 2), **few | given))
    monkeypatch.setattr(Generator, "edit", lambda self, given, **asked: edit(self, given, **few | asked))
    pushed: list[str] = []
    monkeypatch.setattr(Generator, "push_to_hub", lambda self, name: pushed.append(name))  # needs the network
    exec(compile(code, "block", "exec"), {"__name__": "block"})
    assert len(pushed) == code.count("push_to_hub")
