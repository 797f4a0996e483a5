"""Completion in a real bash."""

import shutil
import subprocess

import pytest

from gen3d import cli, domains
from gen3d.completion import script
from gen3d.errors import Gen3dError


def proposed(*words: str) -> list[str]:
    """What bash proposes for the last of the words after `gen3d`."""
    typed = " ".join(f"'{word}'" for word in ("gen3d", *words))
    program = (
        f"{script('bash')}\nCOMP_WORDS=({typed}); COMP_CWORD={len(words)}; _gen3d\n"
        'printf "%s\\n" "${COMPREPLY[@]}"'
    )
    bash = shutil.which("bash")
    assert bash is not None
    return subprocess.run([bash, "-c", program], capture_output=True, text=True, check=True).stdout.split()


def test_verbs_domains_and_flags_are_proposed(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert proposed("") == list(cli.VERBS)
    assert proposed("sa") == ["sample"]
    assert proposed("sample", "--domain", "") == list(domains.TABLE)
    assert proposed("export", "--so") == []
    assert set(proposed("sample", "--s")) >= {"--seed", "--steps", "--sampler", "--shard"}
    assert "--formula" not in proposed("sample", "--domain", "shape", "--")
    assert {"--formula", "--seed"} <= set(proposed("sample", "--domain", "molecule", "--"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.sdf").touch()
    assert proposed("view", "mi") == ["mine.sdf"]


def test_the_command_prints_it(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match=r"^0$"):
        cli.parse(["--completion", "zsh"])
    assert capsys.readouterr().out == script("zsh")
    with pytest.raises(Gen3dError, match="no completion for shell 'fish'; allowed: bash, zsh"):
        cli.parse(["--completion", "fish"])
