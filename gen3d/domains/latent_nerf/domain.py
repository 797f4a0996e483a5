"""The domain `latent-nerf`: a field that shows what a prompt says."""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gen3d import checkpoint, media
from gen3d.captures.meshes import GREY, Mesh, in_ball
from gen3d.config import from_dict, load_yaml, merge, to_dict
from gen3d.diffusion.distillation import DistillationConfig
from gen3d.diffusion.priors import as_prior
from gen3d.domains.base import PromptedDomain
from gen3d.domains.latent_nerf.config import LatentNeRFConfig, LatentNeRFRun
from gen3d.domains.latent_nerf.options import LatentNeRFOptions
from gen3d.domains.latent_nerf.paint import Canvas, Unwrapped, padded, unwrapped, write_painted
from gen3d.domains.latent_nerf.sketch import Overlap, Sketch
from gen3d.domains.latent_nerf.start import SHARP, SOFT, begin_as
from gen3d.errors import Gen3dError
from gen3d.fields.latent import LatentField, TextureField
from gen3d.fields.occupancy import Occupancy
from gen3d.fields.rendering import Rendering
from gen3d.fields.surfaces import level_of
from gen3d.metrics import Metric
from gen3d.scenes.distil import CELLS, STABLE, DistilConfig, Distilled
from gen3d.scenes.gallery import FILM, pictures_around, write_gallery
from gen3d.scenes.judged import ELEVATION, VIEWS, WIDTH, prompt_metrics
from gen3d.scenes.scene import Scene, read_scene, write_scene

PAINTING = DistilConfig(resolutions=(256,), penalties={"variation": 0.001})
"""What a texture needs otherwise than a field does."""
BALL = "ball"
"""What --start says for no mesh."""
OURS, THINGS = LatentNeRFOptions.prior, "object"
"""The prior that comes with gen3d, and what makes the beginning of fields that it guides."""
FROM_A_MESH = {
    "fit": {
        "steps": 40,
        "learning_rate": 0.002,
        "resolutions": (96,),
        "samples": 96,
        "refine_at": 1.0,
        "pull": {"noise": (0.2, 0.5)},
    }
}
"""How our prior pulls at a field that begins as a mesh, where nothing else is said: little, at low noise."""
AS_PUBLISHED = {
    "fit": {
        "steps": 5000,
        "views": 1,
        "rgb_views": 1,
        "rgb_size": 128,
        "refine_at": 0.8,
        "pull": to_dict(DistillationConfig()),
        "refine": to_dict(DistillationConfig()),
    }
}
"""How Stable Diffusion pulls, where nothing else is said: score distillation, as in the paper."""


class LatentNeRFFit(Distilled):
    """A fit that can be written as a checkpoint."""

    field: LatentField

    def __init__(self, run: LatentNeRFRun, prior: Any) -> None:
        torch.manual_seed(run.fit.seed)
        guide = as_prior(prior)
        of = run.domain_config
        box = torch.tensor([3 * [-of.half_side], 3 * [of.half_side]])
        self.sketch = None if of.sketch is None else Sketch(of.sketch, run.fit.seed)
        if self.sketch is not None:
            self.overlap = Overlap(box, self.sketch.vertices, self.sketch.faces)
        field = LatentField(box, run.fit.resolutions[0], 3 if guide.in_colours else guide.channels)
        # Of what is sketched, the sketch tells the silhouette.
        fit = run.fit if self.sketch is None else replace(run.fit, silhouette=0.0)
        super().__init__(field, Occupancy(box, CELLS), guide, run.prompt, fit)
        self.run = run

    def begin(self) -> None:
        """Begin as the sketch, if there is one."""
        if self.sketch is not None:
            grey = np.full((len(self.sketch.faces), 3), GREY, np.uint8)
            begin_as(self.field, Mesh(self.sketch.vertices, self.sketch.faces, grey), SOFT)

    def begin_as(self, mesh: Any) -> None:
        """Begin as a mesh that a model of things made of the prompt, and stay near it."""
        begin_as(self.field, in_ball(mesh), SHARP)
        self.occupancy.update(self.field, self.config.prune_below, self.generator)

    def terms(self) -> Tensor:
        return super().terms() if self.sketch is None else self.sketch.loss(self.field, self.generator)

    def measure(self) -> dict[str, float]:
        found = super().measure()
        if self.sketch is not None:
            found["overlap"] = self.overlap.of(self.field, level_of(self.field.box))
        return found

    def write(self, folder: Path) -> None:
        scene = self.scene()
        write_scene(scene, folder, _stored(self), _card(self, f"{scene.megabytes:.1f} MB"))


class LatentPaintFit(Distilled):
    """A texture on its way."""

    field: TextureField

    def __init__(self, run: LatentNeRFRun, prior: Any) -> None:
        guide = as_prior(prior)
        assert run.domain_config.paint is not None
        self.canvas = Canvas(unwrapped(Path(run.domain_config.paint.mesh), run.domain_config.paint.size))
        box = torch.tensor([3 * [-1.0], 3 * [1.0]])
        field = TextureField(box, run.fit.resolutions[0], 3 if guide.in_colours else guide.channels)
        field.settled = False
        super().__init__(field, Occupancy(box, 1), guide, run.prompt, run.fit)
        self.run = run

    def render(self, azimuth: Tensor, elevation: Tensor, size: int, background: Tensor) -> Rendering:
        return self.canvas.render(self.field, azimuth, elevation, size, background)

    def measure(self) -> dict[str, float]:
        return {"pull": math.sqrt(max(self.loss, 0.0))}

    def write(self, folder: Path) -> None:
        mesh = self.canvas.mesh
        tensors = {
            **{f"field.{name}": value for name, value in self.field.state_dict().items()},
            "vertices": torch.from_numpy(mesh.vertices),
            "faces": torch.from_numpy(mesh.faces),
            "uv": torch.from_numpy(mesh.uv),
        }
        checkpoint.write(folder, tensors, _stored(self), _card(self, "a texture"))


def _start(options: LatentNeRFOptions, stated: dict[str, Any]) -> str:
    """What a field begins as, "" for a ball: what a flag says, else a file, else what goes with the prior."""
    of = stated.get("domain_config") or {}
    held = options.sketch or options.paint or of.get("sketch") or of.get("paint")
    usual = THINGS if options.prior == OURS and not held else ""
    start = stated.get("start", usual) if options.start is None else options.start
    return "" if start == BALL else start


def _stored(fit: LatentNeRFFit | LatentPaintFit) -> dict[str, Any]:
    return {
        "domain": LatentNeRFDomain.name,
        "kind": "texture" if isinstance(fit, LatentPaintFit) else "field",
        "prompt": fit.prompt,
        "prior": fit.run.prior.checkpoint,
        "latent_channels": fit.field.look.latent_channels,
        "resolution": fit.config.resolutions[fit.stage],
        "fit": {"steps": fit.step, "seconds": round(fit.seconds, 1)},
    }


def _card(fit: LatentNeRFFit | LatentPaintFit, what: str) -> str:
    return (
        f"# {fit.prompt}\n\nMade by gen3d from words ({fit.step} steps, {fit.seconds / 60:.1f} minutes, "
        f"guided by {fit.run.prior.checkpoint}); {what}.\n"
    )


@dataclass(frozen=True)
class PromptedScene(Scene):
    """A scene, and the words that it was made from."""

    prompt: str = ""

    def pictures(self, width: int, count: int, elevation: float = 20.0) -> list[Tensor]:
        """(width, width, 3) from all around, the first from the front."""
        return pictures_around(self, width, count, elevation)


@dataclass(frozen=True)
class PaintedMesh:
    """A mesh with a texture.

    Attributes:
        prompt: the words that it was made from.
        mesh: with places on the texture.
        image: (T, T, 3) in [0, 1].
        field: the texture as it is stored.
    """

    mesh: Unwrapped
    image: Tensor
    field: TextureField
    prompt: str

    def pictures(self, width: int, count: int, elevation: float = 20.0) -> list[Tensor]:
        """(width, width, 3) from all around, the first from the front."""
        canvas, turn = Canvas(self.mesh), torch.arange(count) * (360 / count)
        self.field.look.in_rgb.fill_(True)
        with torch.no_grad():
            seen = [
                canvas.render(self.field, turn[[k]], torch.tensor([elevation]), width, torch.ones(3)).colour
                for k in range(count)
            ]
        return [picture.view(width, width, 3).clamp(0, 1) for picture in seen]


class LatentNeRFDomain(PromptedDomain):
    """Scenes that stand still, made from words (Latent-NeRF, arXiv 2211.07600)."""

    name = "latent-nerf"
    Config = LatentNeRFConfig
    RunConfig = LatentNeRFRun
    SampleOptions = LatentNeRFOptions  # type: ignore[assignment]
    extension = ".glb"

    def __init__(self, config: LatentNeRFConfig) -> None:
        self.config = config

    @classmethod
    def run_config(cls, options: LatentNeRFOptions, given: dict[str, Any]) -> LatentNeRFRun:  # type: ignore[override]
        # What a configuration or a flag names takes the place of single values.
        values: dict[str, Any] = {"fit": to_dict(PAINTING if options.paint else DistilConfig())}
        stated = {} if options.config is None else load_yaml(Path(options.config))
        start = _start(options, stated)
        if options.prior.startswith(STABLE):
            values = merge(values, AS_PUBLISHED)
        elif start:
            values = merge(values, FROM_A_MESH)
        values = merge(values, stated)
        of: dict[str, Any] = {}
        asked: dict[str, Any] = {
            "domain": cls.name,
            "domain_config": of,
            "prior": {"checkpoint": options.prior},
            "start": start,
            "fit": given,
        }
        if options.prompt is not None:
            asked["prompt"] = options.prompt
        held = {"strictness": options.strictness, "proximity": options.proximity}
        held = {name: value for name, value in held.items() if value is not None}
        if held and options.sketch is None:
            raise Gen3dError(f"--{next(iter(held))} is given without --sketch; it is of no use")
        if options.sketch is not None:
            of["sketch"] = {"mesh": options.sketch, **held}
        if options.paint is not None:
            of["paint"] = {"mesh": options.paint}
        run: LatentNeRFRun = from_dict(LatentNeRFRun, merge(values, asked))
        if not run.prompt.strip():
            raise Gen3dError("--prompt is missing or empty; say what should be seen")
        return run

    @classmethod
    def fitting(
        cls, config: LatentNeRFRun, data: Path | None, prior: Any = None
    ) -> "LatentNeRFFit | LatentPaintFit":
        return LatentPaintFit(config, prior) if config.domain_config.paint else LatentNeRFFit(config, prior)

    @classmethod
    def load(cls, folder: Path) -> PromptedScene | PaintedMesh:
        folder = folder / "checkpoint" if (folder / "checkpoint").is_dir() else folder
        if checkpoint.read_config(folder).get("kind") == "texture":
            return _read_painted(folder)
        scene, stored = read_scene(folder, _field_of)
        own = {f.name: getattr(scene, f.name) for f in dataclasses.fields(scene)}
        return PromptedScene(**own, prompt=stored["prompt"])

    @classmethod
    def show(
        cls,
        scene: Scene | PaintedMesh,
        options: LatentNeRFOptions,
        out: Path | None,
        *,
        progress: bool = True,
    ) -> list[Path]:
        folder = out or Path(cls.name)
        if isinstance(scene, PaintedMesh):
            count = max(1, round(options.seconds * options.fps))
            films = media.write_film(scene.pictures(options.width, count), folder / FILM, options.fps)
            return [*films, *write_painted(scene.mesh, scene.image, folder)]
        return write_gallery(
            scene,
            folder,
            width=options.width,
            seconds=options.seconds,
            fps=options.fps,
            resolution=options.resolution,
            progress=progress,
        )

    @classmethod
    def turntable(cls, scene: Scene | PaintedMesh, count: int, width: int) -> list[Tensor]:
        if isinstance(scene, PaintedMesh):
            return scene.pictures(width, count)
        return pictures_around(scene, width, count)

    def metrics(  # type: ignore[override]
        self,
        samples: Sequence[Any],
        reference: str,
        *,
        clip: str = "",
        workers: int | None = None,
        progress: bool = False,
    ) -> list[Metric]:
        """Whether judges see in a scene what its prompt says.

        Args:
            samples: one scene.
            reference: the prompt, or "-" for the scene's own.
            clip: folder with weights of CLIP, whose similarity is then measured.
            workers, progress: not used.

        Raises:
            Gen3dError: another number of scenes.
        """
        if len(samples) != 1 or samples[0] is None:
            raise Gen3dError(f"{len(samples)} scenes; one is judged at a time")
        scene = samples[0]
        prompt = scene.prompt if reference == "-" else reference
        return prompt_metrics(scene.pictures(WIDTH, VIEWS, ELEVATION), prompt, clip)

    def valid(self, sample: Any) -> bool:
        return isinstance(sample, PaintedMesh) or (
            isinstance(sample, Scene) and 0 < sample.occupancy.share < 1
        )


def _read_painted(folder: Path) -> PaintedMesh:
    tensors, stored = checkpoint.read(folder)
    field = TextureField(
        torch.tensor([3 * [-1.0], 3 * [1.0]]), stored["resolution"], stored["latent_channels"]
    )
    own = {n.removeprefix("field."): t for n, t in tensors.items() if n.startswith("field.")}
    checkpoint.fill(field, own, folder)
    mesh = Unwrapped(*(tensors[name].numpy() for name in ("vertices", "faces", "uv")))
    image = padded(field.image().detach(), Canvas(mesh).covered(stored["resolution"]))
    return PaintedMesh(mesh, image, field, str(stored["prompt"]))


def _field_of(stored: dict[str, Any], box: torch.Tensor) -> LatentField:
    return LatentField(box, stored["resolution"], stored["latent_channels"])
