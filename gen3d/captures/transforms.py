"""Reading `transforms.json`: Blender's (NeRF-synthetic), D-NeRF's with a time a frame, and nerfstudio's.

Poses are camera to world with OpenGL's axes in all three. An `applied_transform`, which nerfstudio writes to
tell how it turned the world, is left as it is: poses are taken as they stand in the file.
"""

import json
import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gen3d.captures.images import EXTENSIONS
from gen3d.captures.views import Views, read_images
from gen3d.captures.write import ON_DISK, SPLITS, Split
from gen3d.errors import Gen3dError
from gen3d.fields.cameras import RIGID, Cameras

EVERY = 8
"""Of a capture without splits every eighth picture is for testing, as LLFF's and nerfstudio's users do."""
FARTHEST = 1e6
"""From 0, of a camera: beyond it the numbers that we compute with know no details."""
DISTORTION = ("k1", "k2", "k3", "k4", "p1", "p2")
PINHOLES = ("OPENCV", "PINHOLE", "SIMPLE_PINHOLE", "SIMPLE_RADIAL", "RADIAL", "PERSPECTIVE")
"""Names of cameras that are pinholes but for their distortion."""


@dataclass(frozen=True)
class Frame:
    """An entry of `frames`, not checked yet.

    Attributes:
        file: of the JSON file that it stands in.
        number: its place there, from 0.
        entry: what stands there.
        meta: the JSON file.
    """

    file: Path
    number: int
    entry: Mapping[str, Any]
    meta: Mapping[str, Any]

    def __str__(self) -> str:
        return f"{self.file}: frame {self.number} ({str(self.entry.get('file_path'))[:80]})"

    def image(self) -> Path:
        """Its picture, which may stand without its extension.

        Raises:
            Gen3dError: no such file.
        """
        name = self.entry.get("file_path")
        if not isinstance(name, str) or not name or "\0" in name:
            raise Gen3dError(
                f"{self.file}: frame {self.number} has file_path {name!r}; it must be a file's name"
            )
        stem = self.file.parent / name
        # Names like "r_0.5" have no extension, for all that stands behind their point.
        candidates = [stem, *(stem.with_name(stem.name + extension) for extension in EXTENSIONS)]
        try:
            found = next((path for path in candidates if path.is_file()), None)
        except OSError as error:
            raise Gen3dError(f"{self}: {error.strerror}") from error
        if found is None:
            raise Gen3dError(f"{self}: {stem} is missing")
        return found

    def pose(self) -> np.ndarray:
        """Its camera to world matrix (3, 4).

        Raises:
            Gen3dError: it is none.
        """
        value = self.entry.get("transform_matrix")
        try:
            pose = np.array(value, dtype=np.float64)
        except (TypeError, ValueError, OverflowError):
            pose = np.empty(0)
        if pose.shape not in ((4, 4), (3, 4)):
            raise Gen3dError(
                f"{self}: transform_matrix must be 4 rows of 4 numbers, and is {str(value)[:80]}"
            )
        if not np.isfinite(pose).all():
            row, column = np.argwhere(~np.isfinite(pose))[0]
            raise Gen3dError(
                f"{self}: transform_matrix has {pose[row, column]} in row {row}, column {column}"
            )
        fault = pose_fault(pose[:3])
        if fault:
            raise Gen3dError(f"{self}: transform_matrix {fault}")
        return pose[:3]

    def time(self) -> float | None:
        """Its time in [0, 1]; None where it has none.

        Raises:
            Gen3dError: it is outside, or no number.
        """
        value = self.entry.get("time")
        if value is None:
            return None
        if not is_number(value) or not 0 <= value <= 1:
            raise Gen3dError(f"{self}: time is {str(value)[:80]}; it must be in [0, 1]")
        return float(value)

    def lens(self, width: int, height: int) -> tuple[float, float, float, float]:
        """Focal lengths and centre, x and y of each, in pixels of a picture of this size.

        Those of the file may be of a larger or smaller picture of the same shape (`w` and `h`).

        Raises:
            Gen3dError: none are given, or they are not positive, or of a picture of another shape.
        """
        meant_width, meant_height = self._number("w", width), self._number("h", height)
        scale_x, scale_y = width / meant_width, height / meant_height
        if abs(scale_x / scale_y - 1) > 0.02:  # a size halved may have been rounded
            raise Gen3dError(
                f"{self}: the picture is {width} x {height} pixels, and w and h say {meant_width:g} x "
                f"{meant_height:g}"
            )
        if "fl_x" in self.entry or "fl_x" in self.meta:
            focal_x = self._number("fl_x", 0)
            focal_y = self._number("fl_y", focal_x)
        else:
            if "camera_angle_x" not in self.entry and "camera_angle_x" not in self.meta:
                raise Gen3dError(f"{self.file} has neither camera_angle_x nor fl_x")
            focal_x = self._from_angle("camera_angle_x", meant_width)
            with_y = "camera_angle_y" in self.entry or "camera_angle_y" in self.meta
            focal_y = self._from_angle("camera_angle_y", meant_height) if with_y else focal_x
        centre_x = self._number("cx", meant_width / 2)
        centre_y = self._number("cy", meant_height / 2)
        return focal_x * scale_x, focal_y * scale_y, centre_x * scale_x, centre_y * scale_y

    def distortion(self) -> dict[str, Any]:
        """Distortion that is not 0, which we do not undo, by its name."""
        found = {key: self.entry.get(key, self.meta.get(key)) or 0 for key in DISTORTION}
        return {key: value for key, value in found.items() if value != 0}

    def model(self) -> str:
        """The kind of its camera, in capital letters."""
        return str(self.entry.get("camera_model", self.meta.get("camera_model")) or "OPENCV").upper()

    def _number(self, key: str, default: float) -> float:
        value = self.entry.get(key, self.meta.get(key, default))
        if not is_number(value) or not 0 < value < 1e9:
            raise Gen3dError(f"{self}: {key} is {str(value)[:80]}; it must be a number above 0")
        return float(value)

    def _from_angle(self, key: str, size: float) -> float:
        angle = self._number(key, 0)
        if angle >= math.pi:
            raise Gen3dError(f"{self}: {key} is {angle}; it must be in radians and below pi")
        return 0.5 * size / math.tan(angle / 2)


def is_number(value: Any) -> bool:
    """Whether a value of a JSON file is a finite number."""
    try:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:
        return False


def pose_fault(pose: np.ndarray) -> str:
    """What keeps a finite matrix (3, 4) from being a camera's pose; "" if nothing does."""
    rotation = pose[:, :3]
    off = float(np.abs(rotation @ rotation.T - np.eye(3)).max())
    if not off < RIGID:
        return f"is not rigid: its rotation is {off:.2g} from orthonormal"
    if np.linalg.det(rotation) <= 0:
        return "is not rigid: its rotation is a mirror image"
    if not (np.abs(pose[:, 3]) < FARTHEST).all():
        return f"is at {pose[:, 3].tolist()}; positions must be within {FARTHEST:g} of 0"
    return ""


def read_transforms(path: str | Path, split: Split = "train") -> Views:
    """The views of a split: of a folder with `transforms_train.json` and the like, or `transforms.json`.

    Frames come in the order of their times, or without times of their names. Of a single `transforms.json`,
    `train_filenames` and the like tell the splits; without them every eighth frame is for testing, and for
    validation too.

    Raises:
        Gen3dError: a file is missing or damaged, a pose is not rigid, a number is out of its range, some
            frames have times and others none, or one frame only is there to train on; file and value are
            named.
    """
    file, shared = _file(Path(path), split)
    frames = read_frames(file)
    frames = _in_order(_of_split(frames, split) if shared else frames)
    if not frames:
        raise Gen3dError(f"{file} has no frames for {split}")
    if split == "train" and len(frames) < 2:
        raise Gen3dError(f"{file} has one frame only to train on; at least 2 are needed")
    _check_lens(frames)
    poses = np.stack([frame.pose() for frame in frames])
    times = [frame.time() for frame in frames]
    paths = [frame.image() for frame in frames]
    images, has_alpha = read_images(paths)
    height, width = images.shape[1:3]
    lenses = torch.tensor([frame.lens(width, height) for frame in frames])
    moments = None if times[0] is None else torch.tensor(times, dtype=torch.float32)
    try:
        cameras = Cameras(
            torch.from_numpy(poses).float(), lenses[:, :2], lenses[:, 2:], width, height, moments
        )
    except Gen3dError as error:
        raise Gen3dError(f"{file}: {error}") from None
    return Views(images, cameras, tuple(_name(path, file.parent) for path in paths), has_alpha)


def read_frames(file: Path) -> list[Frame]:
    """The entries of a transforms file as they stand.

    Raises:
        Gen3dError: it is missing, no JSON, or has no list of frames.
    """
    meta = read_json(file)
    frames = meta.get("frames")
    if not isinstance(frames, list) or not all(isinstance(entry, dict) for entry in frames):
        raise Gen3dError(f"{file} has no list of frames")
    return [Frame(file, number, entry, meta) for number, entry in enumerate(frames)]


def read_json(file: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        Gen3dError: it is missing, broken, or holds something else.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise Gen3dError(f"{file} is missing") from None
    except (OSError, ValueError, RecursionError) as error:
        raise Gen3dError(f"{file} is no readable JSON: {error}") from error
    if not isinstance(content, dict):
        raise Gen3dError(f"{file} holds a {type(content).__name__}; an object with frames is needed")
    return content


def transforms_files(folder: Path) -> list[Path]:
    """The transforms files that a folder has: one a split, or one for all."""
    names = [f"transforms_{name}.json" for name in ON_DISK.values()]
    found = [folder / name for name in names if (folder / name).is_file()]
    single = folder / "transforms.json"
    return found or ([single] if single.is_file() else [])


def _file(path: Path, split: Split) -> tuple[Path, bool]:
    """The file with a split's frames, and whether it has those of others too."""
    if split not in SPLITS:
        raise Gen3dError(f"split is {split!r}; allowed: {', '.join(SPLITS)}")
    if path.is_file():
        return path, True
    found = transforms_files(path)
    if not found:
        raise Gen3dError(f"{path} has no transforms_train.json and no transforms.json")
    if found[0].name == "transforms.json":
        return found[0], True
    wanted = path / f"transforms_{ON_DISK[split]}.json"
    if wanted not in found:
        raise Gen3dError(f"{wanted} is missing; there are {', '.join(file.name for file in found)}")
    return wanted, False


def _of_split(frames: list[Frame], split: Split) -> list[Frame]:
    if not frames:
        return []
    meta = frames[0].meta
    lists = {name: meta.get(f"{ON_DISK[name]}_filenames") for name in SPLITS}
    if any(names is not None for names in lists.values()):
        listed = lists[split]
        # nerfstudio too takes the one list where the other of the two held out is absent.
        if listed is None and split != "train":
            listed = lists["valid" if split == "test" else "test"]
        if not isinstance(listed, list):
            raise Gen3dError(f"{frames[0].file} lists no {ON_DISK[split]}_filenames")
        names = {_plain(name) for name in listed}
        return [frame for frame in frames if _plain(frame.entry.get("file_path")) in names]
    ordered = _in_order(frames)
    held_out = ordered[::EVERY] if len(ordered) >= EVERY else []
    if split != "train":
        return held_out
    return [frame for i, frame in enumerate(ordered) if i % EVERY or not held_out]


def _in_order(frames: list[Frame]) -> list[Frame]:
    times = [frame.time() for frame in frames]
    if any(time is None for time in times):
        for frame, time in zip(frames, times, strict=True):
            if (time is None) != (times[0] is None):
                without = frame if time is None else frames[0]
                raise Gen3dError(f"{without} has no time, and others have")
        if frames and frames[0].file.name == "transforms.json":
            return sorted(frames, key=lambda frame: str(frame.entry.get("file_path")))
        return frames
    order = np.argsort(np.array(times, np.float64), kind="stable")
    return [frames[i] for i in order]


def _check_lens(frames: list[Frame]) -> None:
    for frame in frames:
        if frame.model() not in PINHOLES:
            raise Gen3dError(f"{frame}: camera_model is {frame.model()}; allowed: {', '.join(PINHOLES)}")
    bent = next((frame for frame in frames if frame.distortion()), None)
    if bent is not None:
        found = ", ".join(f"{key} {value}" for key, value in bent.distortion().items())
        warnings.warn(
            f"{bent}: lens distortion ({found}) is left in the pictures; undistort them for sharp results",
            stacklevel=3,
        )


def _plain(name: Any) -> str:
    return str(Path(str(name)))


def _name(path: Path, folder: Path) -> str:
    relative = path.relative_to(folder) if path.is_relative_to(folder) else path
    return relative.with_suffix("").as_posix()
