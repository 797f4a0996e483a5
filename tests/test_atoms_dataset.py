import numpy as np
import pytest

from gen3d.domains.atoms.dataset import AtomsDataset, open_dataset
from gen3d.domains.atoms.system import AtomicSystem
from gen3d.errors import Gen3dError


def water(name: str = "water") -> AtomicSystem:
    positions = np.array([[0.0, 0.0, 0.0], [0.757, 0.586, 0.0], [-0.757, 0.586, 0.0]])
    return AtomicSystem(np.array([8, 1, 1]), positions, None, {"mu_debye": 1.85}, name)


def salt(a: float = 4.123) -> AtomicSystem:
    cell = np.diag([a, a, a]) + 0.1 * np.eye(3, k=-1)
    return AtomicSystem(
        np.array([55, 17]), np.array([[0, 0, 0], [0.5, 0.5, 0.5]]) @ cell, cell, {"gap": 8.0}, "s"
    )


def helium() -> AtomicSystem:
    return AtomicSystem(np.array([2]), np.array([[1.0, 2.0, 3.0]]), None, {"alpha": 1.38}, "helium")


def assert_same(a: AtomicSystem, b: AtomicSystem) -> None:
    np.testing.assert_array_equal(a.numbers, b.numbers)
    np.testing.assert_allclose(a.positions, b.positions, atol=1e-6)
    assert (a.cell is None) == (b.cell is None)
    if a.cell is not None:
        np.testing.assert_allclose(a.cell, b.cell, atol=1e-6)
    assert a.name == b.name
    known = [{k: v for k, v in s.properties.items() if not np.isnan(v)} for s in (a, b)]
    assert known[0] == pytest.approx(known[1])


def test_items_come_back_as_they_went_in_through_memory_and_file(tmp_path):
    systems = [water(), helium(), water("ünïcode")]
    dataset = AtomsDataset.from_systems(systems, smiles=["O", "[He]", "O"])
    assert dataset.sizes.tolist() == [3, 1, 3]
    assert np.isnan(dataset[1].properties["mu_debye"])
    dataset.save(tmp_path / "m.npz")
    loaded = AtomsDataset.load(tmp_path / "m.npz")
    for opened in (dataset, loaded):
        for given, got in zip(systems, opened, strict=True):
            assert_same(given, got)
    assert loaded.smiles.tolist() == ["O", "[He]", "O"]
    assert_same(loaded[-1], systems[2])
    with pytest.raises(IndexError):
        loaded[3]


def test_crystals_come_back_with_lattice_and_properties(tmp_path):
    AtomsDataset.from_systems([salt(), salt(5.0)]).save(tmp_path / "c.npz")
    loaded = AtomsDataset.load(tmp_path / "c.npz")
    assert loaded.periodic
    assert_same(salt(5.0), loaded[1])


def test_saved_fractions_stay_below_one(tmp_path):
    cell = 3.0 * np.eye(3)
    positions = np.array([[-1e-12, 3.0 - 1e-9, 0.0]])  # both round to 1.0 in float32
    AtomsDataset.from_systems([AtomicSystem(np.array([3]), positions, cell)]).save(tmp_path / "c.npz")
    with np.load(tmp_path / "c.npz") as file:
        assert ((file["frac_coords"] >= 0) & (file["frac_coords"] < 1)).all()


@pytest.mark.parametrize("chosen", [[2, 0], np.array([False, True, True]), [], [1, 1]])
def test_subset_is_indexing(chosen):
    systems = [water("a"), helium(), water("c")]
    expected = np.array(systems, dtype=object)[np.asarray(chosen, dtype=None if len(chosen) else int)]
    subset = AtomsDataset.from_systems(systems).subset(chosen)
    assert [s.name for s in subset] == [s.name for s in expected]
    for given, got in zip(expected, subset, strict=True):
        assert_same(given, got)


def test_kinds_do_not_mix():
    with pytest.raises(Gen3dError, match="1 crystals and 1 molecules"):
        AtomsDataset.from_systems([water(), salt()])


GOOD = {
    "n_atoms": np.array([2, 1]),
    "atomic_numbers": np.array([1, 1, 2], dtype=np.uint8),
    "positions": np.zeros((3, 3), dtype=np.float32),
}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_atoms": None}, "'n_atoms' is missing"),
        ({"positions": None}, "'positions' is missing"),
        ({"n_atoms": np.array([2, 2])}, "asks for"),
        ({"n_atoms": np.array([3, 0])}, "n_atoms of item 1 is 0"),
        ({"n_atoms": np.array([2.0, 1.0])}, "whole numbers"),
        ({"n_atoms": np.array([2**62, 2**62])}, "."),
        ({"atomic_numbers": np.array([1, 1, 0])}, "1 to 118"),
        ({"atomic_numbers": np.array([1, 1, 257])}, "1 to 118"),
        ({"positions": np.full((3, 3), np.nan)}, "finite"),
        ({"lattice": np.zeros((2, 3, 3)), "frac_coords": np.zeros((3, 3))}, "volume"),
        ({"lattice": np.zeros((1, 3, 3)), "frac_coords": np.zeros((3, 3))}, "lattice"),
        ({"properties": np.zeros((2, 1))}, "property_names"),
        ({"properties": np.zeros((3, 1)), "property_names": np.array(["x"])}, "properties"),
        ({"id": np.array([b"\xff", b"a"])}, "UTF-8"),
        ({"n_atoms": np.array([[1], [2]], dtype=object)}, "npz"),
    ],
)
def test_contradictory_files_are_named(tmp_path, change, message):
    arrays = {k: v for k, v in {**GOOD, **change}.items() if v is not None}
    np.savez(tmp_path / "bad.npz", **arrays)
    with pytest.raises(Gen3dError, match=message) as caught:
        AtomsDataset.load(tmp_path / "bad.npz")
    assert "bad.npz" in str(caught.value)


def test_damaged_files_are_named(tmp_path):
    AtomsDataset.from_systems([water()] * 50).save(tmp_path / "good.npz")
    data = (tmp_path / "good.npz").read_bytes()
    for name, content in {
        "cut": data[: len(data) // 2],
        "flipped": data[:100] + bytes(b ^ 0xFF for b in data[100:160]) + data[160:],
        "empty": b"",
        "text": b"hello",
        "npy": b"\x93NUMPY\x01\x00",
    }.items():
        path = tmp_path / f"{name}.npz"
        path.write_bytes(content)
        with pytest.raises(Gen3dError, match=name):
            AtomsDataset.load(path)


def test_open_dataset_finds_folders_stems_and_files(tmp_path):
    for path, name in {"train.npz": "t", "qm9_train.npz": "q", "x_valid.npz": "x"}.items():
        AtomsDataset.from_systems([water(name)]).save(tmp_path / path)
    assert open_dataset(tmp_path, "train")[0].name == "t"
    assert open_dataset(tmp_path / "qm9", "train")[0].name == "q"
    assert open_dataset(tmp_path / "train.npz", "valid")[0].name == "t"
    with pytest.raises(Gen3dError, match="has no split 'test'; it has train"):
        open_dataset(tmp_path / "qm9", "test")
    with pytest.raises(Gen3dError, match="allowed: train, valid, test"):
        open_dataset(tmp_path, "val")
    with pytest.raises(Gen3dError, match="no data at"):
        open_dataset(tmp_path / "nowhere", "train")
    (tmp_path / "train.npz").unlink()
    with pytest.raises(Gen3dError, match="qm9"):
        open_dataset(tmp_path, "train")


def test_open_dataset_reads_user_files_and_says_what_it_skipped(tmp_path, caplog):
    (tmp_path / "m.xyz").write_text("1\nhelium\nHe 0 0 0\n1\nbad\nQq 0 0 0\n")
    dataset = open_dataset(tmp_path / "m.xyz", "train")
    assert [s.name for s in dataset] == ["helium"]
    assert "1 skipped" in caplog.text
    (tmp_path / "none.xyz").write_text("nonsense\n")
    with pytest.raises(Gen3dError, match="no readable system"):
        open_dataset(tmp_path / "none.xyz", "train")


def test_shared_qm9(shared_data):
    dataset = open_dataset(shared_data / "molecules" / "qm9", "valid")
    assert len(dataset) == 17_748
    first = dataset[0]  # GDB9 number 3 is water
    assert first.name == "3"
    assert first.numbers.tolist() == [8, 1, 1]
    assert np.linalg.norm(first.positions[1] - first.positions[0]) == pytest.approx(0.962, abs=0.01)
    assert first.properties["Cv_cal_mol_K"] == pytest.approx(6.002)
    assert dataset.smiles[0] == "O"


def test_shared_crystals_keep_their_fractions(shared_data, tmp_path):
    path = shared_data / "crystals" / "mp_le20_valid.npz"
    dataset = open_dataset(shared_data / "crystals" / "mp_le20", "valid")
    assert dataset.property_names[0] == "formation_energy_per_atom"
    dataset.save(tmp_path / "again.npz")
    with np.load(path) as given, np.load(tmp_path / "again.npz") as got:
        difference = got["frac_coords"] - given["frac_coords"]
        assert abs(difference - np.round(difference)).max() < 1e-7
        np.testing.assert_array_equal(got["lattice"], given["lattice"])
