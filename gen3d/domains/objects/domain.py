"""Coloured things as a generative domain: from words to a mesh in seconds."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from gen3d import io, media
from gen3d.domains.base import GenerativeDomain, Layout
from gen3d.domains.objects.codec import ObjectCodec, ObjectConfig
from gen3d.domains.objects.dataset import Thing, ThingBatch, ThingDataset, collate, open_dataset
from gen3d.domains.objects.native import pictures, to_mesh, to_thing
from gen3d.domains.objects.options import ObjectOptions
from gen3d.draws import Draws
from gen3d.metrics import Metric
from gen3d.nn import prompts, text
from gen3d.types import Conditions

LEARNT_FROM, AT_ONCE = 3000, 100
"""Things whose patches tell the components, and how many at a time."""
TURN, ELEVATION, WIDTH, SHOWN = 30.0, 20.0, 160, 64
"""Degrees of the camera of a contact sheet, its pixels along a side, and things on it, at most."""


class ObjectDomain(GenerativeDomain):
    """Things with colours, `trimesh.Trimesh`, +y up."""

    name = "object"
    Config: ClassVar[type] = ObjectConfig
    SampleOptions = ObjectOptions  # type: ignore[assignment]
    extension = ".glb"
    class_conditions: Mapping[str, int] = {}
    scalar_conditions: Sequence[str] = ()

    def __init__(self, config: ObjectConfig) -> None:
        self.config = config
        self.codec: ObjectCodec = ObjectCodec(config)

    @property
    def model_fields(self) -> dict[str, Any]:
        return {"channels": self.codec.channels, "axes": 3, "text_width": text.WIDTH}

    @classmethod
    def prepare(
        cls, source: str, out: Path, *, limit: int | None = None, seed: int = 0, progress: bool = True
    ) -> str:
        from gen3d.domains.objects.prepare import prepare

        counts = prepare(source, out, limit=limit, seed=seed, progress=progress)
        return ", ".join(f"{count:,} {split}" for split, count in counts.items())

    def dataset(self, source: str | Path, split: str) -> ThingDataset:
        return open_dataset(source, split, len(self.codec.positions))

    def fit(self, dataset: Any) -> None:
        self.codec.words.copy_(prompts.stored(dataset.captions.words()))
        if bool(self.codec.components.any()):
            return  # in fine-tuning the weights depend on those that they know
        chosen = np.linspace(0, len(dataset) - 1, min(LEARNT_FROM, len(dataset))).round().astype(int)
        parts = np.array_split(chosen, max(1, len(chosen) // AT_ONCE))
        self.codec.learn(collate([dataset[int(i)] for i in part], None) for part in parts)

    def collate(self, items: Sequence[Thing], draws: Draws | None) -> ThingBatch:
        return collate(items, draws)

    def conditions(self, batch: ThingBatch) -> Conditions:
        return {"text": batch.text, "text_mask": batch.text_mask}

    def layout(self, options: ObjectOptions, draws: Draws) -> Layout:
        asked = prompts.prompts_of(options, draws.index)
        vectors, mask = prompts.texts(asked, prompts.known(self.codec.words))
        positions = self.codec.positions.cpu().expand(len(asked), -1, -1)
        real = torch.ones(positions.shape[:2], dtype=torch.bool)
        return Layout(real, positions, {"text": vectors, "text_mask": mask})

    def items(self, objects: Sequence[Any]) -> list[Thing]:
        """Meshes as data, told nothing."""
        return [to_thing(made) for made in objects]

    def to_native(self, raw: Tensor) -> list[Any]:
        return [to_mesh(grid) for grid in raw.float().cpu()]

    def valid(self, sample: Any) -> bool:
        """Whether there is a surface."""
        return sample is not None and len(sample.faces) > 0

    def metrics(  # type: ignore[override]
        self,
        samples: Sequence[Any],
        reference: ThingDataset,
        *,
        prompts: str = "",
        workers: int | None = None,
        progress: bool = False,
    ) -> list[Metric]:
        """Compare things with data by their volumes, and by what judges see in them.

        Args:
            samples: meshes; None is a failed one.
            reference: data.
            prompts: the file that `--prompts` named, or one prompt for all; whether judges find the class and
                the colour from most sides is then measured.
            workers, progress: not used.
        """
        from gen3d.domains.objects.metrics import prompt_metrics, volume_metrics
        from gen3d.nn.prompts import read_prompts

        found = volume_metrics(samples, reference)
        if prompts:
            lines = read_prompts(prompts) if Path(prompts).is_file() else [prompts]
            found += prompt_metrics(samples, [lines[n % len(lines)] for n in range(len(samples))])
        return found

    def draw(self, objects: Sequence[Any], path: Path) -> Path | None:
        seen = [None if o is None else pictures(o, [TURN], ELEVATION, WIDTH)[0] for o in objects[:SHOWN]]
        shown = [None if picture is None else media.pixels(picture.permute(1, 2, 0)) for picture in seen]
        media.write_sheet(shown, path)
        return path

    def save(self, objects: Sequence[Any], path: Path) -> list[Path]:
        return io.write([o for o in objects if o is not None], path)
