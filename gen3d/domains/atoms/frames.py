"""Orientations of molecules: a canonical frame, or a random one."""

import torch
from torch import Tensor

from gen3d.types import TokenMask


def canonical_frames(positions: Tensor, mask: TokenMask) -> Tensor:
    """Rotations (B, 3, 3) to each molecule's own frame: `positions @ frame` lies in it.

    The axes are the principal axes of the centred positions (B, N, 3), longest first; the third moment
    along the first two is positive, and the third axis makes the frame right-handed, so that mirror
    images stay apart. Where a moment vanishes or two axes are equally long by symmetry, any choice is
    right. A model of molecules
    in such a frame need not learn that a turned molecule is the same molecule (cf. aligned latents in
    RADM, arXiv 2412.03138).
    """
    x = (positions * mask[..., None]).double()
    _, vectors = torch.linalg.eigh(x.transpose(-1, -2) @ x)
    axes = vectors.flip(-1)
    skew = ((x @ axes[..., :2]) ** 3).sum(1)
    first = axes[..., 0] * torch.where(skew[:, :1] < 0, -1.0, 1.0)
    second = axes[..., 1] * torch.where(skew[:, 1:] < 0, -1.0, 1.0)
    return torch.stack([first, second, torch.linalg.cross(first, second)], -1).float()


def random_frames(normals: Tensor) -> Tensor:
    """Uniform rotations (B, 3, 3) from standard normal numbers (B, 4): unit quaternions."""
    w, x, y, z = torch.nn.functional.normalize(normals, dim=-1).unbind(-1)
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return torch.stack([torch.stack(row, -1) for row in rows], -2)


def kabsch(moving: Tensor, target: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """The rotation and shift that lay `moving` on `target` with least weighted squares (Kabsch 1976).

    Args:
        moving: (B, N, 3) points to move.
        target: (B, N, 3) where they should come to lie.
        weights: (B, N) non-negative, not all zero.

    Returns:
        R (B, 3, 3) and s (B, 1, 3), so that `moving @ R + s` lies on `target`. Points that are not finite
        give a shift that is not.
    """
    w = (weights / weights.sum(1, keepdim=True))[..., None].double()
    moving, target = moving.double(), target.double()
    moving_centre, target_centre = (w * moving).sum(1, keepdim=True), (w * target).sum(1, keepdim=True)
    covariance = ((moving - moving_centre) * w).transpose(-1, -2) @ (target - target_centre)
    u, _, vt = torch.linalg.svd(covariance.nan_to_num(0.0, 0.0, 0.0))
    fix = torch.ones_like(u[..., 0])
    fix[:, 2] = torch.where(torch.linalg.det(u @ vt) < 0, -1.0, 1.0)  # a rotation, never a reflection
    rotation = (u * fix[:, None]) @ vt
    return rotation.float(), (target_centre - moving_centre @ rotation).float()
