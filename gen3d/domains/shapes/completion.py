"""Completing a partial scan: its points are known tokens of the cloud."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from gen3d import io
from gen3d.domains.base import Layout
from gen3d.domains.shapes.decoded import DecodedShapes
from gen3d.domains.shapes.native import cloud_of
from gen3d.errors import Gen3dError

MARGIN = 0.1
"""A scan may reach so far beyond the unit box that training shapes fill."""
KNOWN_SHARE = 0.5
"""At most this share of the diffused points is taken up by the scan; it is thinned for it."""


def place_partial(layout: Layout, path: Path) -> Layout:
    """A layout whose samples contain the points of a file.

    Args:
        layout: of clouds without a scan.
        path: one point cloud, or a mesh whose surface is taken, in the frame of the training data.

    Returns:
        The layout with known points; finished clouds hold every point of the scan, in its own place.

    Raises:
        Gen3dError: the file cannot be read, holds other than one shape, or lies outside of the frame.
    """
    count = layout.mask.shape[1]
    objects = io.read(path)
    if len(objects) != 1:
        raise Gen3dError(f"{path} holds {len(objects)} shapes; a scan is one")
    scan = cloud_of(objects[0], max(count, len(getattr(objects[0], "vertices", ()))))
    if len(scan) < 2 or not np.isfinite(scan).all():
        raise Gen3dError(f"{path} has {len(scan)} points; at least 2 are needed, all finite")
    low, high = scan.min(0), scan.max(0)
    if max(-low.min(), high.max()) > 1 + MARGIN:
        raise Gen3dError(
            f"{path} reaches from {_shown(low)} to {_shown(high)}; the model's frame is the box from -1 to "
            "1, y up, in which the longest side of a whole shape is 2: scale and move the scan into it"
        )
    known = min(len(scan), int(KNOWN_SHARE * count))
    thinned = scan[np.random.default_rng(0).permutation(len(scan))[:known]]
    # Spread over the cloud, so that any first part of it, from which fields are made, has its share.
    rows = torch.linspace(0, count - 1, known).round().long()
    values = torch.zeros(*layout.mask.shape, 3)
    values[:, rows] = torch.from_numpy(thinned).float()
    taken = torch.zeros_like(values, dtype=torch.bool)
    taken[:, rows] = True
    whole = torch.from_numpy(scan).float()
    before = layout.finish
    assert before is not None

    def finish(raw: DecodedShapes, chosen: Tensor) -> DecodedShapes:
        raw = before(raw, chosen)
        assert raw.points is not None
        free = raw.points[:, ~taken[0, :, 0].to(raw.points.device)]
        scans = whole.to(free).expand(len(free), -1, -1)
        return replace(raw, points=torch.cat([scans, free], 1))

    return replace(layout, known=values, known_mask=taken, finish=finish)


def _shown(corner: np.ndarray) -> str:
    return "(" + ", ".join(f"{value:.2f}" for value in corner) + ")"
