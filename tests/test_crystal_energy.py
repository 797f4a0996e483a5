"""CHGNet energies against known crystals, and the hull against one drawn by hand."""

from pathlib import Path

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure

from gen3d.domains.atoms.metrics.crystal_energy import (
    FAILED,
    content_hash,
    energies_above_hull,
    energy_metrics,
    relax,
    static_energies,
    static_energy,
)
from gen3d.domains.atoms.metrics.crystals import crystal_metrics
from gen3d.domains.atoms.native import from_structure, to_structure
from gen3d.domains.atoms.system import AtomicSystem
from gen3d.errors import Gen3dError


def silicon(shift: float = 0.0, strain: float = 0.0) -> AtomicSystem:
    """Diamond silicon; one of the two atoms moved along (1, 1, 1) by `shift` angstrom, then all stretched."""
    cell = np.array([[0, 1, 1], [1, 0, 1], [1, 1, 0]]) * 5.43 / 2
    positions = np.array([[0, 0, 0], [1, 1, 1]]) * 5.43 / 4
    positions[1] += shift / np.sqrt(3)
    return AtomicSystem(np.array([14, 14]), positions * (1 + strain), cell * (1 + strain))


def rocksalt(a: str, b: str, length: float) -> AtomicSystem:
    structure = Structure.from_spacegroup(
        "Fm-3m", Lattice.cubic(length), [a, b], [[0, 0, 0], [0.5, 0.5, 0.5]]
    )
    return from_structure(structure.get_primitive_structure())


def body_centred(symbol: str, length: float) -> AtomicSystem:
    return from_structure(Structure.from_spacegroup("Im-3m", Lattice.cubic(length), [symbol], [[0, 0, 0]]))


def box(*numbers: int) -> AtomicSystem:
    """Some atoms in a row; only composition and identity count."""
    return AtomicSystem(np.array(numbers), np.eye(3)[[0] * len(numbers)] * 0.0, np.eye(3) * 9)


def test_static_energy_of_silicon_is_the_materials_projects() -> None:
    """mp-149: -5.42 eV/atom by PBE, of which CHGNet misses 0.11."""
    assert static_energy(silicon()) == pytest.approx(-5.42, abs=0.15)


def test_energy_per_atom_does_not_depend_on_the_cell() -> None:
    supercell = to_structure(silicon())
    supercell.make_supercell([2, 1, 1])
    assert static_energy(from_structure(supercell)) == pytest.approx(static_energy(silicon()), abs=1e-4)


def test_relaxation_undoes_a_displacement_and_measures_it() -> None:
    perfect, result = relax(silicon()), relax(silicon(shift=0.2, strain=0.03))
    assert perfect.converged
    assert result.converged
    assert perfect.rmsd == pytest.approx(0, abs=0.01)
    # of a relative displacement either atom takes half
    assert result.rmsd == pytest.approx(0.1, abs=0.02)
    assert result.energy == pytest.approx(perfect.energy, abs=0.01)
    assert result.energy < static_energy(silicon(shift=0.2, strain=0.03)) - 0.02


@pytest.mark.parametrize(
    "system",
    [
        AtomicSystem(np.array([14]), np.zeros((1, 3)), np.eye(3) * 50),  # no neighbours
        AtomicSystem(np.array([14, 14]), np.array([[0, 0, 0], [0.6, 0, 0]]), np.eye(3) * 1.2),  # too dense
        AtomicSystem(np.array([100]), np.zeros((1, 3)), np.eye(3) * 3),  # no fermium in CHGNet
        AtomicSystem(np.array([14]), np.zeros((1, 3)), np.full((3, 3), np.nan)),
    ],
)
def test_what_chgnet_cannot_do_is_a_failure(system: AtomicSystem) -> None:
    assert relax(system) is FAILED
    assert np.isnan(static_energy(system))


def test_hull_of_a_binary_by_hand(tmp_path: Path) -> None:
    """A and B at 0, AB at -1: the hull at AB2 is -2/3, at A3B -1/2. The energies come from the cache."""
    reference = [box(3), box(9), box(3, 9), box(3, 3, 9, 9), box(11), box(3, 9, 11)]
    energies = [0.0, 0.0, -1.0, -0.3, np.nan, -5.0]
    cache = tmp_path / "energies.npz"
    np.savez(cache, hashes=np.array([content_hash(s) for s in reference]), energies=np.array(energies))
    samples = [box(3, 9, 9), box(3, 3, 3, 9), box(3, 9), box(3), box(3, 11), box(3, 17)]
    above = energies_above_hull(
        samples, np.array([-0.5, -0.5, -1.2, 0.3, -1.0, -1.0]), reference, cache=cache
    )
    np.testing.assert_allclose(above[:4], [1 / 6, 0, -0.2, 0.3], atol=1e-9)
    assert np.isnan(above[4:]).all()  # sodium's energy is unknown, and there is no chlorine


def test_energies_are_kept_by_content(tmp_path: Path) -> None:
    cache = tmp_path / "energies.npz"
    first = static_energies([silicon(), silicon(strain=0.02), silicon()], cache=cache, workers=0)
    assert first[0] == first[2] != first[1]
    with np.load(cache, allow_pickle=False) as arrays:
        assert len(arrays["hashes"]) == 2
        hashes = arrays["hashes"]
    np.savez(cache, hashes=hashes, energies=np.array([1.0, 2.0]))
    assert static_energies([silicon(strain=0.02), silicon()], cache=cache).tolist() == [2.0, 1.0]
    assert [p.name for p in tmp_path.iterdir()] == ["energies.npz"]
    assert content_hash(silicon()) != content_hash(silicon(shift=0.01))


def test_a_file_that_is_no_cache_is_named(tmp_path: Path) -> None:
    cache = tmp_path / "energies.npz"
    cache.write_text("no zip")
    with pytest.raises(Gen3dError, match=r"energies\.npz is no cache"):
        static_energies([silicon()], cache=cache)


def test_metrics_count_failures_and_find_the_stable_phase(tmp_path: Path) -> None:
    """Stretched NaCl relaxes back onto the hull of Na, Cl and NaCl; KCl has no hull without potassium."""
    chlorine = from_structure(
        Structure(
            Lattice.orthorhombic(6.2, 4.5, 8.2),
            ["Cl"] * 8,
            # crystalline Cl2, space group Cmce
            [
                (x, (y + sx) % 1, (z + sz) % 1)
                for x, sx in ((0.0, 0.0), (0.5, 0.5))
                for y, z, sz in ((0.12, 0.10, 0), (-0.12, -0.10, 0), (0.12, 0.4, 0), (-0.12, 0.6, 0))
            ],
        )
    )
    reference = [body_centred("Na", 4.2), chlorine, rocksalt("Na", "Cl", 5.64)]
    samples = [rocksalt("Na", "Cl", 5.9), None, rocksalt("K", "Cl", 6.3), None]
    cache = tmp_path / "energies.npz"
    metrics = energy_metrics(samples, reference, limit=9, cache=cache, workers=0)
    result = {m.name: m.value for m in metrics}
    assert result["chgnet_relaxed"] == 50
    assert result["chgnet_hull_known"] == 25
    assert result["chgnet_metastable"] == 25
    assert result["chgnet_rmsd"] == pytest.approx(0, abs=1e-3)
    assert result["chgnet_energy"] == pytest.approx(-3.4, abs=0.3)
    assert all("4 samples" in m.definition for m in metrics if "%" in m.definition)
    through_the_front = crystal_metrics(samples, reference, workers=0, chgnet=4, energy_cache=cache)
    assert through_the_front[-len(metrics) :] == metrics


def test_nothing_to_relax_gives_no_means() -> None:
    result = {m.name: m.value for m in energy_metrics([None] * 3, [silicon()], limit=2, workers=0)}
    assert result["chgnet_relaxed"] == result["chgnet_metastable"] == 0
    assert result["chgnet_energy"] is result["chgnet_rmsd"] is None
