"""The furniture of Sweet Home 3D: a Debian package of some 800 textured models under free licences."""

import io
import lzma
import re
import tarfile
import zipfile
from collections.abc import Iterator
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


def read_package(path: Path) -> Iterator[tuple[str, str, Any]]:
    """Id, class and mesh of every model, an unusable one as its error.

    Meshes are turned as the catalogue says and scaled to its width, height and depth in metres: x to the
    right, y up, z to the front.

    Raises:
        Gen3dError: the file is no such package.
    """
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
            try:
                yield entry["id"], class_of(entry["name"]), _mesh(archive, entry)
            except Exception as error:
                # Readers of meshes raise about anything for a damaged file.
                yield entry["id"], "other", Gen3dError(f"unreadable model: {error}")


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
    rotation = np.array([float(v) for v in entry.get("modelRotation", "1 0 0 0 1 0 0 0 1").split()])
    mesh = trimesh.Trimesh(mesh.vertices @ rotation.reshape(3, 3).T, mesh.faces, process=False)
    size = np.array([float(entry[key]) for key in ("width", "height", "depth")]) / 100
    extents = np.ptp(mesh.vertices, axis=0)
    mesh.apply_transform(np.diag([*np.divide(size, extents, out=np.ones(3), where=extents > 0), 1.0]))
    return mesh
