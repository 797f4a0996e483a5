"""Captures posed by COLMAP in LLFF's way: `poses_bounds.npy` beside a folder of images.

A row holds a pose (3, 5), [rotation | position | height, width, focal length], and the nearest and the
farthest depth of what its picture shows. The columns of the rotation are LLFF's down, right and back.

The world of such a capture has any direction, place and scale. We turn it so that the cameras' mean up is +z
and their mean view, made level, is +y, and move and scale it so that all they see between nearest and
farthest fits [-1, 1]^3. (LLFF puts the mean camera at 0, looking down -z, and has no box.)
"""

from pathlib import Path

import numpy as np
import torch

from gen3d.captures.images import EXTENSIONS
from gen3d.captures.meshes import natural
from gen3d.captures.transforms import EVERY, pose_fault
from gen3d.captures.views import Views, read_images
from gen3d.captures.write import SPLITS, Split
from gen3d.errors import Gen3dError
from gen3d.fields.cameras import Cameras

FILE = "poses_bounds.npy"
FARTHEST = 95
"""Percentile of the farthest depths that has to fit: a single stray point must not shrink the scene."""


def read_llff(folder: str | Path, split: Split = "train", *, timed: bool = False) -> Views:
    """The views of a folder with `poses_bounds.npy` and `images` (or `images_2`, `images_4`, `images_8`).

    Every eighth picture is for testing, and for validation too.

    Args:
        folder: of the capture.
        split: "train", "valid" or "test".
        timed: the pictures are of a video, from time 0 to time 1; otherwise nothing moves.

    Raises:
        Gen3dError: a file is missing or damaged, counts differ, a number is not finite, or a pose not rigid.
    """
    folder = Path(folder)
    poses, lenses, bounds = read_rows(folder / FILE)
    check_poses(folder / FILE, poses, lenses, bounds)
    poses = fit(poses, lenses, bounds)
    files = image_files(folder)
    if len(files) != len(poses):
        raise Gen3dError(f"{folder / FILE} has {len(poses)} poses, {files[0].parent} has {len(files)} images")
    chosen = every_eighth(len(files), split, folder)
    images, has_alpha = read_images([files[i] for i in chosen])
    height, width = images.shape[1:3]
    times = np.linspace(0, 1, len(files))[chosen] if timed else None
    names = tuple(files[i].stem for i in chosen)
    cameras = cameras_of(poses[chosen], lenses[chosen], width, height, times)
    return Views(images, cameras, names, has_alpha)


def every_eighth(count: int, split: Split, source: Path) -> np.ndarray:
    """The numbers of the pictures of a split: every eighth, from the first, is held out.

    Raises:
        Gen3dError: there are too few to hold any out, or the split is another.
    """
    if split not in SPLITS:
        raise Gen3dError(f"split is {split!r}; allowed: {', '.join(SPLITS)}")
    if count < 2:
        raise Gen3dError(f"{source} has {count} pictures; at least 2 are needed")
    if count < EVERY and split != "train":
        raise Gen3dError(f"{source} has {count} pictures; none is held out of fewer than {EVERY}")
    everything = np.arange(count)
    held_out = (everything % EVERY == 0) & (count >= EVERY)
    return everything[~held_out if split == "train" else held_out]


def cameras_of(
    poses: np.ndarray, lenses: np.ndarray, width: int, height: int, times: np.ndarray | None
) -> Cameras:
    """Cameras with `poses` (V, 3, 4) and `lenses` (V, 3): height, width and focal length, of pictures that
    may have been scaled since."""
    focal = lenses[:, 2:] * np.array([width, height]) / lenses[:, [1, 0]]
    return Cameras(
        torch.from_numpy(poses).float(),
        torch.from_numpy(focal).float(),
        torch.tensor([[width / 2, height / 2]]).repeat(len(poses), 1),
        width,
        height,
        None if times is None else torch.from_numpy(times).float(),
    )


def fit(
    poses: np.ndarray, lenses: np.ndarray, bounds: np.ndarray, frame: tuple[np.ndarray, ...] | None = None
) -> np.ndarray:
    """Poses (V, 3, 4), right, up and back, in the world described above.

    Args:
        poses, lenses, bounds: (V, 3, 4), (V, 3) and (V, 2) of all cameras of a capture.
        frame: the same of more cameras than those that are moved, to be fitted instead.
    """
    all_poses, all_lenses, all_bounds = frame or (poses, lenses, bounds)
    turn = _level(all_poses)
    points = turn @ _frusta(all_poses, all_lenses, all_bounds).T
    low, high = points.min(1), points.max(1)
    half = float((high - low).max() / 2)
    moved = np.empty_like(poses)
    moved[:, :, :3] = turn @ poses[:, :, :3]
    moved[:, :, 3] = (poses[:, :, 3] @ turn.T - (low + high) / 2) / half
    return moved


def check_poses(source: Path, poses: np.ndarray, lenses: np.ndarray, bounds: np.ndarray) -> None:
    """Raises:
    Gen3dError: something is not finite, a pose is not rigid, or a lens or a bound is not positive.
    """
    for i, row in enumerate(zip(poses, lenses, bounds, strict=True)):
        if fault := row_fault(*row):
            raise Gen3dError(f"{source}: row {i} {fault}")


def row_fault(pose: np.ndarray, lens: np.ndarray, bound: np.ndarray) -> str:
    """What is wrong with a camera; "" if nothing is."""
    if not (np.isfinite(pose).all() and np.isfinite(lens).all() and np.isfinite(bound).all()):
        return "has a number that is not finite"
    if fault := pose_fault(pose):
        return f"has a pose that {fault}"
    if not (lens > 0).all():
        return f"has height, width and focal length {lens.tolist()}; all must be above 0"
    if not 0 <= bound[0] < bound[1]:
        return f"has bounds {bound.tolist()}; from 0, the first must be the lesser"
    return ""


def read_rows(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Poses with our axes (V, 3, 4), lenses (V, 3) and bounds (V, 2) of `poses_bounds.npy`, not checked.

    Raises:
        Gen3dError: the file is missing or damaged, or holds something else.
    """
    if not path.is_file():
        raise Gen3dError(f"{path} is missing")
    try:
        rows = np.load(path, allow_pickle=False)
    except Exception as error:
        # numpy raises about anything for a damaged file.
        raise Gen3dError(f"{path} cannot be read: {str(error)[:200]}") from error
    if (
        not isinstance(rows, np.ndarray)
        or rows.ndim != 2
        or rows.shape[1] != 17
        or rows.dtype.kind not in "fiu"
    ):
        raise Gen3dError(f"{path} holds no array of numbers (V, 17)")
    if not len(rows):
        raise Gen3dError(f"{path} has no rows")
    rows = rows.astype(np.float64)
    matrices = rows[:, :15].reshape(-1, 3, 5)
    down, right, back, position = (matrices[:, :, k] for k in range(4))
    poses = np.stack([right, -down, back, position], 2)
    return poses, matrices[:, :, 4], rows[:, 15:]


def image_files(folder: Path) -> list[Path]:
    """The pictures of a capture, in the order of their names.

    Raises:
        Gen3dError: there are none.
    """
    for name in ("images", "images_2", "images_4", "images_8"):
        if (folder / name).is_dir():
            found = [f for f in (folder / name).iterdir() if f.suffix.lower() in EXTENSIONS]
            if found:
                return sorted(found, key=natural)
    raise Gen3dError(f"{folder} has no folder `images` with pictures; allowed: {', '.join(EXTENSIONS)}")


def _level(poses: np.ndarray) -> np.ndarray:
    """The rotation (3, 3) that makes the mean up of the cameras +z and their mean view, made level, +y."""
    up = poses[:, :, 1].mean(0)
    if np.linalg.norm(up) < 1e-3:
        up = poses[0, :, 1]
    up = up / np.linalg.norm(up)
    for view in (-poses[:, :, 2].mean(0), -poses[0, :, 2], poses[0, :, 0], poses[0, :, 1]):
        level = view - (view @ up) * up
        # Cameras all around look nowhere in the mean: then the first of them decides.
        if np.linalg.norm(level) > 0.1:
            break
    level = level / np.linalg.norm(level)
    return np.stack([np.cross(level, up), level, up])


def _frusta(poses: np.ndarray, lenses: np.ndarray, bounds: np.ndarray) -> np.ndarray:
    """Corners (8 V, 3) of what the cameras see between their nearest and farthest depth."""
    far = np.minimum(bounds[:, 1], np.percentile(bounds[:, 1], FARTHEST))
    depths = np.stack([np.minimum(bounds[:, 0], far), far], 1)
    slopes = lenses[:, [1, 0]] / (2 * lenses[:, 2:])
    signs = np.array([[-1, -1], [-1, 1], [1, -1], [1, 1]])
    local = np.concatenate([signs * slopes[:, None], np.full((len(poses), 4, 1), -1.0)], 2)
    local = local[:, None] * depths[:, :, None, None]
    world = np.einsum("vij,vnkj->vnki", poses[:, :, :3], local) + poses[:, None, None, :, 3]
    return world.reshape(-1, 3)
