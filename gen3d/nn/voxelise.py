"""Points to voxels and back, differentiable in the features (PVCNN, arXiv 1907.03739).

Grids hold R^3 cells in C order over (x, y, z). Cell i of an axis has its centre at grid coordinate i.
"""

import torch
from torch import Tensor


def grid_coordinates(points: Tensor, resolution: int, first: int | None = None) -> Tensor:
    """Where points lie in a grid that fits their cloud: centred on its mean, wide enough for every point.

    DiT-3D's frame: r = (x - mean) / (2 max |x - mean|) + 1/2, times R, clamped to [0, R - 1]. It follows the
    cloud as noise spreads it, so the absolute scale must come in with the features.

    Args:
        points: (B, N, 3).
        resolution: R.
        first: so many points set the frame; by default all.

    Returns:
        (B, N, 3) in [0, R - 1]; no gradient.
    """
    with torch.no_grad():
        centred = points - points[:, :first].mean(1, keepdim=True)
        radius = centred[:, :first].norm(dim=-1).amax(1).clamp(min=1e-6)[:, None, None]
        return ((centred / (2 * radius) + 0.5) * resolution).clamp(0, resolution - 1)


def voxelise(features: Tensor, coordinates: Tensor, resolution: int) -> tuple[Tensor, Tensor]:
    """Average the features of the points whose nearest cell is the same.

    Args:
        features: (B, N, F).
        coordinates: (B, N, 3) of `grid_coordinates`.
        resolution: R.

    Returns:
        (B, R^3, F) means, zero in empty cells, and (B, R^3) counts of points.
    """
    batch, cells = len(features), resolution**3
    index = _flat(coordinates.round().long(), resolution)
    rows = (index + cells * torch.arange(batch, device=index.device)[:, None]).flatten()
    values = features.flatten(0, 1)
    sums = values.new_zeros(batch * cells, values.shape[1]).index_add(0, rows, values)
    counts = values.new_zeros(batch * cells).index_add(0, rows, torch.ones_like(values[:, 0]))
    means = sums / counts.clamp(min=1)[:, None]
    return means.view(batch, cells, -1), counts.view(batch, cells)


def corners(coordinates: Tensor, resolution: int) -> tuple[Tensor, Tensor]:
    """The eight cells around every point and their trilinear weights.

    Args:
        coordinates: (B, N, 3) in [0, R - 1].
        resolution: R.

    Returns:
        (B, N, 8) flat cell numbers and (B, N, 8) weights that add up to 1.
    """
    low = coordinates.floor().clamp(max=resolution - 2).long() if resolution > 1 else coordinates.long()
    fraction = coordinates - low
    steps = torch.tensor([[i, j, k] for i in (0, 1) for j in (0, 1) for k in (0, 1)], device=low.device)
    cells = (low[:, :, None] + steps).clamp(max=resolution - 1)
    weights = torch.where(steps.bool(), fraction[:, :, None], 1 - fraction[:, :, None]).prod(-1)
    return _flat(cells, resolution), weights


def devoxelise(grid: Tensor, coordinates: Tensor, resolution: int) -> Tensor:
    """Trilinear interpolation of a grid at points.

    Args:
        grid: (B, R^3, F).
        coordinates: (B, N, 3) in [0, R - 1].
        resolution: R.

    Returns:
        (B, N, F).
    """
    cells, weights = corners(coordinates, resolution)
    return interpolate(grid, cells, weights)


def interpolate(rows: Tensor, index: Tensor, weights: Tensor) -> Tensor:
    """Weighted sums of eight rows for each point: (B, K, F), (B, N, 8), (B, N, 8) -> (B, N, F)."""
    batch, count, width = rows.shape
    offset = count * torch.arange(batch, device=index.device)[:, None, None]
    # embedding_bag fuses the gather and the sum: no (B, N, 8, F) in between.
    made = torch.nn.functional.embedding_bag(
        (index + offset).flatten(0, 1),
        rows.reshape(-1, width),
        mode="sum",
        per_sample_weights=weights.flatten(0, 1).to(rows),
    )
    return made.view(batch, -1, width)


def patchify(grid: Tensor, resolution: int, patch: int) -> Tensor:
    """(B, R^3, F) -> (B, (R/p)^3, p^3 F), a patch flattened as (p, p, p, F)."""
    side = resolution // patch
    cut = grid.view(len(grid), side, patch, side, patch, side, patch, -1)
    return cut.permute(0, 1, 3, 5, 2, 4, 6, 7).reshape(len(grid), side**3, -1)


def unpatchify(tokens: Tensor, resolution: int, patch: int) -> Tensor:
    """The way back from `patchify`: (B, (R/p)^3, p^3 F) -> (B, R^3, F)."""
    side = resolution // patch
    cut = tokens.view(len(tokens), side, side, side, patch, patch, patch, -1)
    return cut.permute(0, 1, 4, 2, 5, 3, 6, 7).reshape(len(tokens), resolution**3, -1)


def patch_positions(resolution: int, patch: int) -> Tensor:
    """Integer grid positions ((R/p)^3, 3) of the patches, in the order of `patchify`."""
    side = torch.arange(resolution // patch)
    return torch.stack(torch.meshgrid(side, side, side, indexing="ij"), -1).flatten(0, 2).float()


def _flat(cells: Tensor, resolution: int) -> Tensor:
    return (cells[..., 0] * resolution + cells[..., 1]) * resolution + cells[..., 2]
