"""Sketch-Shape: a mesh that says where something is, strictly or roughly (Latent-NeRF, arXiv 2211.07600)."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from gen3d.captures.meshes import read_meshes
from gen3d.config import require_at_least
from gen3d.errors import Gen3dError
from gen3d.fields.base import Field
from gen3d.fields.solids import OPEN, distance, inside, open_edges

POOL = 60_000
"""Places of which the truth is known; every step compares some of them."""
STEP = 0.2
"""Length over which density becomes opacity, delta of the paper."""
TRUTH = (0.01, 0.99)
"""What outside and inside count as in the cross entropy."""


@dataclass(frozen=True)
class SketchConfig:
    """How a mesh holds a field.

    The published weight is 5e-6 of a sum over all samples of a picture, in a loss that mixed precision scales
    by 65,536 and more while the prior's gradient is not: about 0.3 to 1.3 of that sum. Here the mean over
    `places` is weighed against a gradient whose mean size is 1 or so of score distillation, 0.1 to 0.2 of
    targets.
    """

    mesh: str = ""
    """File of the mesh."""
    strictness: float = 10.0
    """Weight of the shape against the prior; with Stable Diffusion 1 is as strict."""
    proximity: float = 0.3
    """sigma_S: places nearer to the surface than that are free, softly; in units of the cube's half side."""
    size: float = 0.7
    """Distance of the farthest vertex from the middle of all, as published."""
    places: int = 4096
    """Compared in one step."""

    def __post_init__(self) -> None:
        require_at_least(1, self, "places")
        for name in ("strictness", "proximity", "size"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be above 0")


class Sketch:
    """Places of which it is known whether they are inside, and how far from the surface.

    Raises:
        Gen3dError: the mesh cannot be read, or is open, so that it has no inside.
    """

    def __init__(self, config: SketchConfig, seed: int = 0) -> None:
        self.config = config
        self.vertices, self.faces = placed(Path(config.mesh), config.size)
        share = open_edges(self.faces)
        random = np.random.default_rng(seed)
        everywhere = random.uniform(-1, 1, (POOL // 2, 3))
        low, high = self.vertices.min(0), self.vertices.max(0)
        near = random.uniform(low - 0.1, high + 0.1, (POOL // 2, 3))
        places = np.concatenate([everywhere, near.clip(-1, 1)])
        full = inside(places, self.vertices, self.faces)
        if not full.any():
            opened = f", and {100 * share:.0f}% of its edges are open" if share > OPEN else ""
            raise Gen3dError(f"{config.mesh} encloses nothing{opened}; a sketch needs a closed surface")
        self.places = torch.from_numpy(places).float()
        self.full = torch.from_numpy(full).float()
        away = torch.from_numpy(distance(places, self.vertices, self.faces)).float()
        self.weight = 1 - torch.exp(-away.square() / (2 * config.proximity**2))

    def loss(self, field: Field, generator: torch.Generator) -> Tensor:
        """L = CE(a, inside) (1 - exp(-d^2 / 2 sigma_S^2)), the mean over some places.

        As published, the cross entropy is linear in the field's opacity a = 1 - exp(-delta density): it is
        taken of the truth, moved from 0 and 1 to 0.01 and 0.99.
        """
        chosen = torch.randint(len(self.places), (self.config.places,), generator=generator)
        density, _ = field.density(self.places[chosen], None)
        opacity = 1 - torch.exp(-STEP * density)
        truth = self.full[chosen].clamp(*TRUTH)
        entropy = -(opacity * truth.log() + (1 - opacity) * (1 - truth).log())
        return self.config.strictness * (entropy * self.weight[chosen]).mean()


def placed(path: Path, size: float) -> tuple[np.ndarray, np.ndarray]:
    """Vertices and faces of the one mesh of a file, +z up: their mean at the origin, the farthest at
    `size`."""
    frames = read_meshes(path, up="y").frames
    if len(frames) != 1:
        raise Gen3dError(f"{path} holds {len(frames)} meshes; one is needed")
    vertices = frames[0].vertices - frames[0].vertices.mean(0)
    return vertices * (size / np.linalg.norm(vertices, axis=1).max()), frames[0].faces


class Overlap:
    """How much of a field and of a solid are the same, on a grid of the field's box.

    Args:
        box: (2, 3), of the field.
        vertices, faces: of the solid.
        side: cells along a side.
    """

    def __init__(self, box: Tensor, vertices: np.ndarray, faces: np.ndarray, side: int = 48) -> None:
        low, high = box.numpy()
        axes = [low[k] + (np.arange(side) + 0.5) / side * (high[k] - low[k]) for k in range(3)]
        places = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3)
        self.full = torch.from_numpy(inside(places, vertices, faces))
        self.places = torch.from_numpy(places).float()

    @torch.no_grad()
    def of(self, field: Field, level: float) -> float:
        """Intersection over union of the solid and of what is denser than `level`."""
        made = field.density(self.places, None)[0] > level
        return float((self.full & made).sum() / (self.full | made).sum().clamp(min=1))
