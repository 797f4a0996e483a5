"""The furniture of Sweet Home 3D: a Debian package of some 800 textured models under free licences."""

import io
import lzma
import re
import tarfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from gen3d.errors import Gen3dError, require
from gen3d.fetch import RemoteFile

FILE = RemoteFile(
    "sweethome3d-furniture_1.8-1_all.deb",
    "https://deb.debian.org/debian/pool/main/s/sweethome3d-furniture/sweethome3d-furniture_1.8-1_all.deb",
    "sha256:3ccb90c63f9525e887a767b9cd5c8b6933b8b6b2973a615a5359ee68a2118668",
)
LICENCE = "CC-BY-3.0 or CC0, by catalogue"
CITATION = "Sweet Home 3D furniture 1.8 (Debian package sweethome3d-furniture), sweethome3d.com"
HELD_OUT = "sweethome_test.txt"
"""Beside this file: ids of the models that are kept for testing."""

CLASSES: dict[str, str] = {
    "lamp": r"lamp|lantern|candle|chandelier|fluorescent|light(?!house)",
    "other": r"wheelchair|table football|football table|child hut|swing|children game|shoes|doormat|blind|"
    r"motorbike|car model|indoor bike|rowboat|teapot|futon(?! couch)|cactus|chest freezer|hot dog|"
    r"clothes horse|dog house|roasted",
    "stool": r"\bstools?\b|footstool",
    "chair": r"chair|rocking",
    "sofa": r"sofa|couch|loveseat",
    "bed": r"\bbeds?\b|bunk|crib",
    "table": r"table(?!cloth|t| tennis)|\bdesk\b",
    "plant": r"plant|flower|tree|bush|palm",
    "cabinet": r"cabinet|cupboard|wardrobe|dresser|bookcase|shelf|shelves|sideboard|chest",
    "door_window": r"door|window",
    "vehicle": r"\bcar\b|truck|bike|bicycle|motorcycle|van\b|bus\b|boat|scooter|fork lift|sedan|beetle|focus|"
    r"seat leon|peugeot|renault|yamaha|suv|chevrolet|skateboard",
    "vessel": r"vase|bottle|\bcup\b|mug|bowl|glass(?!es)|pot\b|pitcher|jar\b",
    "character": r"\bman\b|woman|\bboy\b|girl|child|person|people|\b(fe)?male\b|horse|\bcat\b|\bdog\b|"
    r"chicken|rabbit|mannequin",
}
"""Class to a pattern of the names of its models, looked up in this order; all others are "other"."""


def held_out() -> frozenset[str]:
    """Ids of the test part."""
    return frozenset((files(__package__) / HELD_OUT).read_text(encoding="utf-8").split("\n")) - {""}


def class_of(name: str) -> str:
    """The class that the name of a model tells."""
    for label, pattern in CLASSES.items():
        if re.search(pattern, name.lower()):
            return label
    return "other"


@dataclass(frozen=True)
class ColouredModel:
    """A model with the colours of its materials; x to the right, y up, z to the front, in metres.

    Attributes:
        vertices: (P, 3) float64.
        faces: (F, 3) int64.
        part: (F,) int64, the material of each face.
        colours: (F, 3) uint8, of the material, or of its texture at the middle of the face.
    """

    vertices: np.ndarray
    faces: np.ndarray
    part: np.ndarray
    colours: np.ndarray


def read_package(path: Path) -> Iterator[tuple[str, str, Any]]:
    """Id, class and mesh of every model, an unusable one as its error.

    Meshes are turned as the catalogue says and scaled to its width, height and depth in metres: x to the
    right, y up, z to the front.

    Raises:
        Gen3dError: the file is no such package.
    """
    for archive, entry in _models(path):
        try:
            yield entry["id"], class_of(entry["name"]), _mesh(archive, entry)
        except Exception as error:
            # Readers of meshes raise about anything for a damaged file.
            yield entry["id"], "other", Gen3dError(f"unreadable model: {error}")


def read_coloured(path: Path) -> Iterator[tuple[str, str, ColouredModel]]:
    """Id, name and `ColouredModel` of every model that can be read.

    Raises:
        Gen3dError: the file is no such package.
    """
    for archive, entry in _models(path):
        try:
            yield entry["id"], entry["name"], _coloured(archive, entry)
        except Exception:
            # As above; those that ask for colours can do without some models.
            continue


def _models(path: Path) -> Iterator[tuple[zipfile.ZipFile, dict[str, str]]]:
    """Every entry of every catalogue of a package."""
    try:
        content = tarfile.open(  # noqa: SIM115 (models are read from it as they are asked for)
            fileobj=io.BytesIO(lzma.decompress(_member(path, "data.tar.xz")))
        )
        catalogues = [m for m in content.getmembers() if m.name.endswith(".sh3f")]
        archives = [zipfile.ZipFile(content.extractfile(m)) for m in catalogues]  # type: ignore[arg-type]
    except (tarfile.TarError, lzma.LZMAError, zipfile.BadZipFile, OSError, ValueError) as error:
        raise Gen3dError(f"{path} is no package of Sweet Home 3D furniture: {error}") from error
    for archive in archives:
        for entry in _entries(archive):
            yield archive, entry


def _member(path: Path, name: str) -> bytes:
    """A member of an ar archive, which is what Debian packages are."""
    data = path.read_bytes()
    if data[:8] != b"!<arch>\n":
        raise ValueError("it does not begin as an archive")
    at = 8
    while at + 60 <= len(data):
        size = int(data[at + 48 : at + 58])
        if data[at : at + 16].decode("ascii").rstrip(" /") == name:
            return data[at + 60 : at + 60 + size]
        at += 60 + size + size % 2
    raise ValueError(f"it holds no {name}")


def _entries(archive: zipfile.ZipFile) -> Iterator[dict[str, str]]:
    """The models of a catalogue, as key to value."""
    text = archive.read("PluginFurnitureCatalog.properties").decode("latin-1")
    found: dict[int, dict[str, str]] = {}
    for key, number, value in re.findall(r"^(\w+)#(\d+)[ \t]*=[ \t]*(.*?)\s*$", text, re.MULTILINE):
        found.setdefault(int(number), {})[key] = _unescaped(value)
    for _, entry in sorted(found.items()):
        if "model" in entry:
            yield {"id": entry["name"], **entry}


def _unescaped(value: str) -> str:
    """A value of a properties file, in which other characters stand as \\uXXXX."""
    return re.sub(r"\\u([0-9a-fA-F]{4})", lambda match: chr(int(match[1], 16)), value)


def _mesh(archive: zipfile.ZipFile, entry: dict[str, str]) -> Any:
    trimesh = require("trimesh", "shapes")
    text = io.BytesIO(archive.read(entry["model"].lstrip("/")))
    mesh = trimesh.load(text, file_type="obj", force="mesh", process=False, skip_materials=True)
    return trimesh.Trimesh(_placed(mesh.vertices, entry), mesh.faces, process=False)


def _placed(vertices: np.ndarray, entry: dict[str, str]) -> np.ndarray:
    """Vertices turned and scaled as the catalogue says."""
    rotation = np.array([float(v) for v in entry.get("modelRotation", "1 0 0 0 1 0 0 0 1").split()])
    turned = vertices @ rotation.reshape(3, 3).T
    size = np.array([float(entry[key]) for key in ("width", "height", "depth")]) / 100
    extents = np.ptp(turned, axis=0)
    return turned * np.divide(size, extents, out=np.ones(3), where=extents > 0)


def _coloured(archive: zipfile.ZipFile, entry: dict[str, str]) -> ColouredModel:
    trimesh = require("trimesh", "scenes")
    model = entry["model"].lstrip("/")
    folder = model.rpartition("/")[0] + "/"
    beside = {
        name[len(folder) :]: io.BytesIO(archive.read(name))
        for name in archive.namelist()
        if name.startswith(folder) and name != folder
    }
    scene = trimesh.load(
        io.BytesIO(archive.read(model)),
        file_type="obj",
        resolver=trimesh.resolvers.ZipResolver(beside),
        process=False,
    )
    meshes = list(scene.geometry.values()) if isinstance(scene, trimesh.Scene) else [scene]
    start = np.cumsum([0, *(len(mesh.vertices) for mesh in meshes)])
    vertices = np.concatenate([np.asarray(mesh.vertices) for mesh in meshes])
    return ColouredModel(
        _placed(vertices, entry),
        np.concatenate([np.asarray(mesh.faces) + first for mesh, first in zip(meshes, start, strict=False)]),
        np.repeat(np.arange(len(meshes)), [len(mesh.faces) for mesh in meshes]),
        np.concatenate([face_colours(mesh) for mesh in meshes]),
    )


def face_colours(mesh: Any) -> np.ndarray:
    """(F, 3) uint8 colours of the faces of a trimesh mesh: of its texture in their middle, else as it
    says."""
    visual = mesh.visual
    if visual.kind != "texture":
        return np.asarray(visual.face_colors)[:, :3]
    material = visual.material
    image = getattr(material, "image", None) or getattr(material, "baseColorTexture", None)
    if image is None or visual.uv is None:
        return np.tile(np.asarray(material.main_color, np.uint8)[:3], (len(mesh.faces), 1))
    pixels = np.asarray(image.convert("RGB"))
    middle = np.asarray(visual.uv)[mesh.faces].mean(1)
    column = np.floor(middle[:, 0] % 1 * pixels.shape[1]).astype(int)
    row = np.floor((1 - middle[:, 1] % 1) * pixels.shape[0]).astype(int)
    return pixels[row.clip(0, pixels.shape[0] - 1), column.clip(0, pixels.shape[1] - 1)]
