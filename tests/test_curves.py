"""Curves and values as pictures: what is drawn is what was written down."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gen3d import domains
from gen3d.cli import main
from gen3d.curves import draw_metrics, draw_training, read_curves, read_values
from gen3d.errors import Gen3dError
from gen3d.evaluate import format_table
from gen3d.info import card_metrics
from gen3d.locate import SHIPPED
from tests.toy_domain import ENTRY, write_rings

LINES = [
    {"step": 0, "stage": "prior", "valid_loss": 2.0},
    {"step": 5, "stage": "codec", "loss": 3.0, "atoms": 1.0, "lr": 0.1, "minutes": 0.1},
    {"step": 10, "stage": "prior", "loss": 1.5, "diffusion": 1.5, "grad_norm": 9.0, "lr": 0.1},
    {"step": 10, "stage": "prior", "valid_loss": 1.6},
    {"step": 20, "stage": "prior", "loss": 1.2, "diffusion": 1.2, "lr": float("nan")},
]


def write(folder: Path, lines: list[dict]) -> Path:
    folder.mkdir(exist_ok=True)
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "metrics.jsonl").write_text(text + '{"step": 30, "lo')
    return folder


def test_curves_are_the_numbers_of_training_and_of_held_out_data(tmp_path: Path) -> None:
    found = read_curves(write(tmp_path, LINES) / "metrics.jsonl")
    assert found == {
        "loss, prior": {"valid_loss": [(0, 2.0), (10, 1.6)], "loss": [(10, 1.5), (20, 1.2)]},
        "loss, codec": {"loss": [(5, 3.0)]},
        "atoms, codec": {"atoms": [(5, 1.0)]},
    }
    scene = [{"step": 4, "seconds": 1.0, "psnr_train": 20.0, "psnr_held_out": 18.0, "filled": 3.0}]
    found = read_curves(write(tmp_path / "scene", scene) / "metrics.jsonl")
    assert found == {
        "psnr_train": {"psnr_train": [(4, 20.0)], "psnr_held_out": [(4, 18.0)]},
        "filled": {"filled": [(4, 3.0)]},
    }


def test_a_run_is_drawn_with_a_panel_for_each(tmp_path: Path) -> None:
    assert draw_training(tmp_path) is None
    picture = draw_training(write(tmp_path, LINES))
    assert picture == tmp_path / "curves.png"
    with Image.open(picture) as image:
        three = image.size
        assert np.asarray(image.convert("L")).std() > 10  # something is drawn
    with Image.open(draw_training(write(tmp_path / "one", LINES[2:3])) or "") as image:
        one = image.size
    assert three == (3 * one[0], one[1])


def test_values_of_others_come_from_files_and_model_cards(tmp_path: Path) -> None:
    measured = {"metrics": {"validity": {"value": 90.0}, "missing": {"value": None}}}
    (tmp_path / "metrics.json").write_text(json.dumps(measured))
    assert read_values(str(tmp_path / "metrics.json")) == {"validity": 90.0}
    assert read_values("molecule") == card_metrics(SHIPPED / "molecule" / "README.md")
    (tmp_path / "other.json").write_text("[]")
    for source, message in (
        ("other.json", "no file that gen3d evaluate wrote"),
        ("none.json", "No such file"),
    ):
        with pytest.raises(Gen3dError, match=message):
            read_values(str(tmp_path / source))


def test_compared_values_stand_in_the_table_and_the_picture(tmp_path: Path) -> None:
    metric = {"better": "higher", "definition": "% of 4", "interval": [10.0, 90.0]}
    report = {
        "domain": "molecule", "n_samples": 4, "n_failed": 0, "seconds": 1.0, "reference": "qm9",
        "metrics": {"validity": {**metric, "value": 50.0}, "1nna": {**metric, "value": 60.0, "better": 50.0}},
    }  # fmt: skip
    alone = draw_metrics(report, tmp_path / "alone.png").read_bytes()
    compared = {**report, "compared": {"runs/old/metrics.json": {"validity": 91.75}}}
    head, validity, other = format_table(compared).splitlines()[1:]
    assert head.split() == ["metric", "value", "95", "%", "interval", "old", "best", "definition"]
    assert validity.split()[:6] == ["validity", "50", "10", "to", "90", "91.75"]
    assert "91.75" not in other
    assert draw_metrics(compared, tmp_path / "beside.png").read_bytes() != alone


def test_training_says_what_it_begins_with_and_writes_its_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(domains.TABLE, "toy-ring", ENTRY)
    data, out = write_rings(tmp_path / "rings", count=40), tmp_path / "run"
    words = [
        "train",
        "--domain",
        "toy-ring",
        "--data",
        str(data),
        "--model.width",
        "16",
        "--model.depth",
        "1",
    ]
    words += [
        "--model.heads",
        "2",
        "--train.batch_size",
        "8",
        "--train.log_every",
        "2",
        "--train.valid_every",
        "2",
    ]
    first = [*words, "--train.steps", "4", "--train.codec_steps", "2", "--out", str(out), "--quiet"]
    assert main(first) == 0
    assert capsys.readouterr().out == ""
    assert not (out / "curves.png").exists()
    tuned = [*words, "--train.steps", "2", "--train.codec_steps", "0", "--out", str(tmp_path / "tuned")]
    assert main([*tuned, "--from", str(out / "checkpoint"), "--report", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    lines = [json.loads(line) for line in (tmp_path / "tuned" / "metrics.jsonl").read_text().splitlines()]
    assert lines[0]["step"] == 0
    # Validation is deterministic: what it begins with is what the first training ended with.
    ended = json.loads((out / "metrics.jsonl").read_text().splitlines()[-1])
    assert lines[0]["valid_loss"] == pytest.approx(ended["valid_loss"], rel=1e-5)
    assert said["checkpoint"] == str(tmp_path / "tuned" / "checkpoint")
    assert said["valid_loss"] == lines[-1]["valid_loss"]
    page = (tmp_path / "tuned" / "report.html").read_text()
    assert "<h2>Curves</h2>" in page
    assert (tmp_path / "tuned" / "curves.png").is_file()
    assert "data:image/png;base64," in page
    assert "toy-ring" in page


def test_a_fit_that_was_stopped_before_it_measured_tells_where_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(Path(__file__).parents[1])
    out = tmp_path / "run"
    words = ["train", "--domain", "dynamic-scene", "--data", "data/tiny/scene"]
    words += ["--config", "configs/dynamic-scene_debug.yaml"]
    monkeypatch.setattr("gen3d.optimise.MEASURED", 0)
    assert main([*words, "--fit.steps", "1", "--out", str(out), "--quiet", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"checkpoint": str(out / "checkpoint")}
