"""Writing shapes with trimesh."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gen3d.errors import Gen3dError, require


def write_ply(objects: Sequence[Any], path: Path) -> None:
    """One point cloud or mesh, in binary."""
    trimesh = require("trimesh", "shapes")
    (shape,) = objects
    if not isinstance(shape, (trimesh.PointCloud, trimesh.Trimesh)):
        raise Gen3dError(
            f".ply holds point clouds and meshes, not a {type(shape).__name__}; allowed: .binvox"
        )
    path.write_bytes(trimesh.exchange.ply.export_ply(shape))


def write_mesh(objects: Sequence[Any], path: Path) -> None:
    """One mesh, in the format of the extension: .obj, .stl, .glb or .off."""
    trimesh = require("trimesh", "shapes")
    (shape,) = objects
    if not isinstance(shape, trimesh.Trimesh):
        raise Gen3dError(
            f"{path.suffix} holds meshes, not a {type(shape).__name__}; allowed: .ply and .npz for point "
            "clouds, .binvox for voxels; or generate meshes with --representation mesh"
        )
    made = shape.export(file_type=path.suffix[1:].lower())
    path.write_bytes(made.encode("utf-8") if isinstance(made, str) else made)


def write_binvox(objects: Sequence[Any], path: Path) -> None:
    """One voxel grid."""
    trimesh = require("trimesh", "shapes")
    (shape,) = objects
    if not isinstance(shape, trimesh.voxel.VoxelGrid):
        raise Gen3dError(f".binvox holds voxel grids, not a {type(shape).__name__}")
    path.write_bytes(trimesh.exchange.binvox.export_binvox(shape))


def write_npz(objects: Sequence[Any], path: Path) -> None:
    """Any number of point clouds of one size: `points` (M, P, 3) float32, `labels` and `class_names`."""
    trimesh = require("trimesh", "shapes")
    for shape in objects:
        if not isinstance(shape, trimesh.PointCloud):
            raise Gen3dError(f".npz holds point clouds, not a {type(shape).__name__}")
    counts = sorted({len(shape.vertices) for shape in objects})
    if len(counts) > 1:
        raise Gen3dError(f".npz holds clouds of one size; these have {counts[0]} to {counts[-1]} points")
    names = [str(shape.metadata.get("class", "")) for shape in objects]
    classes = sorted(set(names) - {""})
    np.savez_compressed(
        path,
        points=np.stack([np.asarray(shape.vertices, dtype=np.float32) for shape in objects]),
        labels=np.array([classes.index(name) if name else -1 for name in names]),
        class_names=np.array(classes, dtype=str),
    )
