"""Distances between clouds and between sets of them, against brute force and known answers."""

from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from gen3d.domains.shapes.metrics.distances import (
    chamfer,
    chamfer_matrix,
    earth_mover,
    earth_mover_matrix,
    representatives,
)
from gen3d.domains.shapes.metrics.shapes import shape_metrics
from gen3d.errors import Gen3dError
from gen3d.sets import (
    coverage,
    jensen_shannon,
    least_distances,
    legacy,
    nearest_neighbour_correct,
    scores,
    standard_errors,
)

RNG = np.random.default_rng(0)


def blobs(count: int, points: int = 64, seed: int = 0, shift: float = 0.0) -> list[np.ndarray]:
    """Ellipsoids of random proportions."""
    rng = np.random.default_rng(seed)
    axes = rng.uniform(0.2, 1.0, size=(count, 1, 3))
    return list(rng.normal(size=(count, points, 3)) * axes * 0.3 + shift)


def values(
    samples: list[np.ndarray | None], reference: list[np.ndarray], **options: object
) -> dict[str, float]:
    made = shape_metrics(samples, reference, workers=0, **options)  # type: ignore[arg-type]
    return {metric.name: metric.value for metric in made if metric.value is not None}


class TestDistances:
    def test_chamfer_is_brute_force(self) -> None:
        a, b = RNG.normal(size=(50, 3)), RNG.normal(size=(70, 3))
        squares = cdist(a, b) ** 2
        assert chamfer(a, b) == pytest.approx(squares.min(1).mean() + squares.min(0).mean())
        # Squared distances, both ways, each a mean: a point at 2 from a point.
        assert chamfer(np.zeros((1, 3)), np.array([[2.0, 0, 0]])) == pytest.approx(8.0)

    def test_chamfer_is_that_of_pytorch3d(self) -> None:
        loss = pytest.importorskip("pytorch3d.loss")
        torch = pytest.importorskip("torch")
        a, b = RNG.normal(size=(50, 3)), RNG.normal(size=(70, 3))
        other, _ = loss.chamfer_distance(*(torch.from_numpy(x).float()[None] for x in (a, b)))
        assert chamfer(a, b) == pytest.approx(float(other), rel=1e-4)

    def test_chamfer_is_that_of_open3d(self) -> None:
        open3d = pytest.importorskip("open3d")
        a, b = RNG.normal(size=(50, 3)), RNG.normal(size=(70, 3))
        one, other = (open3d.geometry.PointCloud(open3d.utility.Vector3dVector(x)) for x in (a, b))
        there = np.square(one.compute_point_cloud_distance(other)).mean()
        back = np.square(other.compute_point_cloud_distance(one)).mean()
        assert chamfer(a, b) == pytest.approx(there + back)

    def test_earth_mover_is_the_best_of_all_assignments(self) -> None:
        a, b = RNG.normal(size=(6, 3)), RNG.normal(size=(6, 3))
        best = min(np.linalg.norm(a - b[list(p)], axis=1).mean() for p in permutations(range(6)))
        assert earth_mover(a, b) == pytest.approx(best)
        assert earth_mover(a, a + np.array([0.0, 3, 4])) == pytest.approx(5.0)

    def test_representatives_are_means_of_equal_parts(self) -> None:
        cloud = RNG.normal(size=(512, 3))
        made = representatives(cloud, 16)
        assert made.shape == (16, 3)
        np.testing.assert_allclose(made.mean(0), cloud.mean(0), atol=1e-12)
        line = np.zeros((8, 3))
        line[:, 1] = [7, 0, 3, 1, 5, 2, 6, 4]
        assert sorted(representatives(line, 4)[:, 1]) == [0.5, 2.5, 4.5, 6.5]
        assert len(representatives(cloud[:500], 16)) == 500  # not to be halved into 16 equal parts

    def test_the_approximation_of_earth_mover_is_as_good_as_it_says(self, shared_data: Path) -> None:
        with np.load(shared_data / "shapes" / "furniture_points_train.npz", allow_pickle=False) as arrays:
            clouds = arrays["points"][:600:150, :1024].astype(np.float64)
        exact = earth_mover_matrix(list(clouds), method="exact", workers=0)
        close = earth_mover_matrix(list(clouds), method="approximate", workers=0)
        upper = np.triu_indices(len(clouds), 1)
        ratio = close[upper] / exact[upper]
        assert np.abs(ratio - 1).max() < 0.1
        assert np.corrcoef(close[upper], exact[upper])[0, 1] > 0.99

    def test_matrices_hold_all_pairs(self) -> None:
        a, b = blobs(5, seed=1), blobs(3, seed=2)
        expected = [[chamfer(x, y) for y in b] for x in a]
        np.testing.assert_allclose(chamfer_matrix(a, b, workers=0), expected)
        expected = [[earth_mover(x, y) for y in a] for x in a]
        np.testing.assert_allclose(earth_mover_matrix(a, method="exact", workers=0), expected, atol=1e-9)

    def test_tiles_join(self, monkeypatch: pytest.MonkeyPatch) -> None:
        a, b = blobs(7, seed=1), blobs(4, seed=2)
        whole = chamfer_matrix(a, workers=0), chamfer_matrix(a, b, workers=0)
        monkeypatch.setattr("gen3d.domains.shapes.metrics.distances.TILE", 3)
        np.testing.assert_array_equal(chamfer_matrix(a, workers=0), whole[0])
        np.testing.assert_array_equal(chamfer_matrix(a, b, workers=0), whole[1])
        np.testing.assert_array_equal(whole[0], chamfer_matrix(a, a, workers=0))
        assert chamfer_matrix([], b, workers=0).shape == (0, 4)

    @pytest.mark.slow
    def test_processes_compute_the_same(self) -> None:
        a = blobs(20)
        np.testing.assert_array_equal(chamfer_matrix(a, workers=2), chamfer_matrix(a, workers=0))

    def test_clouds_without_an_assignment_are_refused(self) -> None:
        with pytest.raises(Gen3dError, match="3 to 4 points"):
            earth_mover(np.zeros((3, 3)), np.zeros((4, 3)))
        with pytest.raises(Gen3dError, match="3 to 4 points"):
            earth_mover_matrix([np.zeros((3, 3)), np.zeros((4, 3))], workers=0)
        with pytest.raises(Gen3dError, match="'quick' is unknown; allowed: exact, approximate"):
            earth_mover(np.zeros((3, 3)), np.zeros((3, 3)), "quick")

    def test_what_is_no_cloud_is_refused(self) -> None:
        fine = np.zeros((3, 3))
        for distance in (chamfer, earth_mover):
            with pytest.raises(Gen3dError, match=r"shape \(3, 2\); allowed: \(P, 3\)"):
                distance(fine, fine[:, :2])
            with pytest.raises(Gen3dError, match="not finite"):
                distance(fine, np.full((3, 3), np.nan))
        with pytest.raises(Gen3dError, match="at least one point"):
            chamfer_matrix([fine, fine[:0]], workers=0)


class TestSets:
    def matrices(self, a: list[float], b: list[float]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Of clouds that are numbers on a line: references a, samples b."""
        x, y = np.array(a, float), np.array(b, float)
        return abs(x[:, None] - x), abs(x[:, None] - y), abs(y[:, None] - y)

    def test_far_sets_are_told_apart(self) -> None:
        rr, rs, ss = self.matrices([0, 1, 2], [100, 101, 102])
        assert nearest_neighbour_correct(rr, rs, ss).tolist() == 6 * [1.0]
        assert coverage(rs).tolist() == [0, 0, 1]

    def test_a_set_against_itself_is_always_mistaken(self) -> None:
        rr, rs, ss = self.matrices([0, 1, 5], [0, 1, 5])
        assert nearest_neighbour_correct(rr, rs, ss).tolist() == 6 * [0.0]
        assert coverage(rs).tolist() == [1, 1, 1]
        assert least_distances(rs).tolist() == [0, 0, 0]

    def test_by_hand(self) -> None:
        # References 0, 4; samples 1, 5, 9. Nearest: 0 -> 1 (other), 4 -> 5 (other), 1 -> 0 (other),
        # 5 -> 4 (other), 9 -> 5 (own).
        rr, rs, ss = self.matrices([0, 4], [1, 5, 9])
        assert nearest_neighbour_correct(rr, rs, ss).tolist() == [0, 0, 0, 0, 1]
        assert least_distances(rs).tolist() == [1, 1]

    def test_ties_are_shared(self) -> None:
        # Reference 0 is as far from reference 1 as from sample -1.
        rr, rs, ss = self.matrices([0, 1], [-1, -9])
        assert nearest_neighbour_correct(rr, rs, ss)[0] == 0.5
        # Sample 1 lies midway between references: which comes first must not matter.
        assert coverage(self.matrices([0, 2, 9], [1])[1]).tolist() == [1, 1, 0]

    def test_collapse_covers_one(self) -> None:
        _, rs, _ = self.matrices([0, 1, 2, 3], [1.1, 1.1, 1.1])
        assert coverage(rs).tolist() == [0, 1, 0, 0]

    def test_failed_samples_are_told_apart_and_cover_nothing(self) -> None:
        rr, rs, ss = self.matrices([0, 1], [0, 1])
        rs[:, 0], ss[0], ss[:, 0] = np.inf, np.inf, np.inf
        correct = nearest_neighbour_correct(rr, rs, ss)
        assert correct[2] == 1
        assert coverage(rs).tolist() == [0, 1]

    def test_one_batch_of_the_legacy_protocol_is_the_whole(self) -> None:
        a, b = blobs(9, seed=3), blobs(9, seed=4)
        rr, rs, ss = (chamfer_matrix(x, y, workers=0) for x, y in ((a, None), (a, b), (b, None)))
        expected = 100 * nearest_neighbour_correct(rr, rs, ss).mean(), 100 * coverage(rs).mean()
        assert legacy(rr, rs, ss) == pytest.approx(expected)
        halves = [slice(0, 4), slice(4, 8)]
        parts = [nearest_neighbour_correct(rr[h, h], rs[h, h], ss[h, h]).mean() for h in halves]
        assert legacy(rr, rs, ss, batch=4)[0] == pytest.approx(100 * np.mean(parts))

    def test_standard_errors_are_the_deviation_over_new_draws(self) -> None:
        rng = np.random.default_rng(1)
        found, errors = [], []
        for _ in range(80):
            a, b = rng.normal(size=(60, 3)), 0.7 * rng.normal(size=(60, 3))
            matrices = cdist(a, a), cdist(a, b), cdist(b, b)
            found.append(scores(*matrices))
            errors.append(standard_errors(*matrices, rounds=40))
        ratio = np.mean(errors, axis=0) / np.std(found, axis=0)
        assert ratio.min() > 0.9  # never much too small
        assert ratio.max() < 1.6

    def test_nothing_varies_in_sets_far_apart(self) -> None:
        rr, rs, ss = self.matrices([0, 0, 0, 0], [9, 9, 9, 9])
        assert scores(rr, rs, ss).tolist() == [100, 100, 9]
        assert standard_errors(rr, rs, ss).tolist() == [0, 0, 0]
        rs[:], ss[:] = np.inf, np.inf
        assert np.isnan(standard_errors(rr, rs, ss)).tolist() == [False, False, True]

    def test_divergence_of_known_sets(self) -> None:
        a, b = [np.full((10, 3), 0.5)], [np.full((10, 3), -0.5)]
        assert jensen_shannon(a, a) == 0
        assert jensen_shannon(a, b) == pytest.approx(np.log(2))
        half = [np.concatenate([a[0], b[0]])]
        p, q, m = np.array([1, 0]), np.array([0.5, 0.5]), np.array([0.75, 0.25])
        expected = (np.log(1 / 0.75) + (q * np.log(q / m)).sum()) / 2
        assert p.sum() == 1
        assert jensen_shannon(a, half) == pytest.approx(expected)
        # Beyond the references' cube is its outermost cell; the unit of length does not matter.
        assert jensen_shannon([1e30 * a[0]], a) == 0
        shapes, others = blobs(5, seed=1), blobs(5, seed=2)
        scaled = jensen_shannon([8 * c for c in shapes], [8 * c for c in others])
        assert scaled == pytest.approx(jensen_shannon(shapes, others))


class TestShapes:
    def test_two_draws_of_one_distribution_cannot_be_told_apart(self) -> None:
        made = values(blobs(80, seed=5), blobs(80, seed=6), emd="exact", points=32)
        assert made["1nna_cd"] == pytest.approx(50, abs=12)
        assert made["1nna_emd"] == pytest.approx(50, abs=12)
        assert made["1nna_cd_off"] == pytest.approx(abs(made["1nna_cd"] - 50))
        assert made["cov_cd"] > 35

    def test_shifted_and_collapsed_samples_are_found_out(self) -> None:
        reference = blobs(30, seed=6)
        shifted = values(blobs(30, seed=5, shift=2.0), reference, emd="none")
        assert shifted["1nna_cd"] == 100
        assert shifted["jsd"] > 0.3
        collapsed = values([c + 1e-6 for c in 30 * [blobs(1, seed=7)[0]]], reference, emd="none")
        assert collapsed["cov_cd"] == pytest.approx(100 / 30)

    def test_failures_stay_in_the_denominator(self) -> None:
        reference, fine = blobs(20, seed=6), blobs(20, seed=5)
        bad: list[np.ndarray | None] = [None, np.full((5, 3), np.nan), np.zeros((0, 3)), *17 * [None]]
        half = values([*fine, *bad], reference, emd="none")
        alone = values(list(fine), reference, emd="none")
        assert half["1nna_cd"] > alone["1nna_cd"]
        assert half["cov_cd"] == alone["cov_cd"]
        assert half["mmd_cd"] == pytest.approx(alone["mmd_cd"])
        with pytest.raises(Gen3dError, match="all of 2 samples failed"):
            shape_metrics([None, None], reference, workers=0)

    def test_copies_of_training_shapes_are_seen(self) -> None:
        rng = np.random.default_rng(8)
        training, reference = blobs(20, 400, seed=9), blobs(20, 400, seed=10)
        # Fresh points from the same shapes: order aside, two halves of one draw.
        copies = [cloud[rng.permutation(400)] for cloud in training]
        made = values(list(copies), reference, training=training, emd="none")
        assert made["copies_of_training"] == 100
        assert made["copies_of_training_held_out"] < 50
        assert made["nearest_training"] < made["nearest_training_held_out"]
        assert made["1nna_cd"] == pytest.approx(made["copies_1nna_cd"], abs=5)
        assert made["cov_cd"] == pytest.approx(made["copies_cov_cd"], abs=5)

    def test_what_cannot_be_measured_is_refused(self) -> None:
        with pytest.raises(Gen3dError, match="emd is 'auction'; allowed: approximate, exact, none"):
            shape_metrics(blobs(2), blobs(2), emd="auction", workers=0)
        with pytest.raises(Gen3dError, match="reference cloud 1 has coordinates that are not finite"):
            shape_metrics(blobs(2), [blobs(1)[0], np.full((64, 3), np.nan)], workers=0)
        with pytest.raises(Gen3dError, match="training holds no shapes"):
            shape_metrics(blobs(2), blobs(2), training=[], workers=0)
        with pytest.raises(Gen3dError, match="reference holds no shapes"):
            shape_metrics(blobs(2), [], workers=0)
