"""Shapes on the command line, as a user would ask for them."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh

from gen3d import io
from gen3d.cli import main
from gen3d.config import load_yaml
from gen3d.domains.shapes import ShapeDomain
from gen3d.run_config import run_config
from gen3d.train import train

ROOT = Path(__file__).parents[1]
DATA = ROOT / "data" / "tiny" / "shapes.npz"


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Tiny models of points and of voxels."""
    values = load_yaml(ROOT / "configs" / "shape_debug.yaml")
    made = {"points": str(train(run_config(values), DATA, tmp_path_factory.mktemp("points"), progress=False))}
    values["domain_config"]["shape"] = {"kind": "voxels", "resolution": 16, "latent_channels": 4, "width": 8}
    values["train"] |= {"steps": 60, "codec_steps": 50}
    made["voxels"] = str(train(run_config(values), DATA, tmp_path_factory.mktemp("voxels"), progress=False))
    return made


def sample(checkpoint: str, *words: str) -> int:
    return main(["sample", "--domain", "shape", "--checkpoint", checkpoint, "--steps", "3", *words])


def test_a_folder_gets_clouds_a_picture_and_a_record(
    checkpoints: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "chairs"
    assert sample(checkpoints["points"], "--class", "chair", "--n", "3", "--out", f"{out}/") == 0
    names = sorted(path.name for path in out.iterdir())
    assert names == [
        "samples.json",
        "shape.preview.png",
        "shape_0000.ply",
        "shape_0001.ply",
        "shape_0002.ply",
    ]
    assert [len(cloud.vertices) for cloud in io.read(out)] == [128, 128, 128]
    assert json.loads((out / "samples.json").read_text())["options"]["class_name"] == "chair"
    said = capsys.readouterr().out
    assert "3 samples" in said
    assert "shape.preview.png" in said


def test_the_record_of_a_folder_is_not_lost_to_the_next_file(
    checkpoints: dict[str, str], tmp_path: Path
) -> None:
    assert sample(checkpoints["points"], "--n", "2", "--out", f"{tmp_path}/", "--no-preview") == 0
    before = (tmp_path / "samples.json").read_text()
    one = tmp_path / "one.ply"
    assert sample(checkpoints["points"], "--n", "1", "--seed", "7", "--out", str(one), "--no-preview") == 0
    assert (tmp_path / "samples.json").read_text() == before
    assert json.loads((tmp_path / "samples.one.ply.json").read_text())["seed"] == 7


@pytest.mark.parametrize(
    ("words", "names", "kind"),
    [
        ((), ["shape_0000.glb", "shape_0001.glb"], trimesh.Trimesh),
        (("--representation", "voxels"), ["shape_0000.binvox", "shape_0001.binvox"], trimesh.voxel.VoxelGrid),
    ],
)
def test_what_is_made_picks_the_format(
    checkpoints: dict[str, str], tmp_path: Path, words: tuple[str, ...], names: list[str], kind: type
) -> None:
    assert sample(checkpoints["voxels"], "--n", "2", "--out", str(tmp_path / "made"), *words) == 0
    files = [tmp_path / "made" / name for name in names]
    assert all(isinstance(made, kind) for file in files for made in io.read(file))


@pytest.mark.parametrize("extension", [".obj", ".stl", ".off", ".ply"])
def test_meshes_of_every_format(checkpoints: dict[str, str], tmp_path: Path, extension: str) -> None:
    assert sample(checkpoints["voxels"], "--n", "1", "--out", str(tmp_path / f"a{extension}")) == 0
    (mesh,) = io.read(tmp_path / f"a{extension}")
    assert len(mesh.faces)


def test_many_clouds_go_into_one_file_that_can_be_measured(
    checkpoints: dict[str, str], tmp_path: Path
) -> None:
    out = tmp_path / "clouds.npz"
    assert sample(checkpoints["points"], "--n", "5", "--points", "64", "--out", str(out)) == 0
    words = ["--domain", "shape", "--samples", str(out), "--reference", str(DATA), "--workers", "0"]
    assert main(["evaluate", *words, "--checks", "emd=none", "--out", str(tmp_path / "m.json")]) == 0
    report = json.loads((tmp_path / "m.json").read_text())
    assert report["n_samples"] == 5
    assert report["metrics"]["1nna_cd"]["value"] > 60  # an untrained model is found out


def test_prepared_folders_tell_samples_from_copies(checkpoints: dict[str, str], tmp_path: Path) -> None:
    """Training shapes themselves, passed off as samples."""
    with np.load(DATA, allow_pickle=False) as arrays:
        content = dict(arrays)
    for split, rows in (("train", slice(0, 12)), ("valid", slice(12, 24))):
        part = {k: v if k == "class_names" else v[rows] for k, v in content.items()}
        np.savez(tmp_path / f"{split}.npz", **part)
    words = [
        "--domain",
        "shape",
        "--reference",
        str(tmp_path),
        "--workers",
        "0",
        "--out",
        str(tmp_path / "m.json"),
    ]
    assert main(["evaluate", *words, "--samples", str(tmp_path / "train.npz"), "--checks", "emd=none"]) == 0
    copied = json.loads((tmp_path / "m.json").read_text())["metrics"]
    assert copied["copies_of_training"]["value"] == 100
    assert copied["1nna_cd"]["value"] == pytest.approx(copied["copies_1nna_cd"]["value"], abs=9)
    assert (
        main(
            [
                "evaluate",
                *words,
                "--samples",
                str(tmp_path / "valid.npz"),
                "--checks",
                "emd=none",
                "against=voxels",
            ]
        )
        == 0
    )
    assert json.loads((tmp_path / "m.json").read_text())["metrics"]["mmd_cd"]["value"] > 0
    for check, message in (("split=exam", "split is 'exam'"), ("class_name=dragon", "no class 'dragon'")):
        assert main(["evaluate", *words, "--samples", str(tmp_path / "valid.npz"), "--checks", check]) == 2
        assert message


def test_from_one_cloud_to_another(checkpoints: dict[str, str], tmp_path: Path) -> None:
    files = []
    for i, cloud in enumerate(io.read(DATA)[:2]):
        files += [str(path) for path in io.write([cloud], tmp_path / f"{i}.ply")]
    out = tmp_path / "frames"
    assert sample(checkpoints["points"], "--interpolate", *files, "--frames", "4", "--out", f"{out}/") == 0
    assert len(io.read(out)) == 4
    record = json.loads((out / "samples.json").read_text())
    assert (record["interpolate"], record["frames"]) == (files, 4)


def test_a_partial_scan_is_completed(checkpoints: dict[str, str], tmp_path: Path) -> None:
    cloud = np.asarray(io.read(DATA)[0].vertices)
    part = cloud[cloud[:, 1] > 0]
    io.write([trimesh.PointCloud(part)], tmp_path / "part.ply")
    out = tmp_path / "whole.ply"
    words = ("--complete", str(tmp_path / "part.ply"), "--n", "1", "--out", str(out))
    assert sample(checkpoints["points"], *words) == 0
    (whole,) = io.read(out)
    gaps = np.linalg.norm(np.asarray(whole.vertices)[None] - part[:, None], axis=-1).min(1)
    assert gaps.max() < 1e-5


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--class", "dragon"), "--class is 'dragon'; allowed: chair, table"),
        (("--points", "0"), "--points is 0; at least 2 are needed"),
        (("--representation", "mesh"), "this checkpoint makes points, not mesh"),
        (("--complete", "nowhere.ply"), "no file nowhere.ply"),
        (("--interpolate", "a.ply", "b.ply"), "no file a.ply"),
        (
            ("--interpolate", "a.ply", "b.ply", "--valid-only"),
            "it takes no --shard, --valid-only and --best-of",
        ),
        (("--out", "a.glb"), ".glb holds meshes, not a PointCloud"),
    ],
)
def test_mistakes_are_one_line(
    checkpoints: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: tuple[str, ...],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert sample(checkpoints["points"], "--n", "1", *words) == 2
    complaint = capsys.readouterr().err
    assert message in complaint
    assert complaint.startswith("gen3d: error: ")
    if "--out" in words:
        assert (tmp_path / "a.glb.ply").is_file()  # nothing is lost


@pytest.mark.slow
def test_a_folder_of_meshes_fine_tunes_a_model(checkpoints: dict[str, str], tmp_path: Path) -> None:
    torch.manual_seed(0)
    (tmp_path / "mine").mkdir()
    for i in range(12):
        trimesh.creation.box(extents=(1, 1 + i / 10, 1)).export(tmp_path / "mine" / f"{i}.obj")
    words = ["--domain", "shape", "--from", checkpoints["points"], "--data", str(tmp_path / "mine")]
    more = ["--out", str(tmp_path / "run"), "--train.steps", "3", "--train.batch-size", "4", "--quiet"]
    assert main(["train", *words, *more]) == 0
    assert (tmp_path / "run" / "checkpoint" / "model.safetensors").is_file()
    assert (tmp_path / "run" / "data" / "train.npz").is_file()
    chosen = load_yaml(tmp_path / "run" / "config.yaml")["train"]
    usual = {**ShapeDomain.fine_tuning, "steps": 3, "batch_size": 4}
    assert {name: chosen[name] for name in usual} == usual
