"""How a set of pictures compares with another, in the eyes of a classifier that was trained on neither."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gen3d import judges
from gen3d.domains.images.dataset import ViewDataset
from gen3d.errors import Gen3dError
from gen3d.metrics import Metric, percentage
from gen3d.sets import scores

ABOUT = "features of EfficientNet-Lite0 (ImageNet)"
REFERENCES = 2000
"""Pictures of the data that sets are compared with, evenly chosen."""
OF_EACH = 50
"""Pictures of the data, of a noun or a colour, that tell what judges say of real ones."""


def image_set_metrics(samples: Sequence[Any], reference: ViewDataset) -> list[Metric]:
    """1-NNA, coverage and the Fréchet distance of pictures and references.

    Args:
        samples: `PIL.Image.Image`; None is a failed one.
        reference: data.
    """
    made = [s for s in samples if s is not None]
    chosen = np.linspace(0, len(reference) - 1, min(REFERENCES, len(reference))).round().astype(int)
    truth = judges.features(as_tensor(list(reference.images[chosen])))
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


def prompt_metrics(samples: Sequence[Any], prompts: Sequence[str], reference: ViewDataset) -> list[Metric]:
    """Whether judges find in pictures what their prompts say, and what they find in real ones.

    Args:
        samples: `PIL.Image.Image`; None is a failed one, in which nothing is found.
        prompts: one for each.
        reference: data; its pictures of the same nouns, and of the same colours, are the measure.

    Raises:
        Gen3dError: no prompt has a word that the judges know.
    """
    nouns, colours = zip(*(judges.words_of(prompt) for prompt in prompts), strict=True)
    pictures = [None if s is None else np.asarray(s.convert("RGB")) for s in samples]
    found: list[Metric] = []
    for kind, told, judge, ceiling in (
        ("class", nouns, _recognised, _class_ceiling),
        ("colour", colours, _coloured, _colour_ceiling),
    ):
        rows = [n for n, word in enumerate(told) if word is not None]
        if not rows:
            continue
        hits = judge([pictures[n] for n in rows], [told[n] for n in rows])
        real = ceiling(reference, sorted({told[n] for n in rows}))
        wanted = [real[told[n]] for n in rows if told[n] in real]
        best = 100 * float(np.mean(wanted)) if wanted else None
        value = 100 * float(np.mean(hits))
        about = f"of {len(rows)} pictures whose prompt names a {kind} that the judges know"
        found.append(percentage(f"{kind}_right", int(sum(hits)), len(rows), f"recognised, % {about}"))
        found.append(
            Metric(f"{kind}_ceiling", best, f"the same for renders of real meshes, %, {about}", "higher")
        )
        relative = 100 * value / best if best else None
        found.append(Metric(f"{kind}_relative", relative, "the first over the second, %", "higher"))
    if not found:
        raise Gen3dError(
            f"no prompt names a class or a colour that the judges know; the first is {prompts[0]!r}"
        )
    return found


def _recognised(pictures: list[np.ndarray | None], nouns: list[str]) -> list[bool]:
    good = [n for n, picture in enumerate(pictures) if picture is not None]
    hits = [False] * len(pictures)
    if good:
        seen = judges.recognised(as_tensor([pictures[n] for n in good]), [nouns[n] for n in good])  # type: ignore[misc]
        for n, hit in zip(good, seen.tolist(), strict=True):
            hits[n] = hit
    return hits


def _coloured(pictures: list[np.ndarray | None], colours: list[str]) -> list[bool]:
    return [
        picture is not None and judges.shows_colour(picture, colour)
        for picture, colour in zip(pictures, colours, strict=True)
    ]


def _class_ceiling(reference: ViewDataset, nouns: Sequence[str]) -> dict[str, float]:
    alone = reference.other == ""
    return _ceiling(reference, nouns, lambda noun: alone & (reference.noun == noun), _recognised)


def _colour_ceiling(reference: ViewDataset, colours: Sequence[str]) -> dict[str, float]:
    alone = (reference.other == "") & reference.told
    return _ceiling(reference, colours, lambda colour: alone & (reference.colour == colour), _coloured)


def _ceiling(
    reference: ViewDataset,
    words: Sequence[str],
    rows_of: Callable[[str], np.ndarray],
    judge: Callable[..., list[bool]],
) -> dict[str, float]:
    """Share of real pictures, by word, that a judge finds it in; words without pictures are left out."""
    found = {}
    for word in words:
        rows = rows_of(word).nonzero()[0][:OF_EACH]
        if len(rows):
            found[word] = float(np.mean(judge(list(reference.images[rows]), [word] * len(rows))))
    return found


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
    x, y = (np.asarray(np.linalg.qr(each, mode="r")) for each in (x, y))
    cross = np.linalg.svd(x @ y.T, compute_uv=False).sum()
    means = np.square(one.mean(0) - other.mean(0)).sum()
    return float(max(means + np.square(x).sum() + np.square(y).sum() - 2 * cross, 0.0))
