"""Mean and spread of values that come in parts."""

from collections.abc import Sequence

import torch
from torch import Tensor


class Moments:
    """Running moments of rows of C channels, in double precision (Chan, Golub & LeVeque, 1983).

    Attributes:
        count: rows so far.
        mean: (C,).
        squares: (C,) sums of squared deviations from the mean.
    """

    def __init__(self, channels: int, device: torch.device) -> None:
        self.count = torch.zeros((), dtype=torch.float64, device=device)
        self.mean = torch.zeros(channels, dtype=torch.float64, device=device)
        self.squares = torch.zeros_like(self.mean)

    def add(self, rows: Tensor) -> None:
        """Take in rows (M, C), at least one."""
        rows = rows.double()
        shift, total = rows.mean(0) - self.mean, self.count + len(rows)
        self.squares += (rows - rows.mean(0)).square().sum(0) + shift**2 * self.count * len(rows) / total
        self.mean = self.mean + shift * len(rows) / total
        self.count = total

    def units(self, widths: Sequence[int], scales: Sequence[float]) -> Tensor:
        """What to divide channels by, (C,), so that every group of them has its scale.

        Args:
            widths: channels of each group, neighbours that share their root mean square deviation.
            scales: deviation of each group after the division; what never varies is divided by 1.
        """
        device = self.mean.device
        width, scale = torch.tensor(widths, device=device), torch.tensor(scales, device=device)
        owner = torch.repeat_interleave(torch.arange(len(width), device=device), width)
        shared = torch.zeros(len(width), dtype=torch.float64, device=device)
        shared.index_add_(0, owner, self.squares / self.count)
        std = (shared / width)[owner].sqrt() / scale[owner]
        # Rounding leaves about 1e-7 of the mean where a channel is constant.
        return torch.where(std > 1e-6 * self.mean.abs().clamp(min=1), std, 1.0)
