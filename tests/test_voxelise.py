"""Voxelisation and its way back, against loops and closed forms."""

import numpy as np
import pytest
import torch
from scipy.interpolate import RegularGridInterpolator

from gen3d.nn.voxelise import (
    corners,
    devoxelise,
    grid_coordinates,
    patch_positions,
    patchify,
    unpatchify,
    voxelise,
)

SIZE = 8


@pytest.fixture
def cloud() -> torch.Tensor:
    return torch.randn(2, 300, 3, generator=torch.Generator().manual_seed(0))


def test_the_frame_is_that_of_dit_3d(cloud: torch.Tensor) -> None:
    made = grid_coordinates(cloud, SIZE)
    for points, coordinates in zip(cloud.numpy(), made.numpy(), strict=True):
        centred = points - points.mean(0)
        expected = (centred / (2 * np.linalg.norm(centred, axis=1).max()) + 0.5) * SIZE
        np.testing.assert_allclose(coordinates, expected.clip(0, SIZE - 1), atol=1e-4)


def test_the_frame_follows_shifts_and_scales(cloud: torch.Tensor) -> None:
    moved = grid_coordinates(3.0 * cloud + 5.0, SIZE)
    assert torch.allclose(moved, grid_coordinates(cloud, SIZE), atol=1e-3)


def test_points_that_are_all_one_have_a_frame() -> None:
    assert torch.isfinite(grid_coordinates(torch.ones(1, 5, 3), SIZE)).all()


def test_cells_average_their_points(cloud: torch.Tensor) -> None:
    coordinates = grid_coordinates(cloud, SIZE)
    means, counts = voxelise(cloud, coordinates, SIZE)
    for b in range(len(cloud)):
        members: dict[int, list[torch.Tensor]] = {}
        for point, place in zip(cloud[b], coordinates[b], strict=True):
            i, j, k = (int(v) for v in place.round())
            members.setdefault((i * SIZE + j) * SIZE + k, []).append(point)
        for cell in range(SIZE**3):
            inside = members.get(cell, [])
            assert counts[b, cell] == len(inside)
            expected = torch.stack(inside).mean(0) if inside else torch.zeros(3)
            assert torch.allclose(means[b, cell], expected, atol=1e-5)


def test_gradients_reach_features_and_not_places(cloud: torch.Tensor) -> None:
    points = cloud.clone().requires_grad_()
    means, _ = voxelise(points, grid_coordinates(points, SIZE), SIZE)
    means.sum().backward()
    # Every cell that is hit adds one for each of its channels, shared among its points.
    hit = (voxelise(cloud, grid_coordinates(cloud, SIZE), SIZE)[1] > 0).sum()
    assert points.grad is not None
    assert points.grad.sum() == pytest.approx(3 * int(hit), rel=1e-4)


def test_reading_a_grid_is_trilinear(cloud: torch.Tensor) -> None:
    grid = torch.randn(2, SIZE**3, 4, generator=torch.Generator().manual_seed(1))
    coordinates = grid_coordinates(cloud, SIZE)
    axis = np.arange(SIZE)
    for b, made in enumerate(devoxelise(grid, coordinates, SIZE)):
        reference = RegularGridInterpolator((axis, axis, axis), grid[b].view(SIZE, SIZE, SIZE, 4).numpy())
        np.testing.assert_allclose(made.numpy(), reference(coordinates[b].numpy()), atol=1e-4)


def test_a_linear_field_is_read_exactly(cloud: torch.Tensor) -> None:
    coordinates = grid_coordinates(cloud, SIZE)
    read = devoxelise(patch_positions(SIZE, 1).expand(2, -1, -1), coordinates, SIZE)
    assert torch.allclose(read, coordinates, atol=1e-5)


def test_weights_add_up_to_one(cloud: torch.Tensor) -> None:
    cells, weights = corners(grid_coordinates(cloud, SIZE), SIZE)
    assert cells.min() >= 0
    assert cells.max() < SIZE**3
    assert torch.allclose(weights.sum(-1), torch.ones(2, 300))


def test_patches_hold_their_cells() -> None:
    grid = torch.arange(SIZE**3, dtype=torch.float32).view(1, -1, 1)
    tokens = patchify(grid, SIZE, 4)
    positions = patch_positions(SIZE, 4)
    cube = grid.view(SIZE, SIZE, SIZE)
    for token, (i, j, k) in zip(tokens[0], (4 * positions).int().tolist(), strict=True):
        assert torch.equal(token, cube[i : i + 4, j : j + 4, k : k + 4].flatten())
    assert torch.equal(unpatchify(tokens, SIZE, 4), grid)
