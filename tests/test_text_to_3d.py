"""Text to 3D, sketches, paint and edits: against closed forms, brute force and a prior that is known."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import trimesh
from torch import Tensor

from gen3d.captures.compose import LIGHT
from gen3d.captures.meshes import in_ball
from gen3d.cli import main
from gen3d.config import load_yaml
from gen3d.diffusion.distillation import DistillationConfig
from gen3d.domains.latent_nerf.domain import LatentNeRFDomain
from gen3d.domains.latent_nerf.options import LatentNeRFOptions
from gen3d.domains.latent_nerf.paint import Canvas, Unwrapped, padded, unwrapped, write_painted
from gen3d.domains.latent_nerf.sketch import STEP, Overlap, Sketch, SketchConfig, placed
from gen3d.domains.latent_nerf.start import SHARP, begin_as
from gen3d.errors import Gen3dError
from gen3d.fields.heads import HarmonicsHead
from gen3d.fields.latent import LatentField, TextureField
from gen3d.fields.occupancy import Occupancy
from gen3d.fields.solids import distance, inside, open_edges
from gen3d.fields.voxels import VoxelField
from gen3d.generator import Generator
from gen3d.run_config import run_config
from gen3d.scenes.distil import DistilConfig, Distilled, entropy, look_of
from gen3d.train import train
from tests.plain_prior import COLOURS, PlainPrior

ROOT = Path(__file__).parents[1]
BOX = torch.tensor([3 * [-1.0], 3 * [1.0]])


class TestDistilledField:
    def fit(self, **changes: Any) -> Distilled:
        config = DistilConfig(
            steps=120,
            resolutions=(16,),
            grow_at=(0.0,),
            samples=24,
            views=2,
            rgb_size=16,
            learning_rate=0.1,
            pull=DistillationConfig(weight="even", guidance=1.0),
            refine=DistillationConfig("targets", "even", guidance=1.0, prior_steps=2),
            **changes,
        )
        torch.manual_seed(0)
        return Distilled(LatentField(BOX, 16, 3), Occupancy(BOX, 16), PlainPrior(), "a red ball", config)

    def test_a_field_becomes_what_the_prior_believes_in(self) -> None:
        fit = self.fit()
        while fit.share() < 1:
            fit.advance()
        assert not fit.in_latents
        scene = fit.scene()
        assert scene.field.channels == 3
        seen = fit.render(torch.tensor([0.0, 70.0]), torch.tensor([10.0, 30.0]), 32, torch.ones(3))
        pictures = seen.colour.detach().view(2, 32, 32, 3)
        want = (fit.prior.disc(torch.tensor(COLOURS["red"])) + 1) / 2  # type: ignore[attr-defined]
        want = F.interpolate(want, scale_factor=2)[0].permute(1, 2, 0)
        assert (pictures - want).abs().mean() < 0.08
        assert pictures[:, 14:18, 14:18].mean((0, 1, 2)) == pytest.approx(COLOURS["red"], abs=0.1)
        assert pictures[:, :3, :3].min() > 0.9

    def test_the_look_of_latents_is_fitted_to_the_priors_own_pictures(self) -> None:
        """This prior's latents are colours from -1 to 1: the map must be (latent + 1) / 2 where it was."""
        matrix = look_of(PlainPrior(), "a red ball", 0)
        for colour in ((1.0, 1.0, 1.0), COLOURS["red"]):
            latent = 2 * torch.tensor(colour) - 1
            assert matrix[:, :3] @ latent + matrix[:, 3] == pytest.approx(colour, abs=0.03)

    def test_a_run_goes_on_where_it_stopped(self, tmp_path: Path) -> None:
        one, other = self.fit(), self.fit()
        for _ in range(6):
            one.advance()
        for _ in range(3):
            other.advance()
        other.save(tmp_path / "state.safetensors")
        again = self.fit()
        again.restore(tmp_path / "state.safetensors")
        for _ in range(3):
            again.advance()
        for name, value in one.field.state_dict().items():
            assert torch.equal(value, again.field.state_dict()[name]), name

    def test_a_run_that_goes_wrong_keeps_the_last_good_state(self) -> None:
        fit = self.fit()
        fit.advance()
        good = {name: value.clone() for name, value in fit.field.state_dict().items()}
        fit.prior.denoise = lambda noisy, u, told: torch.full_like(noisy, math.nan)  # type: ignore
        with pytest.raises(Gen3dError, match="after 1 steps"):
            fit.advance()
        for name, value in fit.field.state_dict().items():
            assert torch.equal(value, good[name]), name

    def test_entropy_is_one_bit_at_a_half_and_none_at_the_ends(self) -> None:
        assert entropy(torch.tensor([0.5])).item() == pytest.approx(1)
        assert entropy(torch.tensor([0.0, 1.0])).item() == pytest.approx(0, abs=1e-3)

    def test_an_empty_prompt_is_refused(self) -> None:
        with pytest.raises(Gen3dError, match="the prompt is empty"):
            Distilled(LatentField(BOX, 8, 3), Occupancy(BOX, 8), PlainPrior(), " ", DistilConfig())


def ball(tmp_path: Path, radius: float = 1.0) -> Path:
    trimesh.creation.icosphere(3, radius).export(tmp_path / "ball.ply")
    return tmp_path / "ball.ply"


class TestSolids:
    def test_inside_and_distance_are_those_of_a_ball(self) -> None:
        mesh = trimesh.creation.icosphere(4)
        places = np.random.default_rng(0).uniform(-1.5, 1.5, (800, 3))
        radius = np.linalg.norm(places, axis=1)
        clear = abs(radius - 1) > 0.01
        assert np.array_equal(inside(places, mesh.vertices, mesh.faces)[clear], (radius < 1)[clear])
        assert np.allclose(distance(places, mesh.vertices, mesh.faces), abs(radius - 1), atol=5e-3)

    def test_distance_to_a_box_is_exact(self) -> None:
        mesh = trimesh.creation.box((2, 2, 2))
        places = np.array([[3.0, 0, 0], [2, 2, 0], [2, 2, 2], [0, 0, 0.5]])
        assert np.allclose(distance(places, mesh.vertices, mesh.faces), [2, math.sqrt(2), math.sqrt(3), 0.5])

    def test_open_edges_are_counted(self) -> None:
        mesh = trimesh.creation.box((2, 2, 2))
        assert open_edges(mesh.faces) == 0
        assert open_edges(mesh.faces[:1]) == 1


class TestSketch:
    def test_the_loss_is_the_papers(self, tmp_path: Path) -> None:
        """L = CE(a, inside) (1 - exp(-d^2 / 2 sigma^2)), the cross entropy linear in a."""
        sketch = Sketch(SketchConfig(str(ball(tmp_path)), strictness=2.0, proximity=0.3))
        for density in (0.0, 3.0):
            field = VoxelField(BOX, 4, HarmonicsHead(0), scale=1.0, bias=0.0)
            raw = math.log(math.expm1(density)) if density else -100.0
            torch.nn.init.constant_(field.density_table, raw)
            found = sketch.loss(field, torch.Generator().manual_seed(0)).item()
            places = sketch.places.numpy().astype(float)
            radius = np.linalg.norm(places, axis=1)
            truth, a = np.where(radius < 0.7, 0.99, 0.01), 1 - math.exp(-STEP * density)
            entropy = -(a * np.log(truth) + (1 - a) * np.log(1 - truth))
            want = 2 * (entropy * (1 - np.exp(-((radius - 0.7) ** 2) / (2 * 0.3**2)))).mean()
            assert found == pytest.approx(want, rel=0.05)

    def test_a_strict_sketch_is_filled_and_a_free_one_is_not(self, tmp_path: Path) -> None:
        trimesh.creation.box((1, 0.4, 2)).export(tmp_path / "slab.ply")
        made = {}
        for strictness in (1.0, 1e-6):
            sketch = Sketch(SketchConfig(str(tmp_path / "slab.ply"), strictness, 0.1))
            config = DistilConfig(
                steps=150, resolutions=(24,), grow_at=(0.0,), samples=24, views=1, rgb_size=16, refine_at=1.0,
                learning_rate=0.1, pull=DistillationConfig(weight="even", guidance=1.0),
            )  # fmt: skip

            class Held(Distilled):
                def terms(self, sketch: Sketch = sketch) -> Tensor:
                    return sketch.loss(self.field, self.generator)

            fit = Held(LatentField(BOX, 24, 3), Occupancy(BOX, 16), PlainPrior(), "a red slab", config)
            while fit.share() < 1:
                fit.advance()
            made[strictness] = Overlap(BOX, sketch.vertices, sketch.faces, 32).of(fit.field, 8.0)
        assert made[1.0] > 0.7 > made[1e-6]

    def test_overlap_of_known_solids(self) -> None:
        field = VoxelField(BOX, 41, HarmonicsHead(0), scale=1.0, bias=0.0)
        with torch.no_grad():
            field.density_table[:, 0] = torch.where(field.grid_points().norm(dim=1) < 0.8, 9.0, -9.0)
        mesh = trimesh.creation.icosphere(3, 0.6)
        found = Overlap(BOX, mesh.vertices, mesh.faces).of(field, 4.0)
        assert found == pytest.approx((0.6 / 0.8) ** 3, abs=0.05)

    def test_open_meshes_are_refused(self, tmp_path: Path) -> None:
        sheet = trimesh.Trimesh([[0, 0, 0], [1, 0, 0], [0, 1, 0]], [[0, 1, 2]], process=False)
        sheet.export(tmp_path / "sheet.ply")
        with pytest.raises(Gen3dError, match="encloses nothing, and 100% of its edges are open"):
            Sketch(SketchConfig(str(tmp_path / "sheet.ply")))
        with pytest.raises(Gen3dError, match="is no sequence of meshes"):
            Sketch(SketchConfig(str(tmp_path / "none.obj")))
        (tmp_path / "empty.obj").write_text("v 0 0 0\nv 1 0 0\nv 0 1 0\n")
        with pytest.raises(Gen3dError, match=r"empty\.obj"):
            placed(tmp_path / "empty.obj", 0.7)
        with pytest.raises(ValueError, match="strictness is 0"):
            SketchConfig("a", strictness=0.0)


class TestPaint:
    def quad(self) -> Unwrapped:
        """A square in the plane y = 0 that fills its texture."""
        vertices = np.array([[-0.7, 0, -0.7], [0.7, 0, -0.7], [0.7, 0, 0.7], [-0.7, 0, 0.7]])
        return Unwrapped(
            vertices, np.array([[0, 1, 2], [0, 2, 3]]), np.array([[0.0, 0], [1, 0], [1, 1], [0, 1]])
        )

    def test_a_texture_is_seen_where_it_is(self) -> None:
        """From the front, the left lower quarter of the texture is on the left below."""
        field = TextureField(BOX, 4, 3)
        with torch.no_grad():
            field.pyramid.grids[-1][0, 0, 2:, :2] = 1.0  # rows from the upper edge down
        seen = Canvas(self.quad()).render(field, torch.zeros(1), torch.zeros(1), 64, torch.full((3,), 0.5))
        picture = seen.colour.detach().view(64, 64, 3)
        assert picture[45, 20].tolist() == pytest.approx([1, 0, 0], abs=1e-4)
        assert picture[20, 45].tolist() == pytest.approx([0, 0, 0], abs=1e-4)
        assert picture[0, 0].tolist() == [0.5, 0.5, 0.5]

    def test_every_covered_texel_is_found_and_colours_grow_over_the_border(self) -> None:
        mesh = self.quad()
        assert Canvas(mesh).covered(8).all()
        half = Canvas(Unwrapped(mesh.vertices, mesh.faces[:1], mesh.uv)).covered(8)
        assert np.array_equal(half, np.tri(8, dtype=bool)[:, ::-1])
        image = torch.zeros(8, 8, 3)
        image[torch.from_numpy(half)] = 1.0
        grown = padded(image, half, 1)
        assert grown[0, 6].tolist() == pytest.approx([1, 1, 1])
        assert grown[0, 3].tolist() == [0, 0, 0]

    def test_what_is_written_is_read_by_others(self, tmp_path: Path) -> None:
        image = torch.rand(16, 16, 3, generator=torch.Generator().manual_seed(0))
        files = write_painted(self.quad(), image, tmp_path / "out")
        assert {f.name for f in files} == {"mesh.glb", "mesh.obj", "mesh.mtl", "texture.png"}
        for name in ("mesh.glb", "mesh.obj"):
            read = trimesh.load(tmp_path / "out" / name, force="mesh", process=False)
            material = read.visual.material
            picture = getattr(material, "baseColorTexture", None) or material.image
            assert np.allclose(np.asarray(picture.convert("RGB")), (image * 255).round(), atol=1)
            order = np.lexsort(read.visual.uv.T.round(3))
            assert np.allclose(read.visual.uv[order], self.quad().uv[np.lexsort(self.quad().uv.T)], atol=1e-4)
            # y is up: what was z.
            assert np.ptp(read.vertices, axis=0) == pytest.approx([1.4, 1.4, 0], abs=1e-4)

    def test_meshes_without_places_on_a_texture_get_them(self, tmp_path: Path) -> None:
        made = unwrapped(ball(tmp_path), 0.95)
        assert made.uv.min() >= 0
        assert made.uv.max() <= 1
        corners = made.uv[made.faces]
        one, two = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
        area = abs(one[:, 0] * two[:, 1] - one[:, 1] * two[:, 0]) / 2
        assert 0.3 < area.sum() <= 1
        assert np.linalg.norm(made.vertices, axis=1) == pytest.approx(0.95, abs=0.01)


class TestKept:
    """The sum of a pyramid is kept as long as nothing changes."""

    def test_every_change_is_seen_with_and_without_gradients(self) -> None:
        field = LatentField(BOX, 16, 3)
        points = torch.zeros(1, 3)
        optimizer = torch.optim.SGD(field.parameters(), 1.0)
        seen = []
        for step in range(3):
            field.progress(step / 3)
            with torch.no_grad():
                seen.append(float(field.density(points, None)[0]))
            loss = -field.density(points, None)[0].sum()
            assert float(-loss) == pytest.approx(seen[-1])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            with torch.no_grad():
                after = float(field.density(points, None)[0])
                again = LatentField(BOX, 16, 3)
                again.load_state_dict(field.state_dict())
                assert after == float(again.density(points, None)[0]) > seen[-1]
        assert seen == sorted(set(seen))


class TestBeginning:
    """A field that begins as a mesh."""

    def begun(self, mesh: trimesh.Trimesh, resolution: int = 40) -> LatentField:
        field = LatentField(BOX, resolution, 3)
        field.look.of_colours()
        begin_as(field, in_ball(mesh), SHARP)
        return field

    def painted(self, mesh: trimesh.Trimesh) -> trimesh.Trimesh:
        mesh.visual.vertex_colors = np.tile(np.array([[200, 40, 40, 255]], np.uint8), (len(mesh.vertices), 1))
        return mesh

    def test_density_is_where_the_mesh_is_put_into_the_ball(self) -> None:
        # 2 x 1 x 1 in glTF's axes: half the diagonal of its box is brought to 1; z is what was y.
        field = self.begun(self.painted(trimesh.creation.box((2, 1, 0.5))))
        scale = 2 / math.sqrt(2**2 + 1**2 + 0.5**2)
        half = torch.tensor([2, 0.5, 1]) * scale / 2
        points = 2 * torch.rand(4000, 3, generator=torch.Generator().manual_seed(0)) - 1
        away = (points.abs() - half).amax(1)
        cell = 2 / 39
        density = field.density(points, None)[0]
        assert (density[away < -cell] * cell > 1.5).all()
        assert (density[away > 1.5 * cell] * cell < 0.05).all()

    def test_colours_are_lit_as_the_priors_pictures_are(self) -> None:
        field = self.begun(self.painted(trimesh.creation.box((1, 1, 1))))
        edge = 1 / math.sqrt(3)
        faces = torch.tensor([[0, 0, edge], [0, -edge, 0], [0, 0, -edge]])
        _, located = field.density(faces, None)
        seen = field.colour(located, -F.normalize(faces, dim=1), None).detach()
        for colour, normal in zip(seen, F.normalize(faces, dim=1), strict=True):
            expected = np.array([200, 40, 40]) / 255 * LIGHT.shade(normal[None].numpy())[0]
            assert colour.numpy() == pytest.approx(expected, abs=0.06)

    def test_latents_are_left_alone_and_nothing_is_refused(self) -> None:
        field = LatentField(BOX, 16, 4)
        begin_as(field, in_ball(self.painted(trimesh.creation.icosphere())), SHARP)
        assert not field.tables()[1].any()
        with pytest.raises(Gen3dError, match="Trimesh has no faces"):
            in_ball(trimesh.Trimesh())


@pytest.fixture(scope="module")
def prior(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = run_config(load_yaml(ROOT / "configs" / "image_debug.yaml"))
    return train(
        config, ROOT / "data" / "tiny" / "views.npz", tmp_path_factory.mktemp("prior"), progress=False
    )


@pytest.fixture(scope="module")
def things(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = run_config(load_yaml(ROOT / "configs" / "object_debug.yaml"))
    return train(
        config, ROOT / "data" / "tiny" / "objects.npz", tmp_path_factory.mktemp("things"), progress=False
    )


class TestCommands:
    """As users run them, with an untrained prior."""

    def run(self, domain: str, prior: Path | str, out: Path, *more: str) -> int:
        config = str(ROOT / "configs" / f"{domain}_debug.yaml")
        quick = ["--width", "32", "--seconds", "0.2", "--resolution", "24", "--quiet"]
        words = ["--config", config, "--prior", str(prior), "--out", str(out), *quick, *more]
        return main(["sample", "--domain", domain, *words])

    def test_it_begins_as_what_a_model_of_things_makes(
        self, prior: Path, things: Path, tmp_path: Path
    ) -> None:
        words = ("--prompt", "a red knight", "--start", str(things), "--steps", "1")
        self.run("latent-nerf", prior, tmp_path / "a", *words)
        candidates = {"seed": 0, "best_of": 8, "prompt": "a red knight"}
        (made,) = Generator.from_pretrained(things, "cpu").sample(1, **candidates)
        scene = LatentNeRFDomain.load(tmp_path / "a" / "run")
        inside = torch.from_numpy(made.vertices).float() * 0.5 + torch.from_numpy(made.centroid).float() * 0.5
        assert (tmp_path / "a" / "run" / "config.yaml").read_text().count(str(things)) == 1
        expected = LatentField(BOX, 16, 3)
        expected.look.of_colours()
        begin_as(expected, in_ball(made), SHARP)
        a, b = (field.density_at(inside)[0].clamp(max=60) for field in (scene.field, expected))
        assert torch.allclose(a, b, atol=8)

    def test_a_start_in_a_file_counts_as_one_by_a_flag(self, tmp_path: Path) -> None:
        file = tmp_path / "own.yaml"
        file.write_text("start: object\nfit: {learning_rate: 0.001}\n")

        def run(start: str | None, config: Path | None) -> Any:
            options = LatentNeRFOptions("a sofa", start=start, config=None if config is None else str(config))
            return LatentNeRFDomain.run_config(options, {})

        by_flag, by_file, ball = run("object", None), run(None, file), run("ball", file)
        assert [r.start for r in (by_flag, by_file, ball)] == ["object", "object", ""]
        assert by_flag.fit.steps == by_file.fit.steps < ball.fit.steps
        assert [r.fit.learning_rate for r in (by_flag, by_file, ball)] == [0.002, 0.001, 0.001]

    def test_what_it_begins_as_goes_with_the_prior(self, tmp_path: Path) -> None:
        def start(**options: Any) -> str:
            return LatentNeRFDomain.run_config(LatentNeRFOptions("a sofa", **options), {}).start

        mesh, file = str(ball(tmp_path)), tmp_path / "own.yaml"
        file.write_text("start: ball\n")
        assert start() == "object"
        assert start(start="ball") == start(config=str(file)) == ""
        assert start(prior="runs/own") == start(prior="stable-diffusion:x") == ""
        assert start(sketch=mesh) == start(paint=mesh) == ""
        assert start(prior="runs/own", start="object") == "object"

    @pytest.mark.parametrize(("name", "start"), [("latent-nerf", None), ("latent-nerf_ball", "ball")])
    def test_configurations_state_the_defaults(self, name: str, start: str | None) -> None:
        stated = LatentNeRFOptions("a sofa", config=str(ROOT / "configs" / f"{name}.yaml"))
        usual = LatentNeRFOptions("a sofa", start=start)
        assert LatentNeRFDomain.run_config(stated, {}) == LatentNeRFDomain.run_config(usual, {})

    def test_text_to_3d(self, prior: Path, tmp_path: Path) -> None:
        words = ("--prompt", "a red knight", "--start", "ball")
        self.run("latent-nerf", prior, tmp_path / "a", *words)
        assert {p.name for p in (tmp_path / "a").iterdir()} >= {"run", "turntable.mp4", "views"}
        assert (tmp_path / "a" / "run" / "preview.png").stat().st_size > 200
        line = json.loads((tmp_path / "a" / "run" / "metrics.jsonl").read_text().splitlines()[-1])
        assert line["step"] == 20
        # The same command goes on with what is there: nothing is left to do.
        before = (tmp_path / "a" / "run" / "state.safetensors").read_bytes()
        self.run("latent-nerf", prior, tmp_path / "a", *words)
        assert (tmp_path / "a" / "run" / "state.safetensors").read_bytes() == before

    def test_sketch_and_paint(self, prior: Path, tmp_path: Path) -> None:
        mesh = str(ball(tmp_path))
        self.run("latent-nerf", prior, tmp_path / "s", "--prompt", "a red ball", "--sketch", mesh)
        line = json.loads((tmp_path / "s" / "run" / "metrics.jsonl").read_text().splitlines()[-1])
        # It begins as the sketch.
        assert line["overlap"] > 0.7
        self.run("latent-nerf", prior, tmp_path / "p", "--prompt", "a red ball", "--paint", mesh)
        assert {"mesh.obj", "mesh.mtl", "mesh.glb", "texture.png"} <= {
            p.name for p in (tmp_path / "p").iterdir()
        }

    def test_an_edit(self, prior: Path, tmp_path: Path) -> None:
        moving = str(ROOT / "data" / "tiny" / "moving.npz")
        mesh = str(ball(tmp_path))
        assert self.run("voxel-edit", prior, tmp_path / "e", "--input", moving, "--prompt", "a red mage") == 2
        words = ("--prompt", "a red knight", "--edit-words", "red")
        self.run("voxel-edit", prior, tmp_path / "e", "--input", mesh, *words)
        found = {p.name for p in (tmp_path / "e").iterdir()}
        assert found >= {"turntable.mp4", "before_after_mask.png", "voxels.npz", "run"}
        with np.load(tmp_path / "e" / "voxels.npz") as voxels:
            assert voxels["density"].shape == (16, 16, 16)
            assert voxels["edited"].dtype == bool

    def test_stable_diffusion_guides_as_well(self, tmp_path: Path) -> None:
        from tiny_diffusion import save_pipeline

        folder = save_pipeline(tmp_path / "sd")
        self.run("latent-nerf", f"stable-diffusion:{folder}", tmp_path / "a", "--prompt", "a cat")
        mesh = str(ball(tmp_path))
        words = ("--prompt", "a red cat", "--edit-words", "red", "--input", mesh)
        self.run("voxel-edit", f"stable-diffusion:{folder}", tmp_path / "e", *words)
        assert (tmp_path / "e" / "before_after_mask.png").is_file()

    @pytest.mark.parametrize(
        ("domain", "more", "message"),
        [
            ("latent-nerf", (), "--prompt is missing or empty"),
            ("latent-nerf", ("--prompt", "a", "--strictness", "1"), "--strictness is given without --sketch"),
            ("latent-nerf", ("--prompt", "a", "--sketch", "no.obj"), "no.obj is no sequence of meshes"),
            ("latent-nerf", ("--prompt", "a", "--guidance", "-1"), "guidance is -1"),
            (
                "latent-nerf",
                ("--prompt", "a", "--best-of", "2"),
                "--best-of is 2; latent-nerf makes one",
            ),
            ("latent-nerf", ("--prompt", "a", "--start", "image"), "start is 'image', which makes image"),
            (
                "latent-nerf",
                ("--prompt", "a", "--start", "object", "--sketch", "a.obj"),
                "allowed: one of them",
            ),
            ("voxel-edit", ("--prompt", "a"), "--input is missing"),
            ("voxel-edit", ("--prompt", "a", "--input", "no"), "there is no scene no"),
            (
                "voxel-edit",
                ("--prompt", "a", "--input", "no", "--edit-words", "hat"),
                "edit word 'hat' is not in",
            ),
        ],
    )
    def test_bad_input_is_named(
        self, domain: str, more: tuple[str, ...], message: str, prior: Path, tmp_path: Path, capsys: Any
    ) -> None:
        assert self.run(domain, prior, tmp_path / "x", *more) == 2
        assert message in capsys.readouterr().err
