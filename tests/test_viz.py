"""What notebooks show: the data of the object is in it."""

import io as bytes_io
import sys
from pathlib import Path

import numpy as np
import pytest
import trimesh
from PIL import Image

import gen3d
from gen3d import io
from gen3d.errors import Gen3dError, MissingExtra
from gen3d.viz import FILM, MOST, TITLE, sheet, show
from tests.plain_scene import cube

TINY = Path(__file__).parents[1] / "data" / "tiny"


def test_molecules_are_given_to_py3dmol_with_their_bonds() -> None:
    molecules = io.read(TINY / "qm9.sdf")
    page = show(molecules)._make_html()
    assert page.count("V2000") == min(len(molecules), MOST)
    x, y, _ = molecules[0].GetConformer().GetPositions()[0]
    assert f"{x:10.4f}{y:10.4f}" in page


def test_a_crystal_is_given_with_its_cell() -> None:
    crystal = io.read(TINY / "crystals.cif")[0]
    page = gen3d.viz.show(crystal)._make_html()
    assert f"_cell_length_a   {crystal.lattice.a:.4f}"[:-2] in page
    assert "addUnitCell" in page


def test_shapes_stand_side_by_side_with_their_colours() -> None:
    box = trimesh.creation.box((1, 2, 3))
    box.visual.vertex_colors = np.arange(32).reshape(8, 4).astype(np.uint8)
    cloud = trimesh.PointCloud(np.random.default_rng(0).normal(size=(50, 3)))
    grid = box.voxelized(0.5)
    mesh, points, voxels = show([box, cloud, grid]).data
    assert np.stack([mesh.x, mesh.y, mesh.z], 1) == pytest.approx(box.vertices)
    assert np.array(mesh.vertexcolor).tolist() == box.visual.vertex_colors[:, :3].tolist()
    assert np.stack([points.x, points.y, points.z], 1) == pytest.approx(cloud.vertices)
    assert len(voxels.i) == 12 * grid.filled_count


def test_a_scene_is_a_film_of_its_colour() -> None:
    made = show(cube((0.9, 0.05, 0.05)))
    assert made._repr_html_().startswith('<img src="data:image/gif;base64,')
    film = Image.open(bytes_io.BytesIO(made.gif))
    assert film.n_frames == FILM
    for number in (0, FILM // 2):
        film.seek(number)
        seen = np.asarray(film.convert("RGB")).astype(int)
        height, width = seen.shape[:2]
        assert seen[height // 2, width // 2] == pytest.approx([230, 13, 13], abs=12)
        assert seen[2, 2] == pytest.approx([255, 255, 255], abs=4)


def test_what_cannot_be_shown_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Gen3dError, match="a dict cannot be shown; allowed: Mol, Structure"):
        show({})
    with pytest.raises(Gen3dError, match="there is nothing to show"):
        show([None])
    with pytest.raises(Gen3dError, match="2 objects of kinds Image, Trimesh"):
        show([Image.new("RGB", (2, 2)), trimesh.creation.box()])
    monkeypatch.setitem(sys.modules, "py3Dmol", None)
    with pytest.raises(MissingExtra, match=r'pip install "gen3d\[viewer\]"'):
        show(io.read(TINY / "qm9.sdf"))


def test_a_sheet_has_a_place_for_each_and_words_below() -> None:
    molecule, crystal = io.read(TINY / "qm9.sdf")[0], io.read(TINY / "crystals.cif")[0]
    red = Image.new("RGB", (9, 9), (255, 0, 0))
    made = np.asarray(sheet([molecule, crystal, None, red, trimesh.creation.box()], columns=2, size=50))
    assert made.shape == (150, 100, 3)
    places = made.reshape(3, 50, 2, 50, 3).swapaxes(1, 2).reshape(6, 50, 50, 3)
    drawn = [(place < 200).any() for place in places]
    assert drawn == [True, True, False, True, True, False]
    assert (places[3] == [255, 0, 0]).all()
    titled = np.asarray(sheet([red, red], ["a", "much too long for a picture of its size"], size=50))
    assert titled.shape == (50 + TITLE, 100, 3)
    below = (titled[50:] < 128).any((0, 2))
    assert below[:50].any()
    assert below[50:].any()


def test_what_is_in_no_sheet_is_named() -> None:
    with pytest.raises(Gen3dError, match="a Scene is in no sheet"):
        sheet(cube((1, 0, 0)))
    with pytest.raises(Gen3dError, match="there is nothing to show"):
        sheet([])
    with pytest.raises(Gen3dError, match="2 titles for 1 objects"):
        sheet(trimesh.creation.box(), ["a", "b"])
