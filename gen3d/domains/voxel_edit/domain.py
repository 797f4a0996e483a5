"""The domain `voxel-edit`: a scene of voxels, changed as words say."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from gen3d.config import from_dict, load_yaml, merge, to_dict
from gen3d.diffusion.priors import as_prior
from gen3d.domains.base import PromptedDomain
from gen3d.domains.voxel_edit.attention import Attention
from gen3d.domains.voxel_edit.config import AS_PUBLISHED, VoxelEditConfig, VoxelEditRun, editing
from gen3d.domains.voxel_edit.cut import cut
from gen3d.domains.voxel_edit.initial import BOX, Frame, frame_of, grid_to_edit, initial_scene
from gen3d.domains.voxel_edit.options import VoxelEditOptions
from gen3d.domains.voxel_edit.show import CELLS, EditedScene, read_edited, show_edit, write_edited
from gen3d.errors import Gen3dError
from gen3d.fields.edited import EditedField
from gen3d.fields.harmonics import HARMONIC_0
from gen3d.fields.occupancy import Occupancy
from gen3d.fields.rendering import Rendering
from gen3d.metrics import Metric
from gen3d.scenes.distil import STABLE, Distilled
from gen3d.scenes.gallery import pictures_around
from gen3d.scenes.judged import ELEVATION, VIEWS, WIDTH, edit_metrics
from gen3d.scenes.scene import Scene


class VoxelEditFit(Distilled):
    """An edit on its way: the prior pulls at the grid; then, for edits by words, attention is fitted to
    it."""

    field: EditedField

    def __init__(self, run: VoxelEditRun, data: Path, prior: Any) -> None:
        torch.manual_seed(run.fit.seed)
        field = EditedField(BOX, max(run.fit.resolutions))
        field.settled = False
        super().__init__(field, Occupancy(field.box, CELLS), as_prior(prior), run.prompt, run.fit)
        self.run, self.data = run, data
        self.attention: Attention | None = None
        self.drawn: tuple[Tensor, Tensor, int, Rendering] | None = None

    def begin(self) -> None:
        """Make the grid that is edited."""
        scene = initial_scene(self.data, self.run.domain_config, progress=False)
        own = self.run.domain_config
        self.frame = frame_of(scene, own.front, own.room if self.run.edit_words else 0.0)
        grid = grid_to_edit(scene, self.frame, max(self.field.shape))
        self.field.load_state_dict(grid.state_dict())
        self.field.scale, self.field.bias = grid.scale, grid.bias

    def header(self) -> dict[str, Any]:
        frame, field = self.frame.values().tolist(), self.field
        return {**super().header(), "frame": frame, "scale": field.scale, "bias": field.bias}

    def restore(self, path: Path) -> dict[str, Any]:
        header = super().restore(path)
        self.frame = Frame.of(torch.tensor(header["frame"]))
        self.field.scale, self.field.bias = header["scale"], header["bias"]
        return header

    @property
    def edits_from(self) -> float:
        """The share of the run after which attention is fitted; 1 for never."""
        return 1 - self.run.domain_config.refine.share if self.run.edit_words else 1.0

    def losses(self, share: float) -> tuple[Tensor, Tensor]:
        if share < self.edits_from:
            self.field.reading.fill_(False)
            return super().losses(share / self.edits_from)
        self.field.reading.fill_(True)
        if self.attention is None:
            refine = self.run.domain_config.refine
            noise = self.prior.attention_noise if refine.noise is None else refine.noise
            self.attention = Attention(self, self.run.edit_words, refine.views, noise)
        loss = self.attention.loss()
        smooth = self.field.penalties()["attention_variation"]
        return loss, loss + self.run.domain_config.refine.variation * smooth

    def render(self, azimuth: Tensor, elevation: Tensor, size: int, background: Tensor) -> Rendering:
        seen = super().render(azimuth, elevation, size, background)
        self.drawn = azimuth, elevation, size, seen
        return seen

    def terms(self) -> Tensor:
        weight = self.run.domain_config.image_l2
        if not weight or self.drawn is None:
            return super().terms()
        azimuth, elevation, size, seen = self.drawn
        with torch.no_grad():
            before = self.render_of(self.field.initial(), azimuth, elevation, size, torch.ones(3))
        return super().terms() + weight * (seen.colour - before.colour).square().mean()

    # The next step says again whether attention is asked for.
    def scene(self) -> Scene:
        self.field.reading.fill_(False)
        return super().scene()

    def preview(self, path: Path) -> bool:
        self.field.reading.fill_(False)
        return super().preview(path)

    def edited_points(self) -> Tensor | None:
        """(P,) grid points that are part of the edit, once it is over; None for all."""
        if not self.run.edit_words or self.share() < 1:
            return None
        field = self.field
        density = field.scale * F.softplus(field.density_table[:, 0] + field.bias)
        before = field.scale * F.softplus(field.initial_density[:, 0] + field.bias)
        filled = F.max_pool3d(torch.maximum(density, before).view(1, *field.shape), 3, 1, 1).flatten() > 1.0
        weights = field.attention_table.detach().sigmoid()
        probability = torch.softmax(weights / weights.std(0).clamp(min=1e-4), 1)[:, 0]
        colours = torch.sigmoid(field.colour_table.detach() * HARMONIC_0)
        chosen = cut(
            probability.numpy(),
            colours.numpy(),
            field.shape,
            filled.numpy(),
            self.run.domain_config.refine.cut,
        )
        return torch.from_numpy(chosen)

    def write(self, folder: Path) -> None:
        part = self.edited_points()
        if part is None:
            part = torch.ones(len(self.field.density_table), dtype=torch.bool)
        self.field.keep_only(part)
        config = {
            "domain": VoxelEditDomain.name,
            "prompt": self.prompt,
            "edit_words": list(self.run.edit_words),
            "prior": self.run.prior.checkpoint,
            "resolution": max(self.field.shape),
            "scale": self.field.scale,
            "bias": self.field.bias,
            "fit": {"steps": self.step, "seconds": round(self.seconds, 1)},
        }
        card = f"# {self.prompt}\n\nEdited by gen3d ({self.step} steps, {self.seconds / 60:.1f} minutes).\n"
        write_edited(folder, self.scene(), part, self.frame.values(), config, card)


class VoxelEditDomain(PromptedDomain):
    """Scenes of voxels, edited by words (Vox-E, arXiv 2303.12048)."""

    name = "voxel-edit"
    Config = VoxelEditConfig
    RunConfig = VoxelEditRun
    SampleOptions = VoxelEditOptions  # type: ignore[assignment]
    extension = ".glb"

    def __init__(self, config: VoxelEditConfig) -> None:
        self.config = config

    @classmethod
    def run_config(cls, options: VoxelEditOptions, given: dict[str, Any]) -> VoxelEditRun:  # type: ignore[override]
        if options.input is None:
            raise Gen3dError("--input is missing: a folder of posed pictures, a run with voxels, or a mesh")
        # A configuration that names some values of `fit` keeps the others as edits have them.
        given_config = {} if options.config is None else load_yaml(Path(options.config))
        words = options.edit_words or given_config.get("edit_words")
        values: dict[str, Any] = {"fit": to_dict(editing(local=bool(words)))}
        if options.prior.startswith(STABLE):
            values = merge(values, {"fit": AS_PUBLISHED})
        values = merge(values, given_config)
        asked: dict[str, Any] = {
            "domain": cls.name,
            "prior": {"checkpoint": options.prior},
            "fit": given,
            "domain_config": {"front": options.front},
        }
        if options.prompt is not None:
            asked["prompt"] = options.prompt
        if options.edit_words:
            asked["edit_words"] = list(options.edit_words)
        run: VoxelEditRun = from_dict(VoxelEditRun, merge(values, asked))
        if not run.prompt.strip():
            raise Gen3dError("--prompt is missing or empty; say what should be seen after the edit")
        return run

    @classmethod
    def data(cls, options: VoxelEditOptions) -> Path | None:  # type: ignore[override]
        return options.input

    @classmethod
    def fitting(cls, config: VoxelEditRun, data: Path | None, prior: Any = None) -> VoxelEditFit:
        if data is None:
            raise Gen3dError("an edit needs a scene to start from")
        return VoxelEditFit(config, data, prior)

    @classmethod
    def load(cls, folder: Path) -> EditedScene:
        return read_edited(folder / "checkpoint" if (folder / "checkpoint").is_dir() else folder)

    @classmethod
    def show(
        cls, scene: EditedScene, options: VoxelEditOptions, out: Path | None, *, progress: bool = True
    ) -> list[Path]:
        return show_edit(
            scene,
            out or Path(cls.name),
            width=options.width,
            seconds=options.seconds,
            fps=options.fps,
            resolution=options.resolution,
            progress=progress,
        )

    @classmethod
    def turntable(cls, scene: EditedScene, count: int, width: int) -> list[Tensor]:
        before, after = (pictures_around(each, width, count) for each in (scene.before, scene.after))
        return [torch.cat(pair, 1) for pair in zip(before, after, strict=True)]

    def metrics(  # type: ignore[override]
        self,
        samples: Sequence[Any],
        reference: str,
        *,
        clip: str = "",
        workers: int | None = None,
        progress: bool = False,
    ) -> list[Metric]:
        """How much an edit changed that it should not have, and whether it did what the words say.

        Args:
            samples: one edit.
            reference: words for the scene as it was, which CLIP's direction needs; "-" for none.
            clip: folder with weights of CLIP.
            workers, progress: not used.

        Raises:
            Gen3dError: another number of edits.
        """
        if len(samples) != 1 or samples[0] is None:
            raise Gen3dError(f"{len(samples)} edits; one is judged at a time")
        edit: EditedScene = samples[0]
        before, after = (pictures_around(s, WIDTH, VIEWS, ELEVATION) for s in (edit.before, edit.after))
        source = "" if reference == "-" else reference
        inside = edit.where(WIDTH, VIEWS, ELEVATION)
        return edit_metrics(before, after, inside, edit.overlap(), edit.prompt, source, clip)

    def valid(self, sample: Any) -> bool:
        return isinstance(sample, EditedScene) and 0 < sample.after.occupancy.share < 1
