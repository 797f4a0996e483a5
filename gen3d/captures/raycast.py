"""What rays meet first of a mesh: trimesh and embree find the face, numpy the place on it."""

import numpy as np

from gen3d.errors import require


class RayMesh:
    """A mesh that rays are cast at.

    Args:
        vertices: (P, 3).
        faces: (F, 3), whole numbers.

    Raises:
        MissingExtra: trimesh or embreex is not installed.
    """

    def __init__(self, vertices: np.ndarray, faces: np.ndarray) -> None:
        trimesh = require("trimesh", "scenes")
        require("embreex", "scenes")
        self._mesh = trimesh.Trimesh(vertices, faces, process=False)
        self.vertices = np.asarray(self._mesh.vertices, np.float64)
        self.faces = np.asarray(self._mesh.faces)

    def vertex_normals(self) -> np.ndarray:
        """(P, 3)."""
        return np.asarray(self._mesh.vertex_normals, np.float64)

    def meet(
        self, origins: np.ndarray, directions: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Which rays (R) meet the mesh; and of those, the face, the weights (3) of its corners where they
        meet it, and its normal (3), not of unit length."""
        faces = self._mesh.ray.intersects_first(origins, directions)
        hit = faces >= 0
        faces, origins, directions = faces[hit], origins[hit], directions[hit]
        weights, flat = self._barycentric(self.faces[faces], origins, directions)
        return hit, faces, weights, flat

    def _barycentric(
        self, corners: np.ndarray, origins: np.ndarray, directions: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Weights (R, 3) of the corners where the rays meet the planes of their faces, and their normals
        (R, 3), not of unit length. Moeller and Trumbore, 1997."""
        first, second, third = (self.vertices[corners[:, k]] for k in range(3))
        one, two, away = second - first, third - first, origins - first
        across = np.cross(directions, two)
        determinant = np.einsum("rc,rc->r", one, across)
        safe = np.where(np.abs(determinant) < 1e-20, 1e-20, determinant)
        u = np.einsum("rc,rc->r", away, across) / safe
        v = np.einsum("rc,rc->r", directions, np.cross(away, one)) / safe
        # A ray that grazes an edge may be rounded to just outside.
        weights = np.clip(np.stack([1 - u - v, u, v], 1), 0, 1)
        return weights / weights.sum(1, keepdims=True), np.cross(one, two)
