from pathlib import Path

import numpy as np
import pytest

from gen3d import io
from gen3d.errors import Gen3dError

pytest.importorskip("rdkit")
pytest.importorskip("pymatgen.core")
pytest.importorskip("ase")

from pymatgen.core import Structure
from rdkit import Chem

from gen3d.domains.atoms.native import from_native, to_atoms

TINY = Path(__file__).parents[1] / "data" / "tiny"
MOLECULES = io.read(TINY / "qm9.sdf")
CRYSTALS = io.read(TINY / "crystals.cif")


@pytest.mark.parametrize("name", ["m.sdf", "m.xyz", "m.extxyz", "m.zip", "m.SDF"])
def test_molecules_round_trip(tmp_path, name):
    assert io.write(MOLECULES, tmp_path / name) == [tmp_path / name]
    for given, got in zip(MOLECULES, io.read(tmp_path / name), strict=True):
        assert isinstance(got, Chem.Mol)
        assert Chem.MolToSmiles(got) == Chem.MolToSmiles(given)
        np.testing.assert_allclose(
            got.GetConformer().GetPositions(), given.GetConformer().GetPositions(), atol=1e-4
        )
        assert got.GetProp("_Name") == given.GetProp("_Name")
        if name != "m.xyz":  # which has no room for them
            assert from_native(got).properties == pytest.approx(from_native(given).properties)


@pytest.mark.parametrize("name", ["c.cif", "c.extxyz", "c.zip", "c.vasp", "POSCAR"])
def test_crystals_round_trip(tmp_path, name):
    written = io.write(CRYSTALS, tmp_path / name)
    assert len(written) == (4 if name in ("c.vasp", "POSCAR") else 1)
    for given, got in zip(CRYSTALS, io.read(tmp_path), strict=True):
        assert isinstance(got, Structure)
        assert got.composition == given.composition
        np.testing.assert_allclose(got.lattice.parameters, given.lattice.parameters, rtol=1e-6)
        np.testing.assert_allclose(
            np.sort(got.distance_matrix.ravel()), np.sort(given.distance_matrix.ravel()), atol=1e-5
        )
        assert got.properties["name"] == given.properties["name"]


def test_one_poscar_keeps_its_name_and_many_are_numbered(tmp_path):
    assert io.write(CRYSTALS[0], tmp_path / "POSCAR") == [tmp_path / "POSCAR"]
    names = [p.name for p in io.write(CRYSTALS[:2], tmp_path / "a.vasp")]
    assert names == ["a_0000.vasp", "a_0001.vasp"]
    (back,) = io.read(tmp_path / "a_0001.vasp")
    assert back.composition == CRYSTALS[1].composition


def test_atoms_of_ase_and_bare_systems_are_written_too(tmp_path):
    systems = [from_native(mol) for mol in MOLECULES[:3]]
    io.write([systems[0], to_atoms(systems[1]), MOLECULES[2]], tmp_path / "m.sdf")
    assert [from_native(m).name for m in io.read(tmp_path / "m.sdf")] == [s.name for s in systems]


def test_molecules_without_bonds_are_written_and_marked(tmp_path):
    from ase import Atoms

    io.write(Atoms("H2", positions=[[0, 0, 0], [9, 0, 0]]), tmp_path / "m.sdf")
    (mol,) = io.read(tmp_path / "m.sdf")
    assert mol.GetNumAtoms() == 2
    assert mol.GetProp("gen3d_valid") == "0"


@pytest.mark.parametrize(
    ("objects", "name", "message"),
    [
        (MOLECULES, "m.docx", r"unknown extension '.docx'; allowed: .*\.sdf"),
        (MOLECULES, "m", "unknown extension ''"),
        ([], "m.sdf", "empty"),
        (CRYSTALS, "c.sdf", "periodic"),
        (CRYSTALS, "c.xyz", "no lattice; write crystals as"),
        (MOLECULES, "m.cif", "no crystal"),
        ([MOLECULES[0], None], "m.sdf", "NoneType"),
    ],
)
def test_what_does_not_fit_is_refused_and_nothing_is_left(tmp_path, objects, name, message):
    with pytest.raises(Gen3dError, match=message):
        io.write(objects, tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_a_failed_write_leaves_the_old_file(tmp_path):
    io.write(CRYSTALS, tmp_path / "c.cif")
    before = (tmp_path / "c.cif").read_bytes()
    with pytest.raises(Gen3dError):
        io.write([*CRYSTALS, MOLECULES[0]], tmp_path / "c.cif")
    assert (tmp_path / "c.cif").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["c.cif"]


def test_missing_and_unknown_files_are_named(tmp_path):
    with pytest.raises(Gen3dError, match=r"no file .*gone\.sdf"):
        io.read(tmp_path / "gone.sdf")
    with pytest.raises(Gen3dError, match=r"allowed: \.sdf"):
        io.read(tmp_path / "a.foo")
    with pytest.raises(Gen3dError, match="no file of a known format"):
        io.read(tmp_path)


def test_what_cannot_be_read_is_named(tmp_path):
    """An entry whose counts line is broken stands between two good ones."""
    path = tmp_path / "m.sdf"
    io.write(MOLECULES[:2], path)
    first, second = path.read_text().split("$$$$\n")[:2]
    path.write_text(f"{first}$$$$\nbroken\n\n\nno counts\n$$$$\n{second}$$$$\n")
    with pytest.warns(UserWarning, match=r"m\.sdf: 2 read, 1 skipped\s.*broken"):
        assert len(io.read(path)) == 2


def test_the_table_agrees_with_the_readers():
    from gen3d.domains.atoms.readers import READERS

    atoms = {k for k, f in io.FORMATS.items() if f.reader.startswith("gen3d.domains.atoms")}
    assert atoms - {".zip"} <= set(READERS)
