"""The metrics of generated shapes, by name."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from gen3d.domains.shapes.metrics.distances import chamfer_matrix, earth_mover_matrix
from gen3d.domains.shapes.metrics.sets import (
    bootstrap,
    coverage,
    jensen_shannon,
    least_distances,
    legacy,
    nearest_neighbour_correct,
)
from gen3d.errors import Gen3dError
from gen3d.metrics import Estimate, Metric, percentage

POINTFLOW = "Yang et al. 2019, arXiv 1906.12320"
COPY = 1.1
"""A sample is a copy of a training shape when it is no farther from it than this times what two draws of
points from that shape are from one another."""
EMDS = ("approximate", "exact", "none")


def shape_metrics(
    samples: Sequence[np.ndarray | None],
    reference: Sequence[np.ndarray],
    *,
    training: Sequence[np.ndarray] | None = None,
    emd: str = "approximate",
    points: int = 2048,
    legacy_batches: bool = False,
    workers: int | None = None,
    progress: bool = False,
    seed: int = 0,
) -> list[Metric]:
    """Measure samples against held-out shapes.

    Args:
        samples: clouds (P, 3) in the frame of the reference; None, and clouds that are empty or not finite,
            are failed samples, which cover nothing and are always told apart.
        reference: clouds that training has not seen.
        training: those that it has: adds the distance to the nearest of them, the share of copies, and what
            training clouds would score in place of the samples.
        emd: whether and how the earth mover's distance is computed: "approximate", "exact" or "none".
        points: clouds of more are thinned to so many, and all to the smallest there is.
        legacy_batches: add 1-NNA and COV as averages over batches of 64.
        workers: processes, all cores by default; 0 computes here.
        progress: show progress bars.
        seed: of thinning, bootstrap and the choice of training clouds.

    Raises:
        Gen3dError: there is no reference, or an unknown kind of `emd`.
    """
    if emd not in EMDS:
        raise Gen3dError(f"emd is {emd!r}; allowed: {', '.join(EMDS)}")
    if not len(reference):
        raise Gen3dError("the reference holds no shapes")
    usable = [cloud is not None and len(cloud) > 1 and bool(np.isfinite(cloud).all()) for cloud in samples]
    made = [np.asarray(c) for c, fine in zip(samples, usable, strict=True) if fine and c is not None]
    count = min([points, *map(len, made), *map(len, reference), *map(len, training or ())])
    made, held = _thinned(made, count, seed), _thinned(reference, count, seed)
    if not made:
        raise Gen3dError(f"all of {len(samples)} samples failed")
    settings: dict[str, Any] = {"workers": workers, "progress": progress}
    metrics: list[Metric] = []
    cd = {"rr": chamfer_matrix(held, **settings), "rs": chamfer_matrix(held, made, **settings)}
    cd["ss"] = chamfer_matrix(made, **settings)
    metrics += _set_metrics("cd", "Chamfer distance", _with_failed(cd, usable), seed, legacy_batches)
    if emd != "none":
        em = {
            "rr": earth_mover_matrix(held, method=emd, **settings),
            "rs": earth_mover_matrix(held, made, method=emd, **settings),
            "ss": earth_mover_matrix(made, method=emd, **settings),
        }
        name = f"earth mover's distance ({emd})"
        metrics += _set_metrics("emd", name, _with_failed(em, usable), seed, legacy_batches)
    metrics.append(
        Metric(
            "jsd",
            jensen_shannon(made, held),
            "Jensen-Shannon divergence (nats) of the points of all samples and all references in 28^3 cells",
            "lower",
            "Achlioptas et al. 2018, arXiv 1707.02392",
        )
    )
    if training is not None:
        known = _thinned(training, count, seed)
        metrics += _copies(made, held, known, usable, cd["rr"], settings, seed)
    return metrics


def _set_metrics(
    suffix: str, distance: str, matrices: dict[str, np.ndarray], seed: int, legacy_batches: bool
) -> list[Metric]:
    rr, rs, ss = matrices["rr"], matrices["rs"], matrices["ss"]
    correct, covered, least = nearest_neighbour_correct(rr, rs, ss), coverage(rs), least_distances(rs)
    accuracy = 100 * float(correct.mean())
    low, high = bootstrap(100 * correct, seed)
    metrics: list[Metric] = [
        Estimate(
            f"1nna_{suffix}",
            accuracy,
            f"% of samples and references whose nearest neighbour among all others ({distance}) is of their "
            "own set; failed samples count as told apart",
            50.0,
            POINTFLOW,
            (low, high),
        ),
        Metric(
            f"1nna_{suffix}_off",
            abs(accuracy - 50),
            f"distance of 1nna_{suffix} from 50, where the sets cannot be told apart",
            "lower",
            POINTFLOW,
        ),
        Estimate(
            f"cov_{suffix}",
            100 * float(covered.mean()),
            f"% of references that are the nearest one of some sample ({distance})",
            "higher",
            POINTFLOW,
            bootstrap(100 * covered, seed),
        ),
        Estimate(
            f"mmd_{suffix}",
            float(least.mean()),
            f"mean over references of the {distance} to the nearest sample",
            "lower",
            POINTFLOW,
            bootstrap(least, seed),
        ),
    ]
    if legacy_batches:
        said, source = (
            "averaged over batches of 64 against 64: flatters, for comparison only",
            "DiT-3D's code",
        )
        accuracy, cover = legacy(rr, rs, ss)
        metrics += [
            Metric(f"1nna_{suffix}_legacy", accuracy, f"1nna_{suffix} {said}", 50.0, source),
            Metric(f"cov_{suffix}_legacy", cover, f"cov_{suffix} {said}", "higher", source),
        ]
    return metrics


def _copies(
    made: list[np.ndarray],
    held: list[np.ndarray],
    known: list[np.ndarray],
    usable: list[bool],
    rr: np.ndarray,
    settings: dict[str, Any],
    seed: int,
) -> list[Metric]:
    """Whether samples are new, beside shapes that surely are."""
    metrics: list[Metric] = []
    total = {"": len(usable), "_held_out": len(held)}
    for suffix, clouds, whose in (("", made, "samples"), ("_held_out", held, "references")):
        distances = chamfer_matrix(clouds, known, **settings)
        if suffix:
            to_known = distances
        copies = sum(map(_is_copy, clouds, (known[i] for i in distances.argmin(1))))
        metrics += [
            Metric(
                f"nearest_training{suffix}",
                float(np.median(distances.min(1))),
                f"median over {whose} of the Chamfer distance to the nearest training shape",
                "higher",
            ),
            percentage(
                f"copies_of_training{suffix}",
                int(copies),
                total[suffix],
                f"% of {whose} no farther from their nearest training shape than {COPY} times what two draws "
                "of points of that shape are from one another (half of the points each)",
                "lower",
            ),
        ]
    chosen = np.random.default_rng(seed).permutation(len(known))[: len(usable)]
    within = chamfer_matrix([known[i] for i in chosen], **settings)
    rs = to_known[:, chosen]
    metrics += [
        Metric(
            "copies_1nna_cd",
            100 * float(nearest_neighbour_correct(rr, rs, within).mean()),
            f"1nna_cd of {len(chosen)} training shapes in place of the samples",
            50.0,
        ),
        Metric(
            "copies_cov_cd",
            100 * float(coverage(rs).mean()),
            f"cov_cd of {len(chosen)} training shapes in place of the samples",
            "higher",
        ),
    ]
    return metrics


def _is_copy(cloud: np.ndarray, known: np.ndarray) -> bool:
    half = len(known) // 2
    noise = chamfer_matrix([known[:half]], [known[half : 2 * half]], workers=0)[0, 0]
    own = chamfer_matrix([cloud[:half]], [known[:half]], workers=0)[0, 0]
    return bool(own <= COPY * noise)


def _thinned(clouds: Sequence[np.ndarray], count: int, seed: int) -> list[np.ndarray]:
    """`count` points of every cloud, in random order."""
    generator = np.random.default_rng(seed)
    return [np.asarray(c, dtype=np.float64)[generator.permutation(len(c))[:count]] for c in clouds]


def _with_failed(matrices: dict[str, np.ndarray], usable: list[bool]) -> dict[str, np.ndarray]:
    """The matrices with infinite distances for samples that failed."""
    index = np.flatnonzero(usable)
    rs = np.full((len(matrices["rs"]), len(usable)), np.inf)
    rs[:, index] = matrices["rs"]
    ss = np.full((len(usable), len(usable)), np.inf)
    ss[np.ix_(index, index)] = matrices["ss"]
    return {"rr": matrices["rr"], "rs": rs, "ss": ss}
