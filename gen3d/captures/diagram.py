"""A picture of cameras and what they look at, from above and from the side."""

from typing import Any

import numpy as np

from gen3d.captures.layout import Standing
from gen3d.errors import require

SIDE, MARGIN, HEAD = 640, 40, 60
COLOURS = {"train": (31, 90, 170), "valid": (40, 140, 60), "test": (225, 125, 0)}
AWAY = (210, 30, 30)
VIEWS = (("from above: x to the right, y up", (0, 1)), ("from the side: x to the right, z up", (0, 2)))


def draw(standing: Standing, splits: list[str], away: np.ndarray, headline: str) -> np.ndarray:
    """Pixels (700, 1280, 3) uint8: cameras with their frusta, the box [-1, 1]^3 and its axes.

    Args:
        standing: the cameras.
        splits: of each camera, which chooses its colour.
        away: (V,) which cameras are drawn in red.
        headline: a line of text above.

    Raises:
        MissingExtra: pillow is not installed.
    """
    image, drawing = require("PIL.Image", "scenes"), require("PIL.ImageDraw", "scenes")
    picture = image.new("RGB", (2 * SIDE, SIDE + HEAD), "white")
    pen = drawing.Draw(picture)
    pen.text((MARGIN, 10), headline, fill="black")
    left = MARGIN
    for split, colour in {**COLOURS, "looks away": AWAY}.items():
        pen.text((left, 30), split, fill=colour)
        left += 12 + pen.textlength(split)
    pen.text((left, 30), "grey: the box [-1, 1]; cross: nearest to all axes", fill=(110, 110, 110))
    target = standing.target()
    reach = _reach(standing, target)
    for number, (title, axes) in enumerate(VIEWS):
        panel = _Panel(pen, number * SIDE, reach, axes)
        pen.text((number * SIDE + MARGIN, HEAD), title, fill="black")
        panel.box()
        for i in range(len(standing)):
            colour = AWAY if away[i] else COLOURS.get(splits[i], (90, 90, 90))
            panel.camera(standing, i, 0.12 * reach, colour)
        if target is not None:
            panel.cross(target)
    return np.asarray(picture)


def _reach(standing: Standing, target: np.ndarray | None) -> float:
    """Half of what a panel shows; a few cameras far off may fall outside of it."""
    reach = 1.2
    if len(standing):
        reach = max(reach, 1.15 * float(np.percentile(np.abs(standing.positions).max(1), 98)))
    return reach if target is None else max(reach, 1.1 * min(float(np.abs(target).max()), 10 * reach))


class _Panel:
    """A square of the picture, seen along one axis of the world."""

    def __init__(self, pen: Any, left: int, reach: float, axes: tuple[int, int]) -> None:
        self.pen, self.axes = pen, list(axes)
        self.middle = np.array([left + SIDE / 2, HEAD + SIDE / 2])
        self.scale = (SIDE / 2 - MARGIN) / reach

    def place(self, points: np.ndarray) -> list[tuple[float, float]]:
        """Pixels of points (P, 3); those far outside are kept from overflowing."""
        flat = np.atleast_2d(points)[:, self.axes] * [1, -1] * self.scale
        return [(float(x), float(y)) for x, y in np.clip(flat, -5000, 5000) + self.middle]

    def box(self) -> None:
        corners = np.zeros((5, 3))
        corners[:, self.axes] = [[-1, -1], [1, -1], [1, 1], [-1, 1], [-1, -1]]
        self.pen.line(self.place(corners), fill=(150, 150, 150), width=1)
        for axis in self.axes:
            tip = np.zeros((2, 3))
            tip[1, axis] = 1.0
            ends = self.place(tip)
            self.pen.line(ends, fill=(190, 190, 190), width=1)
            self.pen.text((ends[1][0] + 3, ends[1][1] - 12), "+" + "xyz"[axis], fill=(110, 110, 110))

    def cross(self, point: np.ndarray) -> None:
        (x, y), size = self.place(point)[0], 6
        self.pen.line([(x - size, y - size), (x + size, y + size)], fill="black", width=2)
        self.pen.line([(x - size, y + size), (x + size, y - size)], fill="black", width=2)

    def camera(self, standing: Standing, i: int, length: float, colour: tuple[int, int, int]) -> None:
        start = standing.positions[i]
        slope = min(standing.slopes[i], 1.0)
        ahead = start + length * standing.forward[i]
        sideways, upwards = length * slope * standing.right[i], length * slope * standing.up[i]
        signs = ((-1, -1), (1, -1), (1, 1), (-1, 1))
        corners = self.place(np.stack([ahead + a * sideways + b * upwards for a, b in signs]))
        origin = self.place(start)[0]
        for corner in corners:
            self.pen.line([origin, corner], fill=colour, width=1)
        self.pen.line([*corners, corners[0]], fill=colour, width=1)
        # The upper edge is thick, so that a camera that is upside down shows.
        self.pen.line(corners[2:], fill=colour, width=3)
