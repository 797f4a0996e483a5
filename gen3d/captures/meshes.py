"""Meshes that move: sequences of frames with colours, upright and of one size.

A sequence is turned so that +z is up, and one shift and one scale for all its frames put the box around all
of them at the middle of [-1, 1]^3 with its longest half-extent 1.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from gen3d.errors import Gen3dError, require

EXTENSIONS = (".ply", ".obj", ".glb", ".gltf", ".stl", ".off")
GREY = 204
"""Colour, in all three channels, of meshes that have none."""
Y_TO_Z = np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])
"""Turns +y up into +z up about +x, so that what faced +z faces -y."""

Up = Literal["y", "z"]


@dataclass(frozen=True)
class Mesh:
    """One frame.

    Attributes:
        vertices: (P, 3) float64.
        faces: (F, 3) int64.
        colours: (P, 3) uint8 of vertices, or (F, 3) of faces.
    """

    vertices: np.ndarray
    faces: np.ndarray
    colours: np.ndarray

    def face_colours(self) -> np.ndarray:
        """(F, 3) uint8, of vertices the mean over a face."""
        if len(self.colours) != len(self.vertices):
            return self.colours
        return self.colours[self.faces].mean(1).round().astype(np.uint8)


@dataclass(frozen=True)
class MeshSequence:
    """Frames at even times from 0 to 1; one frame does not move.

    Attributes:
        frames: at least one.
        name: of what was read.
    """

    frames: tuple[Mesh, ...]
    name: str

    def __len__(self) -> int:
        return len(self.frames)

    def at(self, time: float) -> Mesh:
        """The mesh at `time` in [0, 1]: between two frames that have the same faces their vertices are
        mixed linearly; otherwise it is the nearer frame.

        Raises:
            Gen3dError: the time is outside [0, 1].
        """
        if not 0 <= time <= 1:
            raise Gen3dError(f"time is {time}; it must be in [0, 1]")
        place = time * (len(self) - 1)
        before = min(int(place), max(len(self) - 2, 0))
        share = place - before
        if share == 0:
            return self.frames[before]
        first, second = self.frames[before], self.frames[before + 1]
        if first.vertices.shape != second.vertices.shape or not np.array_equal(first.faces, second.faces):
            return self.frames[round(place)]
        vertices = (1 - share) * first.vertices + share * second.vertices
        return Mesh(vertices, first.faces, first.colours if share < 0.5 else second.colours)


def read_meshes(path: str | Path, *, up: Up | None = None) -> MeshSequence:
    """An animated sequence, or one mesh that stays still, normalised.

    Args:
        path: a .npz file with `vertices` (T, P, 3), `faces` (F, 3) and maybe `vertex_colors` (P, 3); a folder
            of one mesh file a frame, in the order of their names (numbers in them by their values); or a
            mesh file.
        up: the axis that points up in the files; by default y for .npz, .glb and .gltf, as glTF has it,
            and z for all others.

    Raises:
        Gen3dError: nothing is there that can be read, a file is damaged, or it holds no triangles.
        MissingExtra: trimesh is not installed (not needed for .npz).
    """
    path = Path(path)
    if path.suffix.lower() == ".npz" and path.is_file():
        return _normalised(_arrays(path), path.stem, up or "y")
    if path.is_file() and path.suffix.lower() in EXTENSIONS:
        return _normalised([_file(path)], path.stem, up or _usual_up(path))
    if not path.is_dir():
        allowed = f".npz, {', '.join(EXTENSIONS)}, or a folder of those"
        raise Gen3dError(f"{path} is no sequence of meshes; allowed: {allowed}")
    files = sorted((f for f in path.iterdir() if f.suffix.lower() in EXTENSIONS and f.is_file()), key=natural)
    if not files:
        raise Gen3dError(f"{path} holds no mesh; allowed: {', '.join(EXTENSIONS)}")
    return _normalised([_file(file) for file in files], path.name, up or _usual_up(files[0]))


def in_ball(mesh: Any) -> Mesh:
    """A mesh of trimesh, +y up, as things are pictured: +z up and within the ball of radius 1.

    Raises:
        Gen3dError: it is no mesh, or has no faces.
    """
    name = type(mesh).__name__
    if not hasattr(mesh, "faces") or not len(mesh.faces):
        raise Gen3dError(f"{name} has no faces; allowed: meshes, with colours or without")
    found = _checked(name, np.asarray(mesh.vertices) @ Y_TO_Z.T, mesh.faces, _colours(mesh))
    low, high = found.vertices.min(0), found.vertices.max(0)
    radius = max(float(np.linalg.norm(high - low)) / 2, 1e-9)
    return Mesh((found.vertices - (low + high) / 2) / radius, found.faces, found.colours)


def natural(path: Path) -> list[tuple[bool, int, str]]:
    """A key that sorts names with their numbers by value: frame_9 before frame_10."""
    parts = re.split(r"(\d+)", path.name)
    return [(part.isdigit(), int(part) if part.isdigit() else 0, part) for part in parts]


def _usual_up(path: Path) -> Up:
    return "y" if path.suffix.lower() in (".glb", ".gltf") else "z"


def _normalised(frames: list[Mesh], name: str, up: Up) -> MeshSequence:
    if up not in ("y", "z"):
        raise Gen3dError(f"up is {up!r}; allowed: y, z")
    turn = Y_TO_Z if up == "y" else np.eye(3)
    turned = [frame.vertices @ turn.T for frame in frames]
    low = np.min([vertices.min(0) for vertices in turned], 0)
    high = np.max([vertices.max(0) for vertices in turned], 0)
    half = float((high - low).max() / 2)
    if not 0 < half < 1e30:
        raise Gen3dError(
            f"{name}: half of its longest side is {half:g}; all vertices are at one point, or far off"
        )
    moved = [(vertices - (low + high) / 2) / half for vertices in turned]
    meshes = [Mesh(v, frame.faces, frame.colours) for v, frame in zip(moved, frames, strict=True)]
    return MeshSequence(tuple(meshes), name)


def _arrays(path: Path) -> list[Mesh]:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            found = {key: arrays[key] for key in ("vertices", "faces", "vertex_colors") if key in arrays}
    except Exception as error:
        # numpy and zipfile raise about anything for a damaged file.
        raise Gen3dError(f"{path} cannot be read: {str(error)[:200]}") from error
    if not {"vertices", "faces"} <= found.keys():
        raise Gen3dError(f"{path} holds {sorted(found)}; vertices (T, P, 3) and faces (F, 3) are needed")
    vertices, faces, colours = found["vertices"], found["faces"], found.get("vertex_colors")
    if vertices.ndim != 3 or not len(vertices):
        raise Gen3dError(f"{path}: vertices are of shape {vertices.shape}; allowed: (T, P, 3), T at least 1")
    return [_checked(str(path), frame, faces, colours) for frame in vertices]


def _file(path: Path) -> Mesh:
    trimesh = require("trimesh", "scenes")
    try:
        mesh = trimesh.load(path, force="mesh", process=False)
        colours = _colours(mesh)
        return _checked(str(path), mesh.vertices, mesh.faces, colours)
    except (Gen3dError, MemoryError):
        raise
    except Exception as error:
        # The readers of trimesh raise about anything for a damaged file.
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise Gen3dError(f"{path} cannot be read as a mesh: {reason[0][:200]}") from error


def _colours(mesh: Any) -> np.ndarray | None:
    visual = mesh.visual
    if not visual.defined:
        return None
    if visual.kind == "face":
        return np.asarray(visual.face_colors)[:, :3]
    if visual.kind == "texture":
        visual = visual.to_color()  # the texture, read at each vertex
    return np.asarray(visual.vertex_colors)[:, :3]


def _checked(name: str, vertices: np.ndarray, faces: np.ndarray, colours: np.ndarray | None) -> Mesh:
    vertices, faces = np.asarray(vertices), np.asarray(faces)
    if vertices.ndim != 2 or vertices.shape[1] != 3 or vertices.dtype.kind not in "fiu":
        raise Gen3dError(f"{name}: vertices of a frame are of shape {vertices.shape}; allowed: (P, 3)")
    if faces.ndim != 2 or faces.shape[1] != 3 or not len(faces) or faces.dtype.kind not in "iu":
        raise Gen3dError(f"{name}: faces are {faces.dtype} {faces.shape}; allowed: whole numbers (F, 3)")
    if faces.min() < 0 or faces.max() >= len(vertices):
        raise Gen3dError(f"{name}: faces name vertex {faces.max()}; there are {len(vertices)}")
    if not np.isfinite(vertices).all():
        raise Gen3dError(f"{name}: vertex {int(np.argmin(np.isfinite(vertices).all(1)))} is not finite")
    if colours is None:
        colours = np.full((len(vertices), 3), GREY, np.uint8)
    colours = np.asarray(colours)
    if colours.dtype != np.uint8 or colours.shape not in ((len(vertices), 3), (len(faces), 3)):
        raise Gen3dError(
            f"{name}: colours are {colours.dtype} {colours.shape}; allowed: uint8, 3 for each vertex or face"
        )
    return Mesh(vertices.astype(np.float64), faces.astype(np.int64), colours)
