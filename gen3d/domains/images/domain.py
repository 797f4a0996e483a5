"""Captioned, posed pictures as a generative domain: the prior that guides text to 3D."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from gen3d import io, media
from gen3d.domains.base import GenerativeDomain, Layout
from gen3d.domains.images.codec import ImageCodec, ImageConfig
from gen3d.domains.images.dataset import View, ViewBatch, ViewDataset, collate, open_dataset
from gen3d.domains.images.options import ImageOptions, ImagePrepareOptions
from gen3d.draws import Draws
from gen3d.errors import Gen3dError, require
from gen3d.metrics import Metric
from gen3d.nn import prompts
from gen3d.nn import text as words
from gen3d.scenes.viewpoints import OVERHEAD, directions
from gen3d.types import Conditions


class ImageDomain(GenerativeDomain):
    """Pictures of things before white, `PIL.Image.Image`."""

    name = "image"
    Config: ClassVar[type] = ImageConfig
    SampleOptions = ImageOptions  # type: ignore[assignment]
    extension = ".png"
    class_conditions: Mapping[str, int] = {}
    scalar_conditions: Sequence[str] = ()
    vector_conditions: Mapping[str, int] = {"camera": 3}

    def __init__(self, config: ImageConfig) -> None:
        self.config = config
        self.codec: ImageCodec = ImageCodec(config)

    @property
    def model_fields(self) -> dict[str, Any]:
        return {"channels": self.codec.channels, "axes": 2, "text_width": words.WIDTH}

    @classmethod
    def prepare(  # type: ignore[override]
        cls,
        source: str,
        out: Path,
        *,
        limit: int | None = None,
        seed: int = 0,
        progress: bool = True,
        options: ImagePrepareOptions | None = None,
    ) -> str:
        from gen3d.domains.images.prepare import prepare

        size = (options or ImagePrepareOptions()).size
        counts = prepare(source, out, size=size, limit=limit, seed=seed, progress=progress)
        return ", ".join(f"{count:,} {split}" for split, count in counts.items())

    def dataset(self, source: str | Path, split: str) -> ViewDataset:
        return open_dataset(source, split, len(self.codec.positions), self.config.size)

    def reference(self, source: str | Path, split: str) -> ViewDataset:
        """Pictures of any size: judges make them as large as they need."""
        return open_dataset(source, split, len(self.codec.positions))

    def fit(self, dataset: Any) -> None:
        self.codec.words.copy_(prompts.stored(dataset.captions.words()))

    def collate(self, items: Sequence[View], draws: Draws | None) -> ViewBatch:
        azimuth, elevation = (torch.tensor([getattr(i, n) for i in items]) for n in ("azimuth", "elevation"))
        return collate(items, directions(azimuth, elevation), draws)

    def conditions(self, batch: ViewBatch) -> Conditions:
        return {"camera": batch.camera, "text": batch.text, "text_mask": batch.text_mask}

    def layout(self, options: ImageOptions, draws: Draws) -> Layout:
        count = len(draws.index)
        positions = self.codec.positions.cpu().expand(count, -1, -1)
        text, mask = self.texts(prompts.prompts_of(options, draws.index))
        return Layout(
            torch.ones(positions.shape[:2], dtype=torch.bool),
            positions,
            {"camera": self._cameras(options, draws), "text": text, "text_mask": mask},
        )

    def texts(self, asked: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Vectors (B, L, E) and mask (B, L) of prompts; an empty one is none. Warns of what is not known.

        Raises:
            MissingExtra: the extra `text` is not installed.
        """
        return prompts.texts(asked, prompts.known(self.codec.words))

    def _cameras(self, options: ImageOptions, draws: Draws) -> Tensor:
        """(B, 3) directions, those that are not asked for drawn as the data have them."""
        azimuth, elevation = draws.uniform("azimuth") * 360, draws.uniform("elevation") * OVERHEAD
        if options.azimuth is not None:
            azimuth = torch.full_like(azimuth, options.azimuth)
        if options.elevation is not None:
            if not -90 <= options.elevation <= 90:
                raise Gen3dError(f"elevation is {options.elevation}; allowed: -90 to 90 degrees")
            elevation = torch.full_like(elevation, options.elevation)
        return directions(azimuth, elevation)

    def to_native(self, raw: Tensor) -> list[Any]:
        image = require("PIL.Image", "scenes")
        pictures = ((raw.float().clamp(-1, 1) + 1) / 2).permute(0, 2, 3, 1)
        finite = pictures.isfinite().all(-1).all(-1).all(-1)
        return [
            image.fromarray(media.pixels(picture)) if good else None
            for picture, good in zip(pictures, finite, strict=True)
        ]

    def items(self, objects: Sequence[Any]) -> list[View]:
        """Pictures as data, told nothing, seen from the front."""
        size = (self.config.size, self.config.size)
        shown = [np.asarray(picture.convert("RGB").resize(size)) for picture in objects]
        return [View(image, 0.0, 0.0, "", np.zeros((0, words.WIDTH), np.float16)) for image in shown]

    def valid(self, sample: Any) -> bool:
        """Whether anything is to be seen: a picture of more than one colour."""
        return sample is not None and any(low != high for low, high in sample.convert("RGB").getextrema())

    def metrics(  # type: ignore[override]
        self,
        samples: Sequence[Any],
        reference: ViewDataset,
        *,
        prompts: str = "",
        workers: int | None = None,
        progress: bool = False,
    ) -> list[Metric]:
        """Compare pictures with data in the eyes of an ImageNet classifier.

        Args:
            samples: pictures; None is a failed one.
            reference: data.
            prompts: the file that `--prompts` named, or one prompt for all; whether judges find the class and
                the colour is then measured.
            workers, progress: not used.
        """
        from gen3d.domains.images.metrics import image_set_metrics, prompt_metrics
        from gen3d.nn.prompts import read_prompts

        found = image_set_metrics(samples, reference)
        if prompts:
            lines = read_prompts(prompts) if Path(prompts).is_file() else [prompts]
            told = [lines[number % len(lines)] for number in range(len(samples))]
            found += prompt_metrics(samples, told, reference)
        return found

    def draw(self, objects: Sequence[Any], path: Path) -> Path | None:
        media.write_sheet([None if o is None else np.asarray(o.convert("RGB")) for o in objects], path)
        return path

    def save(self, objects: Sequence[Any], path: Path) -> list[Path]:
        return io.write([o for o in objects if o is not None], path)
