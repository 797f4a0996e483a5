import bz2
import csv
import functools
import http.server
import io
import json
import sys
import tarfile
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rdkit")
pytest.importorskip("pymatgen.core")
pytest.importorskip("ase")

from gen3d.domains.atoms import sources
from gen3d.domains.atoms.dataset import AtomsDataset, open_dataset
from gen3d.domains.atoms.prepare import prepare, split_dataset
from gen3d.domains.atoms.sources import SETS
from gen3d.domains.atoms.system import AtomicSystem
from gen3d.errors import Gen3dError
from gen3d.fetch import RemoteFile, fetch

TINY = Path(__file__).parents[1] / "data" / "tiny"

# dsgdb9nsd_000001.xyz of QM9; one exponent is written as the archive writes small numbers
METHANE = """5
gdb 1\t157.7118\t157.70997\t157.70699\t0.\t13.21\t-0.3877\t0.1171\t0.5048\t35.3641\t0.044749\t-40.47893\t-40.476062\t-40.475117\t-40.498597\t6.469\t
C\t-0.0126981359\t 1.0858041578\t 0.0080009958\t-0.535689
H\t 2.150416*^-3\t-0.0060313176\t 0.0019761204\t 0.133921
H\t 1.0117308433\t 1.4637511618\t 0.0002765748\t 0.133922
H\t-0.540815069\t 1.4475266138\t-0.8766437152\t 0.133923
H\t-0.5238136345\t 1.4379326443\t 0.9063972942\t 0.133923
1341.307\t1341.3284\t1341.365\t1562.6731\t1562.7453\t3038.3205\t3151.6034\t3151.6788\t3151.7078
C\tC\t
InChI=1S/CH4/h1H4\tInChI=1S/CH4/h1H4
"""  # noqa: E501


@pytest.fixture
def site(tmp_path):
    """A folder served over HTTP: (folder, URL)."""
    folder = tmp_path / "site"
    folder.mkdir()

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    handler = functools.partial(Quiet, directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield folder, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture
def known(site, tmp_path, monkeypatch):
    """The table of sets with its files on the local site, and an empty cache."""
    folder, url = site
    monkeypatch.setenv("GEN3D_CACHE", str(tmp_path / "cache"))
    for name, public in SETS.items():
        files = tuple(RemoteFile(f.name, f"{url}/{f.name}") for f in public.files)
        monkeypatch.setitem(SETS, name, replace(public, files=files, package=None))
    return folder


def write_qm9(folder: Path, count: int, unsure: list[int]) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for number in range(count, 0, -1):
            data = METHANE.replace("gdb 1\t", f"gdb {number}\t").encode()
            if number == 3:
                data = b"rubbish"
            info = tarfile.TarInfo(f"dsgdb9nsd_{number:06d}.xyz")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    (folder / "dsgdb9nsd.xyz.tar.bz2").write_bytes(bz2.compress(buffer.getvalue()))
    head = "3054 molecules of the set\n" * 9
    rows = "".join(f"{number:8d}  C1CC1  InChI=1S/x  0.1\n" for number in unsure)
    (folder / "uncharacterized.txt").write_text(head + rows)


def test_qm9_from_its_archive(known, tmp_path):
    write_qm9(known, 22, unsure=[7])
    report = prepare("qm9", tmp_path / "out", domain="molecule", progress=False)
    assert report.counts == {"train": 17, "valid": 2, "test": 1}
    reasons = {f.entry: f.reason for f in report.skipped}
    assert reasons.keys() == {"dsgdb9nsd_000003.xyz", "dsgdb9nsd_000007.xyz"}
    assert "uncharacterized" in reasons["dsgdb9nsd_000007.xyz"]
    datasets = {split: open_dataset(tmp_path / "out", split) for split in report.counts}
    names = [[int(n) for n in dataset.names] for dataset in datasets.values()]
    assert sorted(n for row in names for n in row) == sorted(set(range(1, 23)) - {3, 7})
    assert all(row == sorted(row) for row in names)
    methane = datasets["train"][0]
    assert methane.numbers.tolist() == [6, 1, 1, 1, 1]
    assert methane.positions[1] == pytest.approx([0.002150416, -0.0060313176, 0.0019761204])
    assert methane.properties["homo_hartree"] == -0.3877
    assert methane.properties["Cv_cal_mol_K"] == 6.469
    assert datasets["train"].smiles[0] == "C"
    record = json.loads((tmp_path / "out" / "dataset.json").read_text())
    assert record["licence"] == "CC0-1.0"
    assert record["origin"]["uncharacterized.txt"].startswith("sha256:")
    assert len(record["skipped"]) == 2


def test_qm9_from_the_installed_package(tmp_path, monkeypatch):
    data = tmp_path / "site" / "qm9pack" / "data"
    data.mkdir(parents=True)
    (data.parent / "__init__.py").write_text("raise RuntimeError('it must not be imported')")
    atoms = [line.split() for line in METHANE.replace("*^", "e").splitlines()[2:7]]
    values = METHANE.splitlines()[1].split()[2:]
    columns = ["RotA_GHz", *(f"p{i}" for i in range(14))]
    for part in (1, 2):
        with open(data / f"qm9_part{part}.csv", "w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["XYZ_file", "Index", "SMILES", "Elements", "XYZ_Ang", *columns])
            xyz = str([a[1:4] for a in atoms]).replace("'", "").replace(" ", "")
            writer.writerow(["x", part, "C", "['C','H','H','H','H']", xyz, *values])
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.delitem(sys.modules, "qm9pack", raising=False)
    report = prepare("qm9", tmp_path / "out", domain="molecule", progress=False)
    assert report.origin == {"package": "qm9pack"}
    methane = open_dataset(tmp_path / "out", "train")[0]
    assert methane.properties["G298_hartree"] == -40.498597
    assert np.linalg.norm(methane.positions[1] - methane.positions[0]) == pytest.approx(1.092, abs=1e-3)


def test_edm_split_of_qm9(shared_data):
    with np.load(shared_data / "molecules" / "qm9_train.npz") as file:
        train = file["index"]
    with np.load(shared_data / "molecules" / "qm9_valid.npz") as file:
        valid = file["index"]
    # numbers of the test molecules do not matter: any 13,083 stand-ins at their ranks
    ranks = np.random.RandomState(0).permutation(130_831)
    names = np.zeros(130_831, dtype=np.int64)
    names[np.sort(ranks[:100_000])] = train
    names[np.sort(ranks[100_000:117_748])] = valid
    assert (np.diff(names[names > 0]) > 0).all()  # ranks and published numbers are in one order
    dataset = AtomsDataset(
        np.ones(130_831), np.ones(130_831, int), np.zeros((130_831, 3)), names=names.astype(str)
    )
    dataset.names = np.arange(130_831).astype(str)
    parts = split_dataset(dataset, SETS["qm9"].shares, seed=0)
    assert {k: len(v) for k, v in parts.items()} == {"train": 100_000, "valid": 17_748, "test": 13_083}
    np.testing.assert_array_equal(names[parts["train"].names.astype(int)], train)
    np.testing.assert_array_equal(names[parts["valid"].names.astype(int)], valid)


def test_mp20_keeps_its_split_and_reduces_cells(known, tmp_path):
    blocks = ["data_" + block for block in (TINY / "crystals.cif").read_text().split("data_")[1:]]
    for name, chosen in {
        "train.csv": blocks[:2],
        "val.csv": blocks[2:3],
        "test.csv": [blocks[3], "junk"],
    }.items():
        with open(known / name, "w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(
                ["", "material_id", "formation_energy_per_atom", "band_gap", "e_above_hull", "cif"]
            )
            for i, block in enumerate(chosen):
                writer.writerow([i, f"mp-{i}", -1.5, 0.25, "", block])
    report = prepare("mp-20", tmp_path / "out", domain="crystal", progress=False)
    assert report.counts == {"train": 2, "valid": 1, "test": 1}
    assert report.seed is None
    (failure,) = report.skipped
    assert "test.csv row 3 ('mp-1')" in failure.entry
    salt, diamond = open_dataset(tmp_path / "out", "train")
    assert salt.name == "mp-0"
    assert salt.properties["band_gap"] == 0.25
    assert np.isnan(salt.properties["e_above_hull"])
    for system, volume in ((salt, 5.6402**3), (diamond, 3.567**3)):
        assert len(system) == 8  # reduced, not made primitive
        assert abs(np.linalg.det(system.cell)) == pytest.approx(volume, rel=1e-5)


def test_own_files_are_split_by_seed(tmp_path):
    runs = [prepare(TINY / "qm9.sdf", tmp_path / str(i), domain="molecule", seed=s, progress=False)
            for i, s in enumerate((0, 0, 1))]  # fmt: skip
    assert runs[0].counts == {"train": 18, "valid": 1, "test": 1}
    names = [
        [n for s in ("train", "valid", "test") for n in open_dataset(tmp_path / str(i), s).names]
        for i in range(3)
    ]
    assert names[0] == names[1] != names[2]
    assert sorted(names[0]) == sorted(names[2])
    assert len(set(names[0])) == 20


def test_the_wrong_kind_is_skipped_and_said(tmp_path):
    report = prepare(TINY, tmp_path / "out", domain="crystal", progress=False)
    assert sum(report.counts.values()) == 4
    assert {f.reason for f in report.skipped} == {"it is no crystal"}
    assert "20 skipped" in report.summary()


def test_prepared_data_keep_their_split_and_limit_counts(tmp_path):
    prepare(TINY / "qm9.sdf", tmp_path / "a", domain="molecule", progress=False)
    report = prepare(tmp_path / "a", tmp_path / "b", domain="molecule", limit=5, progress=False)
    assert report.counts == {"train": 5, "valid": 1, "test": 1}
    first, again = (open_dataset(tmp_path / d, "train") for d in "ab")
    np.testing.assert_array_equal(first.positions[: len(again.positions)], again.positions)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"source": "qm8"}, "no data set 'qm8': neither a known name .qm9, mp-20. nor a path"),
        ({"source": "qm9", "domain": "crystal"}, "holds molecules"),
        ({"domain": "shape"}, "allowed: molecule, crystal"),
        ({"limit": 0}, "limit is 0"),
        ({"source": TINY / "crystals.cif"}, "no molecule could be read"),
    ],
)
def test_mistakes_are_named(tmp_path, arguments, message):
    values = {"source": TINY / "qm9.sdf", "domain": "molecule", "progress": False, **arguments}
    with pytest.raises(Gen3dError, match=message):
        prepare(values.pop("source"), tmp_path / "out", **values)
    assert not (tmp_path / "out").exists()


def test_downloads_are_checked_and_kept(site, tmp_path):
    folder, url = site
    (folder / "a.bin").write_bytes(b"hello")
    md5 = "md5:5d41402abc4b2a76b9719d911017c592"
    sha256 = "sha256:2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"
    good = RemoteFile("a.bin", f"{url}/a.bin", md5)
    assert fetch(good, tmp_path / "cache", progress=False) == sha256
    (folder / "a.bin").unlink()
    assert fetch(good, tmp_path / "cache", progress=False) == sha256  # from the cache
    (tmp_path / "cache" / "a.bin").write_bytes(b"hellO")
    with pytest.raises(Gen3dError, match="not the published file"):
        fetch(good, tmp_path / "cache", progress=False)
    (folder / "b.bin").write_bytes(b"other")
    with pytest.raises(Gen3dError, match=r"expected 5d41402a"):
        fetch(RemoteFile("b.bin", f"{url}/b.bin", md5), tmp_path / "cache", progress=False)
    with pytest.raises(Gen3dError, match=r"cannot download .*[Nn]ot [Ff]ound.*by hand"):
        fetch(RemoteFile("c.bin", f"{url}/c.bin"), tmp_path / "cache", progress=False)
    assert [p.name for p in (tmp_path / "cache").iterdir()] == ["a.bin"]


def test_a_download_cut_short_is_not_kept(tmp_path):
    class Short(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(b"half")

        def log_message(self, *args):
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Short)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        with pytest.raises(Gen3dError, match=r"4 of 1,000 bytes|IncompleteRead|cannot download"):
            fetch(
                RemoteFile("x", f"http://127.0.0.1:{server.server_port}/x"),
                tmp_path / "cache",
                progress=False,
            )
    finally:
        server.shutdown()
        server.server_close()
    assert not list((tmp_path / "cache").iterdir())


def test_local_addresses_work_too(tmp_path):
    (tmp_path / "a.txt").write_text("hello")
    file = RemoteFile("b.txt", (tmp_path / "a.txt").as_uri())
    assert fetch(file, tmp_path / "cache", progress=False).startswith("sha256:2cf24dba")


def test_uncharacterized_list_keeps_its_head_apart():
    text = "3054 molecules\n" + "head\n" * 8 + "      58  C(=O)NC=O  InChI  x\n     59  C  y\n\nend\n"
    assert sources._uncharacterized(text) == {58, 59}


def test_one_atom_systems_split_without_empty_train():
    one = AtomsDataset.from_systems([AtomicSystem(np.array([2]), np.zeros((1, 3)))])
    assert [len(d) for d in split_dataset(one, (90, 5, 5), 0).values()] == [1, 0, 0]
