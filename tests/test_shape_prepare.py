"""From sources of shapes to the arrays that training reads."""

import hashlib
import io as bytes_io
import json
import lzma
import os
import tarfile
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
import trimesh

from gen3d import sweethome
from gen3d.cli import main
from gen3d.domains.shapes.dataset import open_dataset
from gen3d.domains.shapes.metrics.distances import chamfer
from gen3d.domains.shapes.normalise import solid_voxels, unit_box, warn_of_frames
from gen3d.domains.shapes.prepare import prepare
from gen3d.errors import Gen3dError
from gen3d.fetch import cache_folder
from gen3d.sweethome import class_of, held_out, read_package

CENTRES = (np.arange(32) + 0.5) / 16 - 1


def test_the_unit_box_of_a_shifted_box() -> None:
    points = trimesh.creation.box(extents=(2, 4, 1)).vertices + np.array([10.0, 0, -3])
    centre, scale = unit_box(np.asarray(points))
    np.testing.assert_allclose(centre, [10, 0, -3])
    assert scale == 2.0


@pytest.mark.parametrize(
    ("points", "message"),
    [
        (np.zeros((1, 3)), "1 points; at least 2"),
        (np.ones((4, 3)), r"all points are at \(1, 1, 1\)"),
        (np.array([[0, 0, 0], [np.inf, 0, 0]]), "not finite"),
    ],
)
def test_shapes_without_extent_are_refused(points: np.ndarray, message: str) -> None:
    with pytest.raises(Gen3dError, match=message):
        unit_box(points)


def test_voxels_of_a_ball_are_solid() -> None:
    ball = trimesh.creation.icosphere(subdivisions=4, radius=0.8)
    grid = solid_voxels(ball)
    radius = np.linalg.norm(np.stack(np.meshgrid(CENTRES, CENTRES, CENTRES, indexing="ij"), -1), axis=-1)
    assert grid[radius < 0.8 - 1 / 16].all()
    assert not grid[radius > 0.8 + 1 / 16].any()


def test_thin_and_open_parts_survive() -> None:
    plate = trimesh.creation.box(extents=(1.8, 0.001, 1.8))
    grid = solid_voxels(plate)
    assert grid.any(1)[2:30, 2:30].all()
    assert grid.sum(1).max() <= 2
    cup = trimesh.creation.cylinder(radius=0.7, height=1.6)
    cup.update_faces(cup.face_normals[:, 2] < 0.5)  # without its lid
    assert not solid_voxels(cup)[16, 16, 16]


def test_mixed_units_and_axes_are_warned_of() -> None:
    rng = np.random.default_rng(0)
    low = -rng.uniform(0.5, 1, (10, 3))
    high = -low
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_frames(low, high, list("abcdefghij"))
    large = np.where(np.arange(10)[:, None] == 9, 1e4, 1.0)
    with pytest.warns(UserWarning, match=r"units seem mixed: j reaches from \(-"):
        warn_of_frames(large * low, large * high, list("abcdefghij"))
    standing_low, standing_high = low.copy(), high.copy()
    standing_low[:, 2], standing_high[:, 2] = 0.0, 1.0
    with pytest.warns(UserWarning, match="z seems to point up"):
        warn_of_frames(standing_low, standing_high, list("abcdefghij"))


def test_far_and_flat_shapes_are_warned_of() -> None:
    low, high = -np.ones((3, 3)), np.ones((3, 3))
    far = np.array([[0, 0, 0], [5000, 0, 0], [0, 0, 0]])
    with pytest.warns(
        UserWarning, match=r"1 of 3 shapes are far from the origin, such as b, .* from \(4999, "
    ):
        warn_of_frames(low + far, high + far, list("abc"))
    flat = np.array([[1, 1, 1], [1, 1, 1], [1, 1e-7, 1]])
    with pytest.warns(UserWarning, match=r"1 of 3 shapes are flat, such as c"):
        warn_of_frames(low * flat, high * flat, list("abc"))


class TestFolders:
    @pytest.fixture
    def meshes(self, tmp_path: Path) -> Path:
        folder = tmp_path / "meshes"
        for label, make in (("ball", trimesh.creation.icosphere), ("box", trimesh.creation.box)):
            (folder / label).mkdir(parents=True)
            for i in range(10):
                make().apply_scale(1 + i).export(folder / label / f"{i}.ply")
        (folder / "box" / "broken.obj").write_text("f 1 2 3\n")
        (folder / "box" / "notes.txt").write_text("not a shape")
        return folder

    def test_classes_are_folders_and_splits_are_even(self, meshes: Path, tmp_path: Path) -> None:
        report = prepare(meshes, tmp_path / "out", progress=False)
        assert report.counts == {"train": 16, "valid": 2, "test": 2}
        assert report.classes == {"ball": 10, "box": 10}
        assert [name for name, _ in report.skipped] == [f"box{os.sep}broken.obj"]
        assert json.loads((tmp_path / "out" / "dataset.json").read_text())["counts"] == report.counts
        for split, each in (("train", 8), ("valid", 1), ("test", 1)):
            dataset = open_dataset(tmp_path / "out", split)
            assert np.bincount(dataset.labels).tolist() == [each, each]
            for i in range(len(dataset)):
                points = dataset[i].points
                assert points.shape == (4096, 3)
                assert np.abs(points).max() == pytest.approx(1, abs=0.02)
                if dataset.class_names[dataset[i].label] == "ball":
                    assert np.linalg.norm(points, axis=1) == pytest.approx(1, abs=0.02)
                    assert dataset.grid(i).mean() == pytest.approx(np.pi / 6, abs=0.08)
        again = prepare(meshes, tmp_path / "again", progress=False)
        assert again.counts == report.counts
        one, other = (open_dataset(tmp_path / n, "train") for n in ("out", "again"))
        assert np.array_equal(one.points, other.points)

    def test_the_command_says_what_it_did(
        self, meshes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        words = ["prepare", "--domain", "shape", "--source", str(meshes), "--out", str(tmp_path / "out")]
        assert main(words) == 0
        said = capsys.readouterr().out
        assert "16 train, 2 valid, 2 test; 1 skipped" in said
        assert "broken.obj" in said
        assert "classes: ball 10, box 10" in said

    def test_clouds_in_the_layout_of_pointflow(self, tmp_path: Path) -> None:
        rng = np.random.default_rng(0)
        for split in ("train", "val", "test"):
            folder = tmp_path / "03001627" / split
            folder.mkdir(parents=True)
            for i in range(3):
                np.save(folder / f"{i}.npy", rng.normal(size=(15000, 3)))
        report = prepare(tmp_path, tmp_path / "out", progress=False)
        assert report.counts == {"train": 3, "valid": 3, "test": 3}
        assert report.classes == {"03001627": 9}
        assert open_dataset(tmp_path / "out", "train").voxels is None

    def test_points_of_pointflow_for_training_are_the_first(self, tmp_path: Path) -> None:
        """Clouds of 15,000 points: the first 10,000 lie on x = -1 or 1, the others have |x| below 0.1."""
        rng = np.random.default_rng(0)
        cloud = rng.uniform(-1, 1, (15000, 3))
        cloud[:10000, 0] = np.where(cloud[:10000, 0] < 0, -1, 1)
        cloud[10000:, 0] *= 0.1
        for split in ("train", "val", "test"):
            (tmp_path / "0" / split).mkdir(parents=True)
            np.save(tmp_path / "0" / split / "0.npy", cloud)
        prepare(tmp_path, tmp_path / "out", progress=False)
        x = {s: np.abs(open_dataset(tmp_path / "out", s)[0].points[:, 0]) for s in ("train", "valid", "test")}
        assert x["train"].min() > 0.99
        assert x["valid"].max() < 0.11
        assert x["test"].max() < 0.11

    def test_a_limit_takes_some_of_every_class_and_split(self, tmp_path: Path) -> None:
        rng = np.random.default_rng(0)
        for label in ("a", "b"):
            for split in ("train", "val", "test"):
                (tmp_path / label / split).mkdir(parents=True)
                for i in range(4):
                    np.save(tmp_path / label / split / f"{i}.npy", rng.normal(size=(50, 3)))
        report = prepare(tmp_path, tmp_path / "out", limit=6, progress=False)
        assert report.counts == {"train": 2, "valid": 2, "test": 2}
        assert report.classes == {"a": 3, "b": 3}

    def test_rare_classes_are_held_out_too(self, tmp_path: Path) -> None:
        """Twelve classes of three shapes: the shares hold over all, though none has a tenth of a shape."""
        rng = np.random.default_rng(0)
        for i in range(36):
            (tmp_path / f"{i % 12}").mkdir(exist_ok=True)
            np.save(tmp_path / f"{i % 12}" / f"{i}.npy", rng.normal(size=(50, 3)))
        assert prepare(tmp_path, tmp_path / "out", progress=False).counts == {
            "train": 28, "valid": 4, "test": 4,
        }  # fmt: skip
        held = [open_dataset(tmp_path / "out", split).labels for split in ("valid", "test")]
        assert np.bincount(np.concatenate(held)).max() == 1

    def test_prepared_shapes_stay_what_they_are(self, meshes: Path, tmp_path: Path) -> None:
        prepare(meshes, tmp_path / "once", progress=False)
        report = prepare(tmp_path / "once", tmp_path / "twice", progress=False)
        assert report.counts == {"train": 16, "valid": 2, "test": 2}
        once, twice = (open_dataset(tmp_path / name, "train") for name in ("once", "twice"))
        assert once.names.tolist() == twice.names.tolist()
        assert np.array_equal(once.points, twice.points)
        assert once.voxels is not None
        assert twice.voxels is not None
        assert np.array_equal(once.voxels, twice.voxels)

    def test_classes_by_name_for_each_shape(self, tmp_path: Path) -> None:
        points = np.random.default_rng(0).normal(size=(4, 50, 3))
        labels = np.array(["chair", "lamp", "chair", "chair"])
        np.savez(tmp_path / "a.npz", points=points, label=labels, id=np.array(list("wxyz")))
        assert prepare(tmp_path / "a.npz", tmp_path / "out", progress=False).classes == {
            "chair": 3,
            "lamp": 1,
        }
        found = {}
        for split in ("train", "valid", "test"):
            dataset = open_dataset(tmp_path / "out", split)
            found |= {
                str(n): dataset.class_names[k] for n, k in zip(dataset.names, dataset.labels, strict=True)
            }
        assert found == dict(zip("wxyz", labels.tolist(), strict=True))

    @pytest.mark.parametrize(
        ("arrays", "message"),
        [
            ({"voxels_packed": np.zeros((2, 9), np.uint8)}, r"uint8 \(shapes, 3375\) is needed"),
            ({"voxels_packed": np.zeros((2, 3375), np.uint8)}, "labels do not fit 2 grids of 0 classes"),
            ({"points": np.zeros((2, 9, 3)), "label": np.array(["a"])}, "has 2 shapes, 1 labels"),
            ({"faces": np.zeros(3)}, "holds no shapes"),
        ],
    )
    def test_arrays_that_do_not_fit_are_named(
        self, tmp_path: Path, arrays: dict[str, np.ndarray], message: str
    ) -> None:
        np.savez(tmp_path / "a.npz", **arrays)  # type: ignore[arg-type]
        with pytest.raises(Gen3dError, match=message):
            prepare(tmp_path / "a.npz", tmp_path / "out", progress=False)

    def test_modelnet_is_turned_upright(self, tmp_path: Path) -> None:
        tower = trimesh.creation.box(extents=(0.5, 0.6, 3.0))  # z up
        for split in ("train", "test"):
            (tmp_path / "tower" / split).mkdir(parents=True)
            (tmp_path / "tower" / split / "tower.off").write_text(
                tower.export(file_type="off").replace("OFF\n", "OFF", 1)
            )
        prepare(tmp_path, tmp_path / "out", progress=False)
        extents = np.ptp(open_dataset(tmp_path / "out", "train")[0].points, axis=0)
        np.testing.assert_allclose(extents, [0.5 / 1.5, 2, 0.6 / 1.5], atol=0.02)

    def test_grids_of_modelnet(self, tmp_path: Path) -> None:
        grid = np.zeros((30, 30, 30), bool)
        grid[13:17, 12:18, 5:25] = True  # last axis up
        np.savez(
            tmp_path / "grids.npz",
            voxels_packed=np.packbits(np.stack([grid, grid, 0 * grid]).reshape(3, -1), axis=1),
            labels=np.array([0, 0, 0]),
            class_names=np.array([b"tower"]),
        )
        report = prepare(tmp_path / "grids.npz", tmp_path / "out", progress=False)
        assert report.classes == {"tower": 1}
        assert report.skipped == [("1", "the same grid as 0"), ("2", "an empty grid")]
        extents = np.ptp(open_dataset(tmp_path / "out", "train")[0].points, axis=0)
        np.testing.assert_allclose(extents, [0.4, 2, 0.6], atol=0.06)

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ({}, "holds no file of a known format"),
            ({"a.ply": b"ply"}, r"no shape of .* can be used\. a\.ply"),
            ({"a.npy": b"\x93NUMPY"}, "can be used"),
            (
                {
                    "a.npy": b"\x93NUMPY\x01\0F\0{'descr': '|S1', 'fortran_order': False, 'shape': (2, 3), }"
                    + b" " * 12
                    + b"\nabcdef"
                },
                r"holds an array \|S1 \(2, 3\); real numbers",
            ),
        ],
    )
    def test_unusable_sources_are_named(
        self, tmp_path: Path, content: dict[str, bytes], message: str
    ) -> None:
        for name, data in content.items():
            (tmp_path / name).write_bytes(data)
        with pytest.raises(Gen3dError, match=message):
            prepare(tmp_path, tmp_path / "out", progress=False)
        assert not (tmp_path / "out").exists()

    def test_unknown_sources_are_named(self, tmp_path: Path) -> None:
        with pytest.raises(Gen3dError, match="neither sweethome3d nor a file or folder"):
            prepare("shapenet", tmp_path, progress=False)
        with pytest.raises(Gen3dError, match="limit is 0"):
            prepare("sweethome3d", tmp_path, limit=0, progress=False)


class TestSweetHome:
    def package(self, path: Path, catalogue: str, model: str) -> Path:
        """A Debian package with one catalogue of one model."""
        sh3f, data = bytes_io.BytesIO(), bytes_io.BytesIO()
        with zipfile.ZipFile(sh3f, "w") as archive:
            archive.writestr("PluginFurnitureCatalog.properties", catalogue.encode("latin-1"))
            archive.writestr("models/a.obj", model)
        with tarfile.open(fileobj=data, mode="w") as tar:
            entry = tarfile.TarInfo("./usr/share/sweethome3d/furniture/A.sh3f")
            entry.size = len(sh3f.getvalue())
            tar.addfile(entry, bytes_io.BytesIO(sh3f.getvalue()))
        packed = lzma.compress(data.getvalue())
        members = b""
        for name, content in ((b"debian-binary", b"2.0\n"), (b"data.tar.xz", packed)):
            members += (
                name.ljust(16) + b"0".ljust(32) + str(len(content)).encode().ljust(10) + b"`\n" + content
            )
            members += b"\n" * (len(content) % 2)
        path.write_bytes(b"!<arch>\n" + members)
        return path

    def test_models_are_turned_and_scaled_as_the_catalogue_says(self, tmp_path: Path) -> None:
        box = trimesh.creation.box(extents=(1, 2, 3)).export(file_type="obj")
        catalogue = (
            "id#1=Maker#caf\\u00e9 table\nname#1=Caf\\u00e9 table\nmodel#1=/models/a.obj\nwidth#1=100.0\n"
            "depth#1=40\nheight#1=70\nmodelRotation#1=1 0 0 0 0 1 0 -1 0\n"
        )
        ((name, label, mesh),) = read_package(self.package(tmp_path / "a.deb", catalogue, box))
        assert (name, label) == ("Maker#café table", "table")
        np.testing.assert_allclose(mesh.extents, [1.0, 0.7, 0.4])
        # What had length 3 along z stands upright now, so that the 2 lie along z: the corners say so.
        report = prepare(tmp_path / "a.deb", tmp_path / "out", progress=False)
        assert report.counts["train"] == 1
        checksum = hashlib.sha256((tmp_path / "a.deb").read_bytes()).hexdigest()
        assert report.origin == {"a.deb": f"sha256:{checksum}"}

    def test_models_that_cannot_be_read_are_skipped(self, tmp_path: Path) -> None:
        catalogue = "id#1=M#a\nname#1=A\nmodel#1=/models/missing.obj\nwidth#1=1\ndepth#1=1\nheight#1=1\n"
        path = self.package(tmp_path / "a.deb", catalogue, "")
        ((_, _, error),) = read_package(path)
        assert isinstance(error, Gen3dError)
        (tmp_path / "b.deb").write_bytes(path.read_bytes()[:-40])
        with pytest.raises(Gen3dError, match="is no package of Sweet Home 3D furniture"):
            next(read_package(tmp_path / "b.deb"))

    @pytest.mark.parametrize(
        ("name", "label"),
        [("Desk lamp", "lamp"), ("Rocking chair", "chair"), ("Hot dog", "other"), ("Female", "character"),
         ("Table football", "other"), ("Corner sofa", "sofa"), ("Bunk bed", "bed"), ("Vase", "vessel")],
    )  # fmt: skip
    def test_names_tell_classes(self, name: str, label: str) -> None:
        assert class_of(name) == label

    def test_what_is_held_out(self) -> None:
        assert len(held_out()) == 152
        assert "Blend Swap CC-0#bed2" in held_out()

    @pytest.mark.slow
    def test_points_agree_with_those_sampled_independently(self, shared_data: Path) -> None:
        package = cache_folder("sweethome3d") / sweethome.FILE.name
        if not package.is_file():
            pytest.skip(f"{package} has not been fetched")
        with np.load(shared_data / "shapes" / "furniture_points_train.npz", allow_pickle=False) as arrays:
            known = dict(zip(arrays["id"].tolist(), arrays["points"].astype(np.float64), strict=True))
            labels = dict(zip(arrays["id"].tolist(), arrays["label"].tolist(), strict=True))
        close, total, right = 0, 0, 0
        for name, label, mesh in read_package(package):
            if name not in known or total == 100:
                continue
            total += 1
            right += label == labels[name]
            centre, scale = unit_box(np.asarray(mesh.vertices))
            points = trimesh.sample.sample_surface(mesh, 2048, seed=0)[0]
            close += chamfer((points - centre) / scale, known[name]) < 0.01
            assert name not in held_out()
        assert close >= 0.95 * total
        assert right >= 0.98 * total
