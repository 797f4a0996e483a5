import pickle
import time

import numpy as np
import pytest

pytest.importorskip("rdkit")
pytest.importorskip("pymatgen.core")
pytest.importorskip("ase")

import ase
from ase.build import bulk, molecule
from pymatgen.core import Lattice, Structure
from rdkit import Chem
from rdkit.Chem import AllChem

from gen3d.domains.atoms import native
from gen3d.domains.atoms.dataset import open_dataset
from gen3d.domains.atoms.system import AtomicSystem
from gen3d.errors import Gen3dError

SMILES = [
    "C", "O", "CCO", "c1ccccc1", "C#N", "O=C=O", "CC(=O)Nc1ccc(O)cc1", "C1=C[C@H]2CC[C@@H]1C2",
    "FC(F)F", "c1c[nH]cc1", "[NH3+]CC(=O)[O-]", "C[C@H](N)C(=O)O", "C[C@@H](N)C(=O)O", "F/C=C/F", "F/C=C\\F",
    "CS(=O)(=O)C", "N#Cc1ccncc1",
]  # fmt: skip


def embedded(smiles: str) -> AtomicSystem:
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    AllChem.EmbedMolecule(mol, randomSeed=7)
    if AllChem.MMFFHasAllMoleculeParams(mol):
        AllChem.MMFFOptimizeMolecule(mol)
    return native.from_mol(mol)


@pytest.mark.parametrize("smiles", SMILES)
def test_bonds_and_stereochemistry_are_found_again(smiles):
    mol = native.perceive(embedded(smiles))
    assert mol is not None
    assert Chem.MolToSmiles(Chem.RemoveHs(mol)) == Chem.CanonSmiles(smiles)


def test_cages_get_no_bonds_across():
    # atoms opposite in bicyclo[1.1.1]pentane are 1.87 angstrom apart, within 1.3 covalent radii
    mol = native.perceive(embedded("C12CC(C1)C2"))
    assert Chem.MolToSmiles(Chem.RemoveHs(mol)) == Chem.CanonSmiles("C12CC(C1)C2")


def two_waters() -> AtomicSystem:
    water = embedded("O")
    return AtomicSystem(np.tile(water.numbers, 2), np.concatenate([water.positions, water.positions + 5.0]))


def without_last_atom(smiles: str) -> AtomicSystem:
    whole = embedded(smiles)
    return AtomicSystem(whole.numbers[:-1], whole.positions[:-1])


@pytest.mark.parametrize(
    "system",
    [
        pytest.param(two_waters(), id="two fragments"),
        pytest.param(without_last_atom("C"), id="methyl radical"),
        pytest.param(without_last_atom("CCO"), id="radical"),
        pytest.param(AtomicSystem(np.array([6, 6]), np.zeros((2, 3))), id="coincident atoms"),
        pytest.param(
            AtomicSystem(np.array([1, 1]), np.array([[0, 0, 0], [np.nan, 0, 0]])), id="not a number"
        ),
        pytest.param(AtomicSystem(np.array([8]), np.zeros((1, 3))), id="oxygen atom"),
    ],
)
def test_what_is_no_molecule_stays_without_bonds(system):
    assert native.perceive(system) is None
    mol = native.to_mol(system)
    assert mol.GetNumBonds() == 0
    assert mol.GetNumAtoms() == len(system)
    assert mol.GetBoolProp("gen3d_valid") is False


def test_clouds_of_atoms_take_no_time():
    rng = np.random.default_rng(0)
    start = time.perf_counter()
    for size, width in [(20, 2.5), (29, 4.0), (29, 30.0), (90, 5.0), (90, 8.0)] * 4:
        native.perceive(AtomicSystem(rng.choice([1, 6, 7, 8, 9, 16], size), rng.uniform(0, width, (size, 3))))
    for size in (20, 60):  # rings and lattices of bare carbon have very many bond orders to try
        angle = 2 * np.pi * np.arange(size) / size
        ring = np.stack([np.cos(angle), np.sin(angle), 0 * angle], axis=1) * 1.4 / (2 * np.sin(np.pi / size))
        native.perceive(AtomicSystem(np.full(size, 6), ring))
    grid = 1.42 * np.stack(np.meshgrid(*[np.arange(4)] * 3), -1).reshape(-1, 3).astype(float)
    native.perceive(AtomicSystem(np.full(64, 6), grid))
    sheet = bulk("C", "hcp", a=2.46, c=6.7).repeat((5, 5, 1))
    native.perceive(AtomicSystem(sheet.numbers, sheet.positions))
    assert time.perf_counter() - start < 5.0


def test_real_qm9_molecules_are_valid(shared_data):
    dataset = open_dataset(shared_data / "molecules" / "qm9", "valid")
    chosen = np.random.default_rng(0).choice(len(dataset), 500, replace=False)
    mols = [native.perceive(dataset[i]) for i in chosen]
    assert sum(mol is not None for mol in mols) >= 495

    def flat(mol: Chem.Mol) -> str:
        return Chem.CanonSmiles(Chem.MolToSmiles(Chem.RemoveHs(mol), isomericSmiles=False))

    same = [
        flat(mol) == flat(Chem.MolFromSmiles(dataset.smiles[i]))
        for i, mol in zip(chosen, mols, strict=True)
        if mol
    ]
    assert np.mean(same) > 0.98  # the rest are other resonance forms


def test_name_and_properties_travel_with_molecules():
    system = AtomicSystem(np.array([2]), np.array([[1.0, 2.0, 3.0]]), None, {"gap_hartree": 0.7}, "helium")
    for value in (native.to_mol(system), native.to_atoms(system), system):
        back = native.from_native(value)
        assert (back.name, back.properties, back.cell) == ("helium", {"gap_hartree": 0.7}, None)
        np.testing.assert_array_equal(back.positions, system.positions)


def test_crystals_agree_with_pymatgen_and_ase():
    structure = Structure.from_spacegroup(
        "Fm-3m", Lattice.cubic(5.6402), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]]
    )
    system = native.from_structure(structure)
    system = AtomicSystem(system.numbers, system.positions, system.cell, {"band_gap": 5.0}, "salt")
    for value in (native.to_structure(system), native.to_atoms(system), native.to_native(system)):
        back = native.from_native(value)
        assert (back.name, back.properties) == ("salt", {"band_gap": 5.0})
        np.testing.assert_allclose(back.cell, structure.lattice.matrix)
        np.testing.assert_allclose(back.fractional, structure.frac_coords, atol=1e-9)
    assert native.to_structure(system).get_space_group_info()[1] == 225
    assert native.to_atoms(system).get_volume() == pytest.approx(5.6402**3)
    np.testing.assert_allclose(native.from_atoms(bulk("Cu", cubic=True)).cell, 3.61 * np.eye(3))


def test_molecules_of_ase_agree_with_their_formula():
    mol = native.to_native(native.from_atoms(molecule("CH3CH2OH")))
    assert Chem.MolToSmiles(Chem.RemoveHs(mol)) == "CCO"


def disordered() -> Structure:
    return Structure(Lattice.cubic(3), [{"Fe": 0.5, "Ni": 0.5}], [[0, 0, 0]])


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (Chem.MolFromSmiles("CCO"), "no 3D coordinates"),
        (Chem.Mol(), "no atoms"),
        (Chem.MolFromMolBlock(Chem.MolToMolBlock(Chem.MolFromSmiles("CC"))), "no 3D"),
        (disordered(), "partly occupied"),
        (ase.Atoms("H", pbc=[True, True, False], cell=[1, 1, 1]), "some directions"),
        (ase.Atoms("H", pbc=True), "no volume"),
        (ase.Atoms("X"), "no element"),
        (ase.Atoms("H", positions=[[np.inf, 0, 0]]), "finite"),
        (ase.Atoms(), "no atoms"),
        (3, "int is no set of atoms"),
    ],
)
def test_what_is_no_system_is_refused(value, message):
    with pytest.raises(Gen3dError, match=message):
        native.from_native(value)


def test_kinds_are_not_confused():
    crystal = native.from_atoms(bulk("Cu"))
    with pytest.raises(Gen3dError, match="periodic"):
        native.to_mol(crystal)
    with pytest.raises(Gen3dError, match="no lattice"):
        native.to_structure(two_waters())


def test_perceived_molecules_cross_processes():
    mol = pickle.loads(pickle.dumps(native.perceive(embedded("CCO"))))
    assert mol.GetNumConformers() == 1
    assert mol.GetNumBonds() == 8
