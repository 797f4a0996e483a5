"""Radiance fields behind a page: rendered for every visitor as the camera moves, coarse first, then finer."""

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from gen3d.fields.cameras import Cameras
from gen3d.scenes.scene import Scene

SIZES = (64, 128, 256, 512)
"""Pixels along the longer side of a picture, one after the other as long as the camera rests."""
PATIENCE = 4.0
"""Seconds for one picture: finer ones that would take longer are left out."""
OPENCV = torch.tensor([1.0, -1.0, -1.0])
"""From viser's cameras, which look down +z with +y down, to ours."""


def composed(
    standing: Sequence[tuple[Scene, np.ndarray]], camera: Any, moment: float, size: int
) -> np.ndarray:
    """What a camera of a page sees of scenes: (H, W, 3) uint8, before white.

    Args:
        standing: scenes, and the places (3,) where they stand.
        camera: anything with viser's `wxyz`, `position`, `fov` (radians, from top to bottom) and `aspect`.
        moment: time in [0, 1], of scenes that move.
        size: pixels along the longer side.
    """
    width, height = _size(camera.aspect, size)
    colour, clear = torch.zeros(height, width, 3), torch.ones(height, width, 1)
    eye = np.asarray(camera.position, float)
    # Scenes stand apart, so that the nearer one is in front.
    for scene, place in sorted(standing, key=lambda one: float(np.linalg.norm(eye - one[1]))):
        shot = _camera(camera, place, moment if scene.moves else None, width, height)
        seen = scene.render(shot, background=(0.0, 0.0, 0.0))
        colour += clear * seen.colour[..., :3].clamp(0, 1)
        clear = clear * (1 - seen.opacity[..., None].clamp(0, 1))
    return ((colour + clear).clamp(0, 1) * 255).round().byte().numpy()


def _size(aspect: float, size: int) -> tuple[int, int]:
    if aspect >= 1:
        return size, max(1, round(size / aspect))
    return max(1, round(size * aspect)), size


def pose(camera: Any, place: np.ndarray) -> torch.Tensor:
    """(3, 4), camera to world, of a page's camera, in the frame of a scene that stands at a place (3,)."""
    w, x, y, z = (float(v) for v in camera.wxyz)
    rotation = torch.tensor(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )
    position = torch.tensor(np.asarray(camera.position, float) - place, dtype=torch.float32)
    return torch.cat([rotation * OPENCV, position[:, None]], 1)


def _camera(camera: Any, place: np.ndarray, moment: float | None, width: int, height: int) -> Cameras:
    focal = height / 2 / np.tan(camera.fov / 2)
    times = None if moment is None else torch.tensor([moment])
    middle = torch.tensor([[width / 2, height / 2]])
    return Cameras(pose(camera, place)[None], torch.full((1, 2), float(focal)), middle, width, height, times)


class Live:
    """One visitor's pictures of fields.

    Args:
        draw: a picture (H, W, 3) of a number of pixels along its longer side.
        show: what to do with it.
    """

    def __init__(self, draw: Callable[[int], np.ndarray], show: Callable[[np.ndarray], None]) -> None:
        self.draw, self.show = draw, show
        self.moved = threading.Event()
        self.over = False
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def move(self) -> None:
        """Something has changed; begin anew, coarse."""
        self.moved.set()

    def stop(self) -> None:
        self.over = True
        self.moved.set()

    def _run(self) -> None:
        while not self.over:
            self.moved.wait()
            self.moved.clear()
            if self.over:
                return
            for size, finer in zip(SIZES, (*SIZES[1:], None), strict=True):
                start = time.perf_counter()
                picture = self.draw(size)
                if self.over:
                    break
                self.show(picture)
                seconds = time.perf_counter() - start
                too_slow = finer is not None and seconds * (finer / size) ** 2 > PATIENCE
                if self.moved.is_set() or self.over or too_slow:
                    break
