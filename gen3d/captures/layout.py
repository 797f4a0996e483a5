"""How cameras stand: what they look at, and by which convention their poses seem to be written."""

from dataclasses import dataclass

import numpy as np

BOX = 1.5
"""Half of the side of the box that fields are fitted in."""
PARALLEL = 1e-3
"""Below this mean squared sine between the optical axes, where they meet is left to chance."""


@dataclass(frozen=True)
class Standing:
    """Where cameras stand and look.

    Attributes:
        positions: (V, 3).
        right, up, forward: (V, 3), of unit length.
        slopes: (V,) the larger tangent of half the field of view, across or upwards.
    """

    positions: np.ndarray
    right: np.ndarray
    up: np.ndarray
    forward: np.ndarray
    slopes: np.ndarray

    @classmethod
    def of(cls, poses: np.ndarray, slopes: np.ndarray) -> "Standing":
        """Of camera to world matrices (V, 3, 4) with OpenGL's axes."""
        return cls(poses[:, :, 3], poses[:, :, 0], poses[:, :, 1], -poses[:, :, 2], slopes)

    def __len__(self) -> int:
        return len(self.positions)

    def target(self) -> np.ndarray | None:
        """The point (3,) nearest, in squares, to all optical axes; None where these are all but parallel.

        An axis is a line here: it goes on behind its camera.
        """
        across = np.eye(3) - self.forward[:, :, None] * self.forward[:, None, :]
        matrix = across.sum(0)
        if len(self) < 2 or np.linalg.eigvalsh(matrix)[0] < PARALLEL * len(self):
            return None
        return np.linalg.solve(matrix, np.einsum("vij,vj->i", across, self.positions))

    def depths(self, point: np.ndarray) -> np.ndarray:
        """How far a point is in front of each camera (V,), negative behind it."""
        return np.einsum("vi,vi->v", point - self.positions, self.forward)


def complaints(standing: Standing) -> list[str]:
    """What is odd about all cameras together, a sentence each; nothing where they stand as they should."""
    if not len(standing):
        return []
    return _direction(standing) + _upright(standing) + _scale(standing)


def looking_away(standing: Standing) -> np.ndarray:
    """Which cameras (V,) look away from what most others look at; none where most look away."""
    target = standing.target()
    away = np.zeros(len(standing), bool) if target is None else standing.depths(target) <= 0
    return away if away.mean() <= 0.5 else np.zeros(len(standing), bool)


def _away(standing: Standing) -> int:
    """How many cameras look away from the point nearest to all axes."""
    target = standing.target()
    return 0 if target is None else int((standing.depths(target) <= 0).sum())


def _direction(standing: Standing) -> list[str]:
    away = _away(standing)
    if away <= len(standing) / 2:
        return []
    said = f"{away} of {len(standing)} cameras look away from the point nearest to all optical axes"
    if standing.up[:, 2].mean() < 0:
        return [
            f"{said}, and would look at it upright if y and z were flipped: the poses seem to be OpenCV's "
            "(x right, y down, z forward), and OpenGL's are needed (x right, y up, z back): negate the "
            "second and third column"
        ]
    return [f"{said}: they look outwards from amid them, or the third column of the poses is negated"]


def _upright(standing: Standing) -> list[str]:
    up, right = standing.up.mean(0), standing.right.mean(0)
    flipped = _away(standing) > len(standing) / 2
    if up[2] < -0.3 and not flipped:
        return ["the cameras are upside down: their mean up points to the world's -z"]
    if abs(up[2]) > 0.3 or flipped:
        return []
    if right[2] < -0.5:
        return [
            "the cameras lie on their side: the poses seem to be LLFF's (down, right, back), and right, up, "
            "back are needed: swap the first two columns and negate the new second"
        ]
    for axis, name in enumerate("xy"):
        if abs(up[axis]) > 0.5:
            sign = "+" if up[axis] > 0 else "-"
            return [f"the cameras' mean up is the world's {sign}{name}; it should be +z"]
    return []


def _scale(standing: Standing) -> list[str]:
    target = standing.target()
    if target is None:
        return []
    depth = float(np.median(np.abs(standing.depths(target))))
    seen = float(np.median(standing.slopes)) * depth
    where = ", ".join(f"{v:.3g}" for v in target)
    found = []
    if np.abs(target).max() > BOX:
        found.append(
            f"the cameras look at ({where}), which is outside the box [-{BOX}, {BOX}]^3: move the scene to 0"
        )
    if seen > 2 * BOX or seen < BOX / 10:
        found.append(
            f"at the point that the cameras look at, {depth:.3g} away, pictures show {2 * seen:.3g} from "
            f"edge to edge; the box is {2 * BOX:g} wide: scale the positions by about {BOX / seen:.2g}"
        )
    return found
