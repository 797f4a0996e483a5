"""The viewer: drawings against geometry, fields against `Scene.render`, and the page in a real browser."""

import itertools
import json
import shutil
import threading
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import trimesh

from gen3d import io
from gen3d.cli import main
from gen3d.errors import Gen3dError
from gen3d.fields.cameras import around
from gen3d.viewer.contents import Column, contents
from gen3d.viewer.drawing import TOUCHING, _near, _sticks, _turns, drawing
from gen3d.viewer.fields import Live, composed
from gen3d.viewer.page import Page, open_page
from tests.plain_scene import cube

TINY = Path(__file__).parents[1] / "data" / "tiny"


class Recorder:
    """What would have been added to a scene of viser."""

    def __init__(self) -> None:
        self.added: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {}

    def __getattr__(self, name: str) -> Any:
        def add(path: str, *given: Any, **named: Any) -> None:
            self.added[path.rpartition("/")[2]] = (given, named)

        return add


def rotated(q: np.ndarray, v: np.ndarray) -> np.ndarray:
    return v + 2 * np.cross(q[1:], np.cross(q[1:], v) + q[0] * v)


class TestDrawings:
    def test_quaternions_turn_the_axis_of_a_stick_along_its_bond(self) -> None:
        random = np.random.default_rng(0)
        directions = np.concatenate([random.normal(size=(20, 3)), [[0, 0, 1.0], [0, 0, -1.0]]])
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        for q, wanted in zip(_turns(directions), directions, strict=True):
            assert rotated(q, np.array([0, 0, 1.0])) == pytest.approx(wanted, abs=1e-6)

    def test_bonds_of_a_crystal_are_those_of_all_pairs(self) -> None:
        random = np.random.default_rng(1)
        positions, radii = random.uniform(0, 6, (40, 3)), random.uniform(0.5, 1.5, 40)
        wanted = {
            (a, b)
            for a, b in itertools.combinations(range(40), 2)
            if 0.1 < np.linalg.norm(positions[a] - positions[b]) < TOUCHING * (radii[a] + radii[b])
        }
        assert {tuple(sorted(pair)) for pair in _near(positions, radii).tolist()} == wanted

    def test_a_double_bond_is_two_sticks_beside_its_line(self) -> None:
        positions = np.array([[0.0, 0, 0], [1.2, 0, 0], [2.0, 1.0, 0]])
        colours = np.array([[1, 1, 1], [2, 2, 2], [3, 3, 3]], np.uint8)
        ends, shades, _ = _sticks(positions, colours, np.array([[0, 1], [1, 2]]), np.array([2, 1]))
        assert len(ends) == 2 * 2 + 2
        assert shades[:4, 0].tolist() == [1, 2, 1, 2]
        # The two run along x, as far on the one side as on the other.
        assert ends[0, 0] + ends[2, 0] == pytest.approx(2 * positions[0], abs=1e-9)
        assert (ends[0, 1] - ends[0, 0])[1:] == pytest.approx([0, 0], abs=1e-9)

    def test_a_supercell_repeats_the_atoms_along_the_lattice(self) -> None:
        structure = io.read(TINY / "crystals.cif")[0]
        recorder = Recorder()
        drawing(structure, cells=2).add(recorder, "x")
        positions = recorder.added["atoms"][0][3]
        grown = structure.copy()
        grown.make_supercell([2, 2, 2])
        ours = positions @ np.linalg.inv(grown.lattice.matrix)
        away = ours[:, None] - grown.frac_coords[None]
        nearest = np.abs(away - away.round()).max(2)
        assert len(positions) == 8 * len(structure)
        assert nearest.min(0).max() < 1e-6
        assert nearest.min(1).max() < 1e-6

    def test_shapes_stand_on_the_side_that_is_down(self) -> None:
        box = trimesh.creation.box((1, 2, 3))
        for y_up, height in ((True, 2), (False, 3)):
            drawn = drawing(box, y_up=y_up)
            turned = np.array([rotated(np.array(drawn.turn), p) for p in drawn.points])
            assert np.ptp(turned[:, 2]) == pytest.approx(height)

    def test_what_cannot_be_drawn_is_named(self) -> None:
        with pytest.raises(Gen3dError, match="a dict cannot be shown; allowed: Mol, Structure"):
            drawing({})


def visitor(azimuth: float, elevation: float, distance: float = 4.0, aspect: float = 1.0) -> Any:
    """A camera as viser tells of it, that looks at the origin."""
    turn, rise = np.deg2rad([azimuth, elevation])
    position = distance * np.array([np.cos(rise) * np.cos(turn), np.cos(rise) * np.sin(turn), np.sin(rise)])
    forward = -position / distance
    right = np.cross(forward, [0, 0, 1.0])
    right /= np.linalg.norm(right)
    rotation = np.stack([right, np.cross(forward, right), forward], 1)
    w = np.sqrt(max(1 + np.trace(rotation), 1e-9)) / 2
    x, y, z = (
        (rotation[2, 1] - rotation[1, 2]) / (4 * w),
        (rotation[0, 2] - rotation[2, 0]) / (4 * w),
        (rotation[1, 0] - rotation[0, 1]) / (4 * w),
    )
    return types.SimpleNamespace(wxyz=(w, x, y, z), position=position, fov=np.deg2rad(40.0), aspect=aspect)


class TestFields:
    def test_a_page_shows_what_the_scene_renders(self) -> None:
        scene = cube((0.9, 0.1, 0.1))
        shots = around(
            torch.tensor([30.0]), torch.tensor([25.0]), radius=4.0, field_of_view=40.0, width=48, height=48
        )
        wanted = (scene.render(shots).colour.clamp(0, 1) * 255).round()
        found = composed([(scene, np.zeros(3))], visitor(30.0, 25.0), 0.0, 48)
        assert np.abs(found.astype(float) - wanted.numpy()).max() <= 2

    def test_the_nearer_of_two_scenes_hides_the_other(self) -> None:
        red, blue = cube((0.95, 0.02, 0.02)), cube((0.02, 0.02, 0.95))
        near, far = np.array([1.5, 0, 0]), np.array([-1.5, 0, 0])
        for standing in ([(red, near), (blue, far)], [(blue, far), (red, near)]):
            middle = composed(standing, visitor(0.0, 5.0, 6.0), 0.0, 32)[16, 16]
            assert middle[0] > 200 > 60 > middle[2]

    def test_a_moved_camera_begins_anew_and_the_last_picture_is_fine(self) -> None:
        sizes: list[int] = []
        fine = threading.Event()

        def draw(size: int) -> np.ndarray:
            sizes.append(size)
            if len(sizes) == 2:
                live.move()
            return np.full((1, 1, 3), size)

        live = Live(draw, lambda picture: fine.set() if picture.max() == 512 else None)
        live.move()
        assert fine.wait(10)
        live.stop()
        live.thread.join(10)
        assert sizes == [64, 128, 64, 128, 256, 512]
        assert not live.thread.is_alive()


class TestCameraPath:
    def test_views_are_written_in_the_frame_of_the_scene(self, tmp_path: Path) -> None:
        page = Page([Column("red", [cube((0.9, 0.1, 0.1))])], port=18070)
        try:
            page.standing = [(cube((0.9, 0.1, 0.1)), np.array([0.0, 0.0, 1.0]))]
            page.keep(visitor(30.0, 25.0, aspect=1.5))
            page.write_path(tmp_path / "path.json")
        finally:
            page.close()
        written = json.loads((tmp_path / "path.json").read_text())
        (view,) = written["camera_path"]
        wanted = around(torch.tensor([30.0]), torch.tensor([25.0]), radius=4.0).camera_to_world[0].clone()
        wanted[2, 3] -= 1.0
        assert np.array(view["camera_to_world"]).reshape(4, 4)[:3] == pytest.approx(wanted.numpy(), abs=1e-5)
        assert view["fov"] == pytest.approx(40.0)
        assert written["render_width"] == 1.5 * written["render_height"]


class TestContents:
    def test_files_and_folders_hold_their_objects(self, tmp_path: Path) -> None:
        (column,) = contents(TINY / "qm9.sdf")
        assert column.name == "qm9"
        assert len(column.objects) == len(io.read(TINY / "qm9.sdf"))

    def test_a_network_is_refused_with_what_to_do(self) -> None:
        from gen3d.locate import locate

        with pytest.raises(
            Gen3dError, match="a trained network, which shows nothing by itself; gen3d sample"
        ):
            contents(Path(locate("molecule")))

    def test_what_is_missing_is_named(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["view", str(tmp_path / "none.sdf"), "--no-open"]) == 2
        assert "none.sdf" in capsys.readouterr().err
        (tmp_path / "bad.sdf").write_text("junk")
        assert main(["view", str(tmp_path / "bad.sdf"), "--no-open"]) == 2
        assert "can be read; the file may be damaged or cut off" in capsys.readouterr().err
        with pytest.raises(Gen3dError, match=r"cannot listen at '192\.0\.2\.1'"):
            open_page([TINY / "qm9.sdf"], "192.0.2.1")
        with pytest.raises(Gen3dError, match="no path is given"):
            open_page([])


CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: apt-get install chromium")
class TestBrowser:
    """The page in a headless Chromium: nothing is wrong, something is seen, and sliders change it."""

    @pytest.fixture(scope="class")
    def browser(self) -> Iterator[Any]:
        api = pytest.importorskip("playwright.sync_api")
        flags = ["--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
        with api.sync_playwright() as playwright:
            started = playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
            yield started
            started.close()

    def looked_at(self, browser: Any, page: Page) -> tuple[Any, list[str]]:
        """The open tab, once something is seen, and what went wrong."""
        tab = browser.new_page(viewport={"width": 640, "height": 480})
        wrong: list[str] = []
        tab.on("pageerror", lambda error: wrong.append(str(error)))
        tab.on("console", lambda told: wrong.append(told.text) if told.type == "error" else None)
        tab.goto(page.address)
        return tab, wrong

    def until(self, tab: Any, holds: Any) -> np.ndarray:
        """The picture of the left half of a page, once something holds of it."""
        for _ in range(60):
            seen = self.picture(tab)
            if holds(seen):
                return seen
            tab.wait_for_timeout(500)
        pytest.fail("the page does not show what it should within 30 seconds")

    def picture(self, tab: Any) -> np.ndarray:
        from io import BytesIO

        from PIL import Image

        whole = np.asarray(Image.open(BytesIO(tab.screenshot())).convert("RGB")).astype(int)
        # Below the notice about software rendering, beside the panel, above the axes.
        return whole[150:400, 60:380]

    def test_molecules_are_seen_and_the_slider_shows_others(self, browser: Any) -> None:
        page = open_page([TINY / "qm9.sdf"], port=18080)
        try:
            assert page.address.startswith("http://localhost:")
            tab, wrong = self.looked_at(browser, page)
            first = self.until(tab, lambda seen: (seen.min(2) < 200).mean() > 0.005)
            tab.get_by_text("Together", exact=True).wait_for()
            together = tab.locator('input:visible:not([type="checkbox"])').nth(1)
            together.fill("1")
            together.press("Enter")
            self.until(tab, lambda seen: np.abs(seen - first).max(2).mean() > 1)
            assert wrong == []
        finally:
            page.close()

    def test_a_field_is_rendered_in_its_colour(self, browser: Any) -> None:
        page = Page([Column("red", [cube((0.9, 0.05, 0.05))])], port=18090)
        try:
            tab, wrong = self.looked_at(browser, page)
            reddish = lambda seen: ((seen[..., 0] > 150) & (seen[..., 2] < 90)).mean()  # noqa: E731
            self.until(tab, lambda seen: reddish(seen) > 0.02)
            assert wrong == []
        finally:
            page.close()
