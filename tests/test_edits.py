"""Edits of voxel scenes: against closed forms, brute force and a prior that is known."""

import itertools
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import trimesh

from gen3d.captures import Views
from gen3d.captures.images import read_image
from gen3d.captures.write import write_views
from gen3d.config import from_dict, to_dict
from gen3d.domains.voxel_edit.attention import tokens_of
from gen3d.domains.voxel_edit.config import VoxelEditConfig, VoxelEditRun, editing
from gen3d.domains.voxel_edit.cut import CutConfig, cut, least_cut
from gen3d.domains.voxel_edit.domain import VoxelEditFit
from gen3d.domains.voxel_edit.initial import frame_of, grid_to_edit, initial_scene
from gen3d.errors import Gen3dError
from gen3d.fields.cameras import orbit
from gen3d.fields.edited import EditedField, correlation
from gen3d.fields.heads import HarmonicsHead
from gen3d.fields.voxels import VoxelField
from gen3d.scenes.fit import FitConfig
from tests.plain_prior import PlainPrior

BOX = torch.tensor([3 * [-1.0], 3 * [1.0]])


class TestEditedField:
    def test_correlation_is_pearsons(self) -> None:
        a, b = torch.randn(1000, 1), torch.randn(1000, 1)
        want = np.corrcoef(a[:, 0].numpy(), b[:, 0].numpy())[0, 1]
        assert correlation(a, b).item() == pytest.approx(want, abs=1e-5)
        assert correlation(a, 3 * a + 1).item() == pytest.approx(1, abs=1e-4)

    def test_an_edit_begins_as_what_it_edits_and_ends_as_that_elsewhere(self) -> None:
        torch.manual_seed(0)
        grid = VoxelField(BOX, 8, HarmonicsHead(0))
        torch.nn.init.normal_(grid.density_table)
        torch.nn.init.normal_(grid.colour_table)
        field = EditedField(BOX, 8, grid.scale, grid.bias)
        field.begin(grid)
        assert field.penalties()["correlation"].item() == pytest.approx(0, abs=1e-5)
        with torch.no_grad():
            field.density_table.add_(1.0)
            field.colour_table.add_(1.0)
        part = torch.zeros(512, dtype=torch.bool)
        part[100:120] = True
        field.keep_only(part)
        assert torch.equal(field.density_table[~part], grid.density_table[~part])
        assert torch.allclose(field.colour_table[part], grid.colour_table[part] + 1)
        assert torch.equal(field.initial().density_table, grid.density_table)

    def test_colours_that_depend_on_the_view_become_their_mean(self) -> None:
        torch.manual_seed(0)
        grid = VoxelField(BOX, 4, HarmonicsHead(1))
        torch.nn.init.normal_(grid.colour_table)
        field = EditedField(BOX, 4, grid.scale, grid.bias)
        field.begin(grid)
        points = field.grid_points()
        _, located = grid.density(points, None)
        axes = torch.cat([torch.eye(3), -torch.eye(3)])
        want = torch.stack([grid.colour(located, d.expand(len(points), 3), None) for d in axes]).mean(0)
        assert torch.allclose(field.colour(located, axes[:1].expand(len(points), 3), None), want, atol=1e-3)


class TestCut:
    def test_the_least_cut_is_that_of_brute_force(self) -> None:
        random = np.random.default_rng(0)
        for _ in range(5):
            count = 7
            pairs = np.array([p for p in itertools.combinations(range(count), 2) if random.random() < 0.5])
            hold = random.integers(1, 20, len(pairs)).astype(float)
            source, sink = random.integers(0, 20, (2, count)).astype(float)
            found = least_cut(pairs[:, 0], pairs[:, 1], hold, source, sink)

            sides = [found, *(np.array(bits, bool) for bits in itertools.product((0, 1), repeat=count))]
            crossing = [side[pairs[:, 0]] != side[pairs[:, 1]] for side in sides]
            costs = [
                hold[across].sum() + source[~side].sum() + sink[side].sum()
                for across, side in zip(crossing, sides, strict=True)
            ]
            assert costs[0] == min(costs)

    @pytest.mark.parametrize("unary", [True, False])
    def test_a_part_of_another_colour_is_cut_out_where_it_is_likely(self, unary: bool) -> None:
        shape = (16, 16, 16)
        place = np.stack(np.meshgrid(*3 * [np.arange(16)], indexing="ij"), -1).reshape(-1, 3)
        on_top = (place[:, 2] >= 10) & (abs(place[:, :2] - 7.5) < 4).all(1)
        below = place[:, 2] < 10
        colours = np.where(on_top[:, None], [0.1, 0.8, 0.1], [0.8, 0.2, 0.2])
        random = np.random.default_rng(0)
        likely = np.where(on_top, 0.7, 0.3) + random.normal(0, 0.15, len(place))
        found = cut(likely.clip(0.01, 0.99), colours, shape, on_top | below, CutConfig(unary=unary))
        assert (found & on_top).sum() / on_top.sum() > 0.95
        assert (found & below).sum() / below.sum() < 0.02

    def test_nothing_cannot_be_cut(self) -> None:
        with pytest.raises(Gen3dError, match="nothing is left to cut an edit from"):
            cut(np.ones(8), np.ones((8, 3)), (2, 2, 2), np.zeros(8, bool), CutConfig())


class TestWords:
    def test_words_are_found_by_name_also_in_pieces(self) -> None:
        pieces = ["[CLS]", "a", "chair", "with", "a", "te", "##rra", "##rium", "on", "it", "[SEP]"]
        assert tokens_of(pieces, ["terrarium"]) == ([5, 6, 7], [2])
        clip = ["<|startoftext|>", "a</w>", "chair</w>", "with</w>", "a</w>", "plant</w>", "<|endoftext|>"]
        assert tokens_of(clip, ["Plant"]) == ([5], [2])

    def test_words_that_are_not_there_are_named(self) -> None:
        with pytest.raises(
            Gen3dError, match=r"edit word 'hat' is not in the prompt; its tokens are: a chair"
        ):
            tokens_of(["[CLS]", "a", "chair", "[SEP]"], ["hat"])
        with pytest.raises(Gen3dError, match="no word of the prompt names the object"):
            tokens_of(["[CLS]", "a", "chair", "[SEP]"], ["chair"])
        with pytest.raises(ValueError, match=r"edit word 'hat' is not in the prompt 'a chair'"):
            VoxelEditRun(prompt="a chair", edit_words=("hat",))


QUICK = FitConfig(steps=200, rays=512, resolutions=(12, 24), grow_at=(0.0, 0.4), samples=48)


class TestInitialScene:
    def test_a_mesh_becomes_a_grid_that_looks_like_it(self, tmp_path: Path) -> None:
        mesh = trimesh.creation.box((1, 2, 1))
        mesh.visual.vertex_colors = np.tile([[220, 30, 30, 255]], (8, 1))
        mesh.export(tmp_path / "brick.ply")
        config = VoxelEditConfig(initial=QUICK, pictures=16, size=48)
        scene = initial_scene(tmp_path / "brick.ply", config, False)
        frame = frame_of(scene, 0.0)
        assert frame.radius == pytest.approx(1.0, abs=0.15)
        field = grid_to_edit(scene, frame, 24)
        points = torch.tensor([[0.0, 0, 0], [0, 0.6, 0], [0.7, 0, 0], [0, 0, 0.7]])
        density, _ = field.density(points, None)
        assert (density > 5).tolist() == [True, True, False, False]
        surface = torch.tensor([[0.4, 0.0, 0.0], [0.0, -0.8, 0.0], [0.0, 0.0, 0.4]])
        _, located = field.density(surface, None)
        colour = field.colour(located, -surface, None)
        assert bool((colour[:, 0] > colour[:, 1:].amax(1) + 0.1).all())

    def test_a_front_on_the_right_is_turned_to_the_front(self, tmp_path: Path) -> None:
        trimesh.creation.box((2, 0.5, 0.5)).export(tmp_path / "bar.ply")
        config = VoxelEditConfig(initial=QUICK, pictures=16, size=48)
        scene = initial_scene(tmp_path / "bar.ply", config, False)
        for front, along in ((0.0, 0), (90.0, 1)):
            field = grid_to_edit(scene, frame_of(scene, front), 24)
            points = torch.zeros(2, 3)
            points[0, along], points[1, 1 - along] = 0.7, 0.7
            assert (field.density(points, None)[0] > 5).tolist() == [True, False]

    def test_room_is_left_above_for_what_is_added(self, tmp_path: Path) -> None:
        trimesh.creation.box((1, 1, 1)).export(tmp_path / "box.ply")
        config = VoxelEditConfig(initial=QUICK, pictures=16, size=48)
        scene = initial_scene(tmp_path / "box.ply", config, False)
        plain, roomy = frame_of(scene, 0.0), frame_of(scene, 0.0, room=1.0)
        # Box w x w x h: 4 R^2 = 2 w^2 + h^2; twice as high, 4 R^2 grows by 3 h^2, the middle by h / 2.
        across, up = (roomy.centre - plain.centre).split([2, 1])
        assert bool((across == 0).all())
        assert float(up) > 0.4
        assert roomy.radius == pytest.approx((plain.radius**2 + 3 * float(up) ** 2) ** 0.5, rel=1e-4)
        density, _ = grid_to_edit(scene, roomy, 24).density(
            torch.tensor([[0.0, 0, -0.4], [0.0, 0.0, 0.4]]), None
        )
        assert (density > 5).tolist() == [True, False]

    def test_only_edits_by_words_leave_room(self, tmp_path: Path) -> None:
        trimesh.creation.box((1, 1, 1)).export(tmp_path / "box.ply")
        radius = []
        for words in ((), ("plant",)):
            config = VoxelEditConfig(initial=QUICK, pictures=16, size=48, room=1.0)
            run = VoxelEditRun(prompt="a box with a plant", edit_words=words, domain_config=config)
            fit = VoxelEditFit(run, tmp_path / "box.ply", PlainPrior())
            fit.begin()
            radius.append(fit.frame.radius)
        assert radius[1] > 1.3 * radius[0]

    def test_what_is_no_scene_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(Gen3dError, match="there is no scene"):
            initial_scene(tmp_path / "none", VoxelEditConfig(), False)
        (tmp_path / "images").mkdir()
        with pytest.raises(Gen3dError):
            initial_scene(tmp_path / "images", VoxelEditConfig(), False)

    def test_cameras_that_look_away_are_told_with_a_picture(self, tmp_path: Path) -> None:
        cameras = orbit(4, radius=4.0, width=6, height=4, field_of_view=40.0)
        turned = cameras.camera_to_world * torch.tensor([1.0, -1.0, -1.0, 1.0])
        away = replace(cameras, camera_to_world=turned)
        images = np.full((4, 4, 6, 4), 255, np.uint8)
        images[:, :, 3:, 3] = 0
        for name, shots, pixels in (("away", away, images), ("white", cameras, np.full_like(images, 255))):
            names = tuple(f"train/r_{i}" for i in range(4))
            write_views(tmp_path / name, {"train": Views(pixels, shots, names, has_alpha=True)})
            with pytest.raises(Gen3dError, match=r"cameras may look the wrong way: .*cameras\.png") as told:
                initial_scene(tmp_path / name, VoxelEditConfig(), False)
            picture = re.search(r"way: (\S+cameras\.png)", str(told.value))
            assert picture is not None
            assert read_image(Path(picture[1]))[0].shape[:2] == (700, 1280)


class TestEdit:
    """A brick, edited by a prior that believes in a blue disc."""

    @pytest.fixture
    def brick(self, tmp_path: Path) -> Path:
        mesh = trimesh.creation.box((1, 1, 1))
        mesh.visual.vertex_colors = np.tile([[220, 30, 30, 255]], (8, 1))
        mesh.export(tmp_path / "brick.ply")
        return tmp_path / "brick.ply"

    def fit(self, brick: Path, **own: Any) -> VoxelEditFit:
        fit = {"steps": 60, "learning_rate": 0.1, "resolutions": (16,), "samples": 24, "views": 4}
        fit |= {"rgb_size": 16, "penalties": {}, "pull": {"weight": "even"}}
        config = {
            "prompt": "a blue brick",
            "fit": {**to_dict(editing()), **fit},
            "domain_config": {"initial": to_dict(QUICK), "pictures": 16, "size": 48, **own},
        }
        made = VoxelEditFit(from_dict(VoxelEditRun, config), brick, PlainPrior())
        made.begin()
        while made.share() < 1:
            made.advance()
        return made

    def test_an_edit_goes_on_without_fitting_its_grid_anew(self, brick: Path, tmp_path: Path) -> None:
        made = self.fit(brick)
        made.save(tmp_path / "state.safetensors")
        other = VoxelEditFit(made.run, tmp_path / "the brick is gone", PlainPrior())
        other.restore(tmp_path / "state.safetensors")
        assert (other.step, other.field.scale) == (made.step, made.field.scale)
        assert torch.equal(other.frame.values(), made.frame.values())
        for name, value in made.field.state_dict().items():
            assert torch.equal(other.field.state_dict()[name], value), name

    def test_pictures_may_be_held_to_what_they_were(self, brick: Path) -> None:
        azimuth, elevation = torch.tensor([0.0, 120.0]), torch.tensor([20.0, 20.0])
        moved = {}
        for weight in (0.0, 100.0):
            made = self.fit(brick, image_l2=weight)
            seen = [
                made.render_of(field, azimuth, elevation, 16, torch.ones(3)).colour
                for field in (made.field.initial(), made.field)
            ]
            moved[weight] = float((seen[1] - seen[0]).detach().square().mean())
        assert moved[100.0] < 0.3 * moved[0.0]
