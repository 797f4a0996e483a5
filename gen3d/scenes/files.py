"""Scenes of a prior as files: everything that rendering needs, in one `.safetensors`."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gen3d import checkpoint
from gen3d.errors import Gen3dError
from gen3d.fields.planescene import PlaneHead, PlaneScene
from gen3d.scenes.scene import Scene, scene_from


def write_scene_file(objects: Sequence[Any], path: Path) -> None:
    """One scene whose field is a `PlaneScene`."""
    (scene,) = objects
    if not isinstance(scene, Scene) or not isinstance(scene.field, PlaneScene):
        raise Gen3dError(f".safetensors holds scenes of the scene-prior, not a {type(scene).__name__}")
    checkpoint.write_tensors(path, scene.tensors(), {"scene": scene.about})


def read_scene_file(path: Path) -> Scene:
    """What `write_scene_file` wrote.

    Raises:
        Gen3dError: the file is damaged or of something else.
    """
    tensors, header = checkpoint.read_tensors(path)

    def field(box: Tensor) -> PlaneScene:
        canonical, offsets = tensors["field.canonical"], tensors["field.offsets"]
        head = PlaneHead(canonical.shape[-1], len(tensors["field.head.first.bias"]))
        return PlaneScene(head, torch.empty(canonical.shape), torch.empty(offsets.shape))

    return scene_from(tensors, header.get("scene", {}), field, path)


def read_objects(path: Path, *, failures: bool) -> Iterator[Scene | None]:
    """The one scene of a file, for `gen3d.io`."""
    yield read_scene_file(path)
