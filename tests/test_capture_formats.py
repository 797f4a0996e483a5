"""Captures in other people's formats: LLFF's poses, and arrays."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from gen3d.captures import read_views
from gen3d.captures.images import write_png
from gen3d.errors import Gen3dError

pytest.importorskip("PIL", reason="the extra scenes is not installed")


# LLFF


def llff(folder: Path, count: int = 9, change: Callable[[np.ndarray], None] | None = None) -> Path:
    """Cameras on a line along an odd axis of a world with x up, all looking down its -y; wide pictures."""
    rows = np.zeros((count, 17))
    for i in range(count):
        right, up, back = np.array([0, 0, 1.0]), np.array([1.0, 0, 0]), np.array([0, 1.0, 0])
        position = np.array([5.0, 70.0, 0.5 * i])
        pose = np.stack([-up, right, back, position, [8, 12, 10]], 1)
        rows[i] = np.concatenate([pose.ravel(), [2.0, 40.0]])
        write_png(folder / "images" / f"IMG_{i}.png", np.full((4, 6, 3), 20 * i, np.uint8))
    if change is not None:
        change(rows)
    np.save(folder / "poses_bounds.npy", rows)
    return folder


def test_llff_axes_become_ours_and_the_scene_fits(tmp_path: Path) -> None:
    train, test = read_views(llff(tmp_path)), read_views(tmp_path, "test")
    assert test.names == ("IMG_0", "IMG_8")
    assert len(train) == 7
    # Right, up and back are +x, +z and -y of our world.
    expected = torch.tensor([[1.0, 0, 0], [0, 0, -1.0], [0, 1.0, 0]])
    torch.testing.assert_close(train.cameras.camera_to_world[0, :, :3], expected)
    assert (train.cameras.positions.diff(dim=0)[:, 0] > 0).all()  # they go on to the right, as written
    assert train.cameras.focal[0].tolist() == [5.0, 5.0]
    # What all cameras see between depths 2 and 40: a box of width 40 * 12 / 10 + 4, the longest of its sides.
    scale = 2 / (40 * 12 / 10 + 4)
    step = test.cameras.positions[1] - test.cameras.positions[0]
    torch.testing.assert_close(step, torch.tensor([4 * scale, 0, 0]), atol=1e-5, rtol=0)
    assert test.cameras.positions[0, 1].item() == pytest.approx(-(2 + (40 - 2) / 2) * scale, abs=1e-5)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda rows: rows.__setitem__((3, 3), math.nan), "row 3 has a number that is not finite"),
        (lambda rows: rows.__setitem__((4, 0), 9.0), "row 4 has a pose that is not rigid"),
        (lambda rows: rows.__setitem__((2, 14), 0.0), "row 2 has height, width and focal length"),
        (lambda rows: rows.__setitem__((2, 16), 1.0), "row 2 has bounds"),
    ],
)
def test_llff_faults_name_their_row(
    tmp_path: Path, change: Callable[[np.ndarray], None], complaint: str
) -> None:
    with pytest.raises(Gen3dError, match=complaint):
        read_views(llff(tmp_path, change=change))


def test_llff_counts_must_agree_and_the_file_must_be_whole(tmp_path: Path) -> None:
    llff(tmp_path)
    (tmp_path / "images/IMG_3.png").unlink()
    with pytest.raises(Gen3dError, match=r"9 poses, .*8 images"):
        read_views(tmp_path)
    (tmp_path / "poses_bounds.npy").write_bytes(b"\x93NUMPY")
    with pytest.raises(Gen3dError, match="cannot be read"):
        read_views(tmp_path)


# Arrays


def test_chair(shared_data: Path) -> None:
    path = shared_data / "scenes_static" / "nerf_chair_train.npz"
    views, valid = read_views(path), read_views(path, "valid")
    assert (len(views), len(valid)) == (100, 25)
    assert views.cameras.times is None
    # NeRF's synthetic cameras are on a sphere of radius 4.03 and look at its centre.
    torch.testing.assert_close(
        views.cameras.positions.norm(dim=1), torch.full((100,), 4.031), atol=2e-3, rtol=0
    )
    pixels, depth = views.cameras.project(torch.zeros(1, 3))
    torch.testing.assert_close(pixels, torch.full_like(pixels, 200.0), atol=0.1, rtol=0)
    assert (depth > 0).all()
    with pytest.raises(Gen3dError, match=r"nerf_chair_test.npz is missing; there are nerf_chair_train.npz"):
        read_views(path, "test")


def test_the_moving_hand(shared_data: Path) -> None:
    path = shared_data / "scenes_dynamic" / "nrnerf_example_256x192_train.npz"
    train, test = read_views(path), read_views(path, "test")
    assert len(train) + len(test) == 74
    assert not train.has_alpha
    assert train.cameras.focal[0].tolist() == pytest.approx([256.6095 / 2] * 2, abs=1e-3)
    assert train.cameras.times is not None
    assert (train.cameras.times.diff() > 0).all()
    up = train.cameras.camera_to_world[:, :, 1].mean(0)
    view = -train.cameras.camera_to_world[:, :, 2].mean(0)
    assert up[2] > 0.9
    assert view[1] > 0.9
    assert train.cameras.positions.abs().max() < 1


def test_arrays_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    images = np.zeros((3, 2, 2, 3), np.uint8)
    np.savez(tmp_path / "a.npz", images=images)
    with pytest.raises(Gen3dError, match="needed: images, and camera_to_world"):
        read_views(tmp_path / "a.npz")
    np.savez(tmp_path / "b.npz", images=images, camera_to_world=np.zeros((2, 4, 4)), camera_angle_x=0.7)
    with pytest.raises(Gen3dError, match=r"camera_to_world is of shape \(2, 4, 4\); there are 3 images"):
        read_views(tmp_path / "b.npz")
    np.savez(tmp_path / "c.npz", images=images, camera_to_world=np.zeros((3, 4, 4)), camera_angle_x=0.7)
    with pytest.raises(Gen3dError, match="camera_to_world 0 is not rigid"):
        read_views(tmp_path / "c.npz")
    (tmp_path / "d.npz").write_bytes(b"PK\x03\x04")
    with pytest.raises(Gen3dError, match="cannot be read"):
        read_views(tmp_path / "d.npz")
