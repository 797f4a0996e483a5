"""What a mesh encloses, and how far away its surface is."""

import numpy as np
import torch
from torch import Tensor

from gen3d.errors import Gen3dError, require

SAMPLES = 60_000
"""Points of a surface among which the nearest faces are looked for."""
CANDIDATES = 8
"""Faces of which the exact distance is computed."""
CHUNK = 64
"""Points of which winding numbers are computed at a time: bounds the memory."""
OPEN = 0.02
"""A mesh more of whose edges have one face only is taken for open."""


def inside(places: np.ndarray, vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """(P,) whether places (P, 3) are inside of a surface, by its winding number.

    Unlike the parity of crossings that number is right where closed parts overlap, and tells next to nothing
    to be inside of an open sheet (Jacobson et al., ACM Trans. Graph. 32, 33, 2013).
    """
    found = np.zeros(len(places), bool)
    near = ((places > vertices.min(0)) & (places < vertices.max(0))).all(1)
    corners = torch.from_numpy(np.asarray(vertices, np.float32)[faces])  # (F, 3, 3)
    asked = torch.from_numpy(places[near].astype(np.float32))
    winding = [_solid_angle(some, corners).sum(1) / (4 * np.pi) for some in asked.split(CHUNK)]
    found[near] = (torch.cat(winding) > 0.5).numpy() if winding else False
    return found


def distance(places: np.ndarray, vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """(P,) distances of places (P, 3) from a surface: exact for the nearest of the faces that samples name.

    Raises:
        Gen3dError: the surface has no area.
        MissingExtra: trimesh or scipy is not installed.
    """
    trimesh, spatial = require("trimesh", "scenes"), require("scipy.spatial", "scenes")
    triangles = np.asarray(vertices, np.float64)[faces]
    area = np.linalg.norm(
        np.cross(triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0]), axis=1
    )
    if not area.sum() > 0:
        raise Gen3dError("a surface without any area has no inside")
    random = np.random.default_rng(0)
    # Every face once, so that none is missed, and large ones more often.
    face = np.concatenate([np.arange(len(faces)), random.choice(len(faces), SAMPLES, p=area / area.sum())])
    share = random.dirichlet((1, 1, 1), len(face))
    tree = spatial.cKDTree(np.einsum("fcx,fc->fx", triangles[face], share))
    least = np.full(len(places), np.inf)
    _, near = tree.query(places, k=CANDIDATES)
    for column in near.T:
        closest = trimesh.triangles.closest_point(triangles[face[column]], places)
        least = np.minimum(least, np.linalg.norm(closest - places, axis=1))
    return least


def open_edges(faces: np.ndarray) -> float:
    """The share of edges that have one face only."""
    edges = np.sort(np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]), axis=1)
    _, counts = np.unique(edges, axis=0, return_counts=True)
    return float((counts == 1).mean())


def _solid_angle(places: Tensor, corners: Tensor) -> Tensor:
    """(P, F) solid angles of triangles (F, 3, 3), positive from behind (Van Oosterom and Strackee, 1983)."""
    a, b, c = (corners[None, :, k] - places[:, None] for k in range(3))
    x, y, z = a.norm(dim=2), b.norm(dim=2), c.norm(dim=2)
    volume = (a * torch.linalg.cross(b, c)).sum(2)
    below = x * y * z + (a * b).sum(2) * z + (b * c).sum(2) * x + (c * a).sum(2) * y
    return 2 * torch.atan2(volume, below)
