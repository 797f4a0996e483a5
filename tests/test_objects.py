"""Coloured things: grids of meshes, components, meshes of what is decoded, the model as users run it."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh

from gen3d.captures.compose import Composer
from gen3d.captures.grids import FILLED, REACH, gridded, into_cube
from gen3d.captures.meshes import in_ball
from gen3d.captures.things import Thing
from gen3d.cli import main
from gen3d.domains.objects import prepare as preparing
from gen3d.domains.objects.codec import VALUES, ObjectCodec, ObjectConfig
from gen3d.domains.objects.dataset import RESOLUTION, THICKEN, ThingBatch, collate, open_dataset
from gen3d.domains.objects.metrics import apart, prompt_metrics, volume_metrics
from gen3d.domains.objects.native import pictures, to_mesh, to_thing
from gen3d.domains.objects.prepare import prepare
from gen3d.errors import Gen3dError

ROOT = Path(__file__).parents[1]
TINY = ROOT / "data" / "tiny" / "objects.npz"


def middles(resolution: int = RESOLUTION) -> np.ndarray:
    """(R, R, R, 3) middles of the cells of the cube."""
    axis = (np.arange(resolution) + 0.5) * (2 / resolution) - 1
    return np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), -1)


def ball(radius: float = 0.6, colour: tuple[float, float, float] = (1.0, -1.0, -1.0)) -> torch.Tensor:
    """A decoded grid (4, R, R, R) of a ball of one colour."""
    distance = torch.from_numpy(radius - np.linalg.norm(middles(), axis=-1)).float() * (RESOLUTION / 2)
    colours = torch.tensor(colour)[:, None, None, None].expand(3, *distance.shape)
    return torch.cat([(distance / REACH).clamp(-1, 1)[None], colours])


class TestGrids:
    def test_distances_of_a_ball_and_a_box_are_those_of_the_formulas(self) -> None:
        sphere = trimesh.creation.icosphere(4, 0.7)
        box = trimesh.creation.box((1.2, 0.8, 1.0))
        places = middles()
        outside = np.abs(places) - np.array([0.6, 0.4, 0.5])
        to_box = np.linalg.norm(outside.clip(0), axis=-1) + outside.max(-1).clip(max=0)
        for mesh, exact in ((sphere, 0.7 - np.linalg.norm(places, axis=-1)), (box, -to_box)):
            values = np.zeros(len(mesh.faces), np.uint8)
            found, _ = gridded(mesh.vertices, mesh.faces, values, RESOLUTION)
            expected = (exact * RESOLUTION / 2).clip(-REACH, REACH)
            # Meshes are drawn into a grid twice as fine: half of one of its cells either way.
            assert np.abs(found - expected).max() < 0.5
            near = np.abs(expected) < 1
            assert np.abs((found - expected)[near].mean()) < 0.1

    def test_sheets_without_thickness_are_there_and_boxes_without_a_side_are_open(self) -> None:
        sheet = trimesh.creation.box((1.6, 1.6, 0.0))
        found, _ = gridded(sheet.vertices, sheet.faces, np.zeros(12, int), 32)
        assert (found + THICKEN > 0)[8:24, 8:24].any(-1).all()
        cup = trimesh.creation.box((1.2, 1.2, 1.2))
        cup.update_faces(cup.face_normals[:, 2] < 0.5)
        found, _ = gridded(cup.vertices, cup.faces, np.zeros(10, int), 32)
        assert found[16, 16, 16] < 0

    def test_every_cell_has_the_value_of_the_nearest_face(self) -> None:
        box = trimesh.creation.box((1.4, 1.4, 1.4))
        side = np.argmax(box.face_normals @ np.concatenate([np.eye(3), -np.eye(3)]).T, 1)
        _, near = gridded(box.vertices, box.faces, side, 32)
        assert [near[30, 16, 16], near[16, 30, 16], near[16, 16, 30]] == [0, 1, 2]
        assert [near[1, 16, 16], near[16, 1, 16], near[16, 16, 1]] == [3, 4, 5]

    def test_the_longest_side_fills_the_cube(self) -> None:
        placed = into_cube(np.array([[5.0, 1, 1], [9.0, 2, 1.5]]))
        assert np.allclose(placed.min(0), -placed.max(0))
        assert np.ptp(placed, axis=0) == pytest.approx(2 * FILLED * np.array([1, 0.25, 0.125]))


class TestPreparing:
    def test_preparing_again_makes_the_same_grids(self, tmp_path: Path) -> None:
        (tmp_path / "in").mkdir()
        trimesh.creation.box((1, 2, 3)).export(tmp_path / "in" / "brick.ply")
        made = [prepare(str(tmp_path / "in"), tmp_path / n, limit=6, seed=1, progress=False) for n in "ab"]
        assert made[0] == {"train": 6, "valid": 1, "test": 1}
        one, other = (np.load(tmp_path / n / "train.npz") for n in "ab")
        assert all(np.array_equal(one[name], other[name]) for name in one)
        things = open_dataset(tmp_path / "a", "train", 64)
        assert "brick" in things.captions.words()
        assert len(things.distances) <= preparing.VARIANTS
        arrays = {name: one[name] for name in one}
        np.savez(tmp_path / "half.npz", **{**arrays, "distances": arrays["distances"][:, ::2]})
        with pytest.raises(Gen3dError, match="grids of 16 x 32 x 32 cells; allowed: 32 a side"):
            open_dataset(tmp_path / "half.npz", "train", 64)
        filled = (things.distances > 0).reshape(len(things.distances), -1).mean(1)
        # 1 x 2 x 3, the longest side 2 * 0.94, stretched by up to 12% of each.
        assert ((filled > 0.1) & (filled < 0.4)).all()

    def test_colours_are_those_that_the_caption_tells(self) -> None:
        things = open_dataset(TINY, "train", 64)
        reds = [things[i] for i in range(len(things)) if things.captions[i][0].startswith("a red ")]
        assert reds
        for thing in reds:
            near = np.abs(thing.distances.astype(int)) < 40
            red, green, blue = thing.colours[near].astype(int).T
            assert (red > 1.5 * np.maximum(green, blue)).mean() > 0.5

    def test_parts_that_are_too_many_join_the_nearest_whatever_their_paint(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(preparing, "MOST_PARTS", 3)
        boxes = [trimesh.creation.box((0.1, 0.1, 0.1)).apply_translation((x, 0, 0)) for x in (0, 1, 2, 0.2)]
        mesh = trimesh.util.concatenate([*boxes[:3], trimesh.Trimesh(boxes[3].vertices, boxes[3].faces[:4])])
        part = np.repeat([0, 1, 2, 3], [12, 12, 12, 4])
        colours = np.array([[250, 0, 0], [0, 250, 0], [0, 0, 250], [9, 9, 9]], np.uint8)[part]
        thing = Thing("t", "t", (), mesh.vertices.astype(np.float32), mesh.faces, part, colours)
        picture = Composer([thing], "test", {"own": 1.0}, 0.0).draw(np.random.default_rng(0))
        found, palette = preparing._few_parts(picture)
        assert len(palette) == 3
        assert palette[found[0]].tolist() == palette[found[-1]].tolist() == [250, 0, 0]
        assert palette[found[24]].tolist() == [0, 0, 250]

    def test_a_batch_in_a_mirror(self) -> None:
        things = open_dataset(TINY, "train", 64)
        batch = collate([things[0], things[1]], None)
        other = batch.mirrored(torch.tensor([True, False]))
        assert torch.equal(other.distances[0], batch.distances[0].flip(0))
        assert torch.equal(other.colours[0], batch.colours[0].flip(1))
        assert torch.equal(other.distances[1], batch.distances[1])


class TestCodec:
    def test_components_are_those_of_a_singular_value_decomposition(self) -> None:
        codec = ObjectCodec(ObjectConfig(8))
        things = open_dataset(TINY, "train", 64)
        batch = collate([things[i] for i in range(8)], None)
        codec.learn(iter([batch]))
        patches = codec._patches(batch).flatten(0, 1)
        patches = patches[patches.abs().amax(1) > 0]
        _, values, vectors = torch.linalg.svd(patches.double(), full_matrices=False)
        alike = (codec.components.double() * vectors[:8]).sum(1).abs()
        assert torch.allclose(alike, torch.ones(8).double(), atol=1e-3)
        # Deviations of coefficients are made more alike: the square root of what they were.
        coefficients = codec.encode(batch).x.flatten(0, 1)
        rms = coefficients[coefficients.abs().amax(1) > 0].square().mean(0).sqrt()
        assert torch.allclose(rms, (values[:8] / len(patches) ** 0.5).sqrt().float(), rtol=0.02)

    def test_all_components_lose_nothing_and_nothing_is_zero(self) -> None:
        codec = ObjectCodec(ObjectConfig(VALUES))
        codec.components.copy_(torch.linalg.qr(torch.randn(VALUES, VALUES))[0])
        things = open_dataset(TINY, "train", 64)
        batch = collate([things[0]], None)
        back = codec.decode(codec.encode(batch))
        assert torch.allclose(back[:, 0], batch.distances, atol=1e-4)
        seen = batch.distances[:, None].abs().expand_as(batch.colours) < 0.5
        assert torch.allclose(back[:, 1:][seen], batch.colours[seen], atol=1e-3)
        none = ThingBatch(torch.full_like(batch.distances, -1), batch.colours, batch.text, batch.text_mask)
        assert not codec.encode(none).x.any()
        assert (codec.decode(codec.encode(none))[:, 0] == -1).all()

    def test_more_components_than_values_are_refused(self) -> None:
        with pytest.raises(ValueError, match=f"latent_channels is 3000; allowed: up to {VALUES}"):
            ObjectConfig(3000)


class TestMeshes:
    def test_a_ball_comes_out_as_one(self) -> None:
        mesh = to_mesh(ball())
        assert mesh.is_watertight
        assert mesh.volume == pytest.approx(4 / 3 * np.pi * 0.6**3, rel=0.03)
        assert np.asarray(mesh.visual.vertex_colors)[:, :3].tolist() == len(mesh.vertices) * [[255, 0, 0]]
        assert mesh.metadata["floaters_removed"] == 0

    def test_up_is_y_and_the_front_is_towards_z(self) -> None:
        grid = ball(0.5)
        grid[1:] = -1.0
        grid[1, :, :, 16:] = 1.0  # red above
        grid[2, :, :16] = 1.0  # green in front, towards -y
        mesh = to_mesh(grid)
        colours = np.asarray(mesh.visual.vertex_colors)
        assert (mesh.vertices[colours[:, 0] > 200, 1] > -0.01).all()
        assert (mesh.vertices[colours[:, 1] > 200, 2] > -0.01).all()

    def test_specks_are_removed_and_counted(self) -> None:
        grid = ball(0.5)
        grid[0, 2:4, 2, 2] = 1.0
        assert to_mesh(grid).metadata["floaters_removed"] == 1

    def test_nothing_and_numbers_that_are_none_make_no_mesh(self) -> None:
        assert to_mesh(torch.full((4, 32, 32, 32), -1.0)) is None
        assert to_mesh(torch.full((4, 32, 32, 32), torch.nan)) is None
        speck = torch.full((4, 32, 32, 32), -1.0)
        speck[0, 5, 5, 5] = 0.1  # lost between the middles of cells
        assert to_mesh(speck) is None

    def test_there_and_back(self) -> None:
        thing = to_thing(to_mesh(ball(0.94)))
        shape = (thing.distances > 0).reshape(1, -1)
        exact = (np.linalg.norm(middles(), axis=-1) < 0.94).reshape(1, -1)
        assert apart(shape, exact)[0, 0] < 0.05
        assert (thing.colours == [255, 0, 0]).all()
        with pytest.raises(Gen3dError, match="PointCloud has no faces"):
            to_thing(trimesh.PointCloud(np.zeros((3, 3))))

    def test_pictures_fit_the_frame(self) -> None:
        assert np.linalg.norm(in_ball(to_mesh(ball())).vertices, axis=1).max() <= 1
        seen = pictures(to_mesh(ball()), [0.0, 90.0], 20.0, 48)
        red = (seen[:, 0] > 2 * seen[:, 1].clamp(min=0.01)).float().mean((1, 2))
        assert ((red > 0.15) & (red < 0.5)).all()


class TestMetrics:
    def test_overlap_is_that_of_sets(self) -> None:
        random = np.random.default_rng(0)
        a, b = random.random((3, 40)) < 0.4, random.random((2, 40)) < 0.6
        expected = [[1 - (x & y).sum() / (x | y).sum() for y in b] for x in a]
        assert np.allclose(apart(a, b), expected)

    def test_shapes_of_the_data_are_known_and_others_are_not(self) -> None:
        things = open_dataset(TINY, "train", 64)
        batch = collate([things[0]], None)
        copy = to_mesh(torch.cat([batch.distances[:, None], batch.colours], 1)[0])
        found = {m.name: m.value for m in volume_metrics([copy, to_mesh(ball())], things)}
        assert found["known_shape"] == 50

    def test_judges_see_colours_and_failed_samples_count(self) -> None:
        found = {m.name: m.value for m in prompt_metrics([to_mesh(ball()), None], 2 * ["a red box"])}
        assert found["colour_right"] == 50
        assert found["colour_views"] == 50


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("object") / "run"
    config = str(ROOT / "configs" / "object_debug.yaml")
    assert not main(
        ["train", "--domain", "object", "--config", config, "--data", str(TINY), "--out", str(out), "--quiet"]
    )
    return out


class TestAsUsersRunIt:
    def test_words_become_meshes(self, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        out = tmp_path / "knights"
        main(
            ["sample", "--domain", "object", "--checkpoint", str(run / "checkpoint"), "--prompt",
             "a purple knight", "--n", "2", "--out", str(out / "a.glb"), "--json"]
        )  # fmt: skip
        assert "never told purple" in capsys.readouterr().err
        record = json.loads((out / "samples.json").read_text())
        assert record["domain"] == "object"
        assert len(record["files"]) == record["counts"]["made"] == 2
        for file in record["files"]:
            assert len(trimesh.load(out / file, force="mesh").faces) > 0

    def test_bad_words_are_named(self, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
        command = ["sample", "--domain", "object", "--checkpoint", str(run / "checkpoint"), "--prompt"]
        assert main([*command, " "]) == 2
        assert "the prompt is empty" in capsys.readouterr().err
        assert main([*command, "a knight", "--prompts", "nowhere.txt"]) == 2
        assert "both --prompt and --prompts are given" in capsys.readouterr().err
