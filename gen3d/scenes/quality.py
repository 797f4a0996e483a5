"""How well pictures of a scene agree with photographs, and with one another over time."""

import math
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gen3d.errors import require
from gen3d.fields.cameras import Cameras
from gen3d.metrics import Estimate, Metric
from gen3d.scenes.scene import Scene

RESAMPLED = 1000
WINDOW = 11
"""Pixels across the Gaussian window of SSIM, whose deviation is 1.5 pixels."""
FRAMES = 12
"""Pictures of the film whose steadiness is measured."""
ROUND_TRIP = 1.0
"""Pixels: where going with the flow and back ends farther away, something hid the pixel."""


def psnr(picture: Tensor, truth: Tensor) -> float:
    """Peak signal-to-noise ratio in dB of pictures with values in [0, 1]; infinite where they are equal."""
    error = float((picture - truth).square().mean())
    return -10 * math.log10(error) if error > 0 else math.inf


def ssim(picture: Tensor, truth: Tensor) -> float:
    """Structural similarity (Wang et al. 2004) of pictures (H, W, 3) with values in [0, 1], by kornia.

    Raises:
        MissingExtra: kornia is not installed.
    """
    metrics = require("kornia.metrics", "scenes")
    a, b = (image.permute(2, 0, 1)[None] for image in (picture, truth))
    return float(metrics.ssim(a, b, WINDOW, padding="valid").mean())


def image_metrics(pictures: Sequence[Tensor], truth: Sequence[Tensor], about: str) -> list[Metric]:
    """PSNR and SSIM, and LPIPS where its package and weights are on this machine: means over pictures, with
    95% bootstrap intervals.

    Args:
        pictures: V of them, (H, W, 3) in [0, 1].
        truth: what they should be.
        about: size and background, for the definitions.
    """
    pairs = list(zip(pictures, truth, strict=True))
    found: list[Metric] = [
        _mean("psnr", [psnr(a, b) for a, b in pairs], f"dB, mean over pictures, {about}", "higher"),
        _mean("ssim", [ssim(a, b) for a, b in pairs], f"mean over pictures, {about}", "higher"),
    ]
    distance = _lpips()
    if distance is not None:
        values = [float(distance(*(2 * x.permute(2, 0, 1)[None] - 1 for x in pair))) for pair in pairs]
        found.append(_mean("lpips_alex", values, f"AlexNet, mean over pictures, {about}", "lower"))
    return found


def steadiness(scene: Scene, cameras: Cameras) -> Metric:
    """The warped-frame error (Lai et al. 2018, arXiv 1808.00449) of a film by a camera that stands still.

    The camera is the middle one of `cameras`, the film runs once through time. Optical flow is TV-L1's,
    between neighbouring pictures as rendered; pixels that do not come back are left out as hidden.

    Raises:
        MissingExtra: scikit-image is not installed.
    """
    view = len(cameras) // 2
    film = [scene.at(k / (FRAMES - 1)).render(cameras, view).colour.clamp(0, 1) for k in range(FRAMES)]
    errors = [warped_error(a, b) for a, b in pairwise(film)]
    return _mean(
        "warped_error",
        errors,
        f"mean squared difference of {FRAMES} pictures by one camera to the next ones warped back by flow",
        "lower",
        "Lai et al. 2018, arXiv 1808.00449",
    )


def warped_error(first: Tensor, second: Tensor) -> float:
    """Mean squared difference of a picture (H, W, 3) and the next one warped back, where nothing hides."""
    registration = require("skimage.registration", "scenes")
    transform = require("skimage.transform", "scenes")
    a, b = (image.detach().cpu().numpy() for image in (first, second))
    grey_a, grey_b = a.mean(2), b.mean(2)
    forth = registration.optical_flow_tvl1(grey_a, grey_b)
    back = registration.optical_flow_tvl1(grey_b, grey_a)
    rows, columns = np.meshgrid(np.arange(a.shape[0]), np.arange(a.shape[1]), indexing="ij")
    where = np.array([rows + forth[0], columns + forth[1]])
    returned = np.stack([transform.warp(part, where, order=1, mode="edge") for part in back])
    there = np.hypot(*(forth + returned)) < ROUND_TRIP
    there &= (where >= 0).all(0) & (where[0] <= a.shape[0] - 1) & (where[1] <= a.shape[1] - 1)
    warped = np.stack([transform.warp(b[..., c], where, order=1, mode="edge") for c in range(3)], 2)
    return float(np.square(a - warped)[there].mean()) if there.any() else 0.0


def _mean(name: str, values: Sequence[float], definition: str, better: str, citation: str = "") -> Estimate:
    sample = np.asarray(values)
    draws = np.random.default_rng(0).integers(0, len(sample), (RESAMPLED, len(sample)))
    low, high = np.quantile(sample[draws].mean(1), [0.025, 0.975])
    return Estimate(name, float(sample.mean()), definition, better, citation, (float(low), float(high)))


def _lpips() -> Any:
    """LPIPS of the package of that name, if AlexNet's weights lie in torch's cache; nothing is downloaded."""
    cached = Path(torch.hub.get_dir()) / "checkpoints" / "alexnet-owt-7be5be79.pth"
    try:
        import lpips
    except ImportError:
        return None
    return lpips.LPIPS(net="alex", verbose=False) if cached.is_file() else None
