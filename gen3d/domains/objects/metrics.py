"""How coloured things compare with data, and what judges see in them."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from gen3d import judges
from gen3d.domains.objects.dataset import RESOLUTION, ThingDataset
from gen3d.domains.objects.native import pictures, to_thing
from gen3d.metrics import Metric, percentage
from gen3d.scenes.judged import ELEVATION, VIEWS, WIDTH, views_right
from gen3d.sets import scores

REFERENCES = 500
"""Grids of the data that things are compared with, evenly chosen."""
MOST = 0.5
"""A thing is right if more than so many of its views are."""
COPIED = 0.8
"""Overlap of volumes from which on a thing counts as one of the data: what a grid becomes as a mesh, made a
grid again, overlaps with it by 0.83 and more."""


def volume_metrics(samples: Sequence[Any], reference: ThingDataset) -> list[Metric]:
    """1-NNA and coverage by the overlap of volumes (IoU), and how many samples are shapes of the data.

    Args:
        samples: meshes; None is a failed one.
        reference: data.
    """
    chosen = np.linspace(0, len(reference.distances) - 1, min(REFERENCES, len(reference.distances)))
    truth = (reference.distances[chosen.round().astype(int)] > 0).reshape(len(chosen), -1)
    made = volumes(samples)
    good = np.array([sample is not None for sample in samples], dtype=bool)
    rs, ss = apart(truth, made), apart(made, made)
    rs[:, ~good], ss[~good], ss[:, ~good] = np.inf, np.inf, np.inf
    accuracy, covered, _ = scores(apart(truth, truth), rs, ss).tolist()
    parts = np.array_split(reference.distances > 0, max(1, len(reference.distances) // REFERENCES))
    nearest = np.min([apart(part.reshape(len(part), -1), made).min(0) for part in parts], 0)
    copied = int((nearest[good] < 1 - COPIED).sum())
    cited = "PointFlow, arXiv 1906.12320"
    about = "1 - IoU of volumes of 32^3 cells"
    return [
        Metric("1nna", accuracy, f"leave-one-out 1-NN accuracy in %, {about}", 50.0, cited),
        Metric("cov", covered, f"references nearest to some sample, %, {about}", "higher", cited),
        percentage(
            "known_shape", copied, len(samples), f"IoU above {COPIED} with some shape of the data, %", "lower"
        ),
    ]


def prompt_metrics(samples: Sequence[Any], asked: Sequence[str]) -> list[Metric]:
    """Whether judges find class and colour from most of the views around things.

    Args:
        samples: meshes; None is a failed one, in which nothing is found.
        asked: the prompt of each.
    """
    by_class: list[float] = []
    by_colour: list[float] = []
    for made, prompt in zip(samples, asked, strict=True):
        words = judges.words_of(prompt)
        hits: tuple[int | None, int | None] = (0, 0)
        if made is not None:
            around = pictures(made, [n * 360 / VIEWS for n in range(VIEWS)], ELEVATION, WIDTH)
            hits = views_right(around, *words)
        for word, right, shares in zip(words, hits, (by_class, by_colour), strict=True):
            if word is not None:
                shares.append((right or 0) / VIEWS)
    found: list[Metric] = []
    for kind, shares in (("class", by_class), ("colour", by_colour)):
        if not shares:
            continue
        about = f"% of {len(shares)} things whose prompt names a {kind} that the judges know"
        right = sum(share > MOST for share in shares)
        found.append(percentage(f"{kind}_right", right, len(shares), f"from most views, {about}"))
        mean = 100 * float(np.mean(shares))
        found.append(Metric(f"{kind}_views", mean, f"views recognised, {about}", "higher"))
    return found


def volumes(samples: Sequence[Any]) -> np.ndarray:
    """(S, R^3) bool: cells inside of meshes, +y up; nothing of a failed one."""
    found = np.zeros((len(samples), RESOLUTION**3), bool)
    for row, made in enumerate(samples):
        if made is not None:
            found[row] = (to_thing(made).distances > 0).ravel()
    return found


def apart(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """(A, B): 1 - intersection over union of volumes (A, P) and (B, P) bool."""
    a, b = (torch.from_numpy(each).float() for each in (one, other))
    shared = a @ b.T
    either = a.sum(1)[:, None] + b.sum(1) - shared
    return (1 - shared / either.clamp(min=1)).double().numpy()
