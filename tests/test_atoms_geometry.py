"""Frames of molecules and lattices of crystals, against independent geometry."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from test_atoms_codec import H2, METHANE, draws, pooled_batch, tiny_crystals, tiny_molecules
from torch import Tensor

from gen3d.domains.atoms.dataset import AtomsDataset
from gen3d.domains.atoms.frames import canonical_frames, kabsch, random_frames
from gen3d.domains.atoms.lattice import lattice_cells, lattice_parameters


class TestFrames:
    def test_a_turned_molecule_has_the_same_canonical_coordinates(self) -> None:
        generator = torch.Generator().manual_seed(0)
        positions = torch.randn(50, 7, 3, generator=generator)
        positions -= positions.mean(1, keepdim=True)
        mask = torch.ones(50, 7, dtype=torch.bool)
        rotations = torch.from_numpy(Rotation.random(50, random_state=0).as_matrix()).float()
        one = positions @ canonical_frames(positions, mask)
        turned = positions @ rotations
        other = turned @ canonical_frames(turned, mask)
        np.testing.assert_allclose(one, other, atol=1e-4)
        spread = one.square().sum(1)
        assert (spread[:, 0] >= spread[:, 1]).all()
        assert (spread[:, 1] >= spread[:, 2]).all()
        assert ((one[..., :2] ** 3).sum(1) > 0).all()

    def test_frames_are_rotations_also_of_symmetric_molecules(self) -> None:
        batch = pooled_batch([H2, METHANE, *tiny_molecules()])
        frames = canonical_frames(batch.positions, batch.mask).double()
        np.testing.assert_allclose(frames @ frames.mT, np.broadcast_to(np.eye(3), frames.shape), atol=1e-6)
        np.testing.assert_allclose(torch.linalg.det(frames), 1.0, atol=1e-6)

    def test_mirror_images_stay_apart(self) -> None:
        positions = torch.randn(20, 6, 3, generator=torch.Generator().manual_seed(1))
        positions -= positions.mean(1, keepdim=True)
        mask = torch.ones(20, 6, dtype=torch.bool)
        mirrored = positions * torch.tensor([1.0, 1.0, -1.0])
        one = positions @ canonical_frames(positions, mask)
        other = mirrored @ canonical_frames(mirrored, mask)
        np.testing.assert_allclose(one * torch.tensor([1.0, 1.0, -1.0]), other, atol=1e-4)
        assert ((one - other).abs().amax((1, 2)) > 1e-2).all()

    def test_random_frames_are_uniform_rotations(self) -> None:
        count = 20_000
        frames = random_frames(draws(count).normal("rotation", 4)).double()
        np.testing.assert_allclose(frames @ frames.mT, np.broadcast_to(np.eye(3), frames.shape), atol=1e-5)
        np.testing.assert_allclose(torch.linalg.det(frames), 1.0, atol=1e-5)
        # Under the uniform (Haar) measure E R = 0 and E R_ij^2 = 1/3.
        assert frames.mean(0).abs().max() < 5 / math.sqrt(3 * count)
        np.testing.assert_allclose(frames.square().mean(0), 1 / 3, atol=0.02)
        # The angle a has density (1 - cos a) / pi, so E trace^2 = 1.
        trace = frames.diagonal(dim1=1, dim2=2).sum(1)
        assert trace.square().mean() == pytest.approx(1.0, abs=0.05)

    def test_kabsch_finds_a_known_motion(self) -> None:
        moving = torch.randn(8, 5, 3, generator=torch.Generator().manual_seed(0))
        rotation = torch.from_numpy(Rotation.random(8, random_state=1).as_matrix()).float()
        shift = torch.randn(8, 1, 3)
        found, moved = kabsch(moving, moving @ rotation + shift, torch.ones(8, 5))
        np.testing.assert_allclose(found, rotation, atol=1e-5)
        np.testing.assert_allclose(moved, shift, atol=1e-5)

    def test_kabsch_agrees_with_scipy_and_never_reflects(self) -> None:
        generator = np.random.default_rng(0)
        moving, weights = generator.normal(size=(30, 6, 3)), generator.uniform(0.1, 1, size=(30, 6))
        target = moving * [1, 1, -1] + 0.1 * generator.normal(size=(30, 6, 3))  # nearly a mirror image
        rotations, shifts = kabsch(*map(torch.from_numpy, (moving, target, weights)))
        np.testing.assert_allclose(torch.linalg.det(rotations), 1.0, atol=1e-5)
        for a, b, w, rotation, shift in zip(moving, target, weights, rotations, shifts, strict=True):
            centre_a, centre_b = (np.average(x, axis=0, weights=w) for x in (a, b))
            best, _ = Rotation.align_vectors(b - centre_b, a - centre_a, weights=w)
            np.testing.assert_allclose(rotation, best.as_matrix().T, atol=1e-4)
            np.testing.assert_allclose(shift[0], centre_b - centre_a @ rotation.double().numpy(), atol=1e-5)

    @pytest.mark.parametrize("count", [1, 2])
    def test_kabsch_of_points_that_leave_it_open_is_a_rotation(self, count: int) -> None:
        moving, target = torch.randn(4, count, 3), torch.randn(4, count, 3)
        if count == 2:
            target = moving.flip(-1) * 1.0
        rotation, shift = kabsch(moving, target, torch.ones(4, count))
        np.testing.assert_allclose(torch.linalg.det(rotation), 1.0, atol=1e-5)
        np.testing.assert_allclose(moving @ rotation + shift, target, atol=1e-5)

    def test_kabsch_of_points_that_are_not_finite_does_not_fail(self) -> None:
        moving = torch.randn(2, 4, 3)
        target = moving.clone()
        target[0, 1, 2] = math.nan
        rotation, shift = kabsch(moving, target, torch.ones(2, 4))
        assert not torch.isfinite(shift[0]).all()
        np.testing.assert_allclose(moving[1] @ rotation[1] + shift[1], target[1], atol=1e-5)


def metric(cells: np.ndarray | Tensor) -> np.ndarray:
    cells = np.asarray(cells, float)
    return cells @ cells.swapaxes(-1, -2)


def random_cells(count: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(0).normal(size=(count, 3, 3)) * 5)


def skewed_cells() -> Tensor:
    """Angles from 20 to 160 degrees, edges from 2 to 60 angstrom."""
    cells = []
    for a, b, c, gamma in [(4, 60, 5, 20), (60, 4, 4, 160), (3, 3, 50, 25), (5, 5, 5, 150)]:
        angle = math.radians(gamma)
        cells.append([[a, 0, 0], [b * math.cos(angle), b * math.sin(angle), 0], [0.3 * a, 0.2 * b, c]])
    return torch.tensor(cells, dtype=torch.float64)


class TestLattice:
    @pytest.mark.parametrize("cells", [random_cells(200), skewed_cells()], ids=["random", "skewed"])
    def test_round_trip_keeps_the_metric(self, cells: Tensor) -> None:
        sizes = torch.arange(len(cells)) % 30 + 1
        back = lattice_cells(lattice_parameters(cells, sizes), sizes)
        inside = torch.linalg.svdvals(cells)[:, -1] > 0.5  # the smallest stretch that is decoded
        assert inside.sum() > 0.8 * len(cells)
        scale = metric(cells).max((1, 2), keepdims=True)
        np.testing.assert_allclose((metric(back) / scale)[inside], (metric(cells) / scale)[inside], atol=2e-6)
        assert (back.triu(1) == 0).all()
        assert (torch.linalg.det(back) > 0).all()

    def test_real_cells(self, shared_data: Path) -> None:
        real = AtomsDataset.load(shared_data / "crystals" / "mp_le20_valid.npz")
        chosen = [*tiny_crystals(), *(real[i] for i in range(300))]
        cells = torch.from_numpy(np.stack([s.cell for s in chosen if s.cell is not None]))
        sizes = torch.tensor([len(s) for s in chosen])
        back = lattice_cells(lattice_parameters(cells, sizes), sizes)
        np.testing.assert_allclose(metric(back), metric(cells), rtol=1e-4, atol=1e-3)

    def test_parameters_do_not_change_when_the_cell_is_turned(self) -> None:
        cells, sizes = random_cells(50), torch.full((50,), 7)
        rotations = torch.from_numpy(Rotation.random(50, random_state=0).as_matrix())
        one, other = lattice_parameters(cells, sizes), lattice_parameters(cells @ rotations, sizes)
        np.testing.assert_allclose(one, other, atol=1e-5)

    def test_the_trace_is_the_logarithm_of_the_volume_per_atom(self) -> None:
        cells, sizes = random_cells(50), torch.arange(1, 51)
        trace = lattice_parameters(cells, sizes)[:, :3].sum(1)
        np.testing.assert_allclose(trace, torch.log(torch.linalg.det(cells).abs() / sizes), atol=1e-5)

    def test_an_orthogonal_cell_has_its_log_lengths(self) -> None:
        parameters = lattice_parameters(torch.diag(torch.tensor([2.0, 3.0, 5.0]))[None], torch.tensor([1]))
        np.testing.assert_allclose(parameters[0, :3], np.log([2, 3, 5]), atol=1e-6)
        np.testing.assert_allclose(parameters[0, 3:], 0, atol=1e-6)

    def test_parameters_that_are_not_finite_give_no_cell_and_wild_ones_a_valid_one(self) -> None:
        parameters = torch.zeros(4, 6)
        parameters[0, 2], parameters[1, 4] = math.nan, math.inf
        parameters[2] = 1e6
        cells = lattice_cells(parameters, torch.full((4,), 3))
        assert torch.isnan(cells[:2]).all()
        assert torch.isfinite(cells[2:]).all()
        assert (torch.linalg.det(cells[2:]) > 0).all()
