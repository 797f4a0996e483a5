"""Shapes: point clouds and voxels with DiT-3D (arXiv 2307.01831) on the shared transformer."""

from gen3d.domains.shapes.domain import ShapeConfig, ShapeDomain
from gen3d.domains.shapes.options import ShapeOptions

__all__ = ["ShapeConfig", "ShapeDomain", "ShapeOptions"]
