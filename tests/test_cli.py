"""The command line: what it accepts, what it says when it does not, and what it leaves on the disk."""

import json
import os
import re
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from toy_domain import ENTRY, RingDomain, write_rings

from gen3d import cli, domains, io
from gen3d.errors import Gen3dError
from gen3d.generator import Generator
from gen3d.train import run_config

ROOT = Path(__file__).parents[1]
TINY = ROOT / "data" / "tiny"


def run(*words: str, **options: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "gen3d", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, **options)


def fails(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The one line that a command complains with."""
    assert cli.main(words) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    assert line.startswith("gen3d: error: ")
    return line


# ---- start-up


@pytest.mark.parametrize(
    "words",
    ["--help", "--version", *(f"{verb} --help" for verb in cli.VERBS)]
    + [f"sample --domain {name} --help" for name in ("molecule", "crystal")],
)
def test_help_imports_nothing_heavy(words: str) -> None:
    code = (
        "import sys; from gen3d.cli import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit as stop: assert not stop.code\n"
        "heavy = {'torch', 'numpy', 'scipy', 'rdkit', 'pymatgen', 'ase', 'accelerate', 'huggingface_hub'}\n"
        "print('HEAVY', heavy & sys.modules.keys())"
    )
    out = subprocess.check_output([sys.executable, "-c", code, *words.split()], text=True)
    assert out.endswith("HEAVY set()\n")
    assert len(out.splitlines()) > 1


def test_the_overview_names_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match=r"^0$"):
        cli.main([])
    text = capsys.readouterr().out
    assert all(f"\n  {verb} " in text for verb in cli.VERBS)


@pytest.mark.parametrize("name", ["molecule", "crystal"])
def test_the_options_of_the_table_are_those_of_the_class(name: str) -> None:
    assert domains.find(name).SampleOptions is domains.find_options(name)


# ---- what is said about a mistake


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ("smaple", ["'smaple'", "sample, train, evaluate, prepare, export, view, info"]),
        ("sample", ["--domain"]),
        ("sample --domain molecul", ["'molecul'", "molecule, crystal"]),
        ("sample --domain=molecul", ["'molecul'", "molecule, crystal"]),
        ("sample --domain molecule --n 0", ["--n is 0", "at least 1"]),
        ("sample --domain molecule --n -3", ["--n is -3", "at least 1"]),
        ("sample --domain molecule --n x", ["--n", "'x'"]),
        ("sample --domain molecule --n", ["--n"]),
        ("sample --domain molecule --steps 0", ["--steps is 0"]),
        ("sample --domain molecule --batch-size 0", ["--batch-size is 0"]),
        ("sample --domain molecule --shard 2/2", ["'2/2'", "0 <= I < K"]),
        ("sample --domain molecule --shard first", ["'first'"]),
        ("sample --domain molecule --colour red", ["'--colour'", "--formula", "--seed"]),
        ("sample --domain crystal --scaffold a.sdf", ["'--scaffold'", "--formula"]),
        ("sample --domain molecule --out a.docx", ["'.docx'", ".sdf"]),
        ("sample --domain molecule --checkpoint /nowhere", ["/nowhere"]),
        ("sample --domain molecule --checkpoint=", ["no checkpoint"]),
        ("sample --domain molecule --elements", ["--elements", "at least one word"]),
        ("sample --domain molecule --property", ["--property", "at least one word"]),
        ("sample --domain molecule --guidance nan", ["guidance is nan", "finite"]),
        (
            "train --domain molecule --data a --out b --train.codec_steps 3 --max-minutes -1",
            ["max_minutes is -1"],
        ),
        ("train --data a", ["--out"]),
        ("train --data a --out b", ["--domain", "molecule, crystal"]),
        ("train --domain molecule --data a --out b --config /no.yaml", ["/no.yaml"]),
        ("train --domain molecule --data a --out b --size huge", ["'huge'", "xs, s, b, l, xl"]),
        ("train --domain molecule --data a --out b --train.stepz 3", ["train.stepz", "steps"]),
        ("train --domain molecule --data a --out b --train.steps many", ["train.steps", "'many'"]),
        ("train --domain molecule --data a --out b --train.steps", ["--train.steps", "value"]),
        ("train --domain molecule --data a --out b --steps 3", ["'--steps'", "--max-minutes"]),
        ("prepare --domain molecule --source /nowhere --out OUT", ["/nowhere", "qm9"]),
        ("prepare --domain crystal --source qm9 --out OUT", ["qm9", "molecule"]),
        ("evaluate --domain molecule --samples /no.sdf --reference qm9", ["/no"]),
        ("evaluate --domain molecule --samples a --reference b --checks xtb=abc", ["xtb is 'abc'"]),
        ("evaluate --domain molecule --samples a --reference b --checks xtb=-1", ["xtb is -1", "at least 0"]),
        ("evaluate --domain molecule --samples a --reference b --checks xtb", ["xtb is True", "int"]),
        ("evaluate --domain molecule --samples a --reference b --checks xtb=[", ["'xtb=['", "NAME=VALUE"]),
        ("evaluate --domain crystal --samples a --reference b --checks matcher=[1]", ["matcher is [1]"]),
        ("export /no.sdf b.xyz", ["/no.sdf"]),
        ("export a.sdf b.docx", ["'.docx'", ".xyz"]),
        ("export a.sdf /proc/nowhere/b.xyz", ["/proc/nowhere"]),
        ("info extra", ["'extra'"]),
    ],
)
def test_a_mistake_is_one_line_that_names_it(
    words: str, named: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    line = fails(capsys, *words.replace("OUT", str(tmp_path / "out")).split())
    for name in named:
        assert name in line


def test_bad_yaml_is_one_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("model: {width: [1\n")
    line = fails(capsys, *f"train --data a --out b --config {tmp_path / 'bad.yaml'}".split())
    assert "bad.yaml" in line
    (tmp_path / "odd.yaml").write_text("domain: molecule\nmodel: 3\n")
    for size in ("", "--size xs"):
        line = fails(capsys, *f"train --data a --out b --config {tmp_path / 'odd.yaml'} {size}".split())
        assert "model must be a mapping, got 3" in line


def test_a_folder_in_the_place_of_the_file(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "a.xyz").mkdir()
    assert "folder" in fails(capsys, "export", str(TINY / "qm9.sdf"), str(tmp_path / "a.xyz"))


def test_a_mistake_inside_a_process_has_no_traceback() -> None:
    done = run("sample", "--domain", "foo")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines() == [
        "gen3d: error: unknown domain 'foo'; allowed: molecule, crystal, shape, image, object, "
        "scene-prior, dynamic-scene, latent-nerf, voxel-edit"
    ]


def test_a_bug_keeps_its_traceback_and_is_status_1() -> None:
    code = (
        "import sys; from gen3d import cli\n"
        "def fail(self): raise ValueError('a bug')\n"
        "cli.VERBS['info'].run = fail\n"
        "sys.exit(cli.main(['info']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("Traceback")
    assert done.stderr.endswith("ValueError: a bug\n")


def test_the_documented_statuses_are_those_of_the_code() -> None:
    page = (ROOT / "docs" / "cli.md").read_text("utf-8")
    table = page.partition("## Exit status")[2].partition("\n## ")[0]
    documented = [int(number) for number in re.findall(r"^\| (\d+) \|", table, re.MULTILINE)]
    assert documented == [0, 1, cli.USER_ERROR, cli.INTERRUPTED, cli.BROKEN_PIPE]


def test_too_few_valid_samples_are_not_lost(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gen3d.generator.MAX_ROUNDS", 1)
    out = tmp_path / "valid.sdf"
    words = f"sample --domain molecule --n 24 --steps 8 --valid-only --quiet --out {out}".split()
    found = re.search(r"of 24 samples only (\d+) are valid; 24 were asked for", fails(capsys, *words))
    assert found is not None
    assert 0 < len(io.read(out)) == int(found[1]) < 24
    assert json.loads((tmp_path / "samples.json").read_text())["counts"]["drawn"] == 24


# ---- interruptions


def test_ctrl_c_is_130() -> None:
    code = (
        "import signal, sys, time; from gen3d import cli\n"
        # a parent in the background may have handed down that interrupts are ignored
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "def wait(self): print('ready', flush=True); time.sleep(60)\n"
        "cli.VERBS['info'].run = wait\n"
        "sys.exit(cli.main(['info']))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    _, complaint = process.communicate(timeout=60)
    assert (process.returncode, complaint) == (130, "gen3d: interrupted\n")


def test_a_reader_that_leaves_is_no_error() -> None:
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "gen3d", "info"], stdout=write, stderr=subprocess.PIPE, text=True, check=False
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (141, "")


# ---- parsing


def test_dotted_names_become_nested_values() -> None:
    words = "--train.steps 10 --train.learning-rate=1e-4 --model.qk_norm false --from x/y"
    command = cli.parse(["train", "--data", "a", "--out", "b", *words.split()])
    assert command.overrides == {
        "train": {"steps": 10, "learning_rate": 1e-4},
        "model": {"qk_norm": False},
    }
    assert command.init_from == "x/y"


def test_lists_and_assignments() -> None:
    words = "sample --domain molecule --elements C,H,O --property gap=0.2 mu=1"
    options = cli.parse(words.split()).options
    assert options.elements == ("C", "H", "O")
    assert options.property == ("gap=0.2", "mu=1")
    words = "evaluate --domain molecule --samples a --reference b --checks posebusters xtb=5"
    assert cli.parse(words.split()).checks == {"posebusters": True, "xtb": 5}


def test_flags_override_the_file(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("domain: toy-ring\ntrain: {steps: 5, codec_steps: 2, seed: 3}\nmodel: {width: 64}\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(domains.TABLE, "toy-ring", ENTRY)
        words = f"train --data a --out b --config {path} --size xs --train.steps 7 --model.depth 2"
        config = cli.parse(words.split()).run_config()
    assert (config.train.steps, config.train.seed) == (7, 3)
    # --size wins over the file, and a dotted flag over --size
    assert (config.model.width, config.model.depth, config.model.channels) == (256, 2, 3)


def test_an_untrained_codec_is_refused(tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(domains.TABLE, "toy-ring", ENTRY)
        command = cli.parse("train --domain toy-ring --data a --out b".split())
        with pytest.raises(Gen3dError, match=r"train\.codec_steps is 0"):
            command.run_config()


# ---- export and info


def test_export_keeps_the_atoms(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "new" / "molecules.xyz"
    assert cli.main(["export", str(TINY / "qm9.sdf"), str(target)]) == 0
    before, after = io.read(TINY / "qm9.sdf"), io.read(target)
    assert f"{len(before)} objects" in capsys.readouterr().out
    for a, b in zip(before, after, strict=True):
        assert [x.GetSymbol() for x in a.GetAtoms()] == [x.GetSymbol() for x in b.GetAtoms()]
        np.testing.assert_allclose(
            a.GetConformer().GetPositions(), b.GetConformer().GetPositions(), atol=1e-4
        )


def test_export_names_the_files_of_a_format_for_one_object(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["export", str(TINY / "crystals.cif"), str(tmp_path / "a.vasp")]) == 0
    assert capsys.readouterr().out == f"4 objects -> {tmp_path / 'a_0000.vasp'} to a_0003.vasp\n"
    assert "holds pictures, not a Structure" in fails(
        capsys, "export", str(TINY / "crystals.cif"), str(tmp_path / "a.png")
    )


def test_info_tells_versions_extras_and_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from gen3d import info

    numbers = "    - {type: validity, value: 91.5}\n    - {type: bond_lengths_w1, value: 0.014}\n"
    index = f"model-index:\n- name: m\n  results:\n  - metrics:\n{numbers}"
    card = f"---\n{index}---\n# Card\n"
    generator(tmp_path / "ring", card=card, monkeypatch=monkeypatch)
    monkeypatch.setattr(info, "SHIPPED", tmp_path)
    assert cli.main(["info", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["versions"]["torch"] == torch.__version__
    assert facts["extras"]["atoms"] == []
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert set(facts["extras"]) == set(project["optional-dependencies"])
    assert facts["checkpoints"]["ring"]["metrics"] == {"validity": 91.5, "bond_lengths_w1": 0.014}
    monkeypatch.setattr(info, "_version", lambda package: None if package == "rdkit" else "1")
    assert cli.main(["info"]) == 0
    said = capsys.readouterr().out
    assert 'extra      atoms: lacks rdkit: pip install "gen3d[atoms]"' in said
    assert "extra      text: installed" in said
    (line,) = (line for line in said.splitlines() if line.startswith("checkpoint"))
    assert line.endswith(" MB; validity 91.5%")


# ---- sampling, on a tiny real domain


@dataclass
class Rings:
    """A checkpoint of the toy domain, and the words that sample from it."""

    folder: Path

    def sample(self, *words: str) -> int:
        return cli.main(["sample", "--domain", "toy-ring", "--checkpoint", str(self.folder), *words])


def generator(folder: Path, *, monkeypatch: pytest.MonkeyPatch, card: str | None = None) -> None:
    monkeypatch.setitem(domains.TABLE, "toy-ring", ENTRY)
    torch.manual_seed(0)
    model = {"width": 32, "depth": 1, "heads": 2}
    config = run_config({"domain": "toy-ring", "model": model, "sampling": {"steps": 4}})
    made = Generator(config.generator())
    made.save_pretrained(folder, card=card)


@pytest.fixture
def rings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Rings:
    monkeypatch.chdir(tmp_path)
    generator(tmp_path / "checkpoint", monkeypatch=monkeypatch)
    return Rings(tmp_path / "checkpoint")


def read(path: str) -> list[np.ndarray]:
    with np.load(path, allow_pickle=False) as arrays:
        return [arrays[name] for name in arrays.files]


def test_sample_writes_the_objects_and_what_made_them(
    rings: Rings, capsys: pytest.CaptureFixture[str]
) -> None:
    assert rings.sample("--n", "5", "--seed", "3", "--size", "6", "--out", "sub/five.npz") == 0
    line = capsys.readouterr().out
    assert line.startswith("toy-ring: 5 samples in ")
    assert line.endswith(" -> sub/five.npz\n")
    assert [len(points) for points in read("sub/five.npz")] == [6] * 5
    record = json.loads(Path("sub/samples.json").read_text())
    assert (record["n"], record["seed"], record["steps"], record["file"]) == (5, 3, 4, "five.npz")
    assert record["options"]["size"] == 6
    assert record["versions"]["torch"] == torch.__version__


def test_a_format_of_one_object_each_names_its_files(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    out = tmp_path / "a.vasp"
    assert cli.main(f"sample --domain crystal --n 3 --steps 2 --out {out}".split()) == 0
    assert capsys.readouterr().out.splitlines()[0].endswith("a_0000.vasp to a_0002.vasp")
    files = json.loads((tmp_path / "samples.json").read_text())["files"]
    assert files == sorted(path.name for path in tmp_path.glob("*.vasp"))
    assert len(io.read(tmp_path)) == 3


def test_a_domain_need_not_prepare_data(rings: Rings, capsys: pytest.CaptureFixture[str]) -> None:
    assert "'toy-ring' prepares no data" in fails(
        capsys, *"prepare --domain toy-ring --source a --out b".split()
    )


def test_every_file_of_a_folder_keeps_its_record(rings: Rings) -> None:
    for name, count in (("a.npz", "2"), ("b.npz", "3"), ("a.npz", "4"), ("b.npz", "5")):
        assert rings.sample("--n", count, "--out", name) == 0
    records = [json.loads(path.read_text()) for path in Path().glob("samples*.json")]
    assert sorted((record["file"], record["n"]) for record in records) == [("a.npz", 4), ("b.npz", 5)]
    Path("a.npz").unlink()
    assert rings.sample("--n", "6", "--out", "b.npz") == 0
    records = [json.loads(path.read_text()) for path in Path().glob("samples*.json")]
    assert [record["n"] for record in records if record["file"] == "b.npz"] == [6]


def test_the_default_name_and_json(rings: Rings, capsys: pytest.CaptureFixture[str]) -> None:
    assert rings.sample("--n", "2", "--json") == 0
    assert json.loads(capsys.readouterr().out) == json.loads(Path("samples.json").read_text())
    assert len(read("toy-rings.npz")) == 2


def test_quiet_says_nothing(rings: Rings, capsys: pytest.CaptureFixture[str]) -> None:
    assert rings.sample("--n", "2", "--quiet") == 0
    assert capsys.readouterr() == ("", "")


def test_shards_join_to_the_whole(rings: Rings) -> None:
    assert rings.sample("--n", "7", "--quiet") == 0
    parts = []
    for i in range(3):
        assert rings.sample("--n", "7", "--quiet", "--shard", f"{i}/3") == 0
        assert Path(f"samples.{i}-of-3.json").exists()
        parts += read(f"toy-rings.{i}-of-3.npz")
    for whole, part in zip(read("toy-rings.npz"), parts, strict=True):
        np.testing.assert_array_equal(whole, part)


def test_a_checkpoint_of_another_domain(rings: Rings, capsys: pytest.CaptureFixture[str]) -> None:
    line = fails(capsys, "sample", "--domain", "molecule", "--checkpoint", str(rings.folder))
    assert "'toy-ring'" in line
    assert "'molecule'" in line


def test_a_damaged_checkpoint(rings: Rings, capsys: pytest.CaptureFixture[str]) -> None:
    weights = rings.folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    assert rings.sample() == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_a_format_that_cannot_hold_the_samples_does_not_lose_them(
    rings: Rings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def save(self: RingDomain, objects: Sequence[np.ndarray], path: Path) -> None:
        if path.suffix != ".npz":
            raise Gen3dError(f"{path.suffix} holds no rings")
        np.savez(path, *objects)

    monkeypatch.setattr(RingDomain, "save", save)
    assert rings.sample("--n", "3", "--out", "three.cif") == 2
    assert "three.cif.npz" in capsys.readouterr().err
    assert len(read("three.cif.npz")) == 3


def test_a_disk_that_cannot_be_written_is_found_before_sampling(
    rings: Rings, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("file").write_text("no folder")
    start = time.monotonic()
    assert rings.sample("--n", "1000000", "--out", "file/rings.npz") == 2
    assert time.monotonic() - start < 5
    assert "file" in capsys.readouterr().err


# ---- training


@pytest.mark.slow
def test_train_then_sample_then_fine_tune(rings: Rings, tmp_path: Path) -> None:
    data = write_rings(tmp_path / "data")
    common = ["--data", str(data), "--quiet", "--train.batch_size", "8", "--train.steps", "6"]
    common += ["--train.log_every", "2"]
    small = ["--model.width", "32", "--model.depth", "1", "--model.heads", "2"]
    small += ["--train.codec_steps", "2"]
    assert cli.main(["train", "--domain", "toy-ring", "--out", "run", *common, *small]) == 0
    assert len(Path("run/metrics.jsonl").read_text().splitlines()) == 3
    assert Rings(tmp_path / "run/checkpoint").sample("--n", "2") == 0
    # The architecture comes with the checkpoint that fine-tuning starts from.
    tuned = ["train", "--domain", "toy-ring", "--out", "tuned", "--from", "run/checkpoint", *common]
    assert cli.main(tuned) == 0
    assert (
        Generator.from_pretrained("tuned/checkpoint").config.model
        == Generator.from_pretrained("run/checkpoint").config.model
    )
    # What follows from the objective follows from the new one.
    tuned[tuned.index("tuned")] = "few"
    assert cli.main([*tuned, "--diffusion.shortcut_rate", "0.25"]) == 0
    assert Generator.from_pretrained("few/checkpoint").config.model.step_input
