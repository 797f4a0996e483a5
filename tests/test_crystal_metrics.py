"""Crystal metrics against pymatgen, known answers, and crystals broken on purpose."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import smact
from pymatgen.core import Composition, Lattice, Structure
from smact.screening import smact_validity

from gen3d.domains.atoms.dataset import AtomsDataset
from gen3d.domains.atoms.metrics.crystals import (
    composition_valid,
    crystal_metrics,
    density,
    inspect_crystal,
    lattice_angles,
    minimum_distance,
    structure_prediction_metrics,
    structure_valid,
)
from gen3d.domains.atoms.metrics.matching import match_all, reduced_formula, rms_distances
from gen3d.domains.atoms.native import from_structure, to_structure
from gen3d.domains.atoms.system import AtomicSystem
from gen3d.errors import Gen3dError
from gen3d.metrics import Metric


def rocksalt(a: str = "Na", b: str = "Cl", length: float = 5.64) -> AtomicSystem:
    lattice = Lattice.cubic(length)
    return from_structure(Structure.from_spacegroup("Fm-3m", lattice, [a, b], [[0, 0, 0], [0.5, 0.5, 0.5]]))


def caesium_chloride(a: str = "Na", b: str = "Cl", length: float = 3.4) -> AtomicSystem:
    return from_structure(Structure(Lattice.cubic(length), [a, b], [[0, 0, 0], [0.5, 0.5, 0.5]]))


def fluorite() -> AtomicSystem:
    return from_structure(
        Structure.from_spacegroup("Fm-3m", Lattice.cubic(5.46), ["Ca", "F"], [[0, 0, 0], [0.25, 0.25, 0.25]])
    )


def crystal(numbers: Sequence[int], fractional: object, cell: object) -> AtomicSystem:
    matrix = np.array(cell, dtype=np.float64)
    with np.errstate(invalid="ignore"):  # some are broken on purpose
        positions = np.array(fractional, dtype=np.float64) @ matrix
    return AtomicSystem(np.array(numbers, dtype=np.int64), positions, matrix)


def values(metrics: Sequence[Metric]) -> dict[str, float | None]:
    assert all(m.definition for m in metrics)
    assert len({m.name for m in metrics}) == len(metrics)
    return {m.name: m.value for m in metrics}


REFERENCE = [
    rocksalt(),
    caesium_chloride(),
    rocksalt("Mg", "O", 4.21),
    fluorite(),
    rocksalt("K", "Br", 6.6),
]


@pytest.mark.parametrize("seed", range(20))
def test_minimum_distance_equals_pymatgens_neighbour_search_in_skewed_cells(seed: int) -> None:
    rng = np.random.default_rng(seed)
    cell = rng.normal(size=(3, 3)) * 3
    # an unreduced description of the same lattice: the 27 images of this cell do not suffice
    skewed = np.array([[1, 0, 0], [rng.integers(-4, 5), 1, 0], [*rng.integers(-4, 5, 2), 1]]) @ cell
    system = crystal([6] * 4, rng.random((4, 3)), skewed)
    structure = to_structure(system)
    radius = 1.0
    while not len(distances := structure.get_neighbor_list(radius)[3]):
        radius *= 1.5
    assert minimum_distance(system) == pytest.approx(distances.min(), abs=1e-6)


def test_minimum_distance_counts_an_atoms_own_images() -> None:
    assert minimum_distance(crystal([6], [[0.2, 0.3, 0.4]], np.diag([4.0, 0.4, 5.0]))) == pytest.approx(0.4)


def test_density_and_angles_equal_pymatgens() -> None:
    lattice = Lattice.from_parameters(4, 5, 6, 70, 95, 120)
    structure = Structure(lattice, ["Ga", "As", "O"], np.random.default_rng(0).random((3, 3)))
    system = from_structure(structure)
    assert density(system) == pytest.approx(structure.density, rel=1e-6)
    np.testing.assert_allclose(lattice_angles(system), [70, 95, 120])


BROKEN = {
    "molecule": AtomicSystem(np.array([6]), np.zeros((1, 3))),
    "no atoms": crystal([], np.zeros((0, 3)), np.eye(3) * 4),
    "nan cell": crystal([6], [[0, 0, 0]], np.full((3, 3), np.nan)),
    "infinite cell": crystal([6], [[0, 0, 0]], np.diag([np.inf, 1, 1])),
    "nan atom": crystal([6], [[np.nan, 0, 0]], np.eye(3) * 4),
    "zero volume": crystal([6, 6], [[0, 0, 0], [0.5, 0.5, 0.5]], np.ones((3, 3))),
    "zero cell": crystal([6], [[0, 0, 0]], np.zeros((3, 3))),
    "tiny volume": crystal([6], [[0, 0, 0]], np.diag([0.3, 0.4, 0.5])),
    "thin cell": crystal([6], [[0, 0, 0]], np.diag([1e3, 1e3, 1e-4])),
    "huge cell": crystal([6], [[0, 0, 0]], np.eye(3) * 1e30),
    "overlap": crystal([6, 6], [[0, 0, 0], [0.05, 0, 0]], np.eye(3) * 4),
    "overlap across the border": crystal([6, 6], [[0.01, 0, 0], [0.99, 0, 0]], np.eye(3) * 4),
    "no element": crystal([119], [[0, 0, 0]], np.eye(3) * 4),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_structures_are_rejected(name: str) -> None:
    assert not structure_valid(BROKEN[name])
    assert not inspect_crystal(BROKEN[name]).angles


def test_limits_of_the_structure_are_half_an_angstrom_and_a_tenth_of_a_cubic_one() -> None:
    for gap, valid in ((0.49, False), (0.51, True)):
        assert structure_valid(crystal([6, 6], [[0, 0, 0], [gap / 4, 0, 0]], np.eye(3) * 4)) == valid
    # a face-centred lattice is the densest, with d^3 / sqrt(2) per atom at distance d
    primitive = np.array([[0, 1, 1], [1, 0, 1], [1, 1, 0]]) / np.sqrt(2)
    for distance, valid in ((0.51, False), (0.53, True)):
        assert structure_valid(crystal([6], [[0, 0, 0]], primitive * distance)) == valid


@pytest.mark.parametrize(
    ("formula", "valid"),
    [
        ("NaCl", True),
        ("Na2Cl", False),  # sodium has one oxidation state
        ("Fe2O3", True),
        ("Fe3O4", False),  # needs two states of iron at once, which the convention does not try
        ("CuZn", True),  # an alloy
        ("Na", True),
        ("He", True),  # one element always passes
        ("HeO", False),  # helium has no oxidation state
        ("NF", True),
        ("CsAu", True),  # alloys are not asked for charges
        ("KNa", True),
        ("RfO2", False),  # beyond smact's table
        ("Rf", True),
    ],
)
def test_composition_validity_of_known_compounds(formula: str, valid: bool) -> None:
    numbers = [e.Z for e, count in Composition(formula).items() for _ in range(int(count))]
    assert composition_valid(np.array(numbers)) is valid
    assert composition_valid(np.array(numbers * 3)) is valid  # supercells too


def test_too_many_oxidation_states_are_invalid() -> None:
    """Rare mixtures like this one have a neutral choice early on, but 10^7 of them in all."""
    elements = ["Os", "Mn", "Ir", "Ru", "Re", "Cr", "Fe", "N"]
    states = [len(smact.Element(symbol).oxidation_states_smact14) for symbol in elements]
    assert np.prod(states) > 10_000_000
    assert smact_validity("".join(elements), oxidation_states_set="smact14")
    assert not composition_valid(np.array([Composition(symbol).elements[0].Z for symbol in elements]))


def test_reference_against_itself_gets_the_best_values() -> None:
    result = values(crystal_metrics(REFERENCE, REFERENCE, workers=0))
    for name in ("validity", "structure_validity", "composition_validity", "angles_in_range", "uniqueness"):
        assert result[name] == 100
    for name in ("novelty", "valid_novelty", "valid_unique_novel", "density_w1", "element_count_w1"):
        assert result[name] == 0
    assert result["composition_uniqueness"] == 80  # two of the five are NaCl


@pytest.mark.parametrize("matcher", ["mattergen", "cdvae"])
def test_other_descriptions_of_a_crystal_are_duplicates(matcher: str) -> None:
    structure = to_structure(fluorite())
    primitive = structure.get_primitive_structure()
    supercell = structure.copy()
    supercell.make_supercell([[2, 0, 0], [0, 1, 0], [1, 0, 1]])
    system = fluorite()
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    assert system.cell is not None
    turned = AtomicSystem(system.numbers, system.positions @ turn, system.cell @ turn)
    shifted = AtomicSystem(system.numbers, system.positions + np.array([0.7, -1.3, 9.1]), system.cell)
    order = np.random.default_rng(1).permutation(len(system))
    shuffled = AtomicSystem(system.numbers[order], system.positions[order], system.cell)
    expanded = AtomicSystem(system.numbers, system.positions * 1.05, system.cell * 1.05)
    copies = [
        *map(from_structure, (structure, primitive, supercell)),
        *(turned, shifted, shuffled, expanded),
    ]
    matches = match_all(copies, [system], matcher=matcher, workers=0)
    assert matches.first.tolist() == [0] * len(copies)
    assert matches.known.all()
    assert not match_all(copies, [rocksalt()], matcher=matcher, workers=0).known.any()


def test_tolerances_decide_what_is_the_same() -> None:
    """At equal volume a tetragonal stretch by 1.42 lengthens c by 1.42^(2/3) = 1.26, between the two ltol."""
    cubic = crystal([26], [[0, 0, 0]], np.eye(3) * 3)
    stretched = crystal([26], [[0, 0, 0]], np.diag([3, 3, 3 * 1.42]))
    assert not match_all([cubic], [stretched], matcher="mattergen", workers=0).known.any()
    assert match_all([cubic], [stretched], matcher="cdvae", workers=0).known.all()
    with pytest.raises(Gen3dError, match=r"'loose'.*mattergen, cdvae"):
        match_all([cubic], [stretched], matcher="loose", workers=0)


def test_polymorphs_differ_and_formulas_do_not_mix() -> None:
    samples = [rocksalt(), None, caesium_chloride(), rocksalt("K", "Br", 6.6), rocksalt(length=5.7)]
    matches = match_all(samples, [rocksalt("Mg", "O", 4.21), caesium_chloride()], matcher="cdvae", workers=0)
    assert matches.first.tolist() == [0, -1, 2, 3, 0]
    assert matches.known.tolist() == [False, False, True, False, False]
    assert reduced_formula(rocksalt().numbers) == ((11, 1), (17, 1))


def test_a_collapsed_model_scores_one_over_n() -> None:
    result = values(crystal_metrics([rocksalt("Mg", "O", 4.2)] * 8, REFERENCE, workers=0))
    assert result["uniqueness"] == result["composition_uniqueness"] == 100 / 8
    assert result["validity"] == 100
    assert result["novelty"] == result["valid_unique_novel"] == 0
    novel = values(crystal_metrics([rocksalt("Li", "F", 4.0)] * 8, REFERENCE, workers=0))
    assert novel["novelty"] == 100
    assert novel["valid_unique_novel"] == 100 / 8


def test_failures_stay_in_the_denominator() -> None:
    samples = [
        rocksalt("Li", "F", 4.0),
        rocksalt(),
        caesium_chloride("Na", "Cs", 4.0),
        crystal([11, 11, 17], [[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0, 0]], np.eye(3) * 5),  # Na2Cl
        BROKEN["overlap"],
        BROKEN["nan cell"],
        None,
        None,
    ]
    result = values(crystal_metrics(samples, REFERENCE, workers=0))
    assert result["structure_validity"] == 50
    assert result["composition_validity"] == 100 * 5 / 8  # broken carbon is still one element
    assert result["validity"] == 100 * 3 / 8
    assert result["uniqueness"] == 50
    assert result["novelty"] == 100 * 3 / 8
    assert result["valid_uniqueness"] == 100
    assert result["valid_novelty"] == pytest.approx(100 * 2 / 3)
    assert result["valid_unique_novel"] == 100 * 2 / 8


def test_nothing_valid_leaves_shares_at_zero_and_means_empty() -> None:
    result = values(crystal_metrics([None, BROKEN["overlap"]], REFERENCE, workers=0))
    assert result["validity"] == result["uniqueness"] == result["novelty"] == 0
    assert result["valid_uniqueness"] is None
    assert result["density_w1"] is None


def test_wasserstein_distance_of_shifted_counts_is_the_shift() -> None:
    """Elements: all samples have 1, the reference has 2 everywhere; density scales with 1/volume."""
    reference = [rocksalt(length=5.64)]
    result = values(crystal_metrics([crystal([11], [[0, 0, 0]], np.eye(3) * 4)] * 2, reference, workers=0))
    assert result["element_count_w1"] == 1
    expected = abs(22.98977 / 64 - 4 * (22.98977 + 35.453) / 5.64**3) * 1.66054
    assert result["density_w1"] == pytest.approx(expected, rel=1e-4)


def test_processes_give_the_same_as_one() -> None:
    samples = [*REFERENCE, None, rocksalt(length=5.7), BROKEN["overlap"]]
    assert crystal_metrics(samples, REFERENCE, workers=1) == crystal_metrics(samples, REFERENCE, workers=0)


def test_needle_and_plate_cells_end_quickly() -> None:
    needle = crystal([6, 6], [[0, 0, 0], [0, 0, 0.5]], np.diag([1.0, 1.0, 9000.0]))
    plate = crystal([6, 6], [[0, 0, 0], [0.5, 0.5, 0]], np.diag([9000.0, 9000.0, 1.0]))
    result = values(crystal_metrics([needle, needle, plate, plate], [needle], workers=0))
    assert result["structure_validity"] == 100
    assert result["uniqueness"] == result["novelty"] == 0  # cannot be compared, so neither distinct nor new


def test_prediction_of_the_truth_matches_everywhere() -> None:
    moved = [AtomicSystem(s.numbers, s.positions + 1.234, s.cell) for s in REFERENCE]
    result = values(structure_prediction_metrics(moved, REFERENCE, workers=0))
    assert result["match_rate"] == result["match_rate_valid"] == 100
    assert result["rmse"] == pytest.approx(0, abs=1e-6)


def test_rms_displacement_is_in_units_of_the_atomic_spacing() -> None:
    """Two atoms of which one moves by d: each is d/2 from the best common origin."""
    cell = np.eye(3) * 4.0
    target = crystal([55, 17], [[0, 0, 0], [0.5, 0.5, 0.5]], cell)
    predicted = crystal([55, 17], [[0, 0, 0], [0.5, 0.5, 0.45]], cell)
    expected = (0.05 * 4 / 2) / (64 / 2) ** (1 / 3)
    (distance,) = rms_distances([predicted], [target], matcher="cdvae", workers=0)
    assert distance == pytest.approx(expected, rel=1e-5)


def test_failed_and_wrong_predictions_do_not_match() -> None:
    targets = [rocksalt(), rocksalt(), rocksalt(), caesium_chloride("Na", "Cl"), fluorite()]
    predictions = [rocksalt(), None, rocksalt("K", "Br"), rocksalt(), BROKEN["zero volume"]]
    result = values(structure_prediction_metrics(predictions, targets, workers=0))
    assert result["match_rate"] == 20
    with pytest.raises(Gen3dError, match="1 predictions for 5 targets"):
        structure_prediction_metrics([None], targets, workers=0)


def test_match_rate_of_valid_ones_leaves_out_invalid_compositions() -> None:
    magnetite_like = crystal([11, 11, 17], [[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0, 0]], np.eye(3) * 5)  # Na2Cl
    targets = [rocksalt(), magnetite_like]
    result = values(structure_prediction_metrics(targets, targets, workers=0))
    assert (result["match_rate"], result["match_rate_valid"]) == (100, 50)


def test_empty_input_is_an_error() -> None:
    with pytest.raises(Gen3dError, match="0 samples against 5"):
        crystal_metrics([], REFERENCE)
    with pytest.raises(Gen3dError, match="0 targets"):
        structure_prediction_metrics([], [])


def test_real_crystals_pass_as_papers_report(shared_data: Path) -> None:
    """Real crystals are all valid in structure, and about 90 % of them in composition."""
    dataset = AtomsDataset.load(shared_data / "crystals" / "mp_le20_valid.npz")
    systems = [dataset[i] for i in range(0, len(dataset), 14)]
    result = values(crystal_metrics(systems, systems, workers=0))
    assert result["structure_validity"] == 100
    assert 83 < result["validity"] < 96
    assert (result["uniqueness"], result["novelty"]) == (100, 0)
    assert (result["density_w1"], result["element_count_w1"]) == (0, 0)
