"""Checking a capture before hours are spent on it: everything that is wrong, not the first thing only."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
import torch

from gen3d.captures.arrays import read_arrays
from gen3d.captures.diagram import draw
from gen3d.captures.images import read_image, write_png
from gen3d.captures.layout import Standing, complaints, looking_away
from gen3d.captures.llff import FILE, fit, image_files, read_rows, row_fault
from gen3d.captures.transforms import PINHOLES, Frame, read_frames, transforms_files
from gen3d.captures.views import Views
from gen3d.captures.write import ON_DISK, SPLITS
from gen3d.errors import Gen3dError

Severity = Literal["error", "warning", "note"]
Value = TypeVar("Value")


@dataclass(frozen=True)
class Fault:
    """Something wrong with a capture.

    Attributes:
        severity: "error", it cannot be read so; "warning", it will hardly give what is wanted; "note".
        file: where.
        sentence: what, with the value that was found.
    """

    severity: Severity
    file: str
    sentence: str

    def __str__(self) -> str:
        return f"{self.severity}: {self.file}: {self.sentence}"


@dataclass(frozen=True)
class Report:
    """What a check found.

    Attributes:
        faults: all of them, errors first.
        cameras: how many have a usable pose.
        images: how many pictures could be read.
        picture: the file with the drawing of the cameras; None where none was asked for.
    """

    faults: tuple[Fault, ...]
    cameras: int
    images: int
    picture: Path | None

    @property
    def ok(self) -> bool:
        """Whether the capture can be read; there may be warnings."""
        return not any(fault.severity == "error" for fault in self.faults)

    def __str__(self) -> str:
        counts = Counter(fault.severity for fault in self.faults)
        told = ", ".join(f"{counts[kind]} {kind}s" for kind in ("error", "warning", "note"))
        head = f"{self.cameras} cameras, {self.images} readable images: {told}"
        return "\n".join([head, *map(str, self.faults)])


@dataclass
class _Findings:
    """What is gathered on the way."""

    faults: list[Fault] = field(default_factory=list)
    poses: list[np.ndarray] = field(default_factory=list)
    slopes: list[float] = field(default_factory=list)
    splits: list[str] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    sizes: dict[str, tuple[int, int]] = field(default_factory=dict)
    alphas: dict[str, bool] = field(default_factory=dict)

    def add(self, severity: Severity, file: str | Path, sentence: str) -> None:
        fault = Fault(severity, str(file), sentence)
        if fault not in self.faults:
            self.faults.append(fault)

    def attempt(self, file: str, read: Callable[[], Value]) -> Value | None:
        """What `read` gives, or None and its complaint among the faults."""
        try:
            return read()
        except Gen3dError as error:
            # The file is told already.
            self.add("error", file, str(error).removeprefix(f"{file}: "))
            return None

    def image(self, path: Path) -> tuple[int, int] | None:
        """Width and height of a picture, which is read whole to find out that it can be."""
        if str(path) in self.sizes:
            return self.sizes[str(path)]
        found = self.attempt(str(path), lambda: read_image(path))
        if found is None:
            return None
        pixels, alpha = found
        if not pixels[..., 3].any():
            self.add("warning", path, "it is transparent all over")
        self.sizes[str(path)], self.alphas[str(path)] = (pixels.shape[1], pixels.shape[0]), alpha
        return self.sizes[str(path)]

    def camera(self, pose: np.ndarray, slope: float, split: str, label: str) -> None:
        if label in self.labels:  # some captures validate and test on the same pictures
            return
        self.poses.append(pose)
        self.slopes.append(slope)
        self.splits.append(split)
        self.labels.append(label)


def picture_of(views: Views, headline: str) -> np.ndarray:
    """Pixels (700, 1280, 3) uint8 of the cameras of a capture that was read, those that look away in red."""
    shots = views.cameras
    half = torch.tensor([shots.width / 2, shots.height / 2])
    standing = Standing.of(
        shots.camera_to_world.double().numpy()[:, :3], (half / shots.focal).amax(1).double().numpy()
    )
    return draw(standing, ["train"] * len(standing), looking_away(standing), headline)


def check_capture(folder: str | Path, picture: str | Path | None = None) -> Report:
    """Find all that is wrong with a capture, and draw its cameras.

    Images that are missing, damaged, of another size, or without alpha; poses that are not finite or not
    rigid; times outside [0, 1], missing, or all equal; a lens that is not told, or bends; cameras that look
    away, that seem to be written by another convention, or whose scene lies far from the box [-1.5, 1.5]^3.

    Args:
        folder: what `gen3d.captures.read_views` reads.
        picture: a PNG file to be drawn: cameras and frusta from above and from the side.

    Raises:
        Gen3dError: the folder is no capture at all, or the picture cannot be written.
        MissingExtra: pillow is not installed.
    """
    folder = Path(folder)
    found = _Findings()
    if folder.suffix.lower() == ".npz":
        _arrays(folder, found)
    elif folder.is_file() or transforms_files(folder):
        files = [folder] if folder.is_file() else transforms_files(folder)
        _transforms(files, found)
    elif (folder / FILE).is_file():
        _llff(folder, found)
    else:
        raise Gen3dError(
            f"{folder} is no capture; allowed: a folder with transforms_train.json, transforms.json or "
            f"{FILE}, or an .npz file of images and poses"
        )
    _sizes(found)
    _alpha(folder, found)
    poses = np.stack(found.poses) if found.poses else np.empty((0, 3, 4))
    standing = Standing.of(poses, np.array(found.slopes))
    for sentence in complaints(standing):
        found.add("warning", folder, sentence)
    away = looking_away(standing)
    for i in np.flatnonzero(away):
        found.add("warning", found.labels[i], "the camera looks away from what the others look at")
    order = ("error", "warning", "note")
    faults = tuple(sorted(found.faults, key=lambda fault: order.index(fault.severity)))
    if picture is not None:
        picture = Path(picture)
        headline = f"{folder.name}: {len(standing)} cameras, {len(faults)} remarks"
        write_png(picture, draw(standing, found.splits, away, headline))
    return Report(faults, len(standing), len(found.sizes), picture)


def _transforms(files: list[Path], found: _Findings) -> None:
    names = {disk: ours for ours, disk in ON_DISK.items()}
    times: list[float] = []
    for file in files:
        frames = found.attempt(str(file), lambda file=file: read_frames(file))  # type: ignore[misc]
        if frames is None:
            continue
        split = names.get(file.stem.removeprefix("transforms_"), "train")
        if len(frames) < (2 if split == "train" else 1):
            found.add("error", file, f"it has {len(frames)} frames; at least 2 are needed to train on")
        timed = [frame for frame in frames if frame.entry.get("time") is not None]
        for frame in frames:
            time = _frame(frame, split, found)
            if time is not None:
                times.append(time)
            elif timed and frame not in timed:
                found.add("error", str(frame), "it has no time, and other frames have")
    if len(times) > 1 and min(times) == max(times):
        found.add("warning", files[0].parent, f"all times are {times[0]:g}: nothing can move")


def _frame(frame: Frame, split: str, found: _Findings) -> float | None:
    """Check a frame; its time if that is right."""
    label = str(frame)
    pose = found.attempt(label, frame.pose)
    path = found.attempt(label, frame.image)
    size = found.image(path) if path is not None else None
    # A lens can be checked, and the camera drawn, without its picture.
    width, height = size or (1000, 1000)
    lens = None
    if size is not None or not {"w", "h"} & (frame.entry.keys() | frame.meta.keys()):
        lens = found.attempt(label, lambda: frame.lens(width, height))
    if frame.model() not in PINHOLES:
        found.add("error", frame.file, f"camera_model is {frame.model()}; allowed: {', '.join(PINHOLES)}")
    if bent := frame.distortion():
        told = ", ".join(bent)
        found.add("warning", frame.file, f"lens distortion ({told}) is not undone; undistort the pictures")
    if pose is not None:
        slope = max(width / 2 / lens[0], height / 2 / lens[1]) if lens else 0.3
        found.camera(pose, slope, split, label)
    return found.attempt(label, frame.time)


def _llff(folder: Path, found: _Findings) -> None:
    rows = found.attempt(str(folder / FILE), lambda: read_rows(folder / FILE))
    files = found.attempt(str(folder), lambda: image_files(folder)) or []
    for file in files:
        found.image(file)
    if rows is None:
        return
    if len(rows[0]) != len(files):
        found.add("error", folder / FILE, f"it has {len(rows[0])} poses, and there are {len(files)} images")
    good = []
    for i, row in enumerate(zip(*rows, strict=True)):
        if fault := row_fault(*row):
            found.add("error", folder / FILE, f"row {i} {fault}")
        else:
            good.append(i)
    if good:
        poses, lenses, bounds = (part[good] for part in rows)
        for i, pose, lens in zip(good, fit(poses, lenses, bounds), lenses, strict=True):
            found.camera(pose, max(lens[:2]) / 2 / lens[2], "train", f"{folder / FILE}: row {i}")


def _arrays(path: Path, found: _Findings) -> None:
    for split in SPLITS:
        try:
            views = read_arrays(path, split)
        except Gen3dError as error:
            if split == "train":
                found.add("error", path, str(error).removeprefix(f"{path}: "))
            continue
        cameras = views.cameras
        poses = cameras.camera_to_world.double().numpy()
        slopes = cameras.focal.new_tensor([cameras.width, cameras.height]) / 2 / cameras.focal
        for i, (name, pose) in enumerate(zip(views.names, poses, strict=True)):
            label = f"{path}: {name}"
            found.sizes[label], found.alphas[label] = (cameras.width, cameras.height), views.has_alpha
            found.camera(pose, float(slopes[i].max()), split, label)
        times = cameras.times
        if times is not None and len(times) > 1 and float(times.min()) == float(times.max()):
            found.add("warning", path, f"all times are {float(times[0]):g}: nothing can move")


def _sizes(found: _Findings) -> None:
    if not found.sizes:
        return
    usual, _ = Counter(found.sizes.values()).most_common(1)[0]
    example = next(name for name, size in found.sizes.items() if size == usual)
    for name, size in found.sizes.items():
        if size != usual:
            sentence = f"it is {size[0]} x {size[1]} pixels, and {example} is {usual[0]} x {usual[1]}"
            found.add("error", name, sentence)


def _alpha(folder: Path, found: _Findings) -> None:
    without = [name for name, alpha in found.alphas.items() if not alpha]
    if not without:
        return
    if len(without) == len(found.alphas):
        found.add("note", folder, "no picture has alpha: what is behind the scene will be a part of it")
        return
    for name in without:
        found.add("warning", name, "it has no alpha, and other pictures have")
