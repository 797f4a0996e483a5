"""The prior of moving scenes as a generative domain."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from gen3d import io, media
from gen3d.domains.base import GenerativeDomain, Layout
from gen3d.domains.scene_prior.codec import SceneCodec, ScenePriorConfig
from gen3d.domains.scene_prior.dataset import MovingScene, SceneBatch, SceneDataset, collate, open_dataset
from gen3d.domains.scene_prior.options import ScenePriorOptions
from gen3d.domains.scene_prior.variations import FRAMES
from gen3d.draws import Draws
from gen3d.fields.cameras import around
from gen3d.fields.occupancy import Occupancy
from gen3d.fields.planescene import PlaneScene, density_of
from gen3d.metrics import Metric
from gen3d.scenes.scene import Scene
from gen3d.sets import scores
from gen3d.types import Conditions

CELLS, PARTS = 32, 8
"""Cells along a side, and parts of time, of the grid that spares rendering empty space."""
EMPTY = 0.3
"""Density below which a cell counts as empty."""
COMPARED = 16
"""Cells along a side of the grids by which scenes are compared."""
LOOKED_AT = (0, 5, 10, 15)
"""Instants at which they are."""
SHOWN, PICTURE = 8, 120
"""Scenes of a contact sheet, at most, and the pixels along a side of its pictures."""


class ScenePriorDomain(GenerativeDomain):
    """Moving scenes, `gen3d.scenes.scene.Scene` of planes in the cube [-1, 1]^3."""

    name = "scene-prior"
    Config: ClassVar[type] = ScenePriorConfig
    SampleOptions = ScenePriorOptions  # type: ignore[assignment]
    extension = ".safetensors"
    class_conditions: Mapping[str, int] = {}
    scalar_conditions: Sequence[str] = ()

    def __init__(self, config: ScenePriorConfig) -> None:
        self.config = config
        self.codec: SceneCodec = SceneCodec(config)

    @property
    def model_fields(self) -> dict[str, Any]:
        return {"channels": self.codec.channels, "axes": 5}

    @classmethod
    def prepare(
        cls, source: str, out: Path, *, limit: int | None = None, seed: int = 0, progress: bool = True
    ) -> str:
        from gen3d.domains.scene_prior.prepare import prepare

        counts = prepare(source, out, limit=limit, seed=seed, progress=progress)
        return ", ".join(f"{count:,} {split}" for split, count in counts.items())

    def dataset(self, source: str | Path, split: str) -> SceneDataset:
        return open_dataset(source, split, len(self.codec.positions))

    def fit(self, dataset: Any) -> None:
        """Nothing is counted: all scenes have as many tokens."""

    def collate(self, items: Sequence[MovingScene], draws: Draws | None) -> SceneBatch:
        return collate(items, draws, self.config.asked)

    def conditions(self, batch: SceneBatch) -> Conditions:
        return {}

    def layout(self, options: ScenePriorOptions, draws: Draws) -> Layout:
        positions = self.codec.positions.cpu().expand(len(draws.index), -1, -1)
        return Layout(torch.ones(positions.shape[:2], dtype=torch.bool), positions)

    def to_native(self, raw: list[PlaneScene]) -> list[Any]:
        return [scene_of(field) for field in raw]

    def valid(self, sample: Any) -> bool:
        """Whether something is there, and not everywhere."""
        return isinstance(sample, Scene) and 0 < sample.occupancy.share < 1

    def metrics(  # type: ignore[override]
        self,
        samples: Sequence[Any],
        reference: SceneDataset,
        *,
        workers: int | None = None,
        progress: bool = False,
    ) -> list[Metric]:
        """Compare scenes with held-out ones by the cells that they fill, at four instants together.

        Args:
            samples: scenes, or data of the prior; None is a failed one.
            reference: data.
            workers, progress: not used.
        """
        made = [None if s is None else filled(s) for s in samples]
        truth = np.stack([filled(reference[i]) for i in range(len(reference))])
        kept = np.stack([m for m in made if m is not None]) if any(m is not None for m in made) else truth[:0]
        rs = np.full((len(truth), len(samples)), np.inf)
        ss = np.full((len(samples), len(samples)), np.inf)
        good = np.array([m is not None for m in made], dtype=bool)
        rs[:, good] = _apart(truth, kept)
        ss[np.ix_(good, good)] = _apart(kept, kept)
        accuracy, covered, nearest = scores(_apart(truth, truth), rs, ss).tolist()
        about = f"1 - IoU of the cells of {COMPARED}^3 filled at {len(LOOKED_AT)} instants"
        cited = "PointFlow, arXiv 1906.12320"
        return [
            Metric("1nna_iou", accuracy, f"leave-one-out 1-NN accuracy in %, {about}", 50.0, cited),
            Metric("cov_iou", covered, f"references nearest to some sample, %, {about}", "higher", cited),
            Metric(
                "mmd_iou", nearest, f"mean over references of the least distance, {about}", "lower", cited
            ),
        ]

    def draw(self, objects: Sequence[Any], path: Path) -> Path | None:
        shown = [o for o in objects if o is not None][:SHOWN]
        rows = [torch.cat([_picture(scene, k / (FRAMES - 1)) for k in LOOKED_AT], 1) for scene in shown]
        media.write_png(torch.cat(rows), path)
        return path

    def save(self, objects: Sequence[Any], path: Path) -> list[Path]:
        return io.write([o for o in objects if o is not None], path)


@torch.no_grad()
def scene_of(field: PlaneScene) -> Scene:
    """A field with the cells that it fills, and cameras around it."""
    field = field.float().eval()
    occupancy = Occupancy(field.box, CELLS, PARTS)
    occupancy.update(field, EMPTY, torch.Generator().manual_seed(0))
    times = torch.linspace(0, 1, FRAMES)
    cameras = around(
        times * 360 - 90, torch.full((FRAMES,), 20.0), radius=4.0, field_of_view=40.0, times=times
    )
    return Scene(field, occupancy, cameras)


def filled(thing: Scene | MovingScene) -> np.ndarray:
    """(T, G^3) bool: the cells of [-1, 1]^3 that hold something, at the instants of `LOOKED_AT`."""
    if isinstance(thing, MovingScene):
        points = torch.from_numpy(thing.points.astype(np.float32)[:, list(LOOKED_AT)])
        cell = ((points + 1) / 2 * COMPARED).long().clamp(0, COMPARED - 1)
        flat = (cell[..., 0] * COMPARED + cell[..., 1]) * COMPARED + cell[..., 2]
        found = torch.zeros(len(LOOKED_AT), COMPARED**3, dtype=torch.bool)
        return found.scatter(1, flat.T, True).numpy()
    fine = 3 * COMPARED
    axis = (torch.arange(fine) + 0.5) * (2 / fine) - 1
    places = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), -1).view(-1, 3)
    return torch.stack([_full(thing, places, k / (FRAMES - 1)) for k in LOOKED_AT]).numpy()


@torch.no_grad()
def _full(scene: Scene, places: Tensor, time: float) -> Tensor:
    """(G^3,) whether any of the 27 places (27 G^3, 3) in a cell is in something."""
    times = torch.full((len(places),), time)
    near = scene.occupancy.contains(places, times)
    density = torch.zeros(len(places))
    density[near] = scene.field.density(places[near], times[near])[0]
    grid = (density > HALF).view(3 * [COMPARED * 3]).float()
    return torch.nn.functional.max_pool3d(grid[None], 3)[0].flatten() > 0


HALF = float(density_of(torch.zeros(())))
"""Density where a place is as likely occupied as not."""


def _apart(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """(A, B) 1 - IoU of (A, ...) and (B, ...) bool."""
    a, b = (x.reshape(len(x), -1).astype(np.float32) for x in (one, other))
    both = a @ b.T
    either = a.sum(1)[:, None] + b.sum(1)[None] - both
    return 1 - both / np.maximum(either, 1)


def _picture(scene: Scene, time: float) -> Tensor:
    camera = around(
        torch.tensor([-60.0]),
        torch.tensor([15.0]),
        radius=4.0,
        field_of_view=40.0,
        width=PICTURE,
        height=PICTURE,
    )
    return scene.at(time).render(camera).colour[..., :3]
