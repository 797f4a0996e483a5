"""Between decoded tensors and objects of trimesh."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from gen3d.domains.shapes.dataset import Shape, signed_distances
from gen3d.domains.shapes.decoded import DecodedShapes
from gen3d.domains.shapes.normalise import unit_box
from gen3d.errors import Gen3dError, require

FLOATER = 0.01
"""A separate part of a mesh below this share of the volume of all is a floater, and is removed."""


def to_native(raw: DecodedShapes, classes: Sequence[str]) -> list[Any]:
    """Finished objects; None where numbers are not finite or nothing is there.

    Args:
        raw: decoded points or fields.
        classes: names of the K classes.

    Returns:
        `trimesh.PointCloud`, `trimesh.Trimesh` or `trimesh.voxel.VoxelGrid`; `metadata["class"]` names the
        class, and `metadata["floaters_removed"]` of a mesh counts what was left out.
    """
    trimesh = require("trimesh", "shapes")
    made: list[Any] = []
    values = raw.points if raw.points is not None else raw.field
    assert values is not None
    for row, array in enumerate(values.float().cpu().numpy()):
        if not np.isfinite(array).all():
            shape = None
        elif raw.representation == "points":
            shape = trimesh.PointCloud(array)
        elif raw.representation == "voxels":
            shape = to_voxels(array > 0) if (array > 0).any() else None
        else:
            shape = to_mesh(array)
        if shape is not None and raw.labels is not None and int(raw.labels[row]) < len(classes):
            shape.metadata["class"] = classes[int(raw.labels[row])]
        made.append(shape)
    return made


def to_mesh(field: np.ndarray) -> Any:
    """The watertight surface (marching cubes) of a field (R, R, R) over the cube [-1, 1]^3, positive inside.

    Parts below FLOATER of the volume are removed and counted in `metadata["floaters_removed"]`. None when
    the field is nowhere positive.
    """
    trimesh, measure = require("trimesh", "shapes"), require("skimage.measure", "shapes")
    if not (field > 0).any():
        return None
    # A border outside closes the surface where the shape touches the grid's end.
    padded = np.pad(field, 1, constant_values=min(-1.0, float(field.min())))
    vertices, faces, _, _ = measure.marching_cubes(padded, 0.0)
    # Marching cubes winds faces for values that fall outwards; our insides are positive.
    mesh = trimesh.Trimesh((vertices - 0.5) * (2 / len(field)) - 1, faces[:, ::-1], process=True)
    if mesh.volume < 0:
        mesh.invert()
    parts = mesh.split(only_watertight=False)
    if len(parts) < 2:
        mesh.metadata["floaters_removed"] = 0
        return mesh
    volumes = np.array([abs(part.volume) for part in parts])
    kept = [part for part, share in zip(parts, volumes / volumes.sum(), strict=True) if share >= FLOATER]
    mesh = trimesh.util.concatenate(kept) if len(kept) > 1 else kept[0]
    mesh.metadata["floaters_removed"] = len(parts) - len(kept)
    return mesh


def to_voxels(inside: np.ndarray) -> Any:
    """Solid voxels (R, R, R) over the cube [-1, 1]^3 as a grid of trimesh, whose transform says where."""
    trimesh = require("trimesh", "shapes")
    size = 2 / len(inside)
    transform = np.diag([size, size, size, 1.0])
    transform[:3, 3] = size / 2 - 1
    return trimesh.voxel.VoxelGrid(trimesh.voxel.encoding.DenseEncoding(inside), transform)


def cloud_of(shape: Any, count: int, seed: int = 0) -> np.ndarray:
    """`count` points (count, 3) float64 of an object: a choice of its points, or samples of its surface.

    A cloud of fewer points gives all it has. Voxel grids have the surface between full and empty cells.

    Raises:
        Gen3dError: it is no shape, or has no surface.
    """
    trimesh = require("trimesh", "shapes")
    if isinstance(shape, trimesh.voxel.VoxelGrid):
        shape = shape.marching_cubes.apply_transform(shape.transform)
    if isinstance(shape, trimesh.Trimesh):
        if not len(shape.faces) or not shape.area > 0:
            raise Gen3dError(f"a mesh of {len(shape.faces)} faces has no surface to take points from")
        return np.asarray(trimesh.sample.sample_surface(shape, count, seed=seed)[0], dtype=np.float64)
    points = np.asarray(getattr(shape, "vertices", shape))
    if points.ndim != 2 or points.shape[-1] != 3:
        raise Gen3dError(f"{type(shape).__name__} is no shape; allowed: PointCloud, Trimesh, VoxelGrid")
    points = points.astype(np.float64)
    if len(points) <= count:
        return points
    return points[np.random.default_rng(seed).permutation(len(points))[:count]]


def to_shape(made: Any, points: int | None, label: int) -> Shape:
    """What training takes, of an object: the way back. Clouds and meshes are brought into the unit box.

    Args:
        made: the object.
        points: points that are wanted, or None for a voxel grid.
        label: its class.

    Raises:
        Gen3dError: it cannot be turned into that.
    """
    trimesh = require("trimesh", "shapes")
    if points is not None:
        cloud = cloud_of(made, points)
        centre, scale = unit_box(cloud)
        return Shape(((cloud - centre) / scale).astype(np.float32), label)
    if not isinstance(made, trimesh.voxel.VoxelGrid):
        raise Gen3dError(f"{type(made).__name__} is no voxel grid; a model of voxels varies voxel grids")
    return Shape(np.zeros((2, 3), np.float32), label, signed_distances(np.asarray(made.matrix)))


def is_something(shape: Any) -> bool:
    """Whether a shape has finite points that are not all one, faces, or full voxels."""
    if hasattr(shape, "matrix"):
        return bool(np.asarray(shape.matrix).any())
    vertices = np.asarray(shape.vertices)
    if len(vertices) < 2 or not np.isfinite(vertices).all() or not np.ptp(vertices, axis=0).any():
        return False
    return not hasattr(shape, "faces") or len(shape.faces) > 0
