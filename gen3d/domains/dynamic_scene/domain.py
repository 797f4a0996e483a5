"""The domain `dynamic-scene`."""

import dataclasses
import math
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gen3d.captures import Views, read_views
from gen3d.captures.sources import DNERF_SCENES, dnerf_scene
from gen3d.config import from_dict, to_dict
from gen3d.domains.base import SceneDomain
from gen3d.domains.dynamic_scene.config import (
    PENALTIES,
    PRIOR_PENALTIES,
    DynamicSceneConfig,
    DynamicSceneRun,
    make_field,
)
from gen3d.domains.dynamic_scene.guided import GuidedField
from gen3d.domains.dynamic_scene.options import DynamicSceneOptions, DynamicScenePrepareOptions
from gen3d.domains.dynamic_scene.show import BACKGROUNDS, path_of, show
from gen3d.errors import Gen3dError
from gen3d.fields.shade import ShadeField
from gen3d.metrics import Metric
from gen3d.scenes.bounds import carved
from gen3d.scenes.files import read_scene_file
from gen3d.scenes.fit import Fit, mean_psnr
from gen3d.scenes.quality import image_metrics, steadiness
from gen3d.scenes.scene import WHITE, Scene, read_scene, scene_of, write_scene

GLANCE = 3
"""Held-out pictures that the live PSNR is of, at a quarter of their size."""


class SceneFit(Fit):
    """A fit that can be written as a checkpoint, and glanced at."""

    def __init__(self, run: DynamicSceneRun, views: Views, held_out: Views | None, prior: Any = None) -> None:
        torch.manual_seed(run.fit.seed)
        of, fit = run.domain_config, run.fit
        occupancy = carved(views, of.parts, of.hull_share, of.half_side)
        field = make_field(of, occupancy.box, fit.resolutions[0])
        penalties = {**PENALTIES[of.method], **fit.penalties}
        if run.prior is not None:
            assert isinstance(field, ShadeField)
            field = GuidedField(field, prior, occupancy, run.prior)
            penalties = {**PRIOR_PENALTIES, **penalties}
        super().__init__(field, occupancy, views, dataclasses.replace(fit, penalties=penalties))
        self.run, self.glance = run, None
        if held_out is not None:
            size = max(1, held_out.cameras.width // 2), max(1, held_out.cameras.height // 2)
            chosen = np.linspace(0, len(held_out) - 1, min(GLANCE, len(held_out))).round().astype(int)
            self.glance = held_out[chosen].resized(*size)

    @property
    def rays(self) -> int:
        guided = isinstance(self.field, GuidedField) and not self.field.started
        return self.run.prior.rays if guided and self.run.prior is not None else self.config.rays

    def measure(self) -> dict[str, float]:
        found = {"psnr_train": -10 * math.log10(max(self.loss, 1e-12))}
        if self.glance is not None:
            found["psnr_held_out"] = mean_psnr(
                self.field, self.occupancy, self.glance, self.config.samples, WHITE
            )
        return found

    def scene(self) -> Scene:
        """What has been found so far."""
        field = self.field
        if isinstance(field, GuidedField):
            field = field.finished()
        return scene_of(field, self.occupancy, self.views, self.config.samples)

    def write(self, folder: Path) -> None:
        config = {
            "domain": DynamicSceneDomain.name,
            "domain_config": to_dict(self.run.domain_config),
            "resolution": self.config.resolutions[self.stage],
            "fit": {"steps": self.step, "seconds": round(self.seconds, 1), "views": len(self.views)},
        }
        how = f"{self.run.domain_config.method}, {self.step} steps, {self.seconds / 60:.1f} minutes"
        scene = self.scene()
        card = (
            f"# A moving scene\n\nFitted by gen3d to {len(self.views)} pictures ({how}); "
            f"{scene.megabytes:.1f} MB.\n"
        )
        write_scene(scene, folder, config, card)


class DynamicSceneDomain(SceneDomain):
    """Scenes that move, fitted to posed pictures with times."""

    name = "dynamic-scene"
    Config = DynamicSceneConfig
    RunConfig = DynamicSceneRun
    SampleOptions = DynamicSceneOptions  # type: ignore[assignment]
    extension = ".mp4"

    def __init__(self, config: DynamicSceneConfig) -> None:
        self.config = config

    @classmethod
    def prepare(
        cls,
        source: str,
        out: Path,
        *,
        limit: int | None = None,
        seed: int = 0,
        progress: bool = True,
        options: DynamicScenePrepareOptions | None = None,
    ) -> str:
        """Fetch one of D-NeRF's scenes by name, or film an animated mesh: see `captures.make`."""
        from gen3d.captures.make import prepare_scene

        if limit is not None:
            raise Gen3dError("--limit means nothing for scenes; --train says how many pictures there are")
        options = options or DynamicScenePrepareOptions()
        if source in DNERF_SCENES:
            shutil.copytree(dnerf_scene(source, progress=progress), out, dirs_exist_ok=True)
            return f"D-NeRF's scene {source}"
        made = prepare_scene(source, out, seed=seed, progress=progress, **dataclasses.asdict(options))
        counts = (f"{made[split]} for {split}ing" for split in ("train", "test"))
        return f"pictures: {', '.join(counts)}, {made['valid']} for validation"

    @classmethod
    def fitting(cls, config: DynamicSceneRun, data: Path | None, prior: Any = None) -> SceneFit:
        if data is None:
            raise Gen3dError("a moving scene is fitted to a capture; --data names one")
        views = read_views(data, "train")
        of = config.domain_config
        if of.moves and views.cameras.times is None:
            raise Gen3dError(
                f"{data} has no times; a moving scene needs one for each picture, and for what stands still "
                "there is domain_config.method voxels"
            )
        if not of.moves and views.cameras.times is not None:
            raise Gen3dError(
                f"{data} has times, and {of.method} has none: choose another domain_config.method"
            )
        if len(views) < 2:
            raise Gen3dError(f"{data} has one picture for training; a scene needs at least 2")
        return SceneFit(config, views, _held_out(data), prior)

    @classmethod
    def load(cls, folder: Path) -> Scene:
        return cls.read(folder)[0]

    @classmethod
    def read(cls, folder: Path) -> tuple[Scene, DynamicSceneConfig]:
        """The scene of a checkpoint or run folder, and the configuration of its field.

        Raises:
            Gen3dError: no checkpoint, or one of something else.
        """
        folder = folder / "checkpoint" if (folder / "checkpoint").is_dir() else folder
        if folder.suffix == ".safetensors" and folder.is_file():
            return read_scene_file(folder), DynamicSceneConfig()
        scene, stored = read_scene(folder, _field_of)
        return scene, _config_of(stored)

    @classmethod
    def show(
        cls, scene: Scene, options: DynamicSceneOptions, out: Path | None, *, progress: bool = True
    ) -> list[Path]:
        return show(scene, options, out, progress)

    @classmethod
    def turntable(cls, scene: Scene, count: int, width: int) -> list[Tensor]:
        options = DynamicSceneOptions(width=width, seconds=float(count), fps=1.0)
        cameras = path_of(scene, options)
        return [scene.render(cameras, view).colour[..., :3].clamp(0, 1) for view in range(count)]

    @classmethod
    def reference(cls, source: Path, split: str) -> Views:
        return read_views(source, split)  # type: ignore[arg-type]

    def metrics(  # type: ignore[override]
        self,
        samples: Sequence[Scene],
        reference: Views,
        *,
        background: str = "white",
        size: int = 0,
        workers: int | None = None,
        progress: bool = True,
    ) -> list[Metric]:
        """How well scenes show what held-out cameras saw, by D-NeRF's protocol: means over pictures.

        Args:
            samples: scenes; one that failed (None) shows nothing.
            reference: held-out views.
            background: "white" or "black", behind both.
            size: width of the pictures, in pixels; 0 for that of the capture.
            workers: not used.
            progress: not used.

        Raises:
            Gen3dError: more than one scene, or another background.
        """
        if len(samples) != 1 or samples[0] is None:
            raise Gen3dError(f"{len(samples)} scenes; one is compared with one capture")
        if background not in BACKGROUNDS:
            raise Gen3dError(f"check background is {background!r}; allowed: {', '.join(BACKGROUNDS)}")
        scene, colour = samples[0], BACKGROUNDS[background]
        if size:
            reference = reference.resized(
                size, round(size * reference.cameras.height / reference.cameras.width)
            )
        truth = list(torch.from_numpy(reference.composited(colour)))
        start = time.perf_counter()
        seen = [
            scene.render(reference.cameras, view, background=colour).colour.clamp(0, 1)
            for view in range(len(reference))
        ]
        seconds = (time.perf_counter() - start) / len(reference)
        about = f"{reference.cameras.width} x {reference.cameras.height} pixels, {background} background"
        found = image_metrics(seen, truth, about)
        if scene.moves:
            found.append(steadiness(scene, reference.cameras))
        return [
            *found,
            Metric("megabytes", scene.megabytes, "of the stored scene", "lower"),
            Metric("seconds_a_frame", seconds, f"to render one picture, {about}", "lower"),
        ]

    def valid(self, sample: Any) -> bool:
        return isinstance(sample, Scene) and all(p.isfinite().all() for p in sample.field.parameters())

    def save(self, objects: Sequence[Any], path: Path) -> list[Path]:
        raise Gen3dError("scenes are written by training; films and meshes of them by gen3d sample")


def _held_out(data: Path) -> Views | None:
    """Views for the live PSNR: those for validation, where there are any."""
    try:
        return read_views(data, "valid")
    except Gen3dError:
        return None


def _config_of(stored: dict[str, Any]) -> DynamicSceneConfig:
    return from_dict(DynamicSceneConfig, stored["domain_config"], "domain_config")


def _field_of(stored: dict[str, Any], box: torch.Tensor) -> Any:
    return make_field(_config_of(stored), box, stored["resolution"])
