"""Files of native objects: one table from extension to the functions that write and read it.

Every write is complete or absent: the file is written under a temporary name and renamed.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from gen3d.errors import Gen3dError
from gen3d.files import atomic_write


@dataclass(frozen=True)
class Format:
    """How files of one extension are written and read.

    Functions are named "module:function", so that a format costs nothing until it is used.

    Attributes:
        writer: `write(objects: Sequence, path: Path) -> None`.
        reader: `read(path: Path, *, failures: bool) -> Iterable of native objects`, with a None for each
            entry that cannot be read if `failures`.
        many: whether one file holds many objects; if not, several objects go into numbered files.
    """

    writer: str
    reader: str
    many: bool = True


PREVIEW = ".preview.png"
"""How the names of contact sheets end, which are no objects."""
_ATOMS_READER = "gen3d.domains.atoms.readers:read_objects"
_SHAPE_READER = "gen3d.domains.shapes.readers:read_objects"
_MESH = Format("gen3d.domains.shapes.writers:write_mesh", _SHAPE_READER, many=False)

FORMATS: dict[str, Format] = {
    ".sdf": Format("gen3d.domains.atoms.writers:write_sdf", _ATOMS_READER),
    ".xyz": Format("gen3d.domains.atoms.writers:write_xyz", _ATOMS_READER),
    ".extxyz": Format("gen3d.domains.atoms.writers:write_extxyz", _ATOMS_READER),
    ".cif": Format("gen3d.domains.atoms.writers:write_cif", _ATOMS_READER),
    ".vasp": Format("gen3d.domains.atoms.writers:write_poscar", _ATOMS_READER, many=False),
    "POSCAR": Format("gen3d.domains.atoms.writers:write_poscar", _ATOMS_READER, many=False),
    ".zip": Format("gen3d.domains.atoms.writers:write_zip", _ATOMS_READER),
    ".ply": Format("gen3d.domains.shapes.writers:write_ply", _SHAPE_READER, many=False),
    ".obj": _MESH,
    ".stl": _MESH,
    ".glb": _MESH,
    ".off": _MESH,
    ".binvox": Format("gen3d.domains.shapes.writers:write_binvox", _SHAPE_READER, many=False),
    ".safetensors": Format(
        "gen3d.scenes.files:write_scene_file", "gen3d.scenes.files:read_objects", many=False
    ),
    ".png": Format(
        "gen3d.domains.images.files:write_png", "gen3d.domains.images.files:read_objects", many=False
    ),
    ".npz": Format("gen3d.domains.shapes.writers:write_npz", _SHAPE_READER),
}
"""Extension (or, for files without one, the name up to a `_` or `-`) to format."""


def write(objects: Sequence[Any] | Any, path: str | Path) -> list[Path]:
    """Write native objects; the extension of `path` picks the format.

    Args:
        objects: one native object or a list of them.
        path: for a format that holds one object per file, `name.ext` stands for
            `name_0000.ext`, `name_0001.ext`, ... when there are several objects.

    Returns:
        The files written.

    Raises:
        Gen3dError: the extension is unknown, an object does not fit the format, or there are no objects.
    """
    path = Path(path)
    form = format_of(path, "write")
    items = list(objects) if isinstance(objects, (list, tuple)) else [objects]
    if not items:
        raise Gen3dError(f"nothing to write to {path}: the list of objects is empty")
    if form.many or len(items) == 1:
        jobs = [(path, items)]
    else:
        digits = max(4, len(str(len(items) - 1)))
        jobs = [(path.with_stem(f"{path.stem}_{i:0{digits}d}"), [item]) for i, item in enumerate(items)]
    writer = _function(form.writer)
    for target, content in jobs:
        with atomic_write(target) as temporary:
            writer(content, temporary)
    return [target for target, _ in jobs]


def read(path: str | Path, *, failures: bool = False) -> list[Any]:
    """Read the native objects of one file, or of all files of known formats in a folder.

    Args:
        path: the file or folder.
        failures: whether an entry that cannot be read counts as None; otherwise it is left out.

    Raises:
        Gen3dError: the path is missing, its extension is unknown, or nothing in it can be read.
    """
    path = Path(path)
    if path.is_dir():
        found = [p for p in sorted(path.iterdir()) if p.is_file() and known(p)]
        # Pictures lie beside what they are of; only in a folder of nothing else are they the objects.
        pictures = [p for p in found if p.suffix.lower() == ".png"]
        alone = [p for p in pictures if not p.name.endswith(PREVIEW)]
        files = [p for p in found if p not in pictures] or alone
        if not files:
            raise Gen3dError(f"{path} holds no file of a known format; allowed: {', '.join(FORMATS)}")
        return [item for file in files for item in read(file, failures=failures)]
    form = format_of(path, "read")
    if not path.is_file():
        raise Gen3dError(f"no file {path}")
    return list(_function(form.reader)(path, failures=failures))


def known(path: Path) -> bool:
    """Whether a path names a format, by its extension or, for files without one, its name."""
    return _key(path) in FORMATS


def _key(path: Path) -> str:
    return path.suffix.lower() or re.split("[_-]", path.name, maxsplit=1)[0]


def format_of(path: Path, verb: str) -> Format:
    """The table's entry for a path; `verb` is "read" or "write", for the message.

    Raises:
        Gen3dError: there is none.
    """
    if not known(path):
        raise Gen3dError(
            f"cannot {verb} {path}: unknown extension {path.suffix!r}; allowed: {', '.join(FORMATS)}"
        )
    return FORMATS[_key(path)]


def _function(name: str) -> Callable[..., Any]:
    module, _, attribute = name.partition(":")
    return getattr(import_module(module), attribute)
