"""Pictures of molecules and crystals against what balls and sticks look like."""

from pathlib import Path

import numpy as np
import pytest
from ase.data import covalent_radii
from PIL import Image
from rdkit import Chem
from rdkit.Geometry import Point3D

from gen3d import io
from gen3d.cli import main
from gen3d.domains.atoms.contact_sheet import BALL, FINE, SIDE, _Canvas, contact_sheet, picture
from gen3d.errors import Gen3dError

TINY = Path(__file__).parents[1] / "data" / "tiny"


def test_a_ball_has_its_area_and_the_nearer_one_is_in_front() -> None:
    canvas = _Canvas(200, 2.0)
    canvas.ball(np.array([0.5, 0.5, 0.0]), 1.0, np.array([200.0, 0, 0]))
    drawn = (canvas.colours < 254).any(2)
    assert drawn.mean() * 16 == pytest.approx(np.pi, rel=0.01)
    assert np.argwhere(drawn).mean(0) == pytest.approx([74.5, 124.5], abs=1)  # x to the right, y up
    canvas.ball(np.array([0.5, 0.5, -1.5]), 1.2, np.array([0, 0, 200.0]))
    assert canvas.colours[75, 125, 0] > canvas.colours[75, 125, 2]
    canvas.ball(np.array([0.5, 0.5, 1.5]), 0.5, np.array([0, 0, 200.0]))
    assert canvas.colours[75, 125, 2] > canvas.colours[75, 125, 0]


def test_a_stick_covers_what_rays_meet_of_its_cylinder() -> None:
    start, end, radius = np.array([-0.8, -0.3, 0.6]), np.array([0.7, 0.5, -0.4]), 0.2
    canvas = _Canvas(60, 1.2)
    canvas.stick(start, end, radius, np.array([10.0, 10, 10]))
    u = (end - start) / np.linalg.norm(end - start)
    heights, met = np.linspace(-1.5, 1.5, 1501), 0
    for row in range(0, 60, 3):
        for column in range(0, 60, 3):
            place = np.array([canvas.axis[column], canvas.axis[59 - row]])
            points = np.column_stack([np.tile(place, (len(heights), 1)), heights]) - start
            along = points @ u
            away = np.linalg.norm(points - along[:, None] * u, axis=1)
            inside = away < radius
            if away.min() > 1.01 * radius:
                assert canvas.depth[row, column] == -np.inf
            elif inside.sum() > 20 and 0.02 < along[inside][-1] < np.linalg.norm(end - start) - 0.02:
                met += 1
                assert canvas.depth[row, column] == pytest.approx(heights[inside].max(), abs=0.01)
    assert met > 20


def test_mirror_images_are_drawn_as_mirror_images() -> None:
    """A view from the thinnest side must not turn one hand into the other."""
    mol = next(m for m in io.read(TINY / "qm9.sdf") if m.GetNumAtoms() > 8)
    mirrored = Chem.Mol(mol)
    conformer = mirrored.GetConformer()
    for atom in range(mol.GetNumAtoms()):
        x, y, z = conformer.GetAtomPosition(atom)
        conformer.SetAtomPosition(atom, Point3D(-x, y, z))
    for thing in (mol, mirrored):
        positions = thing.GetConformer().GetPositions()
        centred = positions - positions.mean(0)
        axes = np.linalg.svd(centred)[2]
        axes[2] *= np.sign(np.linalg.det(axes))
        places = centred @ axes.T
        number = int(places[:, 2].argmax())  # the nearest atom must be seen, not the farthest
        seen = picture(thing, SIDE)
        radii = BALL * (covalent_radii[[a.GetAtomicNum() for a in thing.GetAtoms()]] + 0.5)
        reach = 1.1 * (np.abs(places[:, :2]).max() + radii.max())
        column = int((places[number, 0] / reach + 1) / 2 * SIDE)
        row = int((1 - places[number, 1] / reach) / 2 * SIDE)
        assert (seen[row, column] < 250).any()


def test_sheets_have_a_place_for_every_object(tmp_path: Path) -> None:
    molecules = io.read(TINY / "qm9.sdf")[:3]
    contact_sheet([molecules[0], None, molecules[1], molecules[2]], tmp_path / "sheet.png")
    sheet = np.asarray(Image.open(tmp_path / "sheet.png")).reshape(2, SIDE, 2, SIDE, 3)
    white = (sheet == 255).all((1, 3, 4))
    assert white.tolist() == [[False, True], [False, False]]
    with pytest.raises(Gen3dError, match="the list of objects is empty"):
        contact_sheet([], tmp_path / "none.png")


def test_a_crystal_is_drawn_in_its_cell(tmp_path: Path) -> None:
    crystal = io.read(TINY / "crystals.cif")[0]
    seen = picture(crystal, SIDE).astype(int)
    grey = (np.ptp(seen, axis=2) < 6) & (seen.max(2) < 140)
    assert FINE == 2
    assert grey.mean() > 0.002  # the edges
    assert (np.ptp(seen, axis=2) > 40).mean() > 0.01  # atoms in colour


def test_sampling_draws_one_unless_told_otherwise(tmp_path: Path) -> None:
    words = ["sample", "--domain", "molecule", "--n", "2", "--steps", "4", "--quiet", "--out"]
    assert main([*words, str(tmp_path / "a.sdf")]) == 0
    assert (tmp_path / "a.preview.png").is_file()
    assert main([*words, str(tmp_path / "b.sdf"), "--no-preview"]) == 0
    assert not (tmp_path / "b.preview.png").exists()
