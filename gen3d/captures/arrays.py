"""Captures kept as arrays in one .npz file.

- `images` (V, H, W, 4) uint8, `camera_to_world` (V, 4, 4) with OpenGL's axes, `camera_angle_x` in radians and
  maybe `time` (V,) and `frame` (V,), names: scenes of NeRF-synthetic.
- `images` (V, H, W, 3) uint8, `poses` (V, 3, 5) as LLFF's loader leaves them (right, up, back; the last
  column height, width, focal length), `bounds` (V, 2) and `time` (V,): the example of Non-Rigid NeRF.
"""

from pathlib import Path

import numpy as np
import torch

from gen3d.captures.llff import cameras_of, check_poses, every_eighth, fit
from gen3d.captures.transforms import pose_fault, read_json
from gen3d.captures.views import Views
from gen3d.captures.write import ON_DISK, SPLITS, Split
from gen3d.errors import Gen3dError
from gen3d.fields.cameras import Cameras

KEYS = ("images", "camera_to_world", "camera_angle_x", "frame", "time", "poses", "bounds", "frame_index")
OTHER_POSES = "_precomputed.json"
"""End of the name of a file beside the arrays with the poses of all frames, those held out among them."""


def read_arrays(path: str | Path, split: Split = "train") -> Views:
    """The views of a split of a .npz file, laid out as above.

    Where the name ends in `_train`, other splits are in the files beside it with `_val` and `_test`. A file
    that stands alone holds all splits: every eighth picture is for testing, and for validation too.

    Poses with bounds are turned, moved and scaled as `gen3d.captures.llff` says, by the poses of all frames
    where a file `*_precomputed.json` has them.

    Raises:
        Gen3dError: the file is missing or damaged, its arrays do not fit, or a number is out of its range.
    """
    file, alone = _file(Path(path), split)
    arrays = _load(file)
    if "camera_to_world" in arrays:
        views = _synthetic(file, arrays)
    elif {"poses", "bounds"} <= arrays.keys():
        views = _handheld(file, arrays)
    else:
        raise Gen3dError(
            f"{file} holds {', '.join(sorted(arrays)) or 'nothing known'}; needed: images, and "
            "camera_to_world with camera_angle_x or poses with bounds"
        )
    if views.cameras.times is not None:
        views = views[np.argsort(views.cameras.times.numpy(), kind="stable")]
    return views[every_eighth(len(views), split, file)] if alone else views


def _file(path: Path, split: Split) -> tuple[Path, bool]:
    """The file with a split, and whether it has the others too."""
    if split not in SPLITS:
        raise Gen3dError(f"split is {split!r}; allowed: {', '.join(SPLITS)}")
    if not path.is_file():
        raise Gen3dError(f"{path} is missing")
    stem, _, end = path.stem.rpartition("_")
    if end not in ON_DISK.values():
        return path, True
    beside = {key: path.with_name(f"{stem}_{name}{path.suffix}") for key, name in ON_DISK.items()}
    found = {key: file for key, file in beside.items() if file.is_file()}
    if len(found) == 1:
        return path, end == "train"
    if split not in found:
        raise Gen3dError(f"{beside[split]} is missing; there are {', '.join(f.name for f in found.values())}")
    return found[split], False


def _load(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            found = {key: arrays[key] for key in KEYS if key in arrays}
    except Exception as error:
        # numpy and zipfile raise about anything for a damaged file.
        raise Gen3dError(f"{path} cannot be read: {str(error)[:200]}") from error
    images = found.get("images")
    if images is None or images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] not in (3, 4):
        told = "no images" if images is None else f"images {images.dtype} {images.shape}"
        raise Gen3dError(f"{path} has {told}; allowed: uint8 (V, H, W, 3 or 4)")
    for key in ("camera_to_world", "poses", "bounds", "time", "frame"):
        if key in found and (found[key].ndim < 1 or len(found[key]) != len(images)):
            raise Gen3dError(f"{path}: {key} is of shape {found[key].shape}; there are {len(images)} images")
        if key in found and key != "frame" and found[key].dtype.kind not in "fiu":
            raise Gen3dError(f"{path}: {key} is {found[key].dtype}; allowed: numbers")
    time = found.get("time")
    if time is not None and not (time.ndim == 1 and ((time >= 0) & (time <= 1)).all()):
        raise Gen3dError(f"{path}: time must be (V,) in [0, 1], and goes from {time.min()} to {time.max()}")
    return found


def _synthetic(path: Path, arrays: dict[str, np.ndarray]) -> Views:
    poses, angle = arrays["camera_to_world"].astype(np.float64), arrays.get("camera_angle_x")
    if poses.ndim != 3 or poses.shape[1:] not in ((4, 4), (3, 4)):
        raise Gen3dError(f"{path}: camera_to_world is of shape {poses.shape}; allowed: (V, 4, 4)")
    if angle is None or angle.size != 1 or angle.dtype.kind != "f" or not 0 < float(angle.item()) < np.pi:
        raise Gen3dError(f"{path}: camera_angle_x is {angle}; one number of radians in (0, pi) is needed")
    for i, pose in enumerate(poses[:, :3]):
        fault = pose_fault(pose) if np.isfinite(pose).all() else "has a number that is not finite"
        if fault:
            raise Gen3dError(f"{path}: camera_to_world {i} {fault}")
    images, has_alpha = _with_alpha(arrays["images"])
    height, width = images.shape[1:3]
    times = arrays.get("time")
    cameras = Cameras(
        torch.from_numpy(poses[:, :3]).float(),
        torch.full((len(poses), 2), 0.5 * width / float(np.tan(angle.item() / 2))),
        torch.tensor([[width / 2, height / 2]]).repeat(len(poses), 1),
        width,
        height,
        None if times is None else torch.from_numpy(times).float(),
    )
    return Views(images, cameras, _names(arrays, len(images)), has_alpha)


def _handheld(path: Path, arrays: dict[str, np.ndarray]) -> Views:
    parts = _parts(path, arrays["poses"], arrays["bounds"])
    frame = None
    for other in sorted(path.parent.glob(f"*{OTHER_POSES}")):
        if path.name.startswith(other.name.removesuffix(OTHER_POSES)):
            content = read_json(other)
            frame = _parts(other, _numbers(content.get("poses")), _numbers(content.get("bds")))
            break
    images, has_alpha = _with_alpha(arrays["images"])
    height, width = images.shape[1:3]
    cameras = cameras_of(fit(*parts, frame), parts[1], width, height, arrays.get("time"))
    return Views(images, cameras, _names(arrays, len(images)), has_alpha)


def _parts(path: Path, poses: np.ndarray, bounds: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Poses (V, 3, 4), lenses (V, 3) and bounds (V, 2), checked."""
    if poses.ndim != 3 or poses.shape[1:] != (3, 5) or bounds.shape != (len(poses), 2) or not len(poses):
        raise Gen3dError(
            f"{path}: poses {poses.shape} and bounds {bounds.shape}; allowed: (V, 3, 5) and (V, 2)"
        )
    poses, bounds = poses.astype(np.float64), bounds.astype(np.float64)
    parts = poses[:, :, :4], poses[:, :, 4], bounds
    check_poses(path, *parts)
    return parts


def _numbers(value: object) -> np.ndarray:
    try:
        return np.array(value, np.float64)
    except (TypeError, ValueError, OverflowError):
        return np.empty(0)


def _with_alpha(images: np.ndarray) -> tuple[np.ndarray, bool]:
    if images.shape[3] == 4:
        return images, True
    return np.concatenate([images, np.full_like(images[..., :1], 255)], 3), False


def _names(arrays: dict[str, np.ndarray], count: int) -> tuple[str, ...]:
    names = arrays.get("frame", arrays.get("frame_index"))
    if names is None or names.shape != (count,):
        return tuple(str(i) for i in range(count))
    texts = [name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name) for name in names]
    return tuple(text.removeprefix("./") for text in texts)
