"""Methods that nerfstudio registers: `gen3d-shade` for scenes that move, `gen3d-voxel` for what stands still.

Field, rendering, occupancy and penalties are those of the domain dynamic-scene; data, optimisers, evaluation
and viewer are nerfstudio's. `gen3d.plugins.exchange` turns a checkpoint into one of gen3d.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from nerfstudio.cameras.rays import RayBundle
from nerfstudio.configs.base_config import ViewerConfig
from nerfstudio.data.datamanagers.base_datamanager import VanillaDataManagerConfig
from nerfstudio.data.dataparsers.blender_dataparser import BlenderDataParserConfig
from nerfstudio.data.dataparsers.dnerf_dataparser import DNeRFDataParserConfig
from nerfstudio.engine.callbacks import (
    TrainingCallback,
    TrainingCallbackAttributes,
    TrainingCallbackLocation,
)
from nerfstudio.engine.optimizers import AdamOptimizerConfig
from nerfstudio.engine.trainer import TrainerConfig
from nerfstudio.models.base_model import Model, ModelConfig
from nerfstudio.pipelines.base_pipeline import VanillaPipelineConfig
from nerfstudio.plugins.types import MethodSpecification
from nerfstudio.utils import colormaps
from torch import Tensor, nn
from torchmetrics.functional.image import structural_similarity_index_measure

from gen3d.config import to_dict
from gen3d.domains.dynamic_scene.config import PENALTIES, DynamicSceneConfig, make_field
from gen3d.domains.dynamic_scene.domain import DynamicSceneDomain
from gen3d.errors import Gen3dError
from gen3d.fields.cameras import Cameras, Rays
from gen3d.fields.occupancy import Occupancy
from gen3d.fields.rendering import render
from gen3d.scenes.bounds import OPAQUE, RESOLUTION, silhouettes_leave
from gen3d.scenes.fit import BETAS, PRUNE_EVERY, PRUNE_FIRST, step_length

GROUPS = ("densities", "colours", "head", "deformation")
"""Names of the field's groups of parameters, for which nerfstudio has an optimiser each."""
STEPS = 4000


@dataclass
class Gen3dModelConfig(ModelConfig):
    """A field of gen3d."""

    _target: type = field(default_factory=lambda: Gen3dModel)
    enable_collider: bool = False
    eval_num_rays_per_chunk: int = 8192
    scene: DynamicSceneConfig = field(default_factory=DynamicSceneConfig)
    """The field."""
    resolutions: tuple[int, ...] = (32, 64, 96)
    """Grid points along the longest side, stage by stage."""
    grow_at: tuple[float, ...] = (0.0, 0.2, 0.5)
    """Shares of the run at which the stages begin."""
    samples: int = 160
    """Steps of a ray that crosses the box along its longest side."""
    prune_below: float = 0.3
    """Density under which a cell counts as empty."""
    final_rate: float = 0.05
    """Learning rates at the end of the run, as a share of those at the start; they fall exponentially."""
    begin_from: Path | None = None
    """A checkpoint or run folder of gen3d to go on from."""


@dataclass
class FitAdamConfig(AdamOptimizerConfig):
    """Adam as `gen3d.scenes.fit` sets it."""

    betas: tuple[float, float] = BETAS
    """Decay of the two moments."""


class Gen3dModel(Model):  # type: ignore[misc]
    """A field of gen3d as nerfstudio trains, evaluates and shows it."""

    config: Gen3dModelConfig
    stage: Tensor
    about: Tensor
    backdrop: Tensor

    def populate_modules(self) -> None:
        super().populate_modules()
        config = self.config
        if len(config.resolutions) != len(config.grow_at):
            raise Gen3dError("resolutions and grow_at must be equally many")
        first, parts = 0, config.scene.parts
        if config.begin_from is None:
            box = self.scene_box.aabb.float()
            self.field = make_field(config.scene, box, config.resolutions[0])
            self.occupancy = Occupancy(box, RESOLUTION, parts)
        else:
            scene, stored = DynamicSceneDomain.read(config.begin_from)
            if stored != config.scene:
                raise Gen3dError(
                    f"{config.begin_from} is a field of {to_dict(stored)}; set --pipeline.model.scene alike, "
                    f"not {to_dict(config.scene)}"
                )
            self.field, self.occupancy = scene.field, scene.occupancy
            first = len(config.resolutions) - 1
            self.field.refine(config.resolutions[first])
        self.register_buffer("stage", torch.tensor(first))
        self.register_buffer("backdrop", torch.ones(3))
        self.alpha: Tensor | None = None
        # What a checkpoint has to tell beside the tensors of the model: settings, and cameras.
        self.register_buffer("about", torch.zeros(0, dtype=torch.uint8))
        for name, shape in (("poses", (0, 3, 4)), ("focal", (0, 2)), ("centre", (0, 2)), ("times", (0,))):
            self.register_buffer(name, torch.zeros(shape))
        self.register_load_state_dict_pre_hook(_adapt)

    def get_param_groups(self) -> dict[str, list[nn.Parameter]]:
        groups = zip(GROUPS, (parameters for parameters, _ in self.field.rates()), strict=False)
        return {name: parameters for name, parameters in groups if parameters}

    def get_training_callbacks(self, attributes: TrainingCallbackAttributes) -> list[TrainingCallback]:
        dataset = attributes.pipeline.datamanager.train_dataset
        cameras, self.alpha = _cameras(dataset.cameras), _alpha(dataset)
        behind = dataset._dataparser_outputs.alpha_color
        if behind is not None:
            self.backdrop = behind.to(self.backdrop)
        if not len(self.about):
            self._remember(cameras)
            if self.config.begin_from is None and self.alpha is not None:
                self._carve(cameras, self.alpha >= OPAQUE)
        before = TrainingCallback(
            [TrainingCallbackLocation.BEFORE_TRAIN_ITERATION], self._before, update_every_num_iters=1,
            args=[attributes.optimizers, attributes.trainer],
        )  # fmt: skip
        return [before]

    def _remember(self, cameras: Cameras) -> None:
        """Keep what a checkpoint of gen3d needs."""
        about = {
            "domain_config": to_dict(self.config.scene),
            "resolutions": list(self.config.resolutions),
            "scene": {"width": cameras.width, "height": cameras.height, "samples": self.config.samples},
        }
        self.about = torch.tensor(list(json.dumps(about).encode()), dtype=torch.uint8)
        self.poses, self.focal, self.centre = cameras.camera_to_world, cameras.focal, cameras.centre
        self.times = torch.zeros(0) if cameras.times is None else cameras.times

    @torch.no_grad()
    def _carve(self, cameras: Cameras, opaque: Tensor) -> None:
        """Empty what silhouettes rule out, and put the box around what is left."""
        of = self.config.scene
        self.occupancy = silhouettes_leave(self.field.box.cpu(), cameras, opaque, of.parts, of.hull_share)
        self.field.box.copy_(self.occupancy.box)
        self.field.refine(self.config.resolutions[0])
        self.to(self.device)

    def _before(self, optimizers: Any, trainer: Any, step: int) -> None:
        """What a fit does before each step: grow, move, prune."""
        # What a resumed run is told to do comes on top of the steps that it has behind it.
        steps = trainer._start_step + trainer.config.max_num_iterations
        config, share = self.config, step / steps
        stage = int(self.stage)
        if stage + 1 < len(config.resolutions) and share >= config.grow_at[stage + 1]:
            self.field.refine(config.resolutions[stage + 1])
            self.stage += 1
        self._hand_over(optimizers)
        # nerfstudio's schedulers write numpy numbers into checkpoints, which torch then refuses to read, and
        # they do not know how long the run is.
        for name, optimizer in optimizers.optimizers.items():
            start = optimizers.config[name]["optimizer"].lr
            optimizer.param_groups[0]["lr"] = start * config.final_rate**share
        self.field.progress(share)
        if step in PRUNE_FIRST or (step and step % PRUNE_EVERY == 0):
            self.occupancy.update(self.field, config.prune_below)

    def _hand_over(self, optimizers: Any) -> None:
        """Let the optimisers know of parameters that growing or loading has replaced."""
        for name, parameters in self.get_param_groups().items():
            optimizer = optimizers.optimizers[name]
            group = optimizer.param_groups[0]
            for old, new in zip(group["params"], parameters, strict=True):
                if old is not new:
                    state = optimizer.state.pop(old, {})
                    if state and state["exp_avg"].shape == new.shape:
                        optimizer.state[new] = state
            group["params"] = optimizers.parameters[name] = parameters

    def get_outputs(self, ray_bundle: RayBundle) -> dict[str, Tensor]:
        times = ray_bundle.times
        if not self.config.scene.moves:
            times = None
        elif times is None:
            times = ray_bundle.origins.new_zeros(len(ray_bundle.origins), 1)
        rays = Rays(
            ray_bundle.origins, ray_bundle.directions, None if times is None else times[:, 0].clamp(0, 1)
        )
        seen = render(
            self.field,
            rays,
            length=step_length(self.field, self.config.samples),
            background=self.backdrop,
            occupancy=self.occupancy,
            jitter=self.training,
        )
        return {
            "rgb": seen.colour if self.training else seen.colour.clamp(0, 1),
            "accumulation": seen.opacity[:, None],
            "depth": seen.depth[:, None],
        }

    def get_metrics_dict(self, outputs: dict[str, Tensor], batch: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"psnr": _psnr(outputs["rgb"].detach(), self._truth(batch))}

    def get_loss_dict(
        self, outputs: dict[str, Tensor], batch: dict[str, Tensor], metrics_dict: Any = None
    ) -> dict[str, Tensor]:
        seen, truth = outputs["rgb"], self._truth(batch)
        if self.training and self.alpha is not None:
            # A random colour instead of the same everywhere, so that nothing but emptiness explains it.
            alpha = self.alpha[tuple(batch["indices"].cpu().unbind(1))].to(seen)[:, None] / 255
            shift = torch.rand_like(seen) - self.backdrop
            seen, truth = seen + (1 - outputs["accumulation"]) * shift, truth + (1 - alpha) * shift
        weights, found = PENALTIES[self.config.scene.method], self.field.penalties()
        losses = {name: weight * found[name] for name, weight in weights.items()}
        return {"rgb": (seen - truth).square().mean(), **losses}

    def get_image_metrics_and_images(
        self, outputs: dict[str, Tensor], batch: dict[str, Tensor]
    ) -> tuple[dict[str, float], dict[str, Tensor]]:
        seen, truth = outputs["rgb"], self._truth(batch)
        a, b = (image.permute(2, 0, 1)[None] for image in (seen, truth))
        ssim = structural_similarity_index_measure(a, b, data_range=1.0)
        images = {
            "img": torch.cat([truth, seen], 1),
            "accumulation": colormaps.apply_colormap(outputs["accumulation"]),
            "depth": colormaps.apply_depth_colormap(outputs["depth"], accumulation=outputs["accumulation"]),
        }
        return {"psnr": float(_psnr(seen, truth)), "ssim": float(ssim)}, images

    def get_rgba_image(self, outputs: dict[str, Tensor], output_name: str = "rgb") -> Tensor:
        opacity = outputs["accumulation"]
        colour = (outputs["rgb"] - (1 - opacity) * self.backdrop) / opacity.clamp(min=1e-6)
        return torch.cat([colour.clamp(0, 1), opacity], -1)

    def _truth(self, batch: dict[str, Tensor]) -> Tensor:
        image = batch["image"].to(self.device)
        return (
            image
            if image.shape[-1] == 3
            else image[..., :3] * image[..., 3:] + self.backdrop * (1 - image[..., 3:])
        )


def _adapt(model: Gen3dModel, state: dict[str, Tensor], prefix: str, *_: Any) -> None:
    """Before a state is loaded: give everything whose size depends on the data the size that it has there."""
    if prefix + "about" not in state:  # a pipeline loads its model first, and then the rest of itself
        return
    with torch.no_grad():
        for name in ("about", "poses", "focal", "centre", "times"):
            setattr(model, name, torch.zeros_like(state[prefix + name]))
        box = state[prefix + "occupancy.box"]
        cells = state[prefix + "occupancy.cells"]
        model.occupancy = Occupancy(box, cells.shape[1], cells.shape[0])
        model.field.box.copy_(box)
        model.field.refine(model.config.resolutions[int(state[prefix + "stage"])])
        model.to(model.device)


def _alpha(dataset: Any) -> Tensor | None:
    """Alpha (V, H, W) in 0 to 255 of the pictures as they are on disk; None where one has none."""
    images = [dataset.get_numpy_image(number) for number in range(len(dataset))]
    if any(image.shape[-1] != 4 for image in images):
        return None
    return torch.stack([torch.from_numpy(image[..., 3]) for image in images])


def _cameras(theirs: Any) -> Cameras:
    """nerfstudio's cameras as ours; they have the same axes."""
    sizes = {(int(width), int(height)) for width, height in zip(theirs.width, theirs.height, strict=True)}
    if len(sizes) != 1:
        raise Gen3dError(f"pictures of different sizes: {sorted(sizes)[:4]}; one is allowed")
    ((width, height),) = sizes
    times = getattr(theirs, "times", None)
    return Cameras(
        theirs.camera_to_worlds.float().cpu(),
        torch.cat([theirs.fx, theirs.fy], 1).float().cpu(),
        torch.cat([theirs.cx, theirs.cy], 1).float().cpu(),
        width,
        height,
        None if times is None else times.view(-1).float().cpu(),
    )


def _psnr(seen: Tensor, truth: Tensor) -> Tensor:
    return -10 * torch.log10((seen - truth).square().mean().clamp(min=1e-12))


def _optimizers(rate: float) -> Iterator[tuple[str, dict[str, Any]]]:
    """The rates of `FitConfig` and of the fields' own shares."""
    for name, share in zip(GROUPS, (1.0, 0.5, 0.1, 0.03), strict=True):
        yield name, {"optimizer": FitAdamConfig(lr=rate * share), "scheduler": None}


def _trainer(name: str, data: Any, model: Gen3dModelConfig, rate: float) -> TrainerConfig:
    return TrainerConfig(
        method_name=name,
        max_num_iterations=STEPS,
        steps_per_save=1000,
        steps_per_eval_batch=0,
        steps_per_eval_image=500,
        steps_per_eval_all_images=STEPS,
        mixed_precision=False,
        pipeline=VanillaPipelineConfig(
            datamanager=VanillaDataManagerConfig(
                dataparser=data, train_num_rays_per_batch=2048, eval_num_rays_per_batch=2048
            ),
            model=model,
        ),
        optimizers=dict(_optimizers(rate)),
        viewer=ViewerConfig(num_rays_per_chunk=8192),
        vis="viewer",
    )


shade = MethodSpecification(
    _trainer("gen3d-shade", DNeRFDataParserConfig(), Gen3dModelConfig(), 0.2),
    "gen3d: scenes that move, after SHaDe.",
)
voxel = MethodSpecification(
    _trainer(
        "gen3d-voxel",
        BlenderDataParserConfig(),
        Gen3dModelConfig(
            scene=DynamicSceneConfig(method="voxels", head="harmonics", parts=1, hull_share=0.97),
            resolutions=(48, 96, 144),
            grow_at=(0.0, 0.15, 0.4),
            samples=200,
        ),
        0.1,
    ),
    "gen3d: a voxel field of what stands still.",
)
