"""Reading and writing captures, against what was written by hand and what is known of the real ones."""

import json
import math
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gen3d.captures import Views, read_views
from gen3d.captures.check import check_capture
from gen3d.captures.images import read_image, write_png
from gen3d.captures.sources import dnerf_scene, unpack
from gen3d.captures.write import write_views
from gen3d.errors import Gen3dError
from gen3d.fields.cameras import Cameras, orbit

pytest.importorskip("PIL", reason="the extra scenes is not installed")


def some_views(
    count: int = 4, *, times: bool = True, width: int = 6, height: int = 4, seed: int = 0
) -> Views:
    random = np.random.default_rng(seed)
    images = random.integers(0, 256, (count, height, width, 4), np.uint8)
    cameras = orbit(
        count,
        radius=4.0,
        width=width,
        height=height,
        field_of_view=40.0,
        times=torch.linspace(0, 1, count) if times else None,
    )
    return Views(images, cameras, tuple(f"train/r_{i:03d}" for i in range(count)), has_alpha=True)


def written(folder: Path, **settings: Any) -> Path:
    write_views(
        folder, {"train": some_views(**settings), "test": some_views(2, seed=1), "valid": some_views(3)}
    )
    return folder


def changed(
    folder: Path, change: Callable[[dict[str, Any]], None], name: str = "transforms_train.json"
) -> None:
    content = json.loads((folder / name).read_text())
    change(content)
    (folder / name).write_text(json.dumps(content))


# Views


def test_transparent_pixels_keep_their_colour_to_themselves() -> None:
    image = np.zeros((1, 2, 2, 4), np.uint8)
    image[0, 0, 0] = (255, 0, 0, 255)
    image[0, 1, 1] = (0, 255, 0, 0)  # green, but not to be seen
    views = Views(image, orbit(1, radius=2.0, width=2, height=2), ("a",), True)
    assert views.resized(1, 1).images.tolist() == [[[[255, 0, 0, 64]]]]


def test_resizing_keeps_the_mean_of_what_is_seen_and_where_cameras_see_it() -> None:
    views = some_views(width=60, height=40)
    small = views.resized(25, 15)
    before, after = views.composited((0, 0, 0)), small.composited((0, 0, 0))
    np.testing.assert_allclose(after.mean((1, 2)), before.mean((1, 2)), atol=2e-3)
    point = torch.tensor([[0.2, 0.1, 0.3]])
    expected = views.cameras.project(point)[0] * torch.tensor([25 / 60, 15 / 40])
    torch.testing.assert_close(small.cameras.project(point)[0], expected)


def test_compositing_puts_the_background_behind() -> None:
    image = np.array([[[[200, 100, 0, 255], [200, 100, 0, 0], [255, 255, 255, 51]]]], np.uint8)
    views = Views(image, orbit(1, radius=2.0, width=3, height=1), ("a",), True)
    expected = [[200 / 255, 100 / 255, 0], [0, 0.5, 1], [0.2, 0.2 + 0.4, 0.2 + 0.8]]
    np.testing.assert_allclose(views.composited((0, 0.5, 1))[0, 0], expected, atol=1e-6)


def test_views_can_be_chosen() -> None:
    views = some_views(5)
    assert views[1:3].names == ("train/r_001", "train/r_002")
    some = views[[4, 0]]
    assert some.cameras.times is not None
    assert some.cameras.times.tolist() == [1.0, 0.0]
    np.testing.assert_array_equal(some.images, views.images[[4, 0]])


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"names": ("a",)}, "1 names"),
        ({"images": np.zeros((4, 4, 6, 3), np.uint8)}, "uint8"),
        ({"images": np.zeros((4, 5, 6, 4), np.uint8)}, "6 x 5 pixels, cameras of 6 x 4"),
    ],
)
def test_what_does_not_belong_together_is_refused(change: dict[str, Any], complaint: str) -> None:
    views = some_views()
    parts = {"images": views.images, "cameras": views.cameras, "names": views.names, "has_alpha": True}
    with pytest.raises(Gen3dError, match=complaint):
        Views(**{**parts, **change})


# transforms.json


def test_what_is_written_is_read(tmp_path: Path) -> None:
    views = some_views()
    written(tmp_path)
    back = read_views(tmp_path)
    np.testing.assert_array_equal(back.images, views.images)
    torch.testing.assert_close(back.cameras.camera_to_world, views.cameras.camera_to_world)
    torch.testing.assert_close(back.cameras.focal, views.cameras.focal)
    torch.testing.assert_close(back.cameras.times, views.cameras.times)
    assert back.names == views.names
    assert back.has_alpha
    assert [len(read_views(tmp_path, split)) for split in ("train", "valid", "test")] == [4, 3, 2]


def test_the_files_are_what_nerfstudio_reads(tmp_path: Path) -> None:
    """By nerfstudio's D-NeRF parser: folder / file_path + ".png", one angle, a time each."""
    written(tmp_path)
    for name, count in (("train", 4), ("val", 3), ("test", 2)):
        meta = json.loads((tmp_path / f"transforms_{name}.json").read_text())
        assert len(meta["frames"]) == count
        assert 0.5 * 6 / math.tan(0.5 * meta["camera_angle_x"]) == pytest.approx(
            3 / math.tan(math.radians(20))
        )
        for frame in meta["frames"]:
            assert (tmp_path / (frame["file_path"].replace("./", "") + ".png")).is_file()
            assert np.array(frame["transform_matrix"]).shape == (4, 4)
            assert frame["transform_matrix"][3] == [0, 0, 0, 1]
            assert 0 <= frame["time"] <= 1


def test_a_still_scene_has_no_times(tmp_path: Path) -> None:
    write_views(tmp_path, {"train": some_views(times=False)})
    assert read_views(tmp_path).cameras.times is None


def test_frames_come_in_the_order_of_time(tmp_path: Path) -> None:
    written(tmp_path)
    changed(tmp_path, lambda content: content["frames"].reverse())
    assert read_views(tmp_path).names == some_views().names


def test_extensions_may_be_told_or_left_out_and_alpha_may_be_missing(tmp_path: Path) -> None:
    written(tmp_path)
    for i in range(4):
        image, _ = read_image(tmp_path / f"train/r_{i:03d}.png")
        write_png(tmp_path / f"train/r_{i:03d}.png", image[..., :3])

    def tell(content: dict[str, Any]) -> None:
        content["frames"][0]["file_path"] += ".png"

    changed(tmp_path, tell)
    views = read_views(tmp_path)
    assert not views.has_alpha
    assert (views.images[..., 3] == 255).all()


def test_the_writer_refuses_cameras_that_the_format_cannot_tell(tmp_path: Path) -> None:
    views = some_views()
    moved = Cameras(
        views.cameras.camera_to_world,
        views.cameras.focal,
        views.cameras.centre + 1,
        6,
        4,
        views.cameras.times,
    )
    with pytest.raises(Gen3dError, match="middle"):
        write_views(tmp_path, {"train": Views(views.images, moved, views.names, True)})
    assert not list(tmp_path.iterdir())


def nerfstudio(folder: Path, count: int = 16, **meta: Any) -> Path:
    views = some_views(count)
    frames = []
    for i in range(count):
        write_png(folder / "images" / f"frame_{i:05d}.png", views.images[i])
        pose = np.vstack([views.cameras.camera_to_world[i].numpy(), [0, 0, 0, 1]])
        frames.append({"file_path": f"images/frame_{i:05d}.png", "transform_matrix": pose.tolist()})
    lens = {"fl_x": 20.0, "fl_y": 22.0, "cx": 5.0, "cy": 4.5, "w": 12, "h": 8}
    content = {
        "camera_model": "OPENCV",
        **lens,
        "applied_transform": [[2, 0]],
        **meta,
        "frames": frames[::-1],
    }
    (folder / "transforms.json").write_text(json.dumps(content))
    return folder


def test_nerfstudio_lenses_follow_the_size_of_the_pictures(tmp_path: Path) -> None:
    cameras = read_views(nerfstudio(tmp_path)).cameras
    assert cameras.focal[0].tolist() == [10.0, 11.0]
    assert cameras.centre[0].tolist() == [2.5, 2.25]


def test_without_lists_every_eighth_frame_is_held_out(tmp_path: Path) -> None:
    nerfstudio(tmp_path)
    train, test = read_views(tmp_path), read_views(tmp_path, "test")
    assert test.names == ("images/frame_00000", "images/frame_00008")
    assert len(train) == 14
    assert not {*train.names} & {*test.names}


def test_lists_of_files_tell_the_splits(tmp_path: Path) -> None:
    lists = {
        "train_filenames": ["images/frame_00001.png", "./images/frame_00003.png"],
        "val_filenames": ["images/frame_00002.png"],
    }
    nerfstudio(tmp_path, **lists)
    assert read_views(tmp_path).names == ("images/frame_00001", "images/frame_00003")
    assert read_views(tmp_path, "valid").names == ("images/frame_00002",)
    assert read_views(tmp_path, "test").names == ("images/frame_00002",)


def test_distortion_is_told_and_other_lenses_are_refused(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=r"k1 0\.1"):
        read_views(nerfstudio(tmp_path / "a", k1=0.1, k2=0.0))
    with pytest.raises(Gen3dError, match="OPENCV_FISHEYE"):
        read_views(nerfstudio(tmp_path / "b", camera_model="OPENCV_FISHEYE"))


# Bad input


def first(**entries: Any) -> Callable[[dict[str, Any]], None]:
    return lambda content: content["frames"][1].update(entries)


def one_only(content: dict[str, Any]) -> None:
    del content["frames"][1:]


def no_time(content: dict[str, Any]) -> None:
    del content["frames"][1]["time"]


MIRROR = np.diag([1.0, 1.0, -1.0, 1.0]).tolist()
LARGE = np.diag([2.0, 2.0, 2.0, 1.0]).tolist()
FAR = [[1, 0, 0, 1e300], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
NOT_FINITE = [[math.nan, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (first(time=1.5), r"r_001\): time is 1.5"),
        (first(time=math.nan), r"r_001\): time is nan"),
        (first(time="soon"), r"time is soon"),
        (no_time, "no time"),
        (first(transform_matrix=LARGE), r"r_001\): transform_matrix is not rigid"),
        (first(transform_matrix=MIRROR), "mirror image"),
        (first(transform_matrix=NOT_FINITE), "nan in row 0, column 0"),
        (first(transform_matrix=[[1]]), "4 rows of 4"),
        (first(transform_matrix="x"), "4 rows of 4"),
        (first(transform_matrix=FAR), "within 1e.06 of 0"),
        (first(file_path="./train/absent"), "absent is missing"),
        (first(file_path=7), "file_path 7"),
        (one_only, "one frame only"),
        (lambda content: content.pop("camera_angle_x"), "neither camera_angle_x nor fl_x"),
        (lambda content: content.update(camera_angle_x=4.0), "below pi"),
        (lambda content: content.update(fl_x=-1), "fl_x is -1"),
        (lambda content: content.update(frames=3), "no list of frames"),
        (lambda content: content.update(frames=[]), "no frames"),
        (lambda content: content.update(w=600, h=600), "6 x 4 pixels"),
    ],
)
def test_faults_are_named_in_one_line(
    tmp_path: Path, change: Callable[[dict[str, Any]], None], complaint: str
) -> None:
    written(tmp_path)
    changed(tmp_path, change)
    with pytest.raises(Gen3dError, match=complaint) as caught:
        read_views(tmp_path)
    assert "transforms_train.json" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_images_of_two_sizes_are_both_named(tmp_path: Path) -> None:
    written(tmp_path)
    write_png(tmp_path / "train/r_002.png", np.zeros((9, 8, 4), np.uint8))
    with pytest.raises(Gen3dError, match=r"r_000.png is 6 x 4 pixels and .*r_002.png is 8 x 9"):
        read_views(tmp_path)


def test_what_is_no_capture_is_told_what_one_is(tmp_path: Path) -> None:
    with pytest.raises(Gen3dError, match=r"allowed: .*poses_bounds.npy"):
        read_views(tmp_path)
    with pytest.raises(Gen3dError, match="is missing"):
        read_views(tmp_path / "absent")
    written(tmp_path)
    with pytest.raises(Gen3dError, match="allowed: train, valid, test"):
        read_views(tmp_path, "val")  # type: ignore[arg-type]
    (tmp_path / "transforms_test.json").unlink()
    with pytest.raises(Gen3dError, match=r"transforms_test.json is missing; there are transforms_train.json"):
        read_views(tmp_path, "test")


FUZZ = settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    derandomize=True,
)


def broken(data: bytes, cut: float, at: float, byte: int) -> bytes:
    kept = bytearray(data[: int(cut * len(data))])
    if kept:
        kept[int(at * (len(kept) - 1))] = byte
    return bytes(kept)


@FUZZ
@given(st.floats(0, 1), st.floats(0, 1), st.integers(0, 255), st.sampled_from(["json", "png"]))
def test_damaged_files_are_read_or_refused(
    tmp_path: Path, cut: float, at: float, byte: int, kind: str
) -> None:
    written(tmp_path)
    victim = tmp_path / ("transforms_train.json" if kind == "json" else "train/r_001.png")
    victim.write_bytes(broken(victim.read_bytes(), cut, at, byte))
    try:
        assert len(read_views(tmp_path)) >= 2
    except Gen3dError as error:
        assert str(tmp_path) in str(error)  # noqa: PT017 (reading may also succeed)


@FUZZ
@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
        max_leaves=8,
    ),
    st.sampled_from(
        ["file_path", "time", "transform_matrix", "camera_angle_x", "fl_x", "w", "k1", "cx", "frames", "far"]
    ),
)
@pytest.mark.filterwarnings("ignore:.*lens distortion")
def test_any_value_in_the_place_of_another_is_read_or_refused(tmp_path: Path, value: Any, key: str) -> None:
    written(tmp_path)

    def change(content: dict[str, Any]) -> None:
        content[key] = value
        if key == "far":
            content["frames"][1]["transform_matrix"][0][3] = value
        elif key != "frames":
            content["frames"][1][key] = value

    changed(tmp_path, change)
    check_capture(tmp_path, tmp_path / "picture.png")  # whatever is wrong is among its findings
    try:
        read_views(tmp_path)
    except Gen3dError as error:
        assert str(tmp_path) in str(error)  # noqa: PT017


# D-NeRF's archive


def archive(folder: Path, scene: str, extra: str | None = None) -> Path:
    source = written(folder / "source")
    path = folder / "data.zip"
    with zipfile.ZipFile(path, "w") as content:
        for file in sorted(source.rglob("*")):
            if file.is_file():
                content.write(file, f"data/{scene}/{file.relative_to(source)}")
        if extra is not None:
            content.writestr(extra, "x")
    return path


def test_a_scene_is_unpacked_and_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEN3D_CACHE", str(tmp_path / "cache"))
    folder = dnerf_scene("lego", archive=archive(tmp_path, "lego"))
    assert len(read_views(folder, "valid")) == 3
    assert dnerf_scene("lego") == folder  # it is there: nothing is downloaded
    with pytest.raises(Gen3dError, match="allowed: bouncingballs"):
        dnerf_scene("chess")


@pytest.mark.parametrize("name", ["data/lego/../../../evil.txt", "data/lego/..\\evil.txt"])
def test_nothing_is_unpacked_outside(tmp_path: Path, name: str) -> None:
    path = archive(tmp_path, "lego", extra=name)
    with pytest.raises(Gen3dError, match="leads out"):
        unpack(path, "lego", tmp_path / "out" / "lego")
    assert not list(tmp_path.rglob("evil*"))
    assert not list((tmp_path / "out").iterdir())


def test_a_damaged_archive_leaves_nothing(tmp_path: Path) -> None:
    path = archive(tmp_path, "lego")
    data = bytearray(path.read_bytes())
    data[len(data) // 4 : len(data) // 3] = b"\0" * (len(data) // 3 - len(data) // 4)
    path.write_bytes(data)
    with pytest.raises(Gen3dError):
        unpack(path, "lego", tmp_path / "out" / "lego")
    assert not (tmp_path / "out" / "lego").exists()
