"""Reading files of shapes with trimesh; whatever is wrong with a file becomes one line."""

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from gen3d.domains.shapes.dataset import ShapeDataset
from gen3d.errors import Gen3dError, require

EXTENSIONS = (".ply", ".obj", ".stl", ".glb", ".off", ".binvox")
"""Files of one shape each."""
KEPT = {"process": False}
"""Of vertices that repeat none is merged: readers tell what the file holds."""
OPTIONS: dict[str, dict[str, Any]] = {"binvox": {}, "obj": {**KEPT, "skip_materials": True}}
COMMENT = re.compile(rb"#[^\n]*")
LARGEST_GRID = 1024
"""Cells along an axis of a binvox grid; a damaged header must not ask for all memory."""


def read_objects(path: Path, *, failures: bool) -> Iterator[Any]:
    """The shapes of a file, for `gen3d.io`.

    Raises:
        Gen3dError: the file cannot be read, and `failures` is False.
    """
    try:
        if path.suffix.lower() == ".npz":
            yield from _clouds(path)
        else:
            yield read_one(path)
    except Gen3dError:
        if not failures:
            raise
        yield None


def read_one(path: Path) -> Any:
    """The shape of a file: `trimesh.Trimesh`, `trimesh.PointCloud` or `trimesh.voxel.VoxelGrid`.

    Raises:
        Gen3dError: the file is damaged, empty, or holds numbers that are not finite.
    """
    trimesh = require("trimesh", "shapes")
    kind = path.suffix.lower()[1:]
    try:
        data = path.read_bytes()
        if kind == "off":
            data = _mended_off(data)
        _check(kind, data)
        with _without_log():
            shape = trimesh.load(trimesh.util.wrap_as_stream(data), file_type=kind, **OPTIONS.get(kind, KEPT))
    except Gen3dError as error:
        raise Gen3dError(f"{path}: {error}") from None
    except MemoryError:
        raise
    except Exception as error:
        # The readers of trimesh raise about anything for a damaged file.
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise Gen3dError(f"{path} cannot be read as {kind}: {reason[0][:200]}") from error
    try:
        return _checked(shape)
    except Gen3dError as error:
        raise Gen3dError(f"{path}: {error}") from None


@contextmanager
def _without_log() -> Iterator[None]:
    """Keep trimesh from logging the tracebacks of what it recovers from."""
    log = logging.getLogger("trimesh.util")
    before, log.disabled = log.disabled, True
    try:
        yield
    finally:
        log.disabled = before


def _checked(shape: Any) -> Any:
    """The shape itself, if it is one."""
    trimesh = require("trimesh", "shapes")
    if isinstance(shape, trimesh.voxel.VoxelGrid):
        return shape
    if isinstance(shape, trimesh.Scene):
        try:
            shape = shape.to_mesh()
        except Exception as error:
            raise Gen3dError(f"its scene holds no mesh: {error}") from error
    vertices = np.asarray(getattr(shape, "vertices", np.zeros((0, 3))))
    if vertices.ndim != 2 or vertices.shape[-1] != 3 or not len(vertices):
        raise Gen3dError("it holds no points")
    if len(vertices) < 2:
        raise Gen3dError("it holds 1 point; at least 2 are needed")
    if not np.isfinite(vertices).all():
        raise Gen3dError("it holds coordinates that are not finite")
    if isinstance(shape, trimesh.PointCloud):
        return shape
    if not isinstance(shape, trimesh.Trimesh):
        raise Gen3dError(f"it holds a {type(shape).__name__}, no mesh and no points")
    if not len(shape.faces):
        # Files of points alone are clouds, whatever their format.
        return trimesh.PointCloud(vertices)
    if shape.faces.min() < 0 or shape.faces.max() >= len(vertices):
        raise Gen3dError(f"a face names vertex {shape.faces.max()}; there are {len(vertices)}")
    return shape


def _check(kind: str, data: bytes) -> None:
    """Refuse what trimesh would take a long time or much memory over, or would read in part."""
    if not data.strip():
        raise Gen3dError("the file is empty")
    if kind == "binvox":
        found = re.search(rb"^dim\s+(\d+)\s+(\d+)\s+(\d+)\s*$", data[:1000], re.MULTILINE)
        if not data.startswith(b"#binvox") or found is None:
            raise Gen3dError("the file has no binvox header with its dimensions")
        size = [int(v) for v in found.groups()]
        if not all(0 < v <= LARGEST_GRID for v in size):
            raise Gen3dError(f"the grid has {size} cells; allowed: 1 to {LARGEST_GRID} an axis")
        start = data.find(b"data\n") + len(b"data\n")
        runs = np.frombuffer(data[start : start + (len(data) - start) // 2 * 2], np.uint8)[1::2]
        if int(runs.sum(dtype=np.int64)) != int(np.prod(size)):
            raise Gen3dError(
                f"its runs fill {int(runs.sum(dtype=np.int64)):,} cells of {int(np.prod(size)):,}"
            )
    if kind == "ply":
        head = data[: data.find(b"end_header") + 10]
        counts = [int(v) for v in re.findall(rb"^element\s+\w+\s+(\d+)\s*$", head, re.MULTILINE)]
        # Every element takes at least a byte.
        if not counts or sum(counts) > len(data):
            raise Gen3dError(
                f"its header tells of {sum(counts):,} elements; the file has {len(data):,} bytes"
            )
        if re.search(rb"^format\s+ascii\b", head, re.MULTILINE):
            _need_lines(data[len(head) :], sum(counts))
    if kind == "off":
        found = re.match(rb"\s*C?OFF\s+(\d+)\s+(\d+)", COMMENT.sub(b"", data))
        if found is not None:
            _need_lines(
                COMMENT.sub(b"", data)[found.end() :].partition(b"\n")[2], sum(map(int, found.groups()))
            )
    if kind == "stl" and not data.lstrip().startswith(b"solid"):
        count = int.from_bytes(data[80:84], "little")
        if len(data) < 84 + 50 * count:
            raise Gen3dError(f"its header tells of {count:,} triangles; the file has {len(data):,} bytes")


def _need_lines(body: bytes, count: int) -> None:
    """Vertices and faces have lines of their own; trimesh takes fewer faces for all."""
    lines = sum(bool(line.strip()) for line in body.splitlines())
    if lines < count:
        raise Gen3dError(f"its header tells of {count:,} vertices and faces; {lines:,} lines follow")


def _mended_off(data: bytes) -> bytes:
    """Some files of ModelNet have their counts on the line of the word OFF."""
    return re.sub(rb"\AOFF[ \t]*(?=\d)", b"OFF\n", data)


def _clouds(path: Path) -> Iterator[Any]:
    trimesh = require("trimesh", "shapes")
    dataset = ShapeDataset.load(path)
    for points, label in zip(dataset.points, dataset.labels, strict=True):
        cloud = trimesh.PointCloud(points.astype(np.float64))
        if label >= 0:
            cloud.metadata["class"] = dataset.class_names[label]
        yield cloud
