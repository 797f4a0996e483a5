"""The check of a capture: it finds each fault that was made, and all of them together."""

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gen3d.captures.check import Report, check_capture
from gen3d.captures.images import read_image, write_png
from gen3d.captures.layout import Standing
from gen3d.captures.views import Views
from gen3d.captures.write import write_views
from gen3d.errors import Gen3dError
from gen3d.fields.cameras import around

pytest.importorskip("PIL", reason="the extra scenes is not installed")

Change = Callable[[dict[str, Any]], None]


@pytest.fixture
def capture(tmp_path: Path) -> Path:
    """A capture without a fault: ten cameras about 0, from 5 to 50 degrees above the horizon."""
    cameras = around(
        torch.arange(10) * 36.0,
        torch.linspace(5, 50, 10),
        radius=4.0,
        width=8,
        height=6,
        times=torch.linspace(0, 1, 10),
    )
    images = np.full((10, 6, 8, 4), 90, np.uint8)
    views = Views(images, cameras, tuple(f"{i}" for i in range(10)), has_alpha=True)
    write_views(tmp_path / "scene", {"train": views, "test": views[[1, 4]]})
    return tmp_path / "scene"


def change_file(folder: Path, change: Change, name: str = "train") -> None:
    path = folder / f"transforms_{name}.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def every_pose(turn: Callable[[np.ndarray], np.ndarray]) -> Change:
    def change(content: dict[str, Any]) -> None:
        for frame in content["frames"]:
            frame["transform_matrix"] = turn(np.array(frame["transform_matrix"])).tolist()

    return change


def entry(number: int, **values: Any) -> Change:
    return lambda content: content["frames"][number].update(values)


def sentences(report: Report, severity: str) -> list[str]:
    return [f"{fault.file}: {fault.sentence}" for fault in report.faults if fault.severity == severity]


def test_a_good_capture_has_no_fault_and_a_picture(capture: Path, tmp_path: Path) -> None:
    report = check_capture(capture, tmp_path / "cameras.png")
    assert report.faults == ()
    assert report.ok
    assert (report.cameras, report.images) == (12, 12)
    assert report.picture is not None
    image, _ = read_image(report.picture)
    blue = (image[..., 2].astype(int) - image[..., 0] > 80).any(0)
    assert blue[:640].any()  # cameras from above
    assert blue[640:].any()  # and from the side


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (entry(2, time=-0.1), r"r_002.*time is -0.1"),
        (entry(2, time=None), r"r_002.*no time, and other frames have"),
        (entry(2, file_path="./train/r_777"), r"r_777 is missing"),
        (entry(2, transform_matrix=(np.eye(4) * 3).tolist()), r"r_002.*not rigid"),
        (entry(2, transform_matrix=[[math.nan] * 4] * 4), r"r_002.*nan in row 0"),
        (lambda content: content.pop("camera_angle_x"), "neither camera_angle_x nor fl_x"),
        (lambda content: content.update(frames=content["frames"][:1]), "1 frames"),
        (lambda content: content.update(frames="x"), "no list of frames"),
        (lambda content: content.update(camera_model="EQUIRECTANGULAR"), "camera_model is EQUIRECTANGULAR"),
    ],
)
def test_errors_are_found_and_named(capture: Path, change: Change, complaint: str) -> None:
    change_file(capture, change)
    report = check_capture(capture)
    assert not report.ok
    errors = "\n".join(sentences(report, "error"))
    assert re.search(complaint, errors), errors


def test_pictures_are_looked_into(capture: Path) -> None:
    write_png(capture / "train/r_001.png", np.full((9, 9, 4), 255, np.uint8))
    write_png(capture / "train/r_002.png", np.full((6, 8, 3), 255, np.uint8))
    write_png(capture / "train/r_003.png", np.zeros((6, 8, 4), np.uint8))
    damaged = capture / "train/r_004.png"
    damaged.write_bytes(damaged.read_bytes()[:50])
    report = check_capture(capture)
    errors, warnings = sentences(report, "error"), sentences(report, "warning")
    assert len(errors) == 2
    assert "r_001.png: it is 9 x 9 pixels, and" in errors[1]
    assert "r_004.png" in errors[0]
    assert any("r_002.png: it has no alpha, and other pictures have" in line for line in warnings)
    assert any("r_003.png: it is transparent all over" in line for line in warnings)


def test_it_does_not_stop_at_the_first_fault(capture: Path, tmp_path: Path) -> None:
    change_file(capture, entry(1, time=7))
    change_file(capture, entry(2, transform_matrix=0))
    change_file(capture, entry(3, file_path=None))
    (capture / "transforms_test.json").write_text("{")
    report = check_capture(capture, tmp_path / "picture.png")
    errors = sentences(report, "error")
    assert len(errors) == 4
    assert report.cameras == 9
    assert (tmp_path / "picture.png").is_file()
    assert str(report).startswith("9 cameras, 9 readable images: 4 errors, 0 warnings, 0 notes\nerror: ")


def test_times_all_equal_and_distortion_are_warned_of(capture: Path) -> None:
    for name in ("train", "test"):
        change_file(capture, lambda content: [frame.update(time=0.5) for frame in content["frames"]], name)  # type: ignore[arg-type,return-value]
    change_file(capture, lambda content: content.update(k1=0.2))
    warnings = "\n".join(sentences(check_capture(capture), "warning"))
    assert "all times are 0.5" in warnings
    assert "lens distortion (k1)" in warnings


def both(capture: Path, turn: Callable[[np.ndarray], np.ndarray]) -> list[str]:
    for name in ("train", "test"):
        change_file(capture, every_pose(turn), name)
    report = check_capture(capture)
    assert report.ok  # odd, but readable
    return sentences(report, "warning")


def test_poses_of_opencv_are_recognised(capture: Path) -> None:
    warnings = both(capture, lambda pose: pose @ np.diag([1.0, -1, -1, 1]))
    assert len(warnings) == 1
    assert "12 of 12 cameras look away" in warnings[0]
    assert "OpenCV" in warnings[0]


def test_poses_of_llff_are_recognised(capture: Path) -> None:
    def down_right_back(pose: np.ndarray) -> np.ndarray:
        return np.stack([-pose[:, 1], pose[:, 0], pose[:, 2], pose[:, 3]], 1)

    (warning,) = both(capture, down_right_back)
    assert "LLFF" in warning


def test_a_world_with_y_up_is_recognised(capture: Path) -> None:
    turn = np.array([[1.0, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 0], [0, 0, 0, 1]])
    (warning,) = both(capture, lambda pose: turn @ pose)
    assert "mean up is the world's +y" in warning


def test_a_world_upside_down_is_recognised(capture: Path) -> None:
    turn = np.diag([1.0, -1, -1, 1])
    (warning,) = both(capture, lambda pose: turn @ pose)
    assert "upside down" in warning


@pytest.mark.parametrize("scale", [50.0, 0.02])
def test_a_scale_far_from_the_box_is_told_with_its_cure(capture: Path, scale: float) -> None:
    (warning,) = both(capture, lambda pose: pose * [1, 1, 1, scale])
    factor = float(warning.rsplit(" ", 1)[1])
    assert factor * scale == pytest.approx(1, rel=0.1)


def test_a_scene_far_from_the_middle_is_told(capture: Path) -> None:
    shift = np.array([[0, 0, 0, 30.0], [0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]])
    (warning,) = both(capture, lambda pose: pose + shift)
    assert "(30," in warning


def test_a_single_camera_that_looks_away_is_named(capture: Path) -> None:
    def turn_round(content: dict[str, Any]) -> None:
        pose = np.array(content["frames"][6]["transform_matrix"]) @ np.diag([-1.0, 1, -1, 1])
        content["frames"][6]["transform_matrix"] = pose.tolist()

    change_file(capture, turn_round)
    (warning,) = sentences(check_capture(capture), "warning")
    assert "r_006" in warning
    assert "looks away" in warning


def test_the_point_nearest_to_all_axes() -> None:
    target = torch.tensor([0.3, -0.2, 0.1])
    poses = around(torch.arange(6) * 60.0, torch.full((6,), 30.0), radius=2.0, target=(0.3, -0.2, 0.1))
    standing = Standing.of(poses.camera_to_world.double().numpy(), np.full(6, 0.3))
    found = standing.target()
    assert found is not None
    np.testing.assert_allclose(found, target, atol=1e-5)
    np.testing.assert_allclose(standing.depths(found), 2.0, atol=1e-5)
    side_by_side = Standing.of(np.repeat(np.eye(4)[None, :3], 5, 0), np.full(5, 0.3))
    assert side_by_side.target() is None  # parallel axes meet nowhere


def test_llff_and_what_is_no_capture(tmp_path: Path) -> None:
    rows = np.zeros((3, 17))
    for i in range(3):
        pose = np.concatenate([np.array([[0, 1.0, 0], [-1, 0, 0], [0, 0, 1]]), [[i], [0], [0]]], 1)
        rows[i] = [*np.concatenate([pose, [[6], [8], [9]]], 1).ravel(), 1.0, 5.0]
        write_png(tmp_path / "images" / f"{i}.png", np.zeros((6, 8, 3), np.uint8))
    rows[1, 3] = math.inf
    np.save(tmp_path / "poses_bounds.npy", rows)
    report = check_capture(tmp_path, tmp_path / "picture.png")
    assert sentences(report, "error") == [
        f"{tmp_path / 'poses_bounds.npy'}: row 1 has a number that is not finite"
    ]
    assert "no picture has alpha" in sentences(report, "note")[0]
    assert report.cameras == 2
    with pytest.raises(Gen3dError, match="no capture"):
        check_capture(tmp_path / "images")


def test_the_real_chair_is_without_fault(shared_data: Path) -> None:
    report = check_capture(shared_data / "scenes_static" / "nerf_chair_val.npz")
    assert report.faults == ()
    assert report.cameras == 125
