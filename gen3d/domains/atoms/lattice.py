"""Six unconstrained numbers for a lattice, and back.

With rows a, b, c in L, the metric G = L L^T does not change under rotation, and its matrix logarithm
is any symmetric matrix: S = log(G) / 2 - log(N) / 3 for N atoms, so that cells of equal density are
alike. Close to the log-lengths for a nearly orthogonal cell; every S is a valid cell. (The idea of the
symmetric log-matrix is in DiffCSP++, arXiv 2402.03992; ADiT's lengths and angles can be no cell.)
"""

import math

import torch
from torch import Tensor

ROWS, COLUMNS = (0, 1, 2, 1, 0, 0), (0, 1, 2, 2, 2, 1)
"""Order of the six entries: xx, yy, zz, yz, xz, xy."""

LOG_LENGTH = (math.log(0.5), math.log(300.0))
"""Principal stretches of a decoded cell stay within 0.5 to 300 angstrom."""


def lattice_parameters(cells: Tensor, sizes: Tensor) -> Tensor:
    """Cells (B, 3, 3) with vectors in rows, angstrom, and atom counts (B,) -> (B, 6)."""
    cells = cells.double()
    values, vectors = torch.linalg.eigh(cells @ cells.transpose(-1, -2))
    logs = 0.5 * torch.log(values) - torch.log(sizes.double())[:, None] / 3
    symmetric = (vectors * logs[:, None]) @ vectors.transpose(-1, -2)
    return symmetric[:, ROWS, COLUMNS].float()


def lattice_cells(parameters: Tensor, sizes: Tensor) -> Tensor:
    """(B, 6) and atom counts (B,) -> float64 cells (B, 3, 3), lower triangular: a along x, b in xy.

    Parameters that are not finite give a cell of NaN.
    """
    finite = torch.isfinite(parameters).all(1)
    parameters = parameters.masked_fill(~finite[:, None], 0.0)
    symmetric = parameters.new_zeros(len(parameters), 3, 3, dtype=torch.float64)
    symmetric[:, ROWS, COLUMNS] = parameters.double()
    symmetric[:, COLUMNS, ROWS] = parameters.double()
    values, vectors = torch.linalg.eigh(symmetric)
    logs = (values + torch.log(sizes.double())[:, None] / 3).clamp(*LOG_LENGTH)
    metric = (vectors * torch.exp(2 * logs)[:, None]) @ vectors.transpose(-1, -2)
    return torch.linalg.cholesky(metric).masked_fill(~finite[:, None, None], torch.nan)
