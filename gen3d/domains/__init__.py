"""The table of domains, and how a name becomes a class.

A domain of another package joins through the entry-point group `gen3d.domains`.
"""

from importlib import import_module
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any, NamedTuple

from gen3d.errors import Gen3dError

if TYPE_CHECKING:
    from gen3d.domains.base import Domain


class Entry(NamedTuple):
    """Where a domain lives, as "module:attribute"."""

    domain: str
    options: str
    """Its `SampleOptions`, in a module that imports no torch, so that `--help` is quick."""
    prepare: str = ""
    """A dataclass with the flags that `gen3d prepare` gains for it, if any, in such a module."""


TABLE: dict[str, Entry] = {
    "molecule": Entry("gen3d.domains.atoms:MoleculeDomain", "gen3d.domains.atoms.options:MoleculeOptions"),
    "crystal": Entry("gen3d.domains.atoms:CrystalDomain", "gen3d.domains.atoms.options:CrystalOptions"),
    "shape": Entry("gen3d.domains.shapes:ShapeDomain", "gen3d.domains.shapes.options:ShapeOptions"),
    "image": Entry(
        "gen3d.domains.images:ImageDomain",
        "gen3d.domains.images.options:ImageOptions",
        "gen3d.domains.images.options:ImagePrepareOptions",
    ),
    "object": Entry("gen3d.domains.objects:ObjectDomain", "gen3d.domains.objects.options:ObjectOptions"),
    "scene-prior": Entry(
        "gen3d.domains.scene_prior:ScenePriorDomain", "gen3d.domains.scene_prior.options:ScenePriorOptions"
    ),
    "dynamic-scene": Entry(
        "gen3d.domains.dynamic_scene:DynamicSceneDomain",
        "gen3d.domains.dynamic_scene.options:DynamicSceneOptions",
        "gen3d.domains.dynamic_scene.options:DynamicScenePrepareOptions",
    ),
    "latent-nerf": Entry(
        "gen3d.domains.latent_nerf:LatentNeRFDomain", "gen3d.domains.latent_nerf.options:LatentNeRFOptions"
    ),
    "voxel-edit": Entry(
        "gen3d.domains.voxel_edit:VoxelEditDomain", "gen3d.domains.voxel_edit.options:VoxelEditOptions"
    ),
}


def names() -> list[str]:
    """Every domain that can be named, ours first."""
    return [*TABLE, *sorted(e.name for e in entry_points(group="gen3d.domains") if e.name not in TABLE)]


def find(name: str) -> "type[Domain]":
    """The class of the domain called `name`.

    Raises:
        Gen3dError: there is no such domain.
    """
    if name in TABLE:
        return _load(TABLE[name].domain)
    for entry in entry_points(group="gen3d.domains"):
        if entry.name == name:
            return entry.load()
    raise Gen3dError(f"unknown domain {name!r}; allowed: {', '.join(names())}")


def find_options(name: str) -> type:
    """The `SampleOptions` of the domain called `name`; for our own domains without importing torch.

    Raises:
        Gen3dError: there is no such domain.
    """
    return _load(TABLE[name].options) if name in TABLE else find(name).SampleOptions


def find_prepare_options(name: str) -> type | None:
    """The flags that `gen3d prepare` gains for the domain called `name`; None where it gains none."""
    entry = TABLE.get(name)
    return _load(entry.prepare) if entry is not None and entry.prepare else None


def _load(target: str) -> Any:
    module, _, attribute = target.partition(":")
    return getattr(import_module(module), attribute)
