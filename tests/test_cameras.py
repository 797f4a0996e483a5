"""Cameras against kornia's and against what is known of them by hand."""

import math

import pytest
import torch

from gen3d.errors import Gen3dError
from gen3d.fields.cameras import Cameras, around, look_at, orbit


def one(pose: torch.Tensor | None = None, **changed: object) -> Cameras:
    fields: dict[str, object] = {
        "camera_to_world": torch.eye(4)[None, :3] if pose is None else pose,
        "focal": torch.tensor([[100.0, 100.0]]),
        "centre": torch.tensor([[32.0, 24.0]]),
        "width": 64,
        "height": 48,
    }
    return Cameras(**{**fields, **changed})  # type: ignore[arg-type]


def test_the_ray_of_the_middle_runs_down_minus_z() -> None:
    rays = one(width=65, height=49, centre=torch.tensor([[32.5, 24.5]])).image_rays(0)
    middle = rays.directions.view(49, 65, 3)[24, 32]
    torch.testing.assert_close(middle, torch.tensor([0.0, 0.0, -1.0]))


def test_pixels_to_the_right_and_above_are_at_plus_x_and_plus_y() -> None:
    directions = one().image_rays(0).directions.view(48, 64, 3)
    assert directions[24, 63, 0] > 0 > directions[24, 0, 0]
    assert directions[0, 32, 1] > 0 > directions[47, 32, 1]


def test_points_on_a_ray_are_seen_in_its_pixel() -> None:
    cameras = orbit(5, elevation=35.0, radius=3.0, width=40, height=30, field_of_view=55.0)
    for view in range(5):
        points = cameras.image_rays(view).at(torch.full((1200,), 2.5))
        pixels, depth = cameras.project(points)
        y, x = torch.meshgrid(torch.arange(30) + 0.5, torch.arange(40) + 0.5, indexing="ij")
        torch.testing.assert_close(pixels[view], torch.stack([x, y], -1).view(-1, 2), atol=1e-3, rtol=0)
        assert (depth[view] > 0).all()


def test_project_agrees_with_kornia() -> None:
    kornia = pytest.importorskip("kornia", reason="the extra scenes is not installed")
    cameras = orbit(4, elevation=20.0, radius=4.0, width=80, height=60)
    points = torch.rand(50, 3, generator=torch.Generator().manual_seed(0)) - 0.5
    # kornia looks down +z with +y down
    flip = torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0]))
    pose = torch.eye(4).repeat(4, 1, 1)
    pose[:, :3] = cameras.camera_to_world
    extrinsics = torch.linalg.inv(pose @ flip)
    intrinsics = torch.eye(4).repeat(4, 1, 1)
    intrinsics[:, 0, 0], intrinsics[:, 1, 1] = cameras.focal.unbind(1)
    intrinsics[:, :2, 2] = cameras.centre
    height, width = torch.full((4,), 60), torch.full((4,), 80)
    theirs = kornia.geometry.camera.PinholeCamera(intrinsics, extrinsics, height, width)
    for view in range(4):
        expected = kornia.geometry.camera.PinholeCamera(
            theirs.intrinsics[view : view + 1], theirs.extrinsics[view : view + 1], height[:1], width[:1]
        ).project(points[None])
        torch.testing.assert_close(cameras.project(points)[0][view], expected[0], atol=1e-3, rtol=1e-5)


def test_azimuth_and_elevation_are_where_they_are_said_to_be() -> None:
    cameras = around(torch.tensor([0.0, 90.0, 10.0]), torch.tensor([0.0, 0.0, 90.0]), radius=2.0)
    expected = torch.tensor([[2.0, 0, 0], [0, 2.0, 0], [0, 0, 2.0]])
    torch.testing.assert_close(cameras.positions, expected, atol=1e-6, rtol=0)
    pixels, _ = cameras.project(torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, 0.5]]))
    torch.testing.assert_close(pixels[:, 0], torch.full((3, 2), 100.0))
    assert (pixels[:2, 1, 1] < 100).all()  # up is up


def test_a_field_of_view_spans_the_width() -> None:
    camera = around(torch.zeros(1), torch.zeros(1), radius=1.0, field_of_view=60.0, width=300, height=100)
    directions = camera.image_rays(0).directions.view(100, 300, 3)
    edge = torch.rad2deg(torch.acos(directions[50, 0] @ directions[50, -1]))
    assert edge.item() == pytest.approx(60 * 299 / 300, abs=0.2)


def test_resized_cameras_see_the_same() -> None:
    cameras = orbit(2, radius=3.0, width=80, height=60)
    point = torch.tensor([[0.3, 0.2, -0.1]])
    large, small = cameras.project(point)[0], cameras.resized(40, 30).project(point)[0]
    torch.testing.assert_close(small, large / 2)


def test_times_follow_their_cameras() -> None:
    cameras = orbit(4, radius=3.0, times=torch.tensor([0.0, 0.25, 0.5, 1.0]))
    assert cameras[torch.tensor([2])].image_rays(0).times.unique().tolist() == [0.5]  # type: ignore[union-attr]
    assert cameras.at(0.75).times.tolist() == [0.75] * 4  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("changed", "complaint"),
    [
        ({"pose": torch.eye(4)[None, :3] * 2}, "no rotation"),
        ({"pose": torch.diag(torch.tensor([1.0, 1.0, -1.0, 1.0]))[None, :3]}, "no rotation"),
        ({"pose": torch.full((1, 3, 4), math.nan)}, "not finite"),
        ({"focal": torch.tensor([[0.0, 1.0]])}, "focal length"),
        ({"times": torch.tensor([1.5])}, r"time outside \[0, 1\]"),
        ({"times": torch.tensor([math.nan])}, r"time outside \[0, 1\]"),
        ({"width": 0}, "at least 1"),
        ({"centre": torch.zeros(1, 3)}, "shapes"),
    ],
)
def test_what_is_no_camera_is_refused(changed: dict[str, object], complaint: str) -> None:
    with pytest.raises(Gen3dError, match=complaint):
        one(**changed)  # type: ignore[arg-type]


def test_a_camera_at_its_target_is_refused() -> None:
    with pytest.raises(Gen3dError, match="camera 1"):
        look_at(torch.tensor([[1.0, 0, 0], [0.0, 0, 0]]), torch.zeros(3))
