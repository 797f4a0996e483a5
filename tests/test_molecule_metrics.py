"""Molecule metrics against known molecules, brute force and published values of QM9 itself."""

import math
import os
import time

import numpy as np
import pytest

pytest.importorskip("rdkit")
pytest.importorskip("scipy")

from rdkit import Chem
from rdkit.Chem import AllChem
from scipy.spatial.transform import Rotation

from gen3d.domains.atoms.dataset import AtomsDataset
from gen3d.domains.atoms.metrics.distributions import content_metrics, geometry_metrics, local_geometry
from gen3d.domains.atoms.metrics.molecules import (
    Inspection,
    bust,
    canonical_smiles,
    inspect_molecule,
    molecule_metrics,
    reference_smiles,
    validity_metrics,
)
from gen3d.domains.atoms.metrics.relaxation import aligned_rmsd, relax, relaxation_metrics
from gen3d.domains.atoms.metrics.stability import bond_orders, stability_metrics, stable_atoms
from gen3d.domains.atoms.native import from_mol
from gen3d.domains.atoms.system import AtomicSystem
from gen3d.errors import Gen3dError
from gen3d.metrics import wilson_interval
from gen3d.parallel import guarded_map

SMILES = ["C", "CCO", "c1ccccc1", "CC#N", "CC(=O)N", "C1CC1", "OCC=O", "FC(F)C"]


def mol(smiles: str) -> Chem.Mol:
    embedded = Chem.AddHs(Chem.MolFromSmiles(smiles))
    assert AllChem.EmbedMolecule(embedded, randomSeed=7) == 0
    AllChem.MMFFOptimizeMolecule(embedded, maxIters=2000)
    return embedded


def system(smiles: str) -> AtomicSystem:
    return from_mol(mol(smiles))


@pytest.fixture(scope="module")
def molecules() -> list[AtomicSystem]:
    return [system(s) for s in SMILES]


def moved(original: AtomicSystem, positions: np.ndarray) -> AtomicSystem:
    return AtomicSystem(original.numbers, positions)


def joined(a: AtomicSystem, b: AtomicSystem, shift: float) -> AtomicSystem:
    apart = b.positions + np.array([shift, 0, 0])
    return AtomicSystem(np.concatenate([a.numbers, b.numbers]), np.concatenate([a.positions, apart]))


def broken(molecules: list[AtomicSystem]) -> dict[str, AtomicSystem]:
    ethanol, methane = molecules[1], molecules[0]
    carbon = methane.positions[0]
    return {
        "squeezed": moved(ethanol, 0.4 * ethanol.positions),
        "exploded": moved(ethanol, 5.0 * ethanol.positions),
        "extra hydrogen": AtomicSystem(
            np.append(methane.numbers, 1), np.vstack([methane.positions, carbon + 0.6])
        ),
        "missing hydrogen": AtomicSystem(methane.numbers[:-1], methane.positions[:-1]),
        "two pieces": joined(methane, ethanol, 30.0),
        "not a number": moved(ethanol, np.full_like(ethanol.positions, np.nan)),
        "all in one place": moved(ethanol, np.zeros_like(ethanol.positions)),
    }


def value(metrics, name: str):
    return {m.name: m.value for m in metrics}[name]


class TestStability:
    # Independent of the tables' code: rows of the published single-, double- and triple-bond tables.
    @pytest.mark.parametrize(
        ("first", "second", "angstrom", "order"),
        [
            (1, 1, 0.83, 1), (1, 1, 0.85, 0), (6, 1, 1.18, 1), (6, 1, 1.20, 0), (6, 6, 1.63, 1),
            (6, 6, 1.65, 0), (6, 6, 1.38, 2), (6, 6, 1.40, 1), (6, 6, 1.22, 3), (6, 6, 1.24, 2),
            (6, 7, 1.18, 3), (6, 7, 1.20, 2), (6, 8, 1.15, 3), (6, 8, 1.17, 2), (6, 8, 1.26, 1),
            (7, 7, 1.12, 3), (7, 8, 1.25, 2), (8, 8, 1.25, 2), (8, 8, 1.57, 1), (8, 8, 1.59, 0),
            (9, 9, 1.51, 1), (15, 8, 1.54, 2), (17, 6, 1.86, 1), (2, 2, 0.5, 0), (118, 6, 1.0, 0),
        ],
    )  # fmt: skip
    def test_bond_order_changes_at_the_published_lengths(self, first, second, angstrom, order):
        for pair in ([first, second], [second, first]):
            orders = bond_orders(AtomicSystem(np.array(pair), np.array([[0.0, 0, 0], [0, angstrom, 0]])))
            assert orders.tolist() == [[0, order], [order, 0]]

    def test_known_molecules_are_stable(self, molecules):
        for smiles, molecule in zip(SMILES, molecules, strict=True):
            if smiles != "c1ccccc1":  # the lookup knows no aromatic bonds: C-C of 1.39 angstrom is borderline
                assert stable_atoms(molecule).all(), smiles

    def test_orders_of_double_and_triple_bonds_add_up(self):
        carbonyl, nitrile = system("C=O"), system("C#N")
        assert bond_orders(carbonyl)[0].tolist() == [0, 2, 1, 1]
        assert bond_orders(nitrile)[0].tolist() == [0, 3, 1]

    def test_broken_molecules_are_unstable(self, molecules):
        for name, sample in broken(molecules).items():
            if name != "two pieces":  # two whole molecules are stable by this rule
                assert not stable_atoms(sample).all(), name

    def test_failed_samples_stay_in_the_denominators(self, molecules):
        methane = molecules[0]
        metrics = stability_metrics([methane, None, methane, None])
        assert value(metrics, "atom_stability") == 50
        assert value(metrics, "molecule_stability") == 50
        assert value(stability_metrics([None]), "atom_stability") == 0

    def test_atom_stability_counts_atoms(self, molecules):
        methane = molecules[0]
        ion = AtomicSystem(methane.numbers[:-1], methane.positions[:-1])  # C is unstable, 3 H are stable
        metrics = stability_metrics([methane, ion])
        assert value(metrics, "atom_stability") == pytest.approx(100 * 8 / 9)
        assert value(metrics, "molecule_stability") == 50

    def test_elements_without_a_valence_are_never_stable(self):
        alien = AtomicSystem(np.array([2, 118]), np.array([[0.0, 0, 0], [9, 0, 0]]))
        assert stable_atoms(alien).tolist() == [False, False]

    def test_published_values_of_qm9(self, shared_data):
        data = AtomsDataset.load(shared_data / "molecules" / "qm9_train.npz")
        metrics = stability_metrics([data[i] for i in range(0, len(data), 20)])
        assert value(metrics, "molecule_stability") == pytest.approx(95.2, abs=0.8)
        assert value(metrics, "atom_stability") == pytest.approx(99.0, abs=0.5)


class TestValidity:
    def test_known_molecules_are_recognised(self, molecules):
        for smiles, molecule in zip(SMILES, molecules, strict=True):
            found = inspect_molecule(molecule)
            assert found.connected, smiles
            assert found.smiles == canonical_smiles(Chem.MolFromSmiles(smiles))

    def test_broken_molecules_are_rejected(self, molecules):
        for name, sample in broken(molecules).items():
            found = inspect_molecule(sample)
            assert found.smiles is None, name
            assert found.geometry is None, name

    def test_pieces_are_noticed_and_the_edm_protocol_takes_the_largest(self, molecules):
        found = inspect_molecule(broken(molecules)["two pieces"])
        assert not found.connected
        assert Chem.MolFromSmiles(found.smiles_edm).GetNumAtoms() == 3  # ethanol, not methane

    def test_edm_protocol_tolerates_a_missing_hydrogen_but_not_an_extra_one(self, molecules):
        samples = broken(molecules)
        assert inspect_molecule(samples["missing hydrogen"]).smiles_edm is not None
        assert inspect_molecule(samples["extra hydrogen"]).smiles_edm is None

    def test_smiles_ignore_hand_and_side(self):
        assert canonical_smiles(Chem.MolFromSmiles("C[C@H](O)F")) == canonical_smiles(
            Chem.MolFromSmiles("C[C@@H](O)F")
        )
        imine = Chem.AddHs(Chem.MolFromSmiles("[H]/N=C/C"))
        assert canonical_smiles(imine) == "CC=N"

    def test_rigid_motion_and_order_of_atoms_change_nothing(self, molecules):
        original = molecules[4]
        rng = np.random.default_rng(0)
        order = rng.permutation(len(original))
        turned = Rotation.random(rng=rng).apply(original.positions) + np.array([3, -4, 5])
        other = AtomicSystem(original.numbers[order], turned[order])
        a, b = inspect_molecule(original), inspect_molecule(other)
        assert (a.smiles, a.smiles_edm) == (b.smiles, b.smiles_edm)
        np.testing.assert_allclose(np.sort(a.geometry.angles), np.sort(b.geometry.angles), atol=1e-9)


class TestCounting:
    def test_every_denominator(self):
        found = [Inspection(smiles=s, connected=True) for s in ("A", "A", "B", "C")] + [Inspection()]
        metrics = validity_metrics(found, known={"A", "Z"}, total=10)  # 5 more failed before
        assert value(metrics, "validity") == 40
        assert value(metrics, "connected") == 40
        assert value(metrics, "uniqueness") == 75
        assert value(metrics, "valid_unique") == 30
        assert value(metrics, "novelty") == pytest.approx(200 / 3)
        assert value(metrics, "valid_unique_novel") == 20

    def test_nothing_valid_has_no_uniqueness(self):
        metrics = validity_metrics([Inspection()], known=set(), total=1)
        assert value(metrics, "validity") == 0
        assert value(metrics, "uniqueness") is None
        assert value(metrics, "novelty") is None

    def test_novelty_is_printed_next_to_validity(self):
        names = [m.name for m in validity_metrics([], set(), 1)]
        assert names[:2] == ["validity", "novelty"]

    def test_wilson_interval_of_textbook_values(self):
        # Newcombe, Statistics in Medicine 17, 857 (1998), table I, method 3
        low, high = wilson_interval(81, 263)
        assert (low, high) == (pytest.approx(25.53, abs=0.01), pytest.approx(36.62, abs=0.01))
        low, high = wilson_interval(0, 20)
        assert (low, high) == (0, pytest.approx(16.11, abs=0.01))
        assert wilson_interval(20, 20)[1] == 100
        assert wilson_interval(0, 0) is None


class TestDistributions:
    def test_bonds_and_angles_of_water_and_ethyne(self):
        half = math.radians(104.5) / 2
        water = AtomicSystem(
            np.array([8, 1, 1]),
            0.96
            * np.array(
                [[0, 0, 0], [math.sin(half), math.cos(half), 0], [-math.sin(half), math.cos(half), 0]]
            ),
        )
        geometry = inspect_molecule(water).geometry
        np.testing.assert_allclose(geometry.lengths["H-O"], [0.96, 0.96])
        np.testing.assert_allclose(geometry.angles, [104.5])
        ethyne = AtomicSystem(np.array([1, 6, 6, 1]), np.array([[0, 0, z] for z in (-1.66, -0.6, 0.6, 1.66)]))
        geometry = inspect_molecule(ethyne).geometry
        assert sorted(geometry.lengths) == ["C#C", "C-H"]
        np.testing.assert_allclose(geometry.angles, [180, 180])

    def test_aromatic_bonds_have_their_own_type(self):
        lengths = local_geometry(mol("c1ccccc1")).lengths
        assert {k: len(v) for k, v in lengths.items()} == {"C:C": 6, "C-H": 6}

    def test_a_uniform_stretch_shifts_lengths_and_keeps_angles(self, molecules):
        plain = [local_geometry(mol(s)) for s in SMILES]
        stretched = []
        for smiles in SMILES:
            scaled = mol(smiles)
            scaled.GetConformer().SetPositions(1.05 * scaled.GetConformer().GetPositions())
            stretched.append(local_geometry(scaled))
        metrics = geometry_metrics(stretched, plain)
        mean = np.concatenate([v for g in plain for v in g.lengths.values()]).mean()
        assert value(metrics, "bond_lengths_w1") == pytest.approx(0.05 * mean)
        assert value(metrics, "bond_angles_w1") == pytest.approx(0, abs=1e-9)
        carbon = np.concatenate([g.lengths["C-H"] for g in plain if "C-H" in g.lengths]).mean()
        assert value(metrics, "bond_lengths_w1[C-H]") == pytest.approx(0.05 * carbon)

    def test_counts_and_composition_by_hand(self):
        water, methane = np.array([8, 1, 1]), np.array([6, 1, 1, 1, 1])
        metrics = content_metrics([water], [methane])
        assert value(metrics, "atom_counts_w1") == 2
        # H 2/3 against 4/5, O 1/3 against 0, C 0 against 1/5
        assert value(metrics, "composition_w1") == pytest.approx(4 / 5 - 2 / 3 + 1 / 3 + 1 / 5)
        assert value(content_metrics([water, methane], [methane, water]), "composition_w1") == 0

    def test_nothing_generated_has_no_distance(self):
        assert all(m.value is None for m in content_metrics([], [np.array([6])]))
        assert all(m.value is None for m in geometry_metrics([], [local_geometry(mol("C"))]))


class TestAllTogether:
    def test_the_reference_against_itself(self, molecules):
        metrics = molecule_metrics(molecules, molecules, workers=0)
        for name in ("validity", "connected", "uniqueness", "valid_unique", "validity_edm"):
            assert value(metrics, name) == 100, name
        assert value(metrics, "novelty") == 0
        assert {m.value for m in metrics if "_w1" in m.name} == {0.0}

    def test_rdkit_molecules_are_taken_as_they_are(self, molecules):
        metrics = molecule_metrics([mol(s) for s in SMILES], molecules, workers=0)
        assert value(metrics, "validity") == 100
        assert value(metrics, "novelty") == 0

    def test_broken_and_failed_samples_lower_every_rate(self, molecules):
        bad = list(broken(molecules).values())
        metrics = molecule_metrics([*molecules, *bad, None], molecules, workers=0)
        total = len(molecules) + len(bad) + 1
        assert value(metrics, "validity") == pytest.approx(100 * len(molecules) / total)
        assert value(metrics, "valid_unique") == pytest.approx(100 * len(molecules) / total)
        assert value(metrics, "uniqueness") == 100

    def test_mode_collapse_shows_in_uniqueness(self, molecules):
        metrics = molecule_metrics([molecules[1]] * 20, molecules, workers=0)
        assert value(metrics, "validity") == 100
        assert value(metrics, "uniqueness") == 5
        assert value(metrics, "valid_unique_edm") == 5

    def test_new_molecules_are_novel(self, molecules):
        metrics = molecule_metrics([system("CCCl"), molecules[0]], molecules, workers=0)
        assert value(metrics, "novelty") == 50

    def test_smiles_of_the_reference_are_used_whatever_their_form(self, molecules):
        written = ["[H]C([H])([H])[H]", "OCC", "C1=CC=CC=C1", "N#CC", "NC(C)=O", "C1CC1", "O=CCO", "nonsense"]
        reference = AtomsDataset.from_systems(molecules, written)
        assert reference_smiles(reference, workers=0) == {
            canonical_smiles(Chem.MolFromSmiles(s)) for s in SMILES[:-1]
        }
        assert value(molecule_metrics(molecules, reference, workers=0), "novelty") == pytest.approx(12.5)

    def test_nothing_to_measure_is_said(self, molecules):
        with pytest.raises(Gen3dError, match="0 samples"):
            molecule_metrics([], molecules)
        with pytest.raises(Gen3dError, match="str is no set of atoms"):
            molecule_metrics(["CCO"], molecules, workers=0)

    def test_every_metric_is_documented(self, molecules):
        for metric in molecule_metrics(molecules, molecules, workers=0):
            assert metric.definition, metric.name
            assert metric.citation, metric.name
            assert metric.better in ("higher", "lower"), metric.name

    def test_qm9_against_itself(self, shared_data):
        data = AtomsDataset.load(shared_data / "molecules" / "qm9_train.npz").subset(range(0, 100_000, 250))
        metrics = molecule_metrics(data, data, workers=0)
        assert value(metrics, "validity") > 99.5
        assert value(metrics, "validity_edm") == pytest.approx(97.7, abs=2)
        assert value(metrics, "novelty") < 1
        assert value(metrics, "bond_lengths_w1") == 0


class TestExternalJudges:
    def test_posebusters_passes_benzene_and_fails_a_bent_one(self, molecules):
        pytest.importorskip("posebusters")
        benzene = molecules[2]
        flat = bust(benzene)
        assert all(flat.values())
        assert {"bond_lengths", "bond_angles", "internal_energy", "aromatic_ring_flatness"} <= set(flat)
        bent = benzene.positions.copy()
        normal = np.linalg.svd(bent - bent.mean(0))[2][2]
        for atom in (0, 3, 6, 9):  # two opposite carbons and their hydrogens leave the plane: a boat
            bent[atom] += 0.8 * normal
        verdict = bust(moved(benzene, bent))
        assert not verdict["aromatic_ring_flatness"]
        assert verdict["all_atoms_connected"]

    def test_posebusters_rates_over_valid_and_over_all(self, molecules):
        pytest.importorskip("posebusters")
        metrics = molecule_metrics([molecules[1], None], molecules, workers=0, posebusters=True)
        assert value(metrics, "posebusters_all") == 100
        assert value(metrics, "posebusters_all_of_all") == 50
        assert value(metrics, "posebusters_bond_lengths_of_all") == 50

    def test_rmsd_ignores_rigid_motion_but_not_reflection(self):
        rng = np.random.default_rng(3)
        points = rng.normal(size=(7, 3))
        turned = Rotation.random(rng=rng).apply(points) + np.array([1, 2, 3])
        assert aligned_rmsd(points, turned) == pytest.approx(0, abs=1e-6)
        mirrored = points * [1, 1, -1]
        _, rssd = Rotation.align_vectors(points - points.mean(0), mirrored - mirrored.mean(0))
        assert aligned_rmsd(points, mirrored) == pytest.approx(rssd / math.sqrt(7))
        line = np.array([[0.0, 0, 0], [0, 0, 1.1], [0, 0, 2.3]])
        assert aligned_rmsd(line, line[:, [2, 0, 1]]) == pytest.approx(0, abs=1e-6)

    def test_xtb_relaxes_to_its_own_minimum(self):
        pytest.importorskip("tblite")
        water = system("O")
        first = relax(water)
        assert first.converged
        stretched = moved(water, 1.1 * water.positions)
        far = relax(stretched)
        assert far.converged
        assert far.energy > first.energy + 1
        assert far.rmsd > first.rmsd

    def test_xtb_failures_count(self, molecules):
        pytest.importorskip("tblite")
        crushed = moved(molecules[0], np.zeros((5, 3)))
        metrics = relaxation_metrics([molecules[0], crushed], 2, workers=0)
        assert value(metrics, "xtb_converged") == 50
        assert value(metrics, "xtb_relaxation_energy") >= 0


def answer(item: str) -> str:
    """What the workers of the tests below do with their items."""
    if item == "crash":
        os.abort()
    if item == "hang":
        time.sleep(1000)
    if item == "user":
        raise Gen3dError("this is the user's")
    if item == "bug":
        raise ZeroDivisionError("this is ours")
    return item.upper()


@pytest.mark.slow  # every worker imports torch anew
class TestGuardedMap:
    def test_crashes_and_hangs_cost_one_item_each(self, caplog):
        items = [f"item{i}" for i in range(40)]
        items[3], items[21], items[22] = "crash", "hang", "crash"
        results = guarded_map(answer, items, workers=2, timeout=3.0)
        expected = [None if i in (3, 21, 22) else f"ITEM{i}" for i in range(40)]
        assert results == expected
        assert "3 of 40" in caplog.text

    def test_errors_of_the_function_are_raised(self):
        with pytest.raises(Gen3dError, match="the user's"):
            guarded_map(answer, ["a", "user"], workers=1)
        with pytest.raises(RuntimeError, match="ZeroDivisionError: this is ours"):
            guarded_map(answer, ["bug"], workers=1)

    def test_processes_find_what_one_process_finds(self, molecules):
        here, there = (molecule_metrics(molecules, molecules, workers=n) for n in (0, 2))
        assert here == there

    def test_nothing_to_do(self):
        assert guarded_map(answer, [], workers=2) == []
