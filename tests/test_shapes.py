"""Shapes: data, batches, codecs, and what becomes of decoded tensors."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import trimesh

from gen3d.config import load_yaml, merge
from gen3d.domains.shapes.batch import ShapeBatch, collate, vary
from gen3d.domains.shapes.dataset import TRUNCATION, Shape, ShapeDataset, open_dataset, signed_distances
from gen3d.domains.shapes.decoded import DecodedShapes
from gen3d.domains.shapes.native import cloud_of, is_something, to_mesh, to_native, to_voxels
from gen3d.domains.shapes.normalise import unit_box
from gen3d.draws import Draws
from gen3d.errors import Gen3dError
from gen3d.generator import Generator
from gen3d.interpolation import interpolate
from gen3d.run_config import run_config

ROOT = Path(__file__).parents[1]
CENTRES = (np.arange(32) + 0.5) / 16 - 1
GRID = np.stack(np.meshgrid(CENTRES, CENTRES, CENTRES, indexing="ij"), -1)
VOXELS = {"shape": {"kind": "voxels", "resolution": 16, "latent_channels": 4, "width": 4}}


def ball_points(count: int, seed: int = 0, squeeze: float = 1.0) -> np.ndarray:
    points = np.random.default_rng(seed).normal(size=(count, 3))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    return points * [1, squeeze, 1]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """24 spheres and discs, with their classes, of which a model knows two, and coarse grids."""
    flat = np.linspace(0.2, 1, 24)
    points = np.stack([ball_points(200, i, s) for i, s in enumerate(flat)]).astype(np.float16)
    coarse = (np.arange(16) + 0.5) / 8 - 1
    x, y, z = np.meshgrid(coarse, coarse, coarse, indexing="ij")
    voxels = [np.packbits(x**2 + (y / s) ** 2 + z**2 <= 1) for s in flat]
    arrays = {
        "points": points,
        "labels": np.arange(24) % 3,
        "class_names": np.array(["table", "lamp", "chair"]),
        "names": np.arange(24).astype(str),
        "voxels": np.stack(voxels),
    }
    for split in ("train", "valid", "test"):
        np.savez(tmp_path / f"{split}.npz", **arrays)
    return tmp_path


def make(**domain_config: Any) -> Generator:
    torch.manual_seed(0)
    config = load_yaml(ROOT / "configs" / "shape_debug.yaml")
    if "shape" in domain_config:
        config["domain_config"].pop("shape")
    return Generator(run_config(merge(config, {"domain_config": domain_config})).generator()).eval()


class TestData:
    def test_classes_have_the_numbers_of_the_model(self, data: Path) -> None:
        dataset = make().domain.dataset(data, "train")
        # The model knows chair and table, in this order; lamps are of no class.
        assert dataset.labels[:3].tolist() == [1, 2, 0]
        assert open_dataset(data, "train").labels[:3].tolist() == [0, 1, 2]

    def test_grids_come_back(self, data: Path) -> None:
        grid = open_dataset(data, "train").grid(23)
        coarse = (np.arange(16) + 0.5) / 8 - 1
        radius = np.linalg.norm(np.stack(np.meshgrid(coarse, coarse, coarse, indexing="ij"), -1), axis=-1)
        assert np.array_equal(grid, radius <= 1)

    def test_distances_to_a_ball(self) -> None:
        radius = np.linalg.norm(GRID, axis=-1)
        made = signed_distances(radius < 0.6)
        expected = np.clip((0.6 - radius) * 16, -TRUNCATION, TRUNCATION)
        assert np.abs(made - expected).max() < 1.0  # cells are whole
        assert np.array_equal(made > 0, radius < 0.6)

    def test_distances_of_a_plate_and_of_nothing(self) -> None:
        plate = np.zeros((8, 8, 8), bool)
        plate[3] = True
        assert signed_distances(plate)[:, 4, 4].tolist() == [-2, -1.5, -0.5, 0.5, -0.5, -1.5, -2, -2]
        assert (signed_distances(np.zeros((4, 4, 4), bool)) == -TRUNCATION).all()

    @pytest.mark.parametrize(
        ("arrays", "message"),
        [
            ({"points": np.zeros((3, 4))}, r"shape \(3, 4\)"),
            ({"points": np.full((1, 4, 3), np.nan)}, "not finite"),
            ({"points": np.zeros((2, 4, 3)), "labels": np.array([0, 3])}, "labels do not fit"),
            ({"dots": np.zeros((2, 4, 3))}, "holds no shapes"),
        ],
    )
    def test_bad_files_are_refused(self, tmp_path: Path, arrays: dict[str, Any], message: str) -> None:
        np.savez(tmp_path / "bad.npz", **arrays)
        with pytest.raises(Gen3dError, match=message):
            ShapeDataset.load(tmp_path / "bad.npz")

    def test_a_cut_file_is_refused(self, data: Path) -> None:
        whole = (data / "train.npz").read_bytes()
        (data / "train.npz").write_bytes(whole[: len(whole) // 2])
        with pytest.raises(Gen3dError, match=r"train\.npz holds no shapes, or is damaged"):
            open_dataset(data, "train")
        with pytest.raises(Gen3dError, match="no prepared data"):
            open_dataset(data / "nothing", "train")


class TestBatches:
    def test_points_are_a_choice_of_those_of_the_shape(self) -> None:
        item = Shape(ball_points(50).astype(np.float32), 0)
        one = collate([item, item], 20, Draws(0, torch.tensor([4, 5])), grids=False).points
        again = collate([item, item], 20, Draws(0, torch.tensor([4, 5])), grids=False).points
        assert torch.equal(one, again)
        assert not torch.equal(one[0], one[1])
        known = {tuple(p) for p in item.points.tolist()}
        assert {tuple(p) for p in one[0].tolist()} <= known
        assert len({tuple(p) for p in one[0].tolist()}) == 20
        few = collate([item], 120, None, grids=False).points[0]
        assert {tuple(p) for p in few.tolist()} == known

    def test_mirroring_keeps_points_and_grids_together(self) -> None:
        inside = GRID[..., 0] > 0.5
        field = torch.from_numpy(signed_distances(inside)).float()
        batch = ShapeBatch(
            torch.tensor([[[0.7, 0.1, 0.2]]]).expand(64, -1, -1),
            torch.zeros(64),
            field.expand(64, -1, -1, -1),
        )
        varied = vary(batch, Draws(1, torch.arange(64)), mirror=True, stretch=0.0)
        assert varied.distances is not None
        right = varied.points[:, 0, 0] > 0
        assert 16 < int(right.sum()) < 48
        assert torch.equal(varied.distances[:, -1, 0, 0] > 0, right)
        assert torch.equal(varied.points[:, 0, 1:], batch.points[:, 0, 1:])

    def test_stretching_keeps_the_unit_box(self) -> None:
        points = torch.from_numpy(ball_points(500)).float().expand(8, -1, -1)
        varied = vary(ShapeBatch(points, torch.zeros(8)), Draws(2, torch.arange(8)), False, 0.1).points
        assert torch.allclose(varied.abs().amax((1, 2)), torch.ones(8))
        extents = varied.abs().amax(1)
        assert extents.min() > np.exp(-0.2) - 0.02
        ratio = varied / points
        assert torch.allclose(ratio, ratio[:, :1].expand_as(ratio), atol=1e-3)


class TestMeshes:
    def test_a_ball_has_the_volume_of_a_ball(self) -> None:
        mesh = to_mesh(0.7 - np.linalg.norm(GRID, axis=-1))
        assert mesh.is_watertight
        assert mesh.volume == pytest.approx(4 / 3 * np.pi * 0.7**3, rel=0.01)
        assert np.abs(np.linalg.norm(mesh.vertices, axis=1) - 0.7).max() < 0.01
        outwards = np.einsum("ij,ij->i", mesh.face_normals, mesh.triangles_center)
        assert (outwards > 0).all()

    def test_a_shape_that_leaves_the_grid_is_closed(self) -> None:
        mesh = to_mesh(1.3 - np.linalg.norm(GRID, axis=-1))
        assert mesh.is_watertight
        assert np.abs(mesh.vertices).max() <= 1 + 1 / 16

    def test_floaters_are_removed_and_counted(self) -> None:
        far = np.linalg.norm(GRID - 0.8, axis=-1)
        near = np.linalg.norm(GRID + 0.2, axis=-1)
        mesh = to_mesh(np.maximum(0.6 - near, 0.1 - far))
        assert mesh.metadata["floaters_removed"] == 1
        assert mesh.volume == pytest.approx(4 / 3 * np.pi * 0.6**3, rel=0.02)
        both = to_mesh(np.maximum(0.6 - near, 0.3 - far))
        assert both.metadata["floaters_removed"] == 0
        assert both.body_count == 2

    def test_nothing_becomes_none(self) -> None:
        assert to_mesh(np.full((4, 4, 4), -1.0)) is None
        made = to_native(DecodedShapes(points=torch.full((2, 4, 3), torch.nan)), ())
        assert made == [None, None]

    def test_voxels_lie_where_the_field_does(self) -> None:
        grid = to_voxels(GRID[..., 1] > 0.5)
        assert grid.points[:, 1].min() > 0.5
        assert np.abs(grid.points).max() == pytest.approx(1 - 1 / 32)

    def test_clouds_of_every_kind(self) -> None:
        box = trimesh.creation.box(extents=(2, 1, 1))
        points = cloud_of(box, 4000)
        on_face = np.isclose(np.abs(points), [1, 0.5, 0.5]).any(1)
        assert on_face.all()
        # Area-weighted: the two small faces have a fifth of the area.
        assert np.isclose(np.abs(points[:, 0]), 1).mean() == pytest.approx(0.2, abs=0.03)
        assert len(cloud_of(trimesh.PointCloud(points), 100)) == 100
        assert len(cloud_of(trimesh.PointCloud(points[:7]), 100)) == 7
        surface = cloud_of(to_voxels(np.linalg.norm(GRID, axis=-1) < 0.7), 500)
        assert np.linalg.norm(surface, axis=1).mean() == pytest.approx(0.7, abs=0.05)
        with pytest.raises(Gen3dError, match="0 faces has no surface"):
            cloud_of(trimesh.Trimesh(), 10)
        with pytest.raises(Gen3dError, match="str is no shape"):
            cloud_of("chair", 10)

    def test_what_counts_as_something(self) -> None:
        assert is_something(trimesh.PointCloud(ball_points(5)))
        assert not is_something(trimesh.PointCloud(np.ones((5, 3))))
        assert is_something(trimesh.creation.box())
        assert not is_something(trimesh.Trimesh(vertices=ball_points(5)))
        assert not is_something(to_voxels(np.zeros((4, 4, 4), bool)))


class TestSampling:
    def test_classes_are_drawn_as_often_as_in_training(self, data: Path) -> None:
        domain = make().domain
        domain.fit(domain.dataset(data, "train"))
        layout = domain.layout(domain.SampleOptions(), Draws(0, torch.arange(3000)))
        shares = torch.bincount(layout.conditions["class"], minlength=3) / 3000
        assert torch.allclose(shares, torch.full((3,), 1 / 3), atol=0.03)

    def test_a_class_is_told_and_named(self, data: Path) -> None:
        generator = make()
        made = generator.sample(3, steps=2, class_name="table")
        assert [cloud.metadata["class"] for cloud in made] == 3 * ["table"]
        layout = generator.domain.layout(generator.domain.SampleOptions("table"), Draws(0, torch.arange(3)))
        assert layout.conditions["class"].tolist() == [1, 1, 1]

    def test_any_number_of_points(self) -> None:
        generator = make()
        assert [len(generator.sample(1, steps=2, points=n)[0].vertices) for n in (2, 77, 300)] == [2, 77, 300]

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"points": 0}, "--points is 0; at least 2"),
            ({"class_name": "dragon"}, "--class is 'dragon'; allowed: chair, table"),
            ({"representation": "mesh"}, "makes points, not mesh"),
            ({"representation": "paint"}, "'paint'; allowed: points, voxels, mesh"),
            ({"complete": "missing.ply"}, "no file missing.ply"),
        ],
    )
    def test_what_cannot_be_asked(self, options: dict[str, Any], message: str) -> None:
        with pytest.raises(Gen3dError, match=message):
            make().sample(1, steps=2, **options)

    def test_voxels_become_what_is_asked(self) -> None:
        generator = make(**VOXELS)
        with torch.no_grad():
            for parameter in generator.codec.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
        meshes = generator.sample(4, steps=2)
        grids = generator.sample(4, steps=2, representation="voxels")
        assert any(grid is not None for grid in grids)
        for mesh, grid in zip(meshes, grids, strict=True):
            assert (mesh is None) == (grid is None)
            if mesh is not None:
                assert isinstance(mesh, trimesh.Trimesh)
                assert mesh.is_watertight
        with pytest.raises(Gen3dError, match="--points is for point clouds"):
            generator.sample(1, points=100)

    def test_the_voxel_codec_learns(self, data: Path) -> None:
        generator = make(**VOXELS)
        domain = generator.domain
        dataset = domain.dataset(data, "train")
        batch = domain.collate([dataset[i] for i in range(8)], None)
        optimizer = torch.optim.AdamW(generator.codec.parameters(), lr=2e-3)
        for step in range(300):
            optimizer.zero_grad()
            loss, parts = generator.codec_loss(batch, Draws(step, torch.arange(8)))
            loss.backward()
            optimizer.step()
        assert parts["wrong_cells"] < 0.02
        field = generator.codec.decode(generator.codec.encode(batch)).field
        inside = np.stack([dataset.grid(i) for i in range(8)])
        assert field is not None
        assert ((field > 0).numpy() == inside).mean() > 0.98


class TestCompletion:
    def test_every_point_of_the_scan_stays(self, tmp_path: Path) -> None:
        scan = ball_points(300)
        scan = scan[scan[:, 0] < 0]
        trimesh.PointCloud(scan).export(tmp_path / "scan.ply")
        for made in make().sample(2, steps=3, complete=str(tmp_path / "scan.ply")):
            points = np.asarray(made.vertices)
            nearest = np.linalg.norm(points[None] - scan[:, None], axis=-1).min(1)
            assert nearest.max() < 1e-5
            assert len(points) == len(scan) + 64  # at most half of the 128 are taken by the scan

    @pytest.mark.parametrize(
        ("points", "message"),
        [
            (1.5 * ball_points(50), "the model's frame is the box from -1 to 1"),
            (100 + ball_points(50), "reaches from"),
        ],
    )
    def test_scans_out_of_the_frame_are_refused(
        self, tmp_path: Path, points: np.ndarray, message: str
    ) -> None:
        trimesh.PointCloud(points).export(tmp_path / "scan.ply")
        with pytest.raises(Gen3dError, match=message):
            make().sample(1, steps=2, complete=str(tmp_path / "scan.ply"))


class TestInterpolation:
    def test_the_ends_are_the_given_ones(self) -> None:
        """A model that knows the field between noise and data by heart carries both ends there and back."""
        generator = make()
        ends = [trimesh.PointCloud(ball_points(128, i, s)) for i, s in enumerate((1.0, 0.3))]
        frames = interpolate(generator, *ends, frames=5, steps=20)
        assert len(frames) == 5
        # An untrained model predicts no velocity: noise and data are one.
        for given, made in zip(ends, (frames[0], frames[-1]), strict=True):
            centre, scale = unit_box(np.asarray(given.vertices))
            normalised = (given.vertices - centre) / scale
            distance = np.linalg.norm(np.asarray(made.vertices)[None] - normalised[:, None], axis=-1)
            assert distance.min(1).max() < 1e-3

    def test_what_cannot_be_interpolated(self) -> None:
        cloud = trimesh.PointCloud(ball_points(128))
        with pytest.raises(Gen3dError, match="frames is 1; at least 2"):
            interpolate(make(), cloud, cloud, frames=1)
