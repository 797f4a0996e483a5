"""The prior of moving scenes: its data, its planes, and what it does for a scene of few pictures."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import trimesh
from scipy.spatial.transform import Rotation

from gen3d.captures import read_views
from gen3d.captures.meshes import Mesh, MeshSequence
from gen3d.cli import main
from gen3d.config import from_dict, load_yaml, merge
from gen3d.domains.dynamic_scene.config import DynamicSceneRun
from gen3d.domains.dynamic_scene.domain import DynamicSceneDomain, SceneFit
from gen3d.domains.dynamic_scene.guided import STEP, GuidedField, start_from
from gen3d.domains.scene_prior.codec import SceneCodec, ScenePriorConfig, seen
from gen3d.domains.scene_prior.dataset import FAR, collate, measured, open_dataset
from gen3d.domains.scene_prior.domain import scene_of
from gen3d.domains.scene_prior.prepare import prepare
from gen3d.domains.scene_prior.variations import FRAMES, Surface, _rigid, surface_of, vary
from gen3d.draws import Draws
from gen3d.errors import Gen3dError
from gen3d.fields.heads import make_head
from gen3d.fields.planes import Deformation
from gen3d.fields.planescene import DENSITY, STEEPNESS, PlaneHead, PlaneScene, density_of
from gen3d.fields.shade import ShadeField
from gen3d.fields.solids import inside
from gen3d.generator import Generator
from gen3d.scenes.files import read_scene_file, write_scene_file
from gen3d.train import train
from tests.test_domains import debug_config

ROOT = Path(__file__).parents[1]
TINY = ROOT / "data" / "tiny"


def smooth_scene(seed: int = 0, features: int = 4, side: int = 12) -> PlaneScene:
    """Planes of low frequency, so that reading them on another grid changes little."""
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)

    def smooth(*shape: int) -> torch.Tensor:
        coarse = torch.randn(3, shape[-1], *([3] * (len(shape) - 2)), generator=generator)
        mode = "bilinear" if len(shape) == 4 else "trilinear"
        fine = torch.nn.functional.interpolate(coarse, shape[1:-1], mode=mode, align_corners=True)
        return fine.movedim(1, -1).contiguous()

    return PlaneScene(PlaneHead(features, 16), smooth(3, side, side, features), 0.1 * smooth(3, 8, 8, 5, 3))


def ball(moves: np.ndarray, radius: float = 0.4) -> Surface:
    """A ball whose centre follows `moves` (T, 3)."""
    mesh = trimesh.creation.icosphere(subdivisions=4, radius=radius)
    vertices = np.asarray(mesh.vertices, np.float32)[None] + moves[:, None].astype(np.float32)
    count = vertices.shape[1]
    return Surface(
        vertices, np.asarray(mesh.faces), np.full((count, 3), 90, np.uint8), np.zeros(count, np.int64)
    )


class TestData:
    def test_distances_and_offsets_of_a_ball_that_moves(self) -> None:
        moves = np.linspace(0, 0.3, FRAMES)[:, None] * np.array([1.0, -0.5, 0.2])
        found = measured(ball(moves), np.random.default_rng(0))
        places = found.places.astype(float)
        true = np.linalg.norm(places - moves[found.instant], axis=1) - 0.4
        # The surface is a cloud of 20,000 points: a place on it is about 0.005 from the nearest.
        assert np.abs(np.clip(true, -FAR, FAR) - found.distance).max() < 0.02
        assert (found.distance < -0.05).sum() > 50
        assert np.abs(found.offset + moves[found.instant]).max() < 2e-3
        assert np.abs(np.linalg.norm(found.points[:, 3] - moves[3], axis=1) - 0.4).max() < 5e-3
        assert (found.instant == 0).sum() >= len(places) // 4
        assert (found.nearest == 90).all()

    def test_what_is_inside_of_overlapping_boxes_and_of_an_open_sheet(self) -> None:
        boxes = [
            trimesh.creation.box((1, 1, 1)),
            trimesh.creation.box((1, 1, 1)).apply_translation([0.5, 0, 0]),
        ]
        both = trimesh.util.concatenate(boxes)
        places = np.random.default_rng(0).uniform(-1.2, 1.2, (3000, 3))
        one, other = (np.abs(places - [x, 0, 0]).max(1) < 0.5 for x in (0, 0.5))
        assert (one & other).sum() > 50
        found = inside(places, np.asarray(both.vertices), np.asarray(both.faces))
        assert np.array_equal(found, one | other)
        sheet = np.array([[-1.0, -1, 0], [1, -1, 0], [1, 1, 0], [-1, 1, 0.1]])
        assert not inside(places, sheet, np.array([[0, 1, 2], [0, 2, 3]])).any()

    def test_variations_of_a_closed_surface_stay_the_right_way_out(self) -> None:
        base = ball(np.linspace(0, 1, 9)[:, None] * np.array([0.0, 0.0, 1.0]))
        for i in range(6):
            scene = vary([base], np.random.default_rng([4, i]))
            for part in np.unique(scene.parts):
                own = scene.faces[scene.parts[scene.faces[:, 0]] == part]
                assert trimesh.Trimesh(scene.vertices[7], own, process=False).volume > 0

    def test_a_rigid_motion_is_found(self) -> None:
        random = np.random.default_rng(1)
        points = random.normal(size=(20, 3))
        turn, shift = Rotation.random(random_state=2).as_matrix(), np.array([0.3, 0, -2])
        found, by = _rigid(points, points @ turn.T + shift)
        assert np.allclose(found, turn, atol=1e-6)
        assert np.allclose(by, shift, atol=1e-6)

    def test_variations_keep_to_the_box_and_differ(self) -> None:
        base = ball(np.linspace(0, 1, 9)[:, None] * np.array([0.0, 0.0, 1.0]))
        made = [vary([base], np.random.default_rng([3, i])) for i in range(8)]
        assert all(np.abs(s.vertices).max() <= 1 + 1e-5 and len(s.vertices) == FRAMES for s in made)
        assert len({s.vertices.tobytes() for s in made}) == 8
        again = vary([base], np.random.default_rng([3, 5]))
        assert np.array_equal(again.vertices, made[5].vertices)

    def test_pieces_are_found_and_colours_of_faces_go_to_vertices(self) -> None:
        boxes = [trimesh.creation.box((1, 1, 1)), trimesh.creation.icosphere(1, 0.2)]
        vertices = np.concatenate([boxes[0].vertices, boxes[1].vertices + 3])
        faces = np.concatenate([boxes[0].faces, boxes[1].faces + 8])
        colours = np.arange(3 * len(faces)).reshape(-1, 3).astype(np.uint8)
        surface = surface_of(MeshSequence((Mesh(vertices, faces, colours),) * 2, "two"))
        assert surface.vertices.shape == (2, 3 * len(faces), 3)
        ball_part = np.linalg.norm(surface.vertices[0] - 3, axis=1) < 0.3
        assert np.array_equal(surface.parts == 0, ball_part)  # of the more vertices
        assert np.array_equal(surface.colours[::3], colours)

    def test_mirrored_and_recoloured_scenes_stay_consistent(self) -> None:
        dataset = open_dataset(TINY / "moving.npz", "train", 384)
        items = [dataset[i] for i in range(4)]
        plain, varied = collate(items, None, 64), collate(items, Draws(5, torch.arange(4)), 64)
        assert varied.places.shape == (4, 64, 3)
        for row in range(4):
            match = (varied.places[row].abs()[:, None] - plain.places[row].abs()[None]).abs().sum(2)
            kept = match.argmin(1)
            assert torch.equal(varied.distance[row], plain.distance[row][kept])
            sign = varied.points[row, 0, 0, 0] / plain.points[row, 0, 0, 0]
            assert torch.equal(varied.offset[row][:, 0], sign * plain.offset[row][kept][:, 0])
            assert torch.equal(varied.offset[row][:, 1:], plain.offset[row][kept][:, 1:])
            # Places and surface go through one change of colours.
            same = plain.nearest[row][kept][:, None] == plain.colours[row][None]
            pairs = same.all(2).nonzero()
            assert torch.equal(varied.nearest[row][pairs[:, 0]], varied.colours[row][pairs[:, 1]])

    def test_prepare_writes_what_training_reads(self, tmp_path: Path) -> None:
        base = ball(np.linspace(0, 1, 5)[:, None] * np.ones(3))
        np.savez(tmp_path / "ball.npz", vertices=base.vertices, faces=base.faces)
        counts = prepare(str(tmp_path), tmp_path / "out", limit=3, seed=0, progress=False)
        assert counts == {"train": 3, "valid": 1, "test": 1}
        dataset = open_dataset(tmp_path / "out", "train", 384)
        assert len(dataset) == 3
        spread = dataset[0].points.astype(float).max((0, 1)) - dataset[0].points.astype(float).min((0, 1))
        assert 1.5 < spread.max() <= 2.001

    @pytest.mark.parametrize(
        ("arrays", "message"),
        [
            ({"vertices": np.zeros((1, 4, 3)) + np.eye(4, 3), "faces": [[0, 1, 2]]}, "has one frame"),
            (None, "no sequence of meshes"),
        ],
    )
    def test_what_does_not_move_is_refused(self, arrays: Any, message: str, tmp_path: Path) -> None:
        path = tmp_path / "still.npz"
        if arrays is not None:
            np.savez(path, **{name: np.asarray(value) for name, value in arrays.items()})
        with pytest.raises(Gen3dError, match=message):
            prepare(str(path), tmp_path / "out", limit=1, seed=0, progress=False)

    def test_files_that_are_no_data_are_named(self, tmp_path: Path) -> None:
        with pytest.raises(Gen3dError, match=r"no file .*train\.npz"):
            open_dataset(tmp_path, "train", 384)
        (tmp_path / "train.npz").write_bytes(b"nothing")
        with pytest.raises(Gen3dError, match="holds no prepared data of domain scene-prior"):
            open_dataset(tmp_path, "train", 384)


class TestPlanes:
    def test_points_are_seen_from_both_ends_of_an_axis(self) -> None:
        points = torch.tensor([[0.1, 0.1, -0.6], [0.1, 0.1, 0.7], [-0.9, 0.5, 0.0]]).view(1, 3, 1, 3)
        values = torch.tensor([[1.0, 0, 0], [0, 1.0, 0], [0, 0, 1.0]]).view(1, 3, 1, 3)
        planes = seen(points, values, 4)[0, :, :, :, :, 0]
        assert planes.shape == (3, 9, 4, 4)
        column = planes[0, :, 2, 2]  # of the plane of x and y
        expected = torch.tensor([1.0, 0.7, 0, 1, 0, -0.6, 1, 0, 0])
        assert torch.allclose(column, expected, atol=1e-4)
        assert torch.allclose(planes[0, :, 0, 3], torch.tensor([1.0, 0, 0, 0, 1, 0, 0, 0, 1]), atol=1e-4)
        assert planes[0, 0].sum() == 2
        assert not planes[0, :, 1, 1].any()

    def test_tokens_of_other_planes_and_times_stand_elsewhere(self) -> None:
        positions = SceneCodec(ScenePriorConfig(width=32, depth=1)).positions
        assert positions.shape == (384, 5)
        assert len(positions.unique(dim=0)) == 384

    def test_a_constant_offset_shifts_the_scene(self) -> None:
        scene = smooth_scene()
        shift = torch.tensor([0.05, -0.1, 0.02])
        still = PlaneScene(scene.head, scene.canonical, torch.zeros_like(scene.offsets))
        moved = PlaneScene(scene.head, scene.canonical, (shift / 3).expand_as(scene.offsets).contiguous())
        points = 0.8 * (2 * torch.rand(200, 3) - 1)
        times = torch.rand(200)
        assert torch.allclose(moved.moved(points, times), shift.expand(200, 3), atol=1e-6)
        assert torch.allclose(
            moved.density(points, times)[0], still.density(points + shift, times)[0], rtol=1e-4, atol=1e-4
        )
        assert still.penalties()["acceleration"] == 0

    def test_densities_of_logits(self) -> None:
        logit = torch.linspace(-3, 3, 7)
        expected = DENSITY * np.log1p(np.exp(STEEPNESS * logit.numpy()))
        assert np.allclose(density_of(logit), expected, rtol=1e-5)

    def test_grids_that_start_from_a_scene_show_it(self) -> None:
        scene = smooth_scene()
        box = torch.tensor([[-0.9, -0.7, -0.8], [0.8, 0.9, 0.7]])
        for head in ("harmonics", "attention"):
            shade = ShadeField(box, 80, make_head(head, 1), Deformation(33, 17), still=0.0)
            start_from(shade, scene)
            share = torch.rand(2000, 3, generator=torch.Generator().manual_seed(1))
            points = box[0] + (0.1 + 0.8 * share) * (box[1] - box[0])
            times = torch.rand(2000, generator=torch.Generator().manual_seed(2))
            directions = torch.nn.functional.normalize(torch.randn(2000, 3), dim=1)
            wanted, asked = scene.density(points, times)
            found, located = shade.density(points, times)
            assert (found - wanted).abs().median() < 0.02 * wanted.abs().median()
            assert torch.corrcoef(torch.stack([found, wanted]))[0, 1] > 0.999
            colours = shade.colour(located, directions, times), scene.colour(asked, directions, times)
            assert (colours[0] - colours[1]).abs().mean() < 0.005

    @pytest.mark.parametrize(
        ("head", "fusion", "message"),
        [("perceptron", "sum", "allowed for head"), ("harmonics", "product", "planes that are summed")],
    )
    def test_grids_that_cannot_start_are_named(self, head: str, fusion: Any, message: str) -> None:
        box = torch.tensor([[-1.0] * 3, [1.0] * 3])
        shade = ShadeField(box, 8, make_head(head, 1), Deformation(4, 4, fusion=fusion))
        with pytest.raises(Gen3dError, match=message):
            start_from(shade, smooth_scene())

    def test_a_file_of_a_scene_shows_the_same(self, tmp_path: Path) -> None:
        scene = scene_of(smooth_scene())
        write_scene_file([scene], tmp_path / "a.safetensors")
        again = read_scene_file(tmp_path / "a.safetensors")
        one, other = (s.at(0.4).render(s.cameras.resized(24, 24)).colour for s in (scene, again))
        assert torch.allclose(one, other, atol=0.02)
        film = ["sample", "--domain", "dynamic-scene", "--checkpoint", str(tmp_path / "a.safetensors")]
        shown = tmp_path / "a.png"
        main([*film, "--time", "0.5", "--width", "16", "--height", "16", "--out", str(shown), "--quiet"])
        assert shown.is_file()
        (tmp_path / "b.safetensors").write_bytes((tmp_path / "a.safetensors").read_bytes()[:200])
        with pytest.raises(Gen3dError, match=r"b\.safetensors"):
            read_scene_file(tmp_path / "b.safetensors")


@pytest.fixture(scope="module")
def prior(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One that has seen little, and many times."""
    config = debug_config("scene-prior", train={"codec_steps": 120, "steps": 140})
    return train(config, TINY / "moving.npz", tmp_path_factory.mktemp("prior"), progress=False)


def guided(prior: Path, **changes: Any) -> SceneFit:
    values = load_yaml(ROOT / "configs" / "dynamic-scene_debug.yaml")
    values = merge(values, {"prior": {"checkpoint": str(prior), "share": 0.5}, "fit": {"steps": 60}})
    config = from_dict(DynamicSceneRun, merge(values, changes), "")
    model = Generator.from_pretrained(prior, "cpu")
    return SceneFit(config, read_views(TINY / "scene", "train"), None, model)


class TestGuided:
    def test_latents_then_grids_learn(self, prior: Path) -> None:
        fit = guided(prior, fit={"steps": 80})
        field = fit.field
        assert isinstance(field, GuidedField)
        losses = []
        while fit.share() < 1:
            fit.advance()
            losses.append(fit.loss)
            assert bool(field.started) == (fit.step > 40)
        assert np.mean(losses[30:40]) < 0.9 * np.mean(losses[:5])
        assert np.mean(losses[-10:]) < np.mean(losses[30:40])
        # Latents moved in the first half only, and the scene of the end needs no prior.
        assert field.latents.abs().max() > 0.05
        assert not any("latents" in name for name, _ in fit.scene().field.named_parameters())

    def test_going_on_changes_nothing(self, prior: Path, tmp_path: Path) -> None:
        one, other = guided(prior), guided(prior)
        for stop in (10, 45):
            while one.step < stop:
                one.advance()
            one.save(tmp_path / "state.safetensors")
            other.restore(tmp_path / "state.safetensors")
            for _ in range(5):
                one.advance()
                other.advance()
            for (name, a), (_, b) in zip(
                one.field.state_dict().items(), other.field.state_dict().items(), strict=True
            ):
                assert torch.equal(a, b), name
            other = guided(prior)

    def test_before_grids_start_a_scene_is_what_the_latents_stand_for(self, prior: Path) -> None:
        fine = {"deformation": {"resolution": 32, "frames": 16}}
        fit = guided(prior, fit={"resolutions": [64, 64]}, domain_config=fine)
        for _ in range(5):
            fit.advance()
        points = 0.5 * (2 * torch.rand(300, 3) - 1)
        times = torch.rand(300)
        shown = fit.scene().field
        assert isinstance(shown, ShadeField)
        a, b = shown.density(points, times)[0], fit.field.density(points, times)[0]
        assert torch.corrcoef(torch.stack([a, b]))[0, 1] > 0.9

    def test_denoising_draws_latents_to_what_the_denoiser_makes_of_them(self, prior: Path) -> None:
        fit = guided(prior)
        field = fit.field
        assert isinstance(field, GuidedField)
        with torch.no_grad():
            field.latents.normal_()
        field.progress(0.0)
        penalty = field.penalties()["denoising"]
        penalty.backward()
        assert penalty > 0
        # The gradient of a mean square: twice the difference, over their number.
        difference = field.latents.grad * field.latents.numel() / 2
        assert torch.allclose(difference.square().mean(), penalty, rtol=1e-4)

    def test_where_nothing_is_seen_grids_keep_to_the_prior(self, prior: Path) -> None:
        fit = guided(prior, fit={"penalties": {"prior": 10.0}})
        field = fit.field
        assert isinstance(field, GuidedField)
        field.progress(0.9)
        assert field.settled
        near = float(field.penalties()["prior"].detach())
        found = []
        for raw in (-1e4, 1e4):
            with torch.no_grad():
                field.shade.canonical.density_table.fill_(raw)
            found.append(float(field.penalties()["prior"].detach()))
        empty, full = found
        assert near < min(found)
        # Colours are the same in all three. Of opacities 0 and 1, the squares of 0 - w and 1 - w differ by
        # 1 - 2 w, w being what the prior has there.
        points, times = (
            fit.field.box[0] + torch.rand(20_000, 3) * fit.field.box.diff(dim=0),
            torch.rand(20_000),
        )
        kept = fit.occupancy.contains(points, times)
        with torch.no_grad():
            wanted = 1 - torch.exp(-STEP * field.imagined.density(points[kept], times[kept])[0])
        assert full - empty == pytest.approx(1 - 2 * float(wanted.mean()), abs=0.05)

    def test_a_checkpoint_of_something_else_is_refused(self, tmp_path: Path) -> None:
        other = train(
            replace(debug_config("shape"), train=replace(debug_config("shape").train, steps=2)),
            TINY / "shapes.npz",
            tmp_path,
            progress=False,
        )
        with pytest.raises(Gen3dError, match="no prior of moving scenes"):
            guided(other)

    def test_only_shade_starts_from_a_prior(self) -> None:
        with pytest.raises(Gen3dError, match="a prior starts the grids of shade, not of hexplane"):
            from_dict(DynamicSceneRun, {"prior": {}, "domain_config": {"method": "hexplane"}}, "")
        with pytest.raises(Gen3dError, match="share is 1"):
            from_dict(DynamicSceneRun, {"prior": {"share": 1.0}}, "")

    def test_the_command(self, prior: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(ROOT)
        words = ["train", "--domain", "dynamic-scene", "--config", "configs/dynamic-scene_debug.yaml"]
        words += ["--data", "data/tiny/scene", "--out", str(tmp_path / "run"), "--quiet"]
        main([*words, "--prior.checkpoint", str(prior), "--fit.steps", "12"])
        scene = DynamicSceneDomain.load(tmp_path / "run")
        assert isinstance(scene.field, ShadeField)
        assert scene.megabytes < 40
