"""What a path holds, as objects that can be shown."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gen3d import checkpoint, io
from gen3d.domains.latent_nerf.domain import PaintedMesh
from gen3d.domains.latent_nerf.paint import textured
from gen3d.domains.voxel_edit.show import EditedScene
from gen3d.errors import Gen3dError
from gen3d.generator import Generator
from gen3d.loading import load

RUN = "run"
"""Within what `gen3d sample` writes of a scene made from words: the run that it is of."""


@dataclass(frozen=True)
class Column:
    """Objects that stand one below the other.

    Attributes:
        name: for people.
        objects: native objects, or scenes.
    """

    name: str
    objects: list[Any]


def contents(path: Path) -> list[Column]:
    """Native objects of a file, of a folder of files, or of a run or checkpoint of a scene.

    An edit is two columns: the scene before and after.

    Raises:
        Gen3dError: the path is missing, or holds nothing that can be shown.
    """
    name = path.stem or str(path)
    for folder in (path, path / "checkpoint", path / RUN / "checkpoint"):
        if (folder / checkpoint.WEIGHTS).is_file():
            found = load(folder)
            if isinstance(found, Generator):
                raise Gen3dError(
                    f"{path} is a trained network, which shows nothing by itself; gen3d sample --domain "
                    f"{found.config.domain} --checkpoint {path} draws samples to look at"
                )
            if isinstance(found, EditedScene):
                return [Column("before", [found.before]), Column("after", [found.after])]
            if isinstance(found, PaintedMesh):
                found = textured(found.mesh, found.image)
            return [Column(name, [found])]
    objects = io.read(path)
    if not objects:
        raise Gen3dError(f"nothing in {path} can be read; the file may be damaged or cut off")
    return [Column(name, objects)]
