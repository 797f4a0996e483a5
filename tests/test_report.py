"""Reports: one page that says what there is, and needs nothing else."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gen3d import io
from gen3d.cli import main
from gen3d.errors import Gen3dError
from gen3d.report import write_report
from gen3d.viz import figure
from tests.plain_scene import cube

TINY = Path(__file__).parents[1] / "data" / "tiny"


def test_figures_hold_atoms_where_they_are() -> None:
    molecule, crystal = io.read(TINY / "qm9.sdf")[0], io.read(TINY / "crystals.cif")[0]
    bonds, atoms, edges, sites = figure([molecule, crystal]).data
    assert np.stack([atoms.x, atoms.y, atoms.z], 1) == pytest.approx(molecule.GetConformer().GetPositions())
    assert list(atoms.text) == [atom.GetSymbol() for atom in molecule.GetAtoms()]
    assert len(bonds.x) == 3 * molecule.GetNumBonds()
    assert len(edges.x) == 3 * 12
    lengths = np.linalg.norm(
        np.diff(np.stack([edges.x, edges.y, edges.z], 1).reshape(12, 3, 3)[:, :2], axis=1), axis=2
    )
    assert sorted(lengths.ravel()) == pytest.approx(sorted(4 * list(crystal.lattice.abc)))
    assert sorted(sites.text) == sorted(site.specie.symbol for site in crystal)
    with pytest.raises(Gen3dError, match="a Scene is no part of a figure"):
        figure([cube((1, 0, 0))])


def test_a_page_says_what_was_measured_and_how_it_was_made(tmp_path: Path) -> None:
    metrics = {
        "n_samples": 3, "n_failed": 1, "reference": "qm9 <train>",
        "metrics": {
            "valid": {"value": 66.667, "interval": [20.0, 93.0], "better": "higher", "definition": "% of 3"},
            "missing": {"value": None, "better": "lower", "definition": "not computed"},
        },
    }  # fmt: skip
    record = {"seed": 7, "file": "a.sdf", "options": {"formula": "C6H6"}}
    page = write_report(
        tmp_path / "a.html",
        "3 <samples>",
        [*io.read(TINY / "qm9.sdf")[:2], None],
        metrics=metrics,
        record=record,
    ).read_text()
    assert "<h1>3 &lt;samples&gt;</h1>" in page
    assert "2 of 3 samples" in page
    assert "against qm9 &lt;train&gt;" in page
    assert re.search(r"<td>valid</td><td class=\"number\">66.67</td><td>20 to 93</td>", page)
    assert "<td>seed</td><td>7</td>" in page
    assert "&quot;formula&quot;: &quot;C6H6&quot;" in page
    # Scripts are in the page; nothing is fetched.
    assert not re.search(r"<(script|link|img)[^>]*(src|href)=\"(https?:)?//", page)
    assert "Plotly.newPlot" in page


def test_pictures_are_in_the_page(tmp_path: Path) -> None:
    pictures = [Image.new("RGB", (4, 4), (i, 0, 0)) for i in range(30)]
    page = write_report(tmp_path / "a.html", "pictures", pictures).read_text()
    assert page.count("data:image/png;base64,") == 24
    assert "24 of 30 samples" in page


def test_sampling_and_evaluation_write_one_when_asked(tmp_path: Path) -> None:
    out = tmp_path / "mine.sdf"
    assert main(f"sample --domain molecule --n 2 --steps 4 --quiet --report --out {out}".split()) == 0
    made = (tmp_path / "mine.report.html").read_text()
    assert "molecule: 2 samples, seed 0" in made
    record = json.loads((tmp_path / "samples.json").read_text())
    assert f"<td>sampler</td><td>{record['sampler']}</td>" in made
    words = ["evaluate", "--domain", "molecule", "--samples", str(TINY / "qm9.sdf"), "--reference"]
    assert (
        main([*words, str(TINY / "qm9.sdf"), "--out", str(tmp_path / "m.json"), "--quiet", "--report"]) == 0
    )
    measured = json.loads((tmp_path / "m.json").read_text())["metrics"]
    page = (tmp_path / "report.html").read_text()
    assert all(f"<td>{name}</td>" in page for name in measured)
