"""How a set of pictures compares with another, in the eyes of a classifier that was trained on neither."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gen3d import judges
from gen3d.domains.images.dataset import ViewDataset
from gen3d.metrics import Metric
from gen3d.sets import scores

ABOUT = "features of EfficientNet-Lite0 (ImageNet)"


def image_set_metrics(samples: Sequence[Any], reference: ViewDataset) -> list[Metric]:
    """1-NNA, coverage and the Fréchet distance of pictures and references.

    Args:
        samples: `PIL.Image.Image`; None is a failed one.
        reference: data.
    """
    made = [s for s in samples if s is not None]
    truth = judges.features(as_tensor(list(reference.images)))
    found = judges.features(as_tensor([np.asarray(s.convert("RGB")) for s in made])) if made else truth[:0]
    rs = np.full((len(truth), len(samples)), np.inf)
    ss = np.full((len(samples), len(samples)), np.inf)
    good = np.array([s is not None for s in samples], dtype=bool)
    rs[:, good] = apart(truth, found)
    ss[np.ix_(good, good)] = apart(found, found)
    accuracy, covered, _ = scores(apart(truth, truth), rs, ss).tolist()
    cited = "PointFlow, arXiv 1906.12320"
    return [
        Metric("1nna", accuracy, f"leave-one-out 1-NN accuracy in %, {ABOUT}", 50.0, cited),
        Metric("cov", covered, f"references nearest to some sample, %, {ABOUT}", "higher", cited),
        Metric(
            "frechet",
            frechet_distance(truth.double().numpy(), found.double().numpy()) if len(found) > 1 else None,
            f"Frechet distance between Gaussians of the {ABOUT}; not comparable with FID",
            "lower",
            "arXiv 1706.08500",
        ),
    ]


def as_tensor(pictures: Sequence[np.ndarray]) -> Tensor:
    """(B, 3, H, W) in [0, 1] of pictures (H, W, 3) uint8."""
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 255


def apart(one: Tensor, other: Tensor) -> np.ndarray:
    """(A, B) Euclidean distances; exactly 0 between equal rows."""
    return torch.cdist(one, other, compute_mode="donot_use_mm_for_euclid_dist").numpy()


def frechet_distance(one: np.ndarray, other: np.ndarray) -> float:
    """Squared distance of the means plus that of the covariances, tr(A + B - 2 (A B)^(1/2)).

    The trace of the root is the sum of the singular values of the product of two factors, which needs no root
    of a matrix: with A = X^T X and B = Y^T Y it is that of X Y^T, or of what is left of X and Y by QR.
    """
    x, y = one - one.mean(0), other - other.mean(0)
    x, y = x / np.sqrt(len(x) - 1), y / np.sqrt(len(y) - 1)
    x, y = np.linalg.qr(x, mode="r"), np.linalg.qr(y, mode="r")
    cross = np.linalg.svd(x @ y.T, compute_uv=False).sum()
    means = np.square(one.mean(0) - other.mean(0)).sum()
    return float(max(means + np.square(x).sum() + np.square(y).sum() - 2 * cross, 0.0))
