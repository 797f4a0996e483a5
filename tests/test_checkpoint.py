"""Checkpoints: what is written comes back, at every moment, and what is damaged is named."""

import json
import multiprocessing
import os
import random
import resource
import signal
import time
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from gen3d import checkpoint
from gen3d.errors import Gen3dError
from gen3d.files import atomic_write, remove_stale

FORK = multiprocessing.get_context("fork")


def write_version(folder: Path, version: int, size: int = 1000) -> None:
    checkpoint.write(
        folder, {"a": torch.full((size,), float(version))}, {"domain": "x", "v": version}, "card"
    )


def test_round_trip_keeps_bits_dtypes_and_config(tmp_path: Path) -> None:
    tensors = {
        "f": torch.randn(3, 4),
        "b": torch.randn(5).bfloat16(),
        "i": torch.arange(3),
        "t": torch.randn(4, 3).T,  # not contiguous
        "s": torch.tensor(2.5),
    }
    checkpoint.write(tmp_path / "c", tensors, {"domain": "x", "nested": {"k": [1, 2.5, None]}}, "# card\n")
    back, config = checkpoint.read(tmp_path / "c")
    assert config == {"format_version": 1, "domain": "x", "nested": {"k": [1, 2.5, None]}}
    assert back.keys() == tensors.keys()
    assert all(torch.equal(back[k], tensors[k]) and back[k].dtype == tensors[k].dtype for k in tensors)
    assert json.loads((tmp_path / "c" / "config.json").read_text()) == config
    assert sorted(p.name for p in (tmp_path / "c").iterdir()) == sorted(checkpoint.FILES)


def test_header_wins_over_a_config_left_behind_by_an_interrupted_save(tmp_path: Path) -> None:
    write_version(tmp_path, 1)
    stale = (tmp_path / "config.json").read_bytes()
    write_version(tmp_path, 2)
    (tmp_path / "config.json").write_bytes(stale)
    with pytest.warns(UserWarning, match="which counts"):
        tensors, config = checkpoint.read(tmp_path)
    assert config["v"] == 2
    assert tensors["a"][0] == 2
    (tmp_path / "config.json").unlink()
    assert checkpoint.read_config(tmp_path)["v"] == 2


@pytest.mark.parametrize("keep", [0, 1, 7, 8, 50, 300, 3000, -1])
def test_truncated_weights_are_an_error(tmp_path: Path, keep: int) -> None:
    write_version(tmp_path, 1)
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(Gen3dError, match=r"model\.safetensors, it is damaged"):
        checkpoint.read(tmp_path)


def test_unusable_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(Gen3dError, match=r"no checkpoint folder .*nowhere"):
        checkpoint.read(tmp_path / "nowhere")
    with pytest.raises(Gen3dError, match=r"model\.safetensors is missing"):
        checkpoint.read(tmp_path)
    save_file({"a": torch.ones(2)}, tmp_path / "model.safetensors")
    with pytest.raises(Gen3dError, match="not written by gen3d"):
        checkpoint.read(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"\x80\x04 this was a pickle" * 100)
    with pytest.raises(Gen3dError, match="damaged"):
        checkpoint.read(tmp_path)


def test_newer_format_is_refused(tmp_path: Path) -> None:
    checkpoint.write(tmp_path, {}, {"format_version": checkpoint.FORMAT_VERSION + 1}, "")
    with pytest.raises(Gen3dError, match="format 2; this gen3d reads up to 1"):
        checkpoint.read_config(tmp_path)


def test_fill_names_the_tensor_that_does_not_fit() -> None:
    layer = nn.Linear(2, 3)
    good = {"weight": torch.ones(3, 2), "bias": torch.ones(3)}
    for bad, message in (
        ({"weight": good["weight"]}, "'bias' is missing"),
        ({**good, "extra": torch.ones(1)}, "'extra' is unknown"),
        ({**good, "weight": torch.ones(2, 3)}, r"'weight' has shape \(2, 3\), expected \(3, 2\)"),
    ):
        with pytest.raises(Gen3dError, match=message):
            checkpoint.fill(layer, bad, "there")
    checkpoint.fill(layer, {k: v.bfloat16() for k, v in good.items()}, "there")
    assert layer.weight.dtype == torch.float32
    assert torch.equal(layer.weight, good["weight"])


def test_readers_never_see_a_mixture_while_a_writer_writes_and_is_killed(tmp_path: Path) -> None:
    """The writer saves versions 0, 1, 2, ... as fast as it can and is killed at random moments."""

    def writer() -> None:
        for version in range(10**9):
            write_version(tmp_path, version, size=20_000)

    write_version(tmp_path, 0, size=20_000)
    rng, reads = random.Random(0), 0
    for _ in range(8):
        process = FORK.Process(target=writer)
        process.start()
        end = time.monotonic() + rng.uniform(0.02, 0.25)
        while time.monotonic() < end:
            reads += _check_consistent(tmp_path)
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        _check_consistent(tmp_path)
    assert reads > 20
    remove_stale(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(checkpoint.FILES)


def _check_consistent(folder: Path) -> bool:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tensors, config = checkpoint.read(folder)
    assert torch.equal(tensors["a"], torch.full((20_000,), float(config["v"])))
    return True


def test_full_disk_keeps_the_old_checkpoint_and_leaves_nothing_behind(tmp_path: Path) -> None:
    write_version(tmp_path, 1)

    def fail_to_write() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
        for write in (
            lambda: write_version(tmp_path, 2, size=100_000),
            lambda: write_text(tmp_path / "config.json", "x" * 100_000),
        ):
            with pytest.raises(Gen3dError, match="cannot write"):
                write()

    process = FORK.Process(target=fail_to_write)
    process.start()
    process.join()
    assert process.exitcode == 0
    assert checkpoint.read(tmp_path)[1]["v"] == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(checkpoint.FILES)


def write_text(path: Path, text: str) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text(text)


def test_atomic_write_keeps_extension_folders_and_permissions(tmp_path: Path) -> None:
    path = tmp_path / "new" / "mols.tar.gz"
    with atomic_write(path) as temporary:
        assert temporary.name.endswith(".mols.tar.gz")
        assert temporary.parent == path.parent
        temporary.write_text("1")
    umask = os.umask(0)
    os.umask(umask)
    assert path.stat().st_mode & 0o777 == 0o666 & ~umask
    with pytest.raises(ZeroDivisionError), atomic_write(path) as temporary:
        temporary.write_text(str(2 / 0))
    assert path.read_text() == "1"
    assert [p.name for p in path.parent.iterdir()] == ["mols.tar.gz"]


def test_atomic_write_names_places_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder" / "x").mkdir(parents=True)
    for path in (tmp_path / "file" / "below", tmp_path / "file" / "far" / "below", tmp_path / "folder"):
        with pytest.raises(Gen3dError, match=f"cannot write {path}"):
            write_text(path, "x")
    # What goes wrong with another file inside the block is not a failure to write this one.
    with pytest.raises(FileNotFoundError), atomic_write(tmp_path / "y") as temporary:
        temporary.write_text((tmp_path / "absent").read_text())
