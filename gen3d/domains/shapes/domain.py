"""Shapes as a generative domain: point clouds, or voxels and the meshes made of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from gen3d import io
from gen3d.domains.base import GenerativeDomain, Layout, Metric
from gen3d.domains.shapes import native
from gen3d.domains.shapes.batch import ShapeBatch, collate, vary
from gen3d.domains.shapes.completion import place_partial
from gen3d.domains.shapes.dataset import Shape, ShapeDataset, open_dataset
from gen3d.domains.shapes.decoded import DecodedShapes, Representation
from gen3d.domains.shapes.options import ShapeOptions
from gen3d.domains.shapes.points import PointCodec, PointsConfig
from gen3d.domains.shapes.reference import PreparedReference, clouds, sample_clouds
from gen3d.domains.shapes.voxels import VoxelCodec, VoxelsConfig
from gen3d.draws import Draws
from gen3d.errors import Gen3dError
from gen3d.nn.point_voxel import PointVoxelTransformer
from gen3d.nn.transformer import Network, TransformerConfig
from gen3d.types import Conditions

MAKES: dict[str, tuple[Representation, ...]] = {"points": ("points",), "voxels": ("mesh", "voxels")}
"""What a model of each kind can be asked for; the first is the default."""

SHOWN = 100
"""Shapes of a picture, at most: one of thousands would take gigabytes, and show nothing."""


@dataclass(frozen=True)
class ShapeConfig:
    """What a model of shapes is trained on, and what it diffuses."""

    shape: PointsConfig | VoxelsConfig = field(default_factory=PointsConfig)
    """Point clouds or voxels."""
    classes: tuple[str, ...] = ()
    """Names of classes that sampling can ask for; shapes of other classes count as of none."""
    mirror: bool = True
    """Training mirrors half of the shapes left to right."""

    def __post_init__(self) -> None:
        if len(set(self.classes)) < len(self.classes):
            raise Gen3dError(f"classes are {', '.join(self.classes)}; each once is allowed")


class ShapeDomain(GenerativeDomain):
    """Shapes as `trimesh.PointCloud`, `trimesh.Trimesh` or `trimesh.voxel.VoxelGrid`."""

    name = "shape"
    Config: ClassVar[type] = ShapeConfig
    SampleOptions = ShapeOptions  # type: ignore[assignment]
    extension = ".ply"
    fine_tuning: ClassVar[Mapping[str, Any]] = {**GenerativeDomain.fine_tuning, "batch_size": 16}
    scalar_conditions: Sequence[str] = ()

    def __init__(self, config: ShapeConfig) -> None:
        self.config = config
        self.codec: PointCodec | VoxelCodec
        if isinstance(config.shape, PointsConfig):
            self.codec = PointCodec(len(config.classes))
        else:
            self.codec = VoxelCodec(config.shape, len(config.classes))

    @classmethod
    def default_checkpoint(cls, options: ShapeOptions) -> str:
        return "shape-voxels" if options.representation in MAKES["voxels"] else cls.name

    @property
    def class_conditions(self) -> Mapping[str, int]:  # type: ignore[override]
        return {"class": len(self.config.classes)} if self.config.classes else {}

    @property
    def model_fields(self) -> dict[str, Any]:
        shape = self.config.shape
        if isinstance(shape, PointsConfig):
            cells, network = shape.network.patch**3, shape.network
            return {
                "channels": cells * network.in_channels,
                "out_channels": cells * network.out_channels,
                "axes": 3,
            }
        return {"channels": self.codec.channels, "axes": 3}

    def network(self, config: TransformerConfig) -> Network:
        shape = self.config.shape
        if isinstance(shape, PointsConfig):
            return PointVoxelTransformer(config, shape.network)
        return super().network(config)

    def dataset(self, source: str | Path, split: str) -> ShapeDataset:
        dataset = self._with_own_labels(open_dataset(source, split))
        shape = self.config.shape
        tokens = shape.points if isinstance(shape, PointsConfig) else self.codec.token_count
        dataset.sizes = np.full(len(dataset), tokens, np.int64)
        return dataset

    def reference(self, source: str | Path, split: str) -> ShapeDataset | PreparedReference:
        """The shapes of one file; of a folder, all that was prepared: metrics choose the part."""
        path = Path(source)
        return PreparedReference(path) if path.is_dir() else open_dataset(path, split)

    def fit(self, dataset: Any) -> None:
        counts = np.bincount(dataset.labels, minlength=len(self.config.classes) + 1)
        self.codec.class_counts.copy_(torch.from_numpy(counts))

    def collate(self, items: Sequence[Shape], draws: Draws | None) -> ShapeBatch:
        shape = self.config.shape
        count = shape.points if isinstance(shape, PointsConfig) else 2
        voxels = isinstance(shape, VoxelsConfig)
        batch = collate(items, count, draws, voxels)
        if draws is None:
            return batch
        stretch = shape.stretch if isinstance(shape, PointsConfig) else 0.0
        return vary(batch, draws, self.config.mirror, stretch)

    def conditions(self, batch: ShapeBatch) -> Conditions:
        return {"class": batch.labels} if self.config.classes else {}

    def layout(self, options: ShapeOptions, draws: Draws) -> Layout:
        representation = self._representation(options)
        labels = self._labels(options, draws)
        conditions = {"class": labels} if self.config.classes else {}

        def finish(raw: DecodedShapes, rows: Tensor) -> DecodedShapes:
            return replace(raw, labels=labels.to(rows.device)[rows], representation=representation)

        if isinstance(self.codec, VoxelCodec):
            for name in ("points", "complete"):
                if getattr(options, name) is not None:
                    raise Gen3dError(f"--{name} is for point clouds; this checkpoint makes voxels")
            mask = torch.ones(len(labels), self.codec.token_count, dtype=torch.bool)
            places = self.codec.positions.cpu().expand(len(labels), -1, -1)
            return Layout(mask, places, conditions, finish=finish)
        count = self.config.shape.points if options.points is None else options.points  # type: ignore[union-attr]
        if count < 2:
            raise Gen3dError(f"--points is {count}; at least 2 are needed")
        mask = torch.ones(len(labels), count, dtype=torch.bool)
        layout = Layout(mask, None, conditions, finish=finish)
        return layout if options.complete is None else place_partial(layout, Path(options.complete))

    def items(self, objects: Sequence[Any]) -> list[Shape]:
        count = self.config.shape.points if isinstance(self.config.shape, PointsConfig) else None
        return [native.to_shape(made, count, len(self.config.classes)) for made in objects]

    def to_native(self, raw: DecodedShapes) -> list[Any]:
        return native.to_native(raw, self.config.classes)

    def valid(self, sample: Any) -> bool:
        """Whether there is something: finite points that are not all one, a mesh with faces, full voxels."""
        return sample is not None and native.is_something(sample)

    def metrics(  # type: ignore[override]
        self,
        samples: Sequence[Any],
        reference: Any,
        *,
        workers: int | None = None,
        progress: bool = False,
        emd: str = "approximate",
        split: str = "valid",
        class_name: str | None = None,
        against: str = "points",
        legacy: bool = False,
    ) -> list[Metric]:
        """Measure clouds, or surfaces of meshes and voxels, against held-out shapes.

        Args:
            samples: native objects; None is a failed sample.
            reference: prepared data, or a data set, against all of which is compared.
            workers, progress, emd: as of `shape_metrics`.
            split: part of prepared data that samples are compared with.
            class_name: compare with shapes of this class only.
            against: "points" on the surfaces, or the surfaces of the "voxels" of the data.
            legacy: add the averages over batches that some published code computes.
        """
        from gen3d.domains.shapes.metrics.shapes import shape_metrics

        def prepared(dataset: ShapeDataset) -> list[np.ndarray]:
            return clouds(dataset if class_name is None else dataset.of_class(class_name), against)

        whole = isinstance(reference, PreparedReference)
        return shape_metrics(
            sample_clouds(samples),
            prepared(reference.split(split) if whole else reference),
            training=prepared(reference.split("train")) if whole else None,
            emd=emd,
            legacy_batches=legacy,
            workers=workers,
            progress=progress,
        )

    @classmethod
    def extension_of(cls, made: Any) -> str:
        if hasattr(made, "matrix"):
            return ".binvox"
        return ".glb" if hasattr(made, "faces") else cls.extension

    def draw(self, objects: Sequence[Any], path: Path) -> Path | None:
        from gen3d.domains.shapes.contact_sheet import contact_sheet

        contact_sheet(objects[:SHOWN], path)
        return path

    def save(self, objects: Sequence[Any], path: Path) -> list[Path]:
        return io.write([o for o in objects if o is not None], path)

    @classmethod
    def prepare(
        cls, source: str, out: Path, *, limit: int | None = None, seed: int = 0, progress: bool = True
    ) -> str:
        from gen3d.domains.shapes.prepare import prepare

        return prepare(source, out, limit=limit, seed=seed, progress=progress).summary()

    def _with_own_labels(self, dataset: ShapeDataset) -> ShapeDataset:
        """The same shapes, with the numbers that classes have in this model; K for none."""
        classes = list(self.config.classes)
        own = [classes.index(name) if name in classes else len(classes) for name in dataset.class_names]
        table = np.array([*own, len(classes)])
        labels = table[dataset.labels]
        return ShapeDataset(dataset.points, labels, self.config.classes, dataset.names, dataset.voxels)

    def _representation(self, options: ShapeOptions) -> Representation:
        makes = MAKES[self.config.shape.kind]
        if options.representation is None:
            return makes[0]
        for name in makes:
            if options.representation == name:
                return name
        allowed = ("points", "voxels", "mesh")
        if options.representation in allowed:
            raise Gen3dError(f"this checkpoint makes {' or '.join(makes)}, not {options.representation}")
        raise Gen3dError(f"--representation is {options.representation!r}; allowed: {', '.join(allowed)}")

    def _labels(self, options: ShapeOptions, draws: Draws) -> Tensor:
        """Classes (B,) of new shapes: the one asked for, or drawn as often as in training; K for none."""
        classes = self.config.classes
        if options.class_name is not None:
            if options.class_name not in classes:
                raise Gen3dError(
                    f"--class is {options.class_name!r}; allowed: {', '.join(classes) or 'none: no classes'}"
                )
            return torch.full_like(draws.index, classes.index(options.class_name))
        counts = self.codec.class_counts.double().cpu()
        if not counts.sum():
            return torch.full_like(draws.index, len(classes))
        shares = (counts / counts.sum()).cumsum(0)
        drawn = torch.searchsorted(shares, draws.uniform("class").double().cpu(), right=True)
        return drawn.clamp(max=len(classes)).to(draws.index.device)
