import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytest.importorskip("rdkit")
pytest.importorskip("pymatgen.core")
pytest.importorskip("ase")

from rdkit import Chem

from gen3d.domains.atoms import readers
from gen3d.domains.atoms.readers import ReadReport, read_objects, read_systems
from gen3d.errors import Gen3dError

TINY = Path(__file__).parents[1] / "data" / "tiny"
SDF = (TINY / "qm9.sdf").read_text()
CIF = (TINY / "crystals.cif").read_text()
XYZ = "3\nwater\nO 0 0 0\nH 0.757 0.586 0\nH -0.757 0.586 0\n"
EXTXYZ = (
    '2\nLattice="4.123 0 0 0 4.123 0 0 0 4.123" '
    'Properties=species:S:1:pos:R:3 energy=-6.5 name=salt pbc="T T T"\n'
    "Cs 0 0 0\nCl 2.0615 2.0615 2.0615\n"
)
POSCAR = "salt\n1.0\n4 0 0\n0 4 0\n0 0 4\nCs Cl\n1 1\ndirect\n0 0 0\n0.5 0.5 0.5\n"


def read(path: Path) -> tuple[list, ReadReport]:
    report = ReadReport()
    return list(read_systems(path, report)), report


def read_text(folder: Path, name: str, text: str | bytes) -> tuple[list, ReadReport]:
    (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return read(folder / name)


def test_sdf_records_come_with_names_and_data():
    systems, report = read(TINY / "qm9.sdf")
    assert (len(systems), report.read, report.failures) == (20, 20, [])
    methane = systems[0]
    assert methane.name == "gdb9_000001"
    assert methane.numbers.tolist() == [6, 1, 1, 1, 1]
    assert np.linalg.norm(methane.positions[1] - methane.positions[0]) == pytest.approx(1.092, abs=1e-3)
    assert methane.properties["U0_hartree"] == pytest.approx(-40.47893)
    assert "gen3d_valid" not in methane.properties


def test_cif_symmetry_is_expanded_to_textbook_crystals():
    systems, report = read(TINY / "crystals.cif")
    assert not report.failures
    assert [s.name for s in systems] == ["NaCl", "diamond", "CsCl", "SrTiO3"]
    assert [len(s) for s in systems] == [8, 8, 2, 5]
    nearest = {
        "NaCl": 5.6402 / 2,
        "diamond": 3.567 * 3**0.5 / 4,
        "CsCl": 4.123 * 3**0.5 / 2,
        "SrTiO3": 3.905 / 2,
    }
    for system, structure in zip(systems, read_objects(TINY / "crystals.cif"), strict=True):
        distances = structure.distance_matrix[~np.eye(len(system), dtype=bool)]
        assert distances.min() == pytest.approx(nearest[system.name], abs=1e-3)


def test_xyz_frames_are_molecules_and_lattices_make_crystals(tmp_path):
    systems, report = read_text(tmp_path, "a.xyz", XYZ + EXTXYZ + XYZ.replace("water", "") + "\n\n")
    assert not report.failures
    assert [s.name for s in systems] == ["water", "salt", ""]
    assert [s.periodic for s in systems] == [False, True, False]
    assert systems[1].properties == {"energy": -6.5}
    np.testing.assert_allclose(systems[1].fractional[1], 0.5)


@pytest.mark.parametrize("name", ["POSCAR", "POSCAR_007", "CONTCAR", "a.vasp", "b.poscar"])
def test_poscar_by_any_name(tmp_path, name):
    (system,), _ = read_text(tmp_path, name, POSCAR)
    assert system.name == "salt"
    np.testing.assert_allclose(system.cell, 4 * np.eye(3))


def test_folders_and_archives_are_read_in_order(tmp_path):
    (tmp_path / "b.xyz").write_text(XYZ)
    (tmp_path / "a.cif").write_text(CIF)
    (tmp_path / "notes.txt").write_text("not for reading")
    with zipfile.ZipFile(tmp_path / "c.zip", "w") as archive:
        archive.writestr("x/1.sdf", SDF)
        archive.writestr("x/2.pdf", "?")
    systems, report = read(tmp_path)
    assert len(systems) == 4 + 1 + 20
    assert systems[4].name == "water"
    assert [f.entry for f in report.failures] == ["c.zip/x/2.pdf"]


def test_bonds_of_the_file_are_kept_and_missing_ones_perceived(tmp_path):
    records = list(read_objects(TINY / "qm9.sdf"))
    assert Chem.MolToSmiles(Chem.RemoveHs(records[1])) == "N"
    (tmp_path / "a.xyz").write_text(XYZ)
    (mol,) = read_objects(tmp_path / "a.xyz")
    assert Chem.MolToSmiles(Chem.RemoveHs(mol)) == "O"


def entries(text: str) -> list[str]:
    return [e + "$$$$\n" for e in text.split("$$$$\n") if e]


ENTRIES = entries(SDF)


@pytest.mark.parametrize(
    ("name", "text", "good", "entry", "reason"),
    [
        ("a.sdf", ENTRIES[0] + "x\n\n\ngarbage\n$$$$\n" + ENTRIES[1], 2, "entry 2 ('x')", "counts line"),
        (
            "a.sdf",
            ENTRIES[0].replace("  5  4  0", "999  4  0") + ENTRIES[1],
            1,
            "gdb9_000001",
            "announces 999",
        ),
        ("a.sdf", ENTRIES[0] + "x\n$$$$\n", 1, "entry 2", "2 lines"),
        ("a.sdf", ENTRIES[0] + ENTRIES[1][:120], 1, "entry 2", "announces 4 atoms"),
        ("a.sdf", ENTRIES[0].replace(" C   0", " *   0"), 0, "entry 1", "no element"),
        ("a.xyz", "5\n\nH 0 0 0\n" + XYZ, 1, "frame 1", "announces 5 atoms, but has 1"),
        ("a.xyz", "99999999999999999999999\n\n" + XYZ, 1, "frame 1", "number of atoms"),
        ("a.xyz", "100000000\n\n" + XYZ, 1, "frame 1", "allowed: 1 to"),
        ("a.xyz", "0\n\n" + XYZ, 1, "frame 1", "allowed: 1 to"),
        ("a.xyz", "hello\nworld\n" + XYZ, 1, "frame 1", "hello"),
        ("a.xyz", XYZ.replace("O 0", "Qq 0") + XYZ, 1, "frame 1", "Qq"),
        ("a.xyz", XYZ.replace("0.586 0", "zero 0", 1) + XYZ, 1, "frame 1", "zero"),
        ("a.xyz", XYZ.replace("0.586 0", "nan 0", 1) + XYZ, 1, "frame 1", "finite"),
        ("a.extxyz", EXTXYZ.replace("T T T", "T T F") + EXTXYZ, 1, "frame 1", "some directions"),
        ("a.extxyz", EXTXYZ.replace("4.123 0 0 0 4", "0 0 0 0 4") + EXTXYZ, 1, "frame 1", "no volume"),
        ("a.cif", "data_empty\n_cell_length_a 3\n" + CIF, 4, "'empty'", "no atom sites"),
        ("a.cif", CIF.replace("1\n\ndata_diamond", "0.5\n\ndata_diamond"), 3, "'NaCl'", "partly occupied"),
        ("a.cif", CIF.replace("_cell_length_a     5.6402\n", ""), 3, "'NaCl'", "Error"),
        ("a.cif", CIF.replace("_cell_angle_beta   90", "_cell_angle_beta   abc", 1), 3, "'NaCl'", "Error"),
        ("POSCAR", POSCAR.replace("Cs Cl\n1 1", "Cs Cl\n1 one"), 0, "POSCAR", "one"),
    ],
)
def test_malformed_entries_are_named_and_the_rest_is_read(tmp_path, name, text, good, entry, reason):
    systems, report = read_text(tmp_path, name, text)
    assert len(systems) == good == report.read
    assert len(report.failures) == 1
    assert entry in report.failures[0].entry
    assert reason in report.failures[0].reason
    assert entry in report.summary()


def test_a_text_field_may_contain_the_word_data(tmp_path):
    text = CIF.replace("loop_\n", "_publ_section_comment\n;\ndata_is fine here\n;\nloop_\n", 1)
    systems, report = read_text(tmp_path, "a.cif", text)
    assert (len(systems), report.failures) == (4, [])


def test_missing_hydrogens_are_mentioned_not_added(tmp_path):
    systems, report = read_text(tmp_path, "a.xyz", "2\n\nC 0 0 0\nC 0 0 1.5\n" * 2 + XYZ)
    assert [len(s) for s in systems] == [2, 2, 3]
    assert "2 molecules have no hydrogen" in report.summary()
    _, complete = read(TINY / "qm9.sdf")
    assert not complete.notable


@pytest.mark.parametrize(
    ("name", "message"), [("a.pdb", "allowed: .cif"), ("a.sdf", "cannot read"), ("a.zip", "cannot read")]
)
def test_what_cannot_be_opened_is_one_clear_error(tmp_path, name, message):
    with pytest.raises(Gen3dError, match=message):
        read(tmp_path / name)
    (tmp_path / "a.zip").write_bytes(b"PK nonsense")
    with pytest.raises(Gen3dError, match="zip"):
        read(tmp_path / "a.zip")
    (tmp_path / "folder").mkdir()
    with pytest.raises(Gen3dError, match="no file of a known format"):
        read(tmp_path / "folder")


@pytest.mark.parametrize("name", ["a.sdf", "a.xyz", "a.cif", "POSCAR"])
@pytest.mark.parametrize("line", [b"x" * 100, b"7\n", b"data_x\n;\n", b"1\n1 1 1 1\n"])
def test_endless_entries_are_refused_quickly(tmp_path, monkeypatch, name, line):
    monkeypatch.setattr(readers, "MAX_ENTRY_BYTES", 100_000)
    start = time.perf_counter()
    systems, report = read_text(tmp_path, name, line * (300_000 // len(line)))
    assert not systems
    assert report.failures
    assert time.perf_counter() - start < 20


def test_reading_is_streamed(tmp_path):
    path = tmp_path / "many.xyz"
    path.write_text(XYZ * 1000 + "5\n")
    report = ReadReport()
    systems = read_systems(path, report)
    next(systems)
    assert report.read == 1
    assert not report.failures  # the bad end is not reached yet


TEXTS = {
    "a.sdf": SDF[:3000],
    "a.xyz": XYZ + EXTXYZ,
    "a.cif": CIF[CIF.index("data_diamond") :][:900],
    "POSCAR": POSCAR,
}


@pytest.mark.parametrize("name", TEXTS)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_bytes_end_in_systems_or_reasons(tmp_path, name, data):
    text = bytearray(TEXTS[name].encode())
    kind = data.draw(st.sampled_from(["bytes", "mutated", "cut", "number"]))
    if kind == "bytes":
        text = bytearray(data.draw(st.binary(max_size=300)))
    elif kind == "mutated":
        for _ in range(data.draw(st.integers(1, 20))):
            text[data.draw(st.integers(0, len(text) - 1))] = data.draw(st.integers(0, 255))
    elif kind == "cut":
        del text[data.draw(st.integers(0, len(text))) :]
    else:
        words = bytes(text).split(b" ")
        words[data.draw(st.integers(0, len(words) - 1))] = data.draw(
            st.sampled_from([b"1e308", b"-1", b"999999999", b"nan", b"inf", b"0", b"1e-320", b"'", b"\xff"])
        )
        text = bytearray(b" ".join(words))
    systems, report = read_text(tmp_path, name, bytes(text))
    assert len(systems) == report.read
    for system in systems:
        assert np.isfinite(system.positions).all()
        assert ((system.numbers >= 1) & (system.numbers <= 118)).all()
    assert all(failure.reason for failure in report.failures)
