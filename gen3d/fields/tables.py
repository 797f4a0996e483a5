"""Reading tables of values that stand on regular grids, between the grid points, in any number of dimensions.

A table holds one row of channels for each grid point, so that what a point needs lies together in memory.
Reading is a weighted sum of rows, which `torch.nn.functional.embedding_bag` does without laying the rows out;
so is the gradient, once rows are sorted. On a processor that is several times faster than the gradient of
`embedding_bag`, and than `grid_sample` (benchmarks/fields.py).
"""

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag


def corners(places: Tensor, shape: Sequence[int]) -> tuple[Tensor, Tensor]:
    """The grid points around some places, and their multilinear weights.

    Args:
        places: (P, A), from -1 to 1 in each dimension, where the outermost grid points stand; places beyond
            are moved to the border.
        shape: grid points along each of the A dimensions, at least 2; the last varies fastest in memory.

    Returns:
        Rows (P, 2^A) of the flattened grid, int64, and weights (P, 2^A) that add up to 1.
    """
    most = places.new_tensor([n - 1 for n in shape])
    scaled = (places.clamp(-1, 1) + 1) * (most / 2)
    low = torch.minimum(scaled.detach().floor(), most - 1)
    high_share = scaled - low
    strides = [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
    base = (low.long() * low.new_tensor(strides, dtype=torch.long)).sum(1)
    steps = [sum(chosen) for chosen in itertools.product(*((0, stride) for stride in strides))]
    rows = base[:, None] + base.new_tensor(steps)
    shares = torch.stack([1 - high_share, high_share], 2)  # (P, A, 2)
    weights = shares[:, 0]
    for axis in range(1, len(shape)):
        weights = (weights[:, :, None] * shares[:, axis, None, :]).flatten(1)
    return rows, weights


def read(table: Tensor, rows: Tensor, weights: Tensor) -> Tensor:
    """Weighted sums of rows.

    Args:
        table: (rows, C).
        rows: (P, K) int64.
        weights: (P, K).

    Returns:
        (P, C), differentiable in the table and in the weights, once.
    """
    return _Read.apply(table, rows, weights)


def resized(table: Tensor, shape: Sequence[int], new: Sequence[int]) -> Tensor:
    """The table of a grid of `new` grid points, read from one of `shape`; its border stays the border."""
    axes = [torch.linspace(-1, 1, n, device=table.device) for n in new]
    places = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).view(-1, len(new))
    return torch.cat([read(table, *corners(some, shape)) for some in places.split(1 << 18)])


class _Read(torch.autograd.Function):
    @staticmethod
    def forward(ctx, table, rows, weights):  # type: ignore[no-untyped-def]
        ctx.save_for_backward(table, rows, weights)
        return embedding_bag(rows, table, per_sample_weights=weights, mode="sum")

    @staticmethod
    def backward(ctx, gradient):  # type: ignore[no-untyped-def]
        table, rows, weights = ctx.saved_tensors
        gradient = gradient.contiguous()
        of_table = of_weights = None
        if ctx.needs_input_grad[0]:
            # Sorted by row, the gradient of a row is again a weighted sum: of the gradients of its readers.
            ordered, order = rows.flatten().sort()
            touched, counts = torch.unique_consecutive(ordered, return_counts=True)
            starts = counts.cumsum(0) - counts
            sums = embedding_bag(
                order // rows.shape[1],
                gradient,
                starts,
                per_sample_weights=weights.flatten()[order],
                mode="sum",
            )
            of_table = torch.zeros_like(table).index_copy_(0, touched, sums)
        if ctx.needs_input_grad[2]:
            # One corner at a time: all at once would lay out 2^A rows for each point.
            of_weights = torch.stack([(table[column] * gradient).sum(1) for column in rows.unbind(1)], dim=1)
        return of_table, None, of_weights
