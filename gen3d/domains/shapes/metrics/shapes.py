"""The metrics of generated shapes, by name."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from gen3d.domains.shapes.metrics.distances import chamfer, chamfer_matrix, checked, earth_mover_matrix
from gen3d.errors import Gen3dError
from gen3d.metrics import Z95, Estimate, Metric, percentage
from gen3d.sets import (
    jensen_shannon,
    legacy,
    scores,
    standard_errors,
)

POINTFLOW = "Yang et al. 2019, arXiv 1906.12320"
COPY = 1.1
"""A sample is a copy of a training shape when it is no farther from it than this times what two draws of
points from that shape are from one another. In furniture, two draws of one surface are at 0.92 to 1.07 (60
surfaces), and the nearest of 360 other shapes at 1.34 and more (40 shapes)."""
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
        samples: clouds (P, 3) in the frame of the reference; None, and clouds that are empty, not finite
            or hold one point, are failed samples, which cover nothing and are always told apart.
        reference: clouds that training has not seen.
        training: those that it has: adds the distance to the nearest of them, the share of copies, and what
            training clouds would score in place of the samples.
        emd: whether and how the earth mover's distance is computed: "approximate", "exact" or "none".
        points: clouds of more are thinned to so many, and all to the smallest there is.
        legacy_batches: add 1-NNA and COV as averages over batches of 64.
        workers: processes, all cores by default; 0 computes here.
        progress: show progress bars.
        seed: of thinning, intervals and the choice of training clouds.

    Raises:
        Gen3dError: there is no reference, all samples failed, reference or training hold what is no cloud, or
            an unknown kind of `emd`.
    """
    if emd not in EMDS:
        raise Gen3dError(f"emd is {emd!r}; allowed: {', '.join(EMDS)}")
    if not len(reference):
        raise Gen3dError("the reference holds no shapes")
    if training is not None and not len(training):
        raise Gen3dError("training holds no shapes; None leaves the comparison with it out")
    for name, known in (("reference", reference), ("training", training or ())):
        for i, cloud in enumerate(known):
            checked(cloud, f"{name} cloud {i}")
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
    name = f"Chamfer distance, squared, both ways, of {count} points"
    metrics += _set_metrics("cd", name, _with_failed(cd, usable), seed, legacy_batches)
    if emd != "none":
        em = {
            "rr": earth_mover_matrix(held, method=emd, **settings),
            "rs": earth_mover_matrix(held, made, method=emd, **settings),
            "ss": earth_mover_matrix(made, method=emd, **settings),
        }
        name = f"earth mover's distance, {emd}, of {count} points"
        metrics += _set_metrics("emd", name, _with_failed(em, usable), seed, legacy_batches)
    metrics.append(
        Metric(
            "jsd",
            jensen_shannon(made, held),
            "Jensen-Shannon divergence (nats) of where the points of all samples that did not fail and of "
            "all references lie, in 28^3 cells",
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
    accuracy, covered, least = scores(rr, rs, ss).tolist()
    error, covered_error, least_error = standard_errors(rr, rs, ss, seed).tolist()
    metrics: list[Metric] = [
        Estimate(
            f"1nna_{suffix}",
            accuracy,
            f"% of samples and references whose nearest neighbour among all others ({distance}) is of their "
            "own set; failed samples count as told apart",
            50.0,
            POINTFLOW,
            _interval(accuracy, error),
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
            covered,
            f"% of references that are the nearest one of some sample ({distance}); failed ones cover none",
            "higher",
            POINTFLOW,
            _interval(covered, covered_error),
        ),
        Estimate(
            f"mmd_{suffix}",
            least,
            f"mean over references of the {distance} to the nearest sample that did not fail",
            "lower",
            POINTFLOW,
            _interval(least, least_error, most=float("inf")),
        ),
    ]
    if legacy_batches:
        said, source = (
            "averaged over batches of 64 against 64: flatters, for comparison only",
            "DiT-3D's code",
        )
        accuracy, covered = legacy(rr, rs, ss)
        metrics += [
            Metric(f"1nna_{suffix}_legacy", accuracy, f"1nna_{suffix} {said}", 50.0, source),
            Metric(f"cov_{suffix}_legacy", covered, f"cov_{suffix} {said}", "higher", source),
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
    for suffix, clouds, whose, everyone in (
        ("", made, "samples that did not fail", "all samples, failed or not,"),
        ("_held_out", held, "references", "references"),
    ):
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
                f"% of {everyone} no farther from their nearest training shape than {COPY} times what two "
                "draws of points of that shape are from one another (half of the points each)",
                "lower",
            ),
        ]
    chosen = np.random.default_rng(seed).permutation(len(known))[: len(usable)]
    within = chamfer_matrix([known[i] for i in chosen], **settings)
    matrices = rr, to_known[:, chosen], within
    accuracy, covered, _ = scores(*matrices).tolist()
    error, covered_error, _ = standard_errors(*matrices, seed).tolist()
    metrics += [
        Estimate(
            "copies_1nna_cd",
            accuracy,
            f"1nna_cd of {len(chosen)} training shapes in place of the samples",
            50.0,
            interval=_interval(accuracy, error),
        ),
        Estimate(
            "copies_cov_cd",
            covered,
            f"cov_cd of {len(chosen)} training shapes in place of the samples",
            "higher",
            interval=_interval(covered, covered_error),
        ),
    ]
    return metrics


def _is_copy(cloud: np.ndarray, known: np.ndarray) -> bool:
    half = len(known) // 2
    noise = chamfer(known[:half], known[half : 2 * half])
    return chamfer(cloud[:half], known[:half]) <= COPY * noise


def _interval(value: float, error: float, most: float = 100.0) -> tuple[float, float] | None:
    """The 95 % interval of a number between 0 and `most` with this standard error; None without one."""
    if not np.isfinite(error):
        return None
    return max(0.0, value - Z95 * error), min(most, value + Z95 * error)


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
