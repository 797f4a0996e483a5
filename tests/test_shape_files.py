"""Files of shapes: what is written comes back, and what is damaged is one line."""

import warnings
from functools import cache
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
import trimesh
from hypothesis import given, settings

from gen3d import io
from gen3d.domains.shapes.contact_sheet import contact_sheet, picture
from gen3d.domains.shapes.native import to_voxels
from gen3d.domains.shapes.readers import EXTENSIONS, read_one
from gen3d.errors import Gen3dError

RNG = np.random.default_rng(0)
BOX = trimesh.creation.box(extents=(2, 1, 0.5))
CLOUD = trimesh.PointCloud(RNG.normal(size=(40, 3)))
GRID = to_voxels(RNG.random((8, 8, 8)) > 0.6)


@pytest.mark.parametrize("extension", [".ply", ".obj", ".stl", ".glb", ".off"])
def test_meshes_come_back(tmp_path: Path, extension: str) -> None:
    (file,) = io.write([BOX], tmp_path / f"box{extension}")
    (made,) = io.read(file)
    made.merge_vertices()
    assert made.is_watertight
    assert made.volume == pytest.approx(1.0)
    np.testing.assert_allclose(made.bounds, BOX.bounds, atol=1e-6)


def test_clouds_come_back(tmp_path: Path) -> None:
    files = io.write([CLOUD, CLOUD], tmp_path / "cloud.ply")
    assert [file.name for file in files] == ["cloud_0000.ply", "cloud_0001.ply"]
    for made in io.read(tmp_path):
        assert isinstance(made, trimesh.PointCloud)
        np.testing.assert_allclose(made.vertices, CLOUD.vertices, atol=1e-5)


def test_grids_come_back(tmp_path: Path) -> None:
    (file,) = io.write([GRID], tmp_path / "grid.binvox")
    (made,) = io.read(file)
    assert np.array_equal(made.matrix, GRID.matrix)
    np.testing.assert_allclose(np.sort(made.points, axis=0), np.sort(GRID.points, axis=0), atol=1e-5)


def test_many_clouds_in_one_file(tmp_path: Path) -> None:
    chair = trimesh.PointCloud(CLOUD.vertices + 1, metadata={"class": "chair"})
    (file,) = io.write([CLOUD, chair], tmp_path / "clouds.npz")
    made = io.read(file)
    assert [cloud.metadata.get("class") for cloud in made] == [None, "chair"]
    np.testing.assert_allclose(made[1].vertices, chair.vertices, atol=1e-6)


@pytest.mark.parametrize(
    ("made", "name", "message"),
    [
        (CLOUD, "a.glb", r"\.glb holds meshes, not a PointCloud; allowed: \.ply and \.npz"),
        (GRID, "a.ply", r"not a VoxelGrid; allowed: \.binvox"),
        (BOX, "a.binvox", r"\.binvox holds voxel grids, not a Trimesh"),
        (BOX, "a.npz", r"\.npz holds point clouds, not a Trimesh"),
    ],
)
def test_formats_that_do_not_fit_are_refused(tmp_path: Path, made: Any, name: str, message: str) -> None:
    with pytest.raises(Gen3dError, match=message):
        io.write([made], tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_clouds_of_different_sizes_need_files_of_their_own(tmp_path: Path) -> None:
    with pytest.raises(Gen3dError, match="these have 3 to 40 points"):
        io.write([CLOUD, trimesh.PointCloud(np.eye(3))], tmp_path / "a.npz")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.ply", b"", "the file is empty"),
        ("a.obj", b"  \n", "the file is empty"),
        ("a.obj", b"v 1 2\n", "a.obj"),
        (
            "a.ply",
            b"ply\nformat ascii 1.0\nelement vertex 1000000\nend_header\n0 0 0\n",
            "1,000,000 elements",
        ),
        ("a.off", b"OFF\n3 1 0\n0 0 0\n", "a.off"),
        ("a.binvox", b"#binvox 1\ndim 4 4 4\ndata\n\x01\x09", "its runs fill 9 cells of 64"),
        ("a.binvox", b"#binvox 1\ndim 9999 9999 9999\ndata\n\x01\x09", "allowed: 1 to 1024"),
        ("a.binvox", b"voxels", "no binvox header"),
        (
            "a.ply",
            b"ply\nformat ascii 1.0\nelement vertex 3\nproperty float x\nproperty float y\n"
            b"property float z\nelement face 2\nproperty list uchar int vertex_indices\nend_header\n"
            b"0 0 0\n1 0 0\n0 1 0\n3 0 1 2\n",
            "tells of 5 vertices and faces; 4 lines follow",
        ),
        (
            "a.off",
            b"OFF # four faces\n\n3 4 0\n0 0 0\n# corner\n1 0 0\n0 1 0\n3 0 1 2\n",
            "tells of 7 vertices and faces; 4 lines follow",
        ),
        ("a.stl", b"\0" * 80 + b"\x09\0\0\0" + b"\0" * 60, "tells of 9 triangles; the file has 144 bytes"),
        ("a.stl", b"solid nothing\nendsolid\n", "a.stl"),
        ("a.glb", b"glTF\x02\x00\x00\x00", "a.glb"),
    ],
)
def test_damaged_files_are_named(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(Gen3dError, match=message):
        io.read(tmp_path / name)
    assert io.read(tmp_path / name, failures=True) == [None]


def test_one_point_is_no_shape(tmp_path: Path) -> None:
    io.write([trimesh.PointCloud([[1.0, 2, 3]])], tmp_path / "a.ply")
    with pytest.raises(Gen3dError, match="1 point; at least 2"):
        io.read(tmp_path / "a.ply")


def test_damage_is_not_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    text = BOX.export(file_type="stl_ascii").replace("facet normal 0", "facet normal x", 1)
    (tmp_path / "a.stl").write_text(text)
    io.read(tmp_path / "a.stl", failures=True)
    assert not caplog.records


def test_numbers_that_are_none_are_refused(tmp_path: Path) -> None:
    (tmp_path / "nan.obj").write_text("v 0 0 nan\nv 1 0 0\nv 0 1 0\nf 1 2 3\n")
    with pytest.raises(Gen3dError, match="not finite"):
        io.read(tmp_path / "nan.obj")


@pytest.mark.parametrize(
    "head", ["OFF3 1 0", "OFF 3 1 0", "OFF # a comment\n3 1 0", "# a comment\nOFF\n\n3 1 0"]
)
def test_counts_on_the_first_line_are_understood(tmp_path: Path, head: str) -> None:
    """As in some files of ModelNet."""
    (tmp_path / "a.off").write_text(f"{head}\n0 0 0\n1 0 0\n0 1 0\n3 0 1 2\n")
    (made,) = io.read(tmp_path / "a.off")
    assert made.area == pytest.approx(0.5)


@cache
def valid_files(folder: Path) -> dict[str, bytes]:
    files = {e: BOX for e in EXTENSIONS if e != ".binvox"} | {".binvox": GRID, ".npz": CLOUD}
    made = {e: io.write([shape], folder / f"valid{e}")[0].read_bytes() for e, shape in files.items()}
    return made | {".cloud.ply": io.write([CLOUD], folder / "cloud.ply")[0].read_bytes()}


@pytest.mark.parametrize("extension", [*EXTENSIONS, ".npz", ".cloud.ply"])
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_damage_is_survived(
    tmp_path_factory: pytest.TempPathFactory, extension: str, data: st.DataObject
) -> None:
    """Cut and changed files give an object or a `Gen3dError`, and nothing else."""
    folder = tmp_path_factory.getbasetemp()
    whole = bytearray(valid_files(folder)[extension])
    for place in data.draw(st.lists(st.integers(0, len(whole) - 1), max_size=6)):
        whole[place] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(whole)) | st.just(len(whole)))
    path = folder / f"damaged{extension}"
    path.write_bytes(whole[:cut])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for made in io.read(path, failures=True):
            if hasattr(made, "vertices"):
                assert np.isfinite(made.vertices).all()


class TestPictures:
    def test_every_shape_has_its_place(self, tmp_path: Path) -> None:
        image = pytest.importorskip("PIL.Image")
        contact_sheet([CLOUD, None, BOX, GRID, CLOUD], tmp_path / "a.png", columns=3, size=64)
        sheet = np.asarray(image.open(tmp_path / "a.png"))
        assert sheet.shape == (128, 192, 3)
        white = [(sheet[y : y + 64, x : x + 64] == 255).all() for y in (0, 64) for x in (0, 64, 128)]
        assert white == [False, True, False, False, False, True]
        with pytest.raises(Gen3dError, match="nothing to draw"):
            contact_sheet([], tmp_path / "b.png")

    def test_light_and_nearness_are_seen(self) -> None:
        """A cloud's nearer half is darker; of a box the top, which faces the light, is the brightest."""
        front, back = (trimesh.PointCloud(np.tile([0, 0, z], (5, 1))) for z in (0.9, -0.9))
        both = trimesh.PointCloud(np.vstack([front.vertices, back.vertices]))
        drawn = picture(both, 100).sum(2, dtype=int)
        rows = np.flatnonzero((drawn < 765).any(1))
        # The camera looks down: what is in front appears lower.
        assert drawn[rows.max() - 1].min() < drawn[rows.min() + 1].min()
        box = picture(trimesh.creation.box(extents=(1.2, 1.2, 1.2)), 100).astype(int)
        seen = np.flatnonzero((box[:, 50] < 255).any(1))
        assert box[seen.min() + 8, 50].sum() > box[seen.max() - 8, 50].sum() + 30

    @pytest.mark.parametrize("kind", ["cloud", "vertices", "faces"])
    def test_own_colours_are_seen(self, kind: str) -> None:
        """Green points, and a box with green corners or sides, are green and nothing else."""
        green = [20, 200, 20, 255]
        shape = CLOUD.copy() if kind == "cloud" else trimesh.creation.box()
        if kind == "cloud":
            shape.colors = np.tile(green, (len(shape.vertices), 1)).astype(np.uint8)
        elif kind == "vertices":
            shape.visual.vertex_colors = green
        else:
            shape.visual.face_colors = green
        drawn = picture(shape, 64).astype(int)
        inside = drawn[(drawn < 255).any(2)]
        assert len(inside) > 20
        assert (inside[:, 1] >= inside[:, [0, 2]].max(1)).all()
        assert inside[:, 0].min() < 40

    def test_up_is_up_and_nearer_hides_farther(self) -> None:
        top = picture(trimesh.PointCloud(np.tile([0, 0.9, 0], (5, 1))), 100)
        rows = np.flatnonzero((top < 255).any((1, 2)))
        assert rows.max() < 35
        # A board in front of a ball: the ball cannot be seen.
        board = trimesh.creation.box(extents=(1.8, 1.8, 0.02))
        ball = trimesh.creation.icosphere(radius=0.2)
        turn = trimesh.transformations.rotation_matrix(np.deg2rad(35), [0, 1, 0])
        tilt = trimesh.transformations.rotation_matrix(np.deg2rad(-22), [1, 0, 0])
        board.apply_translation([0, 0, 0.4]).apply_transform(turn @ tilt)
        alone, both = picture(board, 100), picture(trimesh.util.concatenate([board, ball]), 100)
        assert (alone[40:60, 40:60] == both[40:60, 40:60]).mean() > 0.9


def test_reading_needs_a_known_extension(tmp_path: Path) -> None:
    with pytest.raises(Gen3dError, match=r"unknown extension '\.blend'"):
        io.read(tmp_path / "a.blend")
    (tmp_path / "a.ply").write_text("element vertex 1\nend_header\n0")
    with pytest.raises(Gen3dError, match="cannot be read as ply"):
        read_one(tmp_path / "a.ply")
