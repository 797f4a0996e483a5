"""Fitting scenes, and what is made of them: films, meshes, metrics, resumes, and the command line."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

import gen3d
from gen3d import media
from gen3d.captures import Views, read_views
from gen3d.cli import main
from gen3d.config import from_dict, load_yaml, merge
from gen3d.domains.dynamic_scene.config import DynamicSceneRun
from gen3d.domains.dynamic_scene.domain import SceneFit
from gen3d.errors import Gen3dError
from gen3d.fields import surfaces
from gen3d.fields.cameras import around
from gen3d.fields.voxels import VoxelField
from gen3d.scenes.bounds import carved
from gen3d.scenes.quality import psnr, ssim, warped_error

ROOT = Path(__file__).parents[1]
TINY = ROOT / "data" / "tiny" / "scene"
VOXELS = ROOT / "configs" / "dynamic-scene_voxels.yaml"
HASHGRID = ROOT / "configs" / "dynamic-scene_hashgrid.yaml"
DEBUG = ROOT / "configs" / "dynamic-scene_debug.yaml"


def run_of(**changes) -> DynamicSceneRun:
    return from_dict(DynamicSceneRun, merge(load_yaml(DEBUG), changes))


def command(verb: str, *words: object) -> int:
    return main([verb, "--domain", "dynamic-scene", *map(str, words)])


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the debug config."""
    out = tmp_path_factory.mktemp("scene") / "run"
    assert command("train", "--config", DEBUG, "--data", TINY, "--out", out, "--quiet") == 0
    return out


class TestFitting:
    def test_it_shows_what_held_out_cameras_saw(self, run, capsys):
        assert command("evaluate", "--samples", run, "--reference", TINY) == 0
        assert "psnr" in capsys.readouterr().out
        found = json.loads((run / "metrics.json").read_text())["metrics"]
        test = read_views(TINY, "test")
        blank = np.mean([-10 * math.log10(((image - 1) ** 2).mean()) for image in test.composited()])
        assert found["psnr"]["value"] > blank + 4
        low, high = found["psnr"]["interval"]
        assert low < found["psnr"]["value"] < high
        assert 0 < found["megabytes"]["value"] < 1

    def test_it_gets_better(self, run):
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        assert len(lines) == 10
        assert lines[-1]["psnr_held_out"] > lines[0]["psnr_held_out"] + 1

    def test_a_moving_field_beats_a_still_one(self):
        """The boxes turn by 60 degrees: what stands still blurs them."""
        scores = {}
        for still in (0.15, 2.0):
            of = {"head": "harmonics", "deformation": {"still": still}}
            penalties = {"bending": 0.3, "acceleration": 1.0}
            run = run_of(domain_config=of, fit={"steps": 250, "penalties": penalties})
            fit = SceneFit(run, read_views(TINY, "train"), read_views(TINY, "test"))
            while fit.share(None) < 1:
                fit.advance()
            scores[still] = fit.measure()["psnr_held_out"]
        assert scores[0.15] > scores[2.0] + 0.3

    @pytest.mark.parametrize("stop", [10, 60])
    def test_a_resume_goes_on_exactly(self, stop, tmp_path):
        views = read_views(TINY, "train")
        whole, first, second = (SceneFit(run_of(), views, None) for _ in range(3))
        for _ in range(70):
            whole.advance()
        for _ in range(stop):
            first.advance()
        first.save(tmp_path / "state.safetensors")
        second.restore(tmp_path / "state.safetensors")
        for _ in range(70 - stop):
            second.advance()
        for name, value in whole.field.state_dict().items():
            assert torch.equal(value, second.field.state_dict()[name]), name
        assert torch.equal(whole.occupancy.cells, second.occupancy.cells)
        assert (whole.step, whole.loss) == (second.step, second.loss)

    def test_minutes_are_a_whole_run(self, tmp_path):
        """Grids grow and rates fall in the time that there is."""
        assert command("train", "--config", DEBUG, "--data", TINY, "--out", tmp_path / "run", "--quiet",
                       "--max-minutes", "0.02", "--fit.steps", "100000") == 0  # fmt: skip
        config = json.loads((tmp_path / "run" / "checkpoint" / "config.json").read_text())
        assert config["resolution"] == 20
        assert config["fit"]["seconds"] == pytest.approx(1.2, abs=0.6)

    def test_a_run_of_another_configuration_is_not_continued(self, run, capsys):
        assert command("train", "--config", DEBUG, "--data", TINY, "--out", run, "--fit.rays", "64") == 2
        assert "fit.rays = 512, not 64" in capsys.readouterr().err

    @pytest.mark.parametrize("method", ["hexplane", "kplanes"])
    def test_rivals_are_fitted_by_the_same_command(self, method, tmp_path):
        out = tmp_path / "run"
        words = (
            "--quiet",
            "--domain_config.method",
            method,
            "--fit.learning_rate",
            "0.02",
            "--fit.steps",
            "30",
        )
        assert command("train", "--config", DEBUG, "--data", TINY, "--out", out, "--quiet", *words) == 0
        scene = gen3d.load(out)
        view = read_views(TINY, "test").cameras
        assert scene.render(view, 0).colour.isfinite().all()

    def test_silhouettes_leave_the_box_of_what_moves(self):
        """No camera looks from below, so that only the sides are cut close."""
        occupancy = carved(read_views(TINY, "train"), 6, 0.85)
        low, high = occupancy.box
        assert (low[:2] > -1.3).all()
        assert (high[:2] < 1.3).all()
        assert (high - low)[:2].max() > 1.2  # the arm sweeps that far
        assert occupancy.share < 0.6


class TestSeeing:
    def test_python(self, run):
        scene = gen3d.load(run)
        cameras = around(torch.tensor([0.0]), torch.tensor([20.0]), radius=4.0, width=20, height=10)
        seen = scene.at(0.5).render(cameras)
        assert seen.colour.shape == (10, 20, 3)
        assert torch.equal(seen.colour, scene.render(cameras.at(0.5)).colour)
        later = scene.at(1.0).render(cameras)
        assert not torch.allclose(seen.colour, later.colour, atol=0.01)
        with pytest.raises(Gen3dError, match="cameras without times"):
            scene.render(cameras)
        with pytest.raises(Gen3dError, match=r"time is 1\.5; allowed: 0 to 1"):
            scene.at(1.5)

    def test_the_checkpoint_shows_what_was_fitted(self, tmp_path):
        fit = SceneFit(run_of(fit={"steps": 40}), read_views(TINY, "train"), None)
        for _ in range(40):
            fit.advance()
        fit.write(tmp_path / "checkpoint")
        scene = gen3d.load(tmp_path)
        cameras = read_views(TINY, "test").cameras
        from gen3d.scenes.scene import scene_of

        before = scene_of(fit.field, fit.occupancy, fit.views, 40).render(cameras, 1)
        after = scene.render(cameras, 1)
        assert (before.colour - after.colour).abs().max() < 2e-3  # stored in half precision

    def test_films(self, run, tmp_path):
        words = ("--checkpoint", run, "--seconds", "0.5", "--fps", "8", "--width", "24", "--quiet")
        assert command("sample", *words, "--out", tmp_path / "a.gif") == 0
        with Image.open(tmp_path / "a.gif") as film:
            assert film.n_frames == 4
            assert film.size == (24, 24)
        assert command("sample", *words, "--out", tmp_path / "a.mp4") == 0
        import imageio.v3 as iio

        frames = iio.imread(tmp_path / "a.mp4", plugin="FFMPEG")
        assert frames.shape == (4, 24, 24, 3)
        assert (
            command("sample", *words, "--path", "still", "--time", "0.2", "--out", tmp_path / "frames") == 0
        )
        files = sorted((tmp_path / "frames").iterdir())
        assert [file.name for file in files] == [f"{k:04}.png" for k in range(4)]
        assert len({file.read_bytes() for file in files}) == 1  # neither camera nor time moves

    @pytest.mark.parametrize("show", ["depth", "normals"])
    def test_what_pictures_show(self, run, tmp_path, show):
        words = ("--checkpoint", run, "--time", "0.5", "--show", show, "--out", tmp_path / "a.png")
        assert command("sample", *words, "--quiet") == 0
        picture = np.asarray(Image.open(tmp_path / "a.png"))
        assert (picture[0, 0] == 255).all()
        assert picture.std() > 10

    @pytest.mark.parametrize("suffix", ["glb", "obj", "ply"])
    def test_meshes_of_an_instant(self, run, tmp_path, suffix):
        path = tmp_path / f"a.{suffix}"
        words = ("--checkpoint", run, "--time", "0.5", "--resolution", "40", "--out", path)
        assert command("sample", *words, "--quiet") == 0
        mesh = trimesh.load(path, force="mesh")
        assert len(mesh.faces) > 100
        assert np.ptp(mesh.visual.vertex_colors[:, :3], axis=0).max() > 30

    def test_glb_has_y_up_as_gltf_asks(self, run, tmp_path):
        boxes = {}
        for suffix in ("glb", "ply"):
            path = tmp_path / f"a.{suffix}"
            words = ("--checkpoint", run, "--time", "0.5", "--resolution", "24", "--out", path)
            assert command("sample", *words, "--quiet") == 0
            boxes[suffix] = trimesh.load(path, force="mesh").bounds
        low, high = boxes["ply"]
        np.testing.assert_allclose(
            boxes["glb"], [[low[0], low[2], -high[1]], [high[0], high[2], -low[1]]], atol=1e-5
        )

    def test_a_mesh_for_each_picture(self, run, tmp_path):
        words = (
            "--checkpoint",
            run,
            "--seconds",
            "0.5",
            "--fps",
            "6",
            "--resolution",
            "24",
            "--format",
            "ply",
        )
        assert command("sample", *words, "--out", tmp_path / "frames", "--quiet") == 0
        assert sorted(p.name for p in (tmp_path / "frames").iterdir()) == ["0000.ply", "0001.ply", "0002.ply"]

    def test_a_contact_sheet_and_a_page_beside_the_film(self, run, tmp_path, capsys):
        words = ("--checkpoint", run, "--seconds", "0.2", "--fps", "5", "--width", "24", "--report", "--json")
        assert command("sample", *words, "--out", tmp_path / "a.gif") == 0
        record = json.loads(capsys.readouterr().out)
        assert record["files"] == [str(tmp_path / "a.gif")]
        with Image.open(tmp_path / "a.preview.png") as sheet:
            assert sheet.width == 4 * 160
            views = np.asarray(sheet).reshape(3, sheet.height // 3, 4, 160, 3).swapaxes(1, 2)
        # Twelve views of a scene that is not round, and moves: no two are alike.
        assert len({view.tobytes() for view in views.reshape(12, -1)}) == 12
        page = (tmp_path / "a.report.html").read_text()
        assert "data:image/gif;base64," in page
        assert "<td>domain</td><td>dynamic-scene</td>" in page
        assert command("sample", *words[:-2], "--no-preview", "--quiet", "--out", tmp_path / "b.gif") == 0
        assert not (tmp_path / "b.preview.png").exists()

    @pytest.mark.parametrize(
        ("words", "complaint"),
        [
            (("--time", "2"), "--time is 2.0; allowed: 0 to 1"),
            (("--seconds", "0"), "--seconds is 0.0; it must be above 0"),
            (("--format", "stl"), "cannot write '.stl'; allowed: glb, obj, ply, mp4, gif, png"),
            (("--width", "0"), "--width is 0; at least 1 pixel"),
            (("--elevation", "100"), "--elevation is 100.0"),
        ],
    )
    def test_bad_requests(self, run, tmp_path, monkeypatch, capsys, words, complaint):
        monkeypatch.chdir(tmp_path)
        assert command("sample", "--checkpoint", run, *words) == 2
        assert complaint in capsys.readouterr().err
        assert not list(tmp_path.iterdir())

    def test_a_checkpoint_must_be_named(self, capsys):
        assert command("sample") == 2
        assert "--checkpoint is missing" in capsys.readouterr().err


class TestSurfaces:
    def ball(self) -> VoxelField:
        field = VoxelField(torch.tensor([[-1.0, -1, -1], [1, 1, 1]]), 48)
        axis = torch.linspace(-1, 1, 48)
        grid = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), -1).view(-1, 3)
        with torch.no_grad():
            field.density_table[:, 0] = 4 + 100 * (0.6 - grid.norm(dim=1))
            red = field.colour_table.view(-1, 3, 4)
            red[:, 0, 0] = 20.0 * torch.where(grid[:, 0] > 0, 1.0, -1.0)
        return field

    def test_a_ball_has_its_volume_and_colours(self):
        mesh = surfaces.mesh(self.ball(), level=25 * math.log(2), resolution=64)
        assert mesh.is_watertight
        assert mesh.volume == pytest.approx(4 / 3 * math.pi * 0.6**3, rel=0.02)
        assert mesh.metadata["floaters_removed"] == 0
        right = mesh.vertices[:, 0] > 0.1
        assert (mesh.visual.vertex_colors[right, 0] > 240).all()
        assert (mesh.visual.vertex_colors[mesh.vertices[:, 0] < -0.1, 0] < 15).all()
        cloud = surfaces.point_cloud(mesh, 500)
        assert np.linalg.norm(cloud.vertices, axis=1) == pytest.approx(np.full(500, 0.6), abs=0.02)

    def test_floaters_are_counted(self):
        field = self.ball()
        with torch.no_grad():
            field.density_table.view(48, 48, 48)[2:4, 2:4, 2:4] = 20.0
        assert surfaces.mesh(field, resolution=64).metadata["floaters_removed"] == 1

    def test_nothing_has_no_surface(self):
        with pytest.raises(Gen3dError, match="no surface: the density is"):
            surfaces.mesh(VoxelField(torch.tensor([[-1.0, -1, -1], [1, 1, 1]]), 4))


class TestQuality:
    def pictures(self) -> tuple[torch.Tensor, torch.Tensor]:
        generator = torch.Generator().manual_seed(0)
        one = torch.rand(40, 50, 3, generator=generator)
        one = torch.nn.functional.avg_pool2d(one.permute(2, 0, 1), 5, 1, 2).permute(1, 2, 0)
        return one, (one + 0.05 * torch.randn(40, 50, 3, generator=generator)).clamp(0, 1)

    def test_psnr_and_ssim_are_scikit_images(self):
        a, b = self.pictures()
        assert psnr(a, b) == pytest.approx(
            peak_signal_noise_ratio(a.numpy(), b.numpy(), data_range=1), rel=1e-4
        )
        theirs = structural_similarity(
            a.numpy(), b.numpy(), data_range=1, channel_axis=2, gaussian_weights=True, sigma=1.5,
            use_sample_covariance=False, win_size=11,
        )  # fmt: skip
        assert ssim(a, b) == pytest.approx(theirs, abs=0.01)
        assert psnr(a, a) == math.inf
        assert ssim(a, a) == pytest.approx(1)

    def test_what_moves_steadily_has_a_smaller_warped_error_than_what_flickers(self):
        y, x = torch.meshgrid(torch.arange(60.0), torch.arange(60.0), indexing="ij")

        def picture(shift: float) -> torch.Tensor:
            wave = 0.5 + 0.4 * torch.sin((x - shift) / 4) * torch.cos(y / 5)
            return wave[..., None].expand(60, 60, 3)

        moved = warped_error(picture(0), picture(1.5))
        flickering = warped_error(picture(0), (picture(1.5) + 0.1).clamp(0, 1))
        assert float((picture(0) - picture(1.5)).square().mean()) > 10 * moved
        assert flickering > 5 * moved


class TestMedia:
    def test_a_picture_survives(self, tmp_path):
        picture = torch.rand(5, 7, 3, generator=torch.Generator().manual_seed(0))
        media.write_png(picture, tmp_path / "a.png")
        read = np.asarray(Image.open(tmp_path / "a.png")) / 255
        assert np.abs(read - picture.numpy()).max() <= 0.5 / 255 + 1e-6

    def test_the_nearest_is_darkest_and_nothing_is_white(self):
        depth = torch.tensor([[1.0, 2.0, 3.0, 9.0]])
        picture = media.depth_picture(depth, torch.tensor([[1.0, 1.0, 1.0, 0.0]]))
        assert picture[0, :, 0].tolist() == pytest.approx([0, 0.4, 0.8, 1])
        assert (media.depth_picture(depth, torch.zeros(1, 4)) == 1).all()

    @pytest.mark.parametrize(
        ("frames", "name", "complaint"),
        [
            ([], "a.gif", "without pictures"),
            ([torch.zeros(4, 4, 3)], "a.avi", "no film has the extension '.avi'"),
            ([torch.zeros(4, 4, 3), torch.zeros(4, 6, 3)], "a.gif", "must have one size"),
            ([torch.full((4, 4, 3), math.nan)], "a.gif", "not finite"),
            ([torch.zeros(4, 4)], "a.gif", r"shape \(4, 4\)"),
        ],
    )
    def test_bad_films_leave_nothing(self, tmp_path, frames, name, complaint):
        with pytest.raises(Gen3dError, match=complaint):
            media.write_film(frames, tmp_path / name)
        assert not list(tmp_path.iterdir())


class TestStillScenes:
    @pytest.mark.parametrize(
        ("config", "changes"),
        [
            (VOXELS, ["--fit.resolutions", "[16,24]", "--fit.grow_at", "[0.0,0.4]"]),
            (VOXELS, ["--fit.resolutions", "[24]", "--fit.grow_at", "[0.0]", "--fit.finer", 16]),
            (HASHGRID, ["--fit.resolutions", "[48]"]),
        ],
        ids=["voxels", "finer steps", "hash grid"],
    )
    def test_a_grid_shows_what_held_out_cameras_saw(self, tmp_path, config, changes):
        ball = trimesh.creation.icosphere(subdivisions=2)
        shades = np.uint8(255 * (0.5 + 0.5 * ball.vertices))
        ball.visual.vertex_colors = np.hstack([shades, np.full_like(shades[:, :1], 255)])
        ball.export(tmp_path / "ball.ply")
        capture, out = tmp_path / "capture", tmp_path / "run"
        sizes = ["--width", 48, "--height", 48, "--train", 20, "--valid", 2, "--test", 4]
        made = ["--source", tmp_path / "ball.ply", "--out", capture, *sizes, "--quiet"]
        assert command("prepare", *made) == 0
        fit = ["--fit.samples", 48, "--fit.steps", 200, *changes]
        changed = ["--config", config, "--data", capture, "--out", out, *fit]
        assert command("train", *changed, "--quiet") == 0
        scene, test = gen3d.load(out), read_views(capture, "test")
        assert not scene.moves
        seen = [scene.render(test.cameras, view).colour.clamp(0, 1) for view in range(len(test))]
        truth = torch.from_numpy(test.composited())
        scores = [psnr(a, b) for a, b in zip(seen, truth, strict=True)]
        assert min(scores) > 20
        assert max(psnr(torch.ones_like(b), b) for b in truth) < 14

    def test_what_moves(self, tmp_path, capsys):
        assert command("train", "--config", VOXELS, "--data", TINY, "--out", tmp_path / "run") == 2
        assert "has times, and voxels has none" in capsys.readouterr().err


class TestBadInput:
    def test_a_still_capture(self, tmp_path, capsys):
        folder = tmp_path / "still"
        folder.mkdir()
        for file in TINY.rglob("*"):
            if file.is_file():
                target = folder / file.relative_to(TINY)
                target.parent.mkdir(exist_ok=True)
                text = file.read_bytes()
                if file.suffix == ".json" and file.stem != "scene":
                    content = json.loads(text)
                    for frame in content["frames"]:
                        frame.pop("time")
                    text = json.dumps(content).encode()
                target.write_bytes(text)
        assert command("train", "--config", DEBUG, "--data", folder, "--out", tmp_path / "run") == 2
        assert "has no times" in capsys.readouterr().err

    def test_one_picture(self):
        views = read_views(TINY, "train")
        with pytest.raises(Gen3dError, match="penalty 'x' is unknown to this field; allowed: acceleration"):
            SceneFit(run_of(fit={"penalties": {"x": 1.0}}), views, None)

    def test_a_scene_elsewhere(self):
        views = read_views(TINY, "train")
        empty = Views(np.zeros_like(views.images), views.cameras, views.names, has_alpha=True)
        with pytest.raises(Gen3dError, match=r"no place in the box from \[-1.5, -1.5, -1.5\]"):
            carved(empty, 4, 0.65)

    @pytest.mark.parametrize(
        "words",
        [
            ("--fit.resolutions", "[8, 4]", "--fit.grow_at", "[0.0]"),
            ("--fit.rays", "0"),
            ("--fit.learning_rate", "-1"),
            ("--domain_config.method", "nerf"),
            ("--domain_config.hull_share", "2"),
            ("--from", "shape"),
            ("--size", "s"),
            ("--max-minutes", "0"),
        ],
    )
    def test_bad_settings_are_one_line(self, tmp_path, capsys, words):
        out = tmp_path / "run"
        assert command("train", "--config", DEBUG, "--data", TINY, "--out", out, *words) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert not out.exists()

    def test_a_damaged_state(self, run, tmp_path, capsys):
        (tmp_path / "state.safetensors").write_bytes((run / "state.safetensors").read_bytes()[:999])
        (tmp_path / "config.yaml").write_bytes((run / "config.yaml").read_bytes())
        assert command("train", "--config", DEBUG, "--data", TINY, "--out", tmp_path) == 2
        assert "state.safetensors" in capsys.readouterr().err


def test_check_says_what_is_wrong_and_draws_the_cameras(tmp_path, capsys):
    assert main(["prepare", "--check", str(TINY), "--out", str(tmp_path / "cameras.png")]) == 0
    assert "34 cameras" in capsys.readouterr().out
    assert Image.open(tmp_path / "cameras.png").size[0] > 100
    assert main(["prepare", "--domain", "dynamic-scene"]) == 2
    assert "--source is missing" in capsys.readouterr().err
