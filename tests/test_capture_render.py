"""Meshes that move, their pictures and the scenes made of them, against closed forms."""

import hashlib
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from gen3d.captures import read_views
from gen3d.captures.check import check_capture
from gen3d.captures.make import prepare_scene
from gen3d.captures.meshes import Mesh, MeshSequence, read_meshes
from gen3d.captures.render import Light, render_mesh
from gen3d.errors import Gen3dError
from gen3d.fields.cameras import around, orbit

trimesh = pytest.importorskip("trimesh", reason="the extra scenes is not installed")
pytest.importorskip("embreex", reason="the extra scenes is not installed")

TRIANGLE = np.array([[-1.0, 0, -1], [1, 0, -1], [0, 0, 1]])
FACE = np.array([[0, 1, 2]])
PRIMARIES = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255]], np.uint8)


def front(size: int = 64, **settings: float):  # type: ignore[no-untyped-def]
    """A camera on -y, so that x is to the right and z up in its picture."""
    return around(torch.tensor([-90.0]), torch.tensor([0.0]), radius=4.0, width=size, height=size, **settings)


# Pictures


@pytest.mark.parametrize("elevation", [0.0, 55.0])
def test_a_sphere_is_a_disc_of_the_known_size(elevation: float) -> None:
    """From distance d a sphere of radius r is seen as a disc of radius f r / sqrt(d^2 - r^2) pixels."""
    sphere = trimesh.creation.icosphere(subdivisions=5, radius=0.8)
    camera = around(torch.tensor([20.0]), torch.tensor([elevation]), radius=4.0, width=101, height=81)
    grey = np.full((len(sphere.vertices), 3), 128, np.uint8)
    alpha = render_mesh(sphere.vertices, sphere.faces, grey, camera)[0, ..., 3] / 255
    radius = float(camera.focal[0, 0]) * 0.8 / math.sqrt(16 - 0.64)
    offsets = (np.arange(81 * 20) + 0.5) / 20 - 40.5
    across = (np.arange(101 * 20) + 0.5) / 20 - 50.5
    inside = (offsets[:, None] ** 2 + across[None] ** 2 < radius**2).reshape(81, 20, 101, 20).mean((1, 3))
    assert alpha.sum() == pytest.approx(math.pi * radius**2, rel=0.004)
    assert np.abs(alpha - inside).max() < 0.3  # 9 rays a pixel tell its share to about a third
    assert np.abs(alpha - inside).mean() < 0.003
    assert ((alpha > 0.05) & (alpha < 0.95)).sum() > 50  # edges are soft


def test_points_are_seen_where_cameras_project_them() -> None:
    points = torch.tensor([[0.7, -0.3, 0.4], [-0.5, 0.6, -0.6], [0.0, 0.0, 0.9]])
    cameras = orbit(5, elevation=30.0, radius=4.0, width=120, height=90)
    ball = trimesh.creation.icosphere(subdivisions=2, radius=0.06)
    for k, point in enumerate(points):
        grey = np.full((len(ball.vertices), 3), 255, np.uint8)
        images = render_mesh(ball.vertices + point.numpy(), ball.faces, grey, cameras)
        y, x = np.mgrid[:90, :120] + 0.5
        for view, image in enumerate(images):
            weight = image[..., 3].astype(float)
            seen = [(weight * x).sum() / weight.sum(), (weight * y).sum() / weight.sum()]
            expected = cameras.project(points)[0][view, k].tolist()
            assert seen == pytest.approx(expected, abs=0.15)


def test_colours_of_vertices_are_mixed_and_come_out_as_put_in() -> None:
    camera = front(200)
    image = render_mesh(TRIANGLE, FACE, PRIMARIES, camera, light=None)[0]
    middle = torch.tensor([[0.0, 0.0, -1 / 3], [-0.5, 0.0, -2 / 3]], dtype=torch.float32)
    pixels = camera.project(middle)[0][0]
    for (x, y), expected in zip(pixels.tolist(), [[85, 85, 85], [170, 42.5, 42.5]], strict=True):
        np.testing.assert_allclose(image[int(y), int(x)], [*expected, 255], atol=4)


def test_colours_of_faces_are_even_and_edges_keep_them() -> None:
    """Straight alpha: a pixel half outside has the colour of its inner half, not a darker one."""
    square = 0.9 * np.array([[-1.0, 0, -1], [1, 0, -1], [1, 0, 1], [-1, 0, 1]])
    colours = np.array([[200, 40, 10], [200, 40, 10]], np.uint8)
    image = render_mesh(square, np.array([[0, 1, 2], [0, 2, 3]]), colours, front(51), light=None)[0]
    soft = (image[..., 3] > 0) & (image[..., 3] < 255)
    assert soft.any()
    assert (image[image[..., 3] > 0][:, :3] == [200, 40, 10]).all()
    assert (image[image[..., 3] == 0] == 0).all()


@pytest.mark.parametrize("flipped", [False, True])
def test_light_follows_its_formula_on_both_sides_of_a_face(flipped: bool) -> None:
    """The camera is on -y: the normal that it sees is (0, -1, 0), however the corners are ordered."""
    light = Light(ambient=0.3, direct=0.5, direction=(0.0, -3.0, 4.0))
    white = np.full((3, 3), 255, np.uint8)
    image = render_mesh(TRIANGLE, FACE[:, ::-1] if flipped else FACE, white, front(), light=light)[0]
    expected = 255 * (0.2 + 0.3 * 0.5 + 0.5 * 0.6)
    assert image[32, 32, :3].tolist() == pytest.approx([expected] * 3, abs=1)


def test_what_is_in_front_hides_what_is_behind() -> None:
    vertices = np.concatenate([TRIANGLE, TRIANGLE * 0.5 + [0, -0.5, 0]])
    colours = np.array([[0, 0, 255], [255, 255, 0]], np.uint8)
    image = render_mesh(vertices, np.array([[0, 1, 2], [3, 4, 5]]), colours, front(), light=None)[0]
    assert image[32, 32].tolist() == [255, 255, 0, 255]
    behind = around(torch.tensor([90.0]), torch.tensor([0.0]), radius=4.0, width=64, height=64)
    image = render_mesh(vertices, np.array([[0, 1, 2], [3, 4, 5]]), colours, behind, light=None)[0]
    assert image[32, 32].tolist() == [0, 0, 255, 255]


def test_nothing_in_view_is_nothing_in_the_picture() -> None:
    image = render_mesh(TRIANGLE + np.array([0, -50.0, 0]), FACE, PRIMARIES, front())
    assert not image.any()
    aside = render_mesh(TRIANGLE + np.array([50.0, 0, 0]), FACE, PRIMARIES, front())
    assert not aside.any()


def test_a_camera_inside_a_mesh_sees_it_all_around() -> None:
    box = trimesh.creation.box(extents=(20, 20, 20))
    image = render_mesh(box.vertices, box.faces, np.full((8, 3), 99, np.uint8), front(), light=None)
    assert (image == [99, 99, 99, 255]).all()


# Meshes that move


def test_a_sequence_is_turned_and_put_into_the_box(tmp_path: Path) -> None:
    vertices = np.stack([TRIANGLE * 3 + [5, 7, 9], TRIANGLE * 3 + [6, 7, 9]])
    np.savez(tmp_path / "a.npz", vertices=vertices, faces=FACE, vertex_colors=PRIMARIES)
    sequence = read_meshes(tmp_path / "a.npz", up="z")
    together = np.concatenate([frame.vertices for frame in sequence.frames])
    # 7 wide along x over both frames: the longest side, so that it becomes 2.
    np.testing.assert_allclose(together.min(0), [-1, 0, -6 / 7], atol=1e-12)
    np.testing.assert_allclose(together.max(0), [1, 0, 6 / 7], atol=1e-12)
    turned = read_meshes(tmp_path / "a.npz").frames[0].vertices  # y up, which becomes z
    assert np.ptp(turned[:, 2]) == pytest.approx(0)
    assert np.ptp(turned[:, 1]) == pytest.approx(12 / 7)


def test_between_frames_vertices_are_mixed_and_faces_that_change_are_not() -> None:
    moving = MeshSequence(tuple(Mesh(TRIANGLE + k, FACE, PRIMARIES) for k in range(3)), "a")
    np.testing.assert_allclose(moving.at(0.3).vertices, TRIANGLE + 0.6)
    np.testing.assert_allclose(moving.at(1.0).vertices, TRIANGLE + 2)
    other = Mesh(np.concatenate([TRIANGLE, TRIANGLE]), FACE + 3, np.concatenate([PRIMARIES, PRIMARIES]))
    changing = MeshSequence((moving.frames[0], other), "b")
    assert changing.at(0.49) is changing.frames[0]
    assert changing.at(0.51) is other
    still = MeshSequence((other,), "c")
    assert still.at(0.7) is other
    with pytest.raises(Gen3dError, match=r"time is 1\.2"):
        moving.at(1.2)


@pytest.mark.parametrize("kind", ["ply", "obj", "glb"])
def test_a_folder_of_files_is_a_sequence_by_the_numbers_in_their_names(tmp_path: Path, kind: str) -> None:
    for k in range(11):
        mesh = trimesh.Trimesh(TRIANGLE + np.array([k, 0, 0]), FACE, vertex_colors=PRIMARIES, process=False)
        mesh.export(tmp_path / f"frame_{k}.{kind}")
    sequence = read_meshes(tmp_path, up="z")
    assert len(sequence) == 11
    lefts = [frame.vertices[:, 0].min() for frame in sequence.frames]
    np.testing.assert_allclose(lefts, np.linspace(-1, -1 + 20 / 12, 11), atol=1e-6)
    np.testing.assert_array_equal(sequence.frames[3].colours, PRIMARIES)


@pytest.mark.parametrize(
    ("arrays", "complaint"),
    [
        ({"vertices": TRIANGLE}, "needed"),
        ({"vertices": TRIANGLE, "faces": FACE}, r"allowed: \(T, P, 3\)"),
        ({"vertices": TRIANGLE[None], "faces": FACE + 1}, "faces name vertex 3; there are 3"),
        ({"vertices": TRIANGLE[None] * math.nan, "faces": FACE}, "vertex 0 is not finite"),
        ({"vertices": TRIANGLE[None] * 0, "faces": FACE}, "at one point"),
        ({"vertices": TRIANGLE[None], "faces": FACE, "vertex_colors": PRIMARIES[:2]}, "colours are"),
    ],
)
def test_meshes_that_are_none_are_refused(
    tmp_path: Path, arrays: dict[str, np.ndarray], complaint: str
) -> None:
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(Gen3dError, match=complaint):
        read_meshes(tmp_path / "a.npz")


def test_files_that_are_no_meshes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(Gen3dError, match=r"allowed: \.npz"):
        read_meshes(tmp_path / "absent")
    with pytest.raises(Gen3dError, match="holds no mesh"):
        read_meshes(tmp_path)
    for name in ("a.ply", "a.glb", "a.obj", "a.npz"):
        (tmp_path / name).write_bytes(b"PK\x03\x04 nothing")
        with pytest.raises(Gen3dError, match=name):
            read_meshes(tmp_path / name)


# Scenes


@pytest.fixture
def sliding(tmp_path: Path) -> Path:
    """A box that slides along x while time goes by."""
    box = trimesh.creation.box(extents=(1, 2, 3))
    vertices = np.stack([box.vertices + np.array([0.2 * k, 0, 0]) for k in range(5)])
    colours = (box.vertices > 0).astype(np.uint8) * 200 + 20
    np.savez(tmp_path / "box.npz", vertices=vertices, faces=box.faces, vertex_colors=colours)
    return tmp_path / "box.npz"


def digest(folder: Path) -> dict[str, str]:
    files = sorted(f for f in folder.rglob("*") if f.is_file())
    return {str(f.relative_to(folder)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


@pytest.mark.parametrize("cameras", ["random", "orbit"])
def test_a_scene_is_what_was_asked_for(sliding: Path, tmp_path: Path, cameras: str) -> None:
    out = tmp_path / "scene"
    told = prepare_scene(
        sliding,
        out,
        width=40,
        height=40,
        train=7,
        test=3,
        valid=2,
        cameras=cameras,  # type: ignore[arg-type]
        seed=3,
        progress=False,
    )
    assert json.loads((out / "scene.json").read_text()) == told
    train = read_views(out)
    assert train.cameras.times is not None
    np.testing.assert_allclose(train.cameras.times, np.linspace(0, 1, 7), atol=1e-6)
    for split, count in (("train", 7), ("valid", 2), ("test", 3)):
        views = read_views(out, split)  # type: ignore[arg-type]
        assert len(views) == count
        torch.testing.assert_close(views.cameras.positions.norm(dim=1), torch.full((count,), 4.0))
        heights = views.cameras.positions[:, 2] / 4
        assert (heights >= 0).all()
        assert (heights <= math.sin(math.radians(60)) + 1e-6).all()
        edge = views.images[..., 3].copy()
        edge[:, 1:-1, 1:-1] = 0
        assert not edge.any()  # nothing is cut off
        assert (views.images[..., 3].max((1, 2)) == 255).all()
        if split != "train":
            gap = (views.cameras.times[:, None] - train.cameras.times).abs().amin()  # type: ignore[index]
            assert gap > 1e-4
    assert check_capture(out).faults == ()


def test_a_scene_depends_on_its_seed_alone(sliding: Path, tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        small = {"width": 16, "height": 16, "train": 3, "test": 2, "valid": 0}
        prepare_scene(sliding, tmp_path / name, seed=seed, progress=False, **small)  # type: ignore[arg-type]
    assert digest(tmp_path / "a") == digest(tmp_path / "b")
    assert digest(tmp_path / "a")["train/r_001.png"] != digest(tmp_path / "c")["train/r_001.png"]
    assert not (tmp_path / "a" / "transforms_val.json").exists()


def test_a_mesh_alone_makes_a_still_scene(tmp_path: Path) -> None:
    trimesh.creation.box().export(tmp_path / "box.ply")
    out = tmp_path / "scene"
    told = prepare_scene(
        tmp_path / "box.ply", out, width=16, height=16, train=2, test=1, valid=0, progress=False
    )
    assert told["moves"] is False
    assert read_views(out).cameras.times is None


def test_what_is_there_is_not_overwritten_unasked(sliding: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "precious.txt").write_text("x")
    with pytest.raises(Gen3dError, match="not empty"):
        prepare_scene(sliding, tmp_path / "out", progress=False)
    for wrong in ({"train": 1}, {"test": -1}, {"width": 0}, {"cameras": "none"}):
        with pytest.raises(Gen3dError, match=next(iter(wrong)) if "width" not in wrong else "pixels"):
            prepare_scene(sliding, tmp_path / "new", progress=False, **wrong)  # type: ignore[arg-type]


def test_the_mage_walks(shared_data: Path, tmp_path: Path) -> None:
    sequence = read_meshes(shared_data / "scenes_dynamic" / "mesh_kaykit_mage_walking_a.npz")
    assert len(sequence) == 48
    together = np.concatenate([frame.vertices for frame in sequence.frames])
    np.testing.assert_allclose(together.min(0), -together.max(0), atol=1e-9)
    assert together.max(0)[2] == pytest.approx(1)  # taller than wide: upright
    mesh = sequence.at(0.4)
    image = render_mesh(mesh.vertices, mesh.faces, mesh.colours, front(80), light=None)[0]
    seen = image[image[..., 3] == 255][:, :3].astype(int)
    assert len(seen) > 600
    # His face is what looks at -y: skin, which is redder than blue by far, in the upper half.
    upper = image[20:45, 25:55]
    skin = (upper[..., 0].astype(int) - upper[..., 2] > 50) & (upper[..., 0] > 150)
    assert skin.sum() > 20
