"""Text-edited voxel scenes: Vox-E."""

from gen3d.domains.voxel_edit.domain import VoxelEditDomain

__all__ = ["VoxelEditDomain"]
