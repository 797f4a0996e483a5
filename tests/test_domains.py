"""What every domain of the table that draws from the transformer must do, whatever it makes."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pymatgen.analysis.structure_matcher import StructureMatcher
from rdkit import Chem

from gen3d import domains, io
from gen3d.cli import main
from gen3d.config import load_yaml, merge
from gen3d.domains.atoms.dataset import open_dataset
from gen3d.domains.atoms.native import from_native, to_native
from gen3d.domains.base import GenerativeDomain
from gen3d.domains.objects.dataset import collate as collate_things
from gen3d.domains.objects.dataset import open_dataset as open_things
from gen3d.domains.objects.metrics import apart, volumes
from gen3d.domains.objects.native import to_mesh as thing_mesh
from gen3d.domains.scene_prior.dataset import MovingScene
from gen3d.domains.scene_prior.dataset import open_dataset as open_scenes
from gen3d.domains.scene_prior.domain import HALF
from gen3d.domains.scene_prior.variations import FRAMES
from gen3d.domains.shapes.metrics.distances import chamfer
from gen3d.domains.shapes.native import cloud_of, to_mesh
from gen3d.draws import Draws
from gen3d.errors import Gen3dError
from gen3d.generator import Generator
from gen3d.run_config import RunConfig, run_config
from gen3d.train import train

ROOT = Path(__file__).parents[1]
TINY = ROOT / "data" / "tiny"


@dataclass(frozen=True)
class Case:
    """What this test has to know of a domain.

    Attributes:
        data: its fixture.
        objects: the native objects of a file.
        same: whether two native objects are the same, as a decoder may give them back.
        close: whether two native objects are the same but for rounding.
        known: metrics of the fixture against itself.
        failed: a metric, and what becomes of it when as many failed samples are added.
        codec: parts of the domain's configuration under which a codec is trained.
        measure: options of its metrics that make them quick.
        codec_rate: learning rate of the codec.
        codec_steps: steps after which it gives back what it was given; 0 for one that needs no training.
        items: whether a codec is compared with items of the data instead of native objects.
        copies: what metrics compare with the fixture as perfect copies; None for the objects.
    """

    data: Path
    objects: Callable[[Path], list[Any]]
    same: Callable[[Any, Any], bool]
    close: Callable[[Any, Any], bool]
    known: dict[str, float]
    failed: tuple[str, Callable[[float], float]]
    codec: dict[str, Any]
    measure: dict[str, Any] = field(default_factory=dict)
    codec_rate: float = 5e-3
    codec_steps: int = 200
    items: bool = False
    copies: Callable[[Path], list[Any]] | None = None


def same_molecule(one: Any, other: Any) -> bool:
    return Chem.MolToSmiles(one) == Chem.MolToSmiles(other)


def same_crystal(one: Any, other: Any) -> bool:
    return StructureMatcher(primitive_cell=False).fit(one, other)


def same_shape(one: Any, other: Any) -> bool:
    """Clouds by their points; a decoded mesh by its distance from the surface of the shape's voxels."""
    if hasattr(one, "faces"):
        voxels = to_mesh(other.distances.astype(float))
        return chamfer(cloud_of(one, 2000), cloud_of(voxels, 2000)) < 0.01
    return chamfer(one.vertices, other.vertices) < 1e-6


def close_atoms(one: Any, other: Any) -> bool:
    a, b = from_native(one), from_native(other)
    if a.numbers.tolist() != b.numbers.tolist():
        return False
    same_cell = a.cell is None or np.allclose(a.cell, b.cell, atol=1e-3)  # type: ignore[arg-type]
    return same_cell and np.allclose(a.positions, b.positions, atol=1e-3)


def close_shapes(one: Any, other: Any) -> bool:
    return np.allclose(one.vertices, other.vertices, atol=1e-3)


def atoms_of(path: Path) -> list[Any]:
    return [to_native(system) for system in open_dataset(path, "train")]


def moving_scenes(path: Path) -> list[Any]:
    """Scenes made by an untrained prior: the fixture holds what a prior learns from, not scenes."""
    generator = Generator(debug_config("scene-prior").generator())
    batch = fixture_batch(generator.domain, path)
    with torch.no_grad():
        return generator.domain.to_native(generator.codec.decode(generator.codec.encode(batch)))


def same_scene(one: Any, other: Any) -> bool:
    """Scenes by their density; a decoded one by what is known of the places of an item."""
    if isinstance(other, MovingScene):
        places, distance = (torch.from_numpy(a.astype(np.float32)) for a in (other.places, other.distance))
        times = torch.from_numpy(other.instant.astype(np.float32)) / (FRAMES - 1)
        clear = (distance - 0.01).abs() > 0.03
        density = one.field.density(places, times)[0]
        return ((density > HALF) == (distance < 0.01))[clear].float().mean().item() > 0.95
    return close_scenes(one, other)


def close_scenes(one: Any, other: Any) -> bool:
    places = 2 * torch.rand(500, 3, generator=torch.Generator().manual_seed(0)) - 1
    times = torch.linspace(0, 1, 500)
    a, b = (scene.field.density(places, times)[0] for scene in (one, other))
    return torch.allclose(a, b, rtol=0.02, atol=0.02)


def same_picture(one: Any, other: Any) -> bool:
    """Pictures, but for rounding."""
    return np.allclose(np.asarray(one, float), np.asarray(other, float), atol=2)


def things(path: Path) -> list[Any]:
    dataset = open_things(path, "train", 64)
    batch = collate_things([dataset[i] for i in range(len(dataset))], None)
    grids = torch.cat([batch.distances[:, None], batch.colours], 1)
    return [thing_mesh(grid) for grid in grids]


def same_volume(one: Any, other: Any) -> bool:
    """Meshes by the cells that they fill, and by the mean of their colours."""
    share = 1 - apart(volumes([one]), volumes([other]))[0, 0]
    colours = [np.asarray(mesh.visual.vertex_colors)[:, :3].mean(0) for mesh in (one, other)]
    return share > 0.95 and np.allclose(*colours, atol=8)


def half(value: float) -> float:
    return value / 2


ATOMS_CODEC = {"codec": {"width": 64, "depth": 2}}
VOXELS = {"kind": "voxels", "resolution": 16, "latent_channels": 8, "width": 8}

COPIES = {"validity": 100.0, "uniqueness": 100.0, "novelty": 0.0, "valid_unique_novel": 0.0}

CASES = {
    "molecule": Case(
        TINY / "qm9.sdf",
        atoms_of,
        same_molecule,
        close_atoms,
        COPIES | {"molecule_stability": 100.0, "bond_lengths_w1": 0.0, "atom_counts_w1": 0.0},
        ("validity", half),
        ATOMS_CODEC,
    ),
    "crystal": Case(
        TINY / "crystals.cif",
        atoms_of,
        same_crystal,
        close_atoms,
        COPIES | {"structure_validity": 100.0, "density_w1": 0.0, "element_count_w1": 0.0},
        ("validity", half),
        ATOMS_CODEC,
    ),
    "shape": Case(
        TINY / "shapes.npz",
        io.read,
        same_shape,
        close_shapes,
        {"1nna_cd": 0.0, "1nna_cd_off": 50.0, "cov_cd": 100.0, "mmd_cd": 0.0, "jsd": 0.0},
        # Failed samples are told apart: one in three of 24 references, 24 samples and 24 failed ones.
        ("1nna_cd", lambda value: (2 * value + 100) / 3),
        {"shape": VOXELS},
        {"emd": "none"},
        2e-3,
        items=True,
    ),
    "image": Case(
        TINY / "views.npz",
        lambda path: [Image.fromarray(image) for image in np.load(path)["images"]],
        same_picture,
        same_picture,
        {"1nna": 0.0, "cov": 100.0, "frechet": 0.0},
        # As of shapes, with as many references as samples and failed ones.
        ("1nna", lambda value: (2 * value + 100) / 3),
        {"latent_channels": 3 * 64},
        codec_steps=0,
    ),
    "object": Case(
        TINY / "objects.npz",
        things,
        same_volume,
        same_volume,
        {"1nna": 0.0, "cov": 100.0},
        ("1nna", lambda value: (2 * value + 100) / 3),
        {"latent_channels": 512},
        codec_steps=0,
    ),
    "scene-prior": Case(
        TINY / "moving.npz",
        moving_scenes,
        same_scene,
        close_scenes,
        {"1nna_iou": 0.0, "cov_iou": 100.0, "mmd_iou": 0.0},
        ("1nna_iou", lambda value: (value + 50) / 1.5),
        {"noise": 0.0, "asked": 400},
        codec_rate=2e-3,
        codec_steps=300,
        items=True,
        copies=lambda path: list(open_scenes(path, "train", 384)),
    ),
}

GENERATIVE = [name for name in domains.TABLE if issubclass(domains.find(name), GenerativeDomain)]
each = pytest.mark.parametrize("name", GENERATIVE)


def debug_config(name: str, **changes: Any) -> RunConfig:
    return run_config(merge(load_yaml(ROOT / "configs" / f"{name}_debug.yaml"), changes))


def coded_config(name: str, codec: dict[str, Any], **changes: Any) -> RunConfig:
    """The debug config with another codec; one of another kind replaces it as a whole."""
    config = load_yaml(ROOT / "configs" / f"{name}_debug.yaml")
    for key, value in codec.items():
        if isinstance(value, dict) and "kind" in value:
            del config["domain_config"][key]
    return run_config(merge(merge(config, {"domain_config": codec}), changes))


def given(domain: GenerativeDomain, case: Case, count: int) -> list[Any]:
    """What a codec should give back: native objects, or of voxels the items themselves."""
    if case.items:
        dataset = domain.dataset(case.data, "train")
        return [dataset[i] for i in range(count)]
    return case.objects(case.data)[:count]


def fixture_batch(domain: GenerativeDomain, data: Path, count: int | None = None) -> Any:
    dataset = domain.dataset(data, "train")
    return domain.collate([dataset[i] for i in range(count or len(dataset))], None)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A checkpoint of the debug config of every domain, by name."""
    runs = {}
    for name in GENERATIVE:
        out = tmp_path_factory.mktemp(name)
        runs[name] = train(debug_config(name), CASES[name].data, out, progress=False)
    return runs


def test_every_domain_has_a_case() -> None:
    assert [*CASES] == GENERATIVE


@each
def test_its_contract(name: str) -> None:
    cls = domains.find(name)
    assert cls.name == name
    io.format_of(Path(f"samples{cls.extension}"), "write")
    assert domains.find_options(name) is cls.SampleOptions
    assert cls.SampleOptions() is not None
    domain = Generator(debug_config(name).generator()).domain
    assert not domain.valid(None)
    assert name in domain.serves(domain.config)  # type: ignore[attr-defined]


@each
def test_conditions_of_training_and_sampling_have_the_same_names(name: str, trained: dict[str, Path]) -> None:
    generator = Generator.from_pretrained(trained[name], "cpu")
    domain = generator.domain
    batch = fixture_batch(domain, CASES[name].data)
    told = domain.conditions(batch)
    text = {"text", "text_mask"} if domain.model_fields.get("text_width") else set()
    assert set(told) == {
        *domain.class_conditions,
        *domain.scalar_conditions,
        *domain.vector_conditions,
        *text,
    }
    layout = domain.layout(domain.SampleOptions(), Draws(0, torch.arange(5)))
    assert set(layout.conditions) == set(told)
    assert layout.mask.any(1).all()
    assert {name: v.dtype for name, v in layout.conditions.items()} == {n: v.dtype for n, v in told.items()}


@each
def test_encoding_pads_with_zeros_and_has_the_stated_channels(name: str) -> None:
    domain = Generator(debug_config(name).generator()).domain
    batch = fixture_batch(domain, CASES[name].data)
    sizes = domain.dataset(CASES[name].data, "train").sizes
    tokens = domain.codec.encode(batch, Draws(0, torch.arange(len(sizes))))
    assert tokens.x.shape[-1] == domain.codec.channels
    assert not tokens.x[~tokens.mask].any()
    assert tokens.mask.sum(1).tolist() == sizes.tolist()
    groups = domain.codec.channel_groups
    assert not groups or sum(group.width for group in groups) == domain.codec.channels


def train_codec(generator: Generator, batch: Any, case: Case) -> list[float]:
    optimizer = torch.optim.AdamW(generator.codec.parameters(), lr=case.codec_rate)
    losses = []
    for step in range(case.codec_steps):
        optimizer.zero_grad()
        loss, _ = generator.codec_loss(batch, Draws(step, torch.arange(4)))
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@each
def test_a_trained_codec_gives_back_what_it_was_given(name: str) -> None:
    torch.manual_seed(0)
    case = CASES[name]
    generator = Generator(coded_config(name, case.codec).generator())
    domain = generator.domain
    domain.fit(domain.dataset(case.data, "train"))
    batch = fixture_batch(domain, case.data, 4)
    reference = given(domain, case, 4)
    assert bool(case.codec_steps) == any(True for _ in generator.codec.parameters())
    if case.codec_steps:
        losses = train_codec(generator, batch, case)
        assert np.mean(losses[-10:]) < losses[0] / 8
    with torch.no_grad():
        made = domain.to_native(generator.codec.eval().decode(generator.codec.encode(batch)))
    assert [case.same(a, b) for a, b in zip(made, reference, strict=True)] == 4 * [True]


@each
def test_the_transformer_overfits_one_sample(name: str) -> None:
    torch.manual_seed(0)
    case = CASES[name]
    # Points leave open which of a surface's points a noisy one becomes: voxels do not.
    changes = case.codec if "shape" in case.codec else {}
    generator = Generator(coded_config(name, changes, diffusion={"condition_dropout": 0.0}).generator())
    domain = generator.domain
    dataset = domain.dataset(case.data, "train")
    domain.fit(dataset)
    generator.fit_latents([fixture_batch(domain, case.data)])
    batch = domain.collate(16 * [dataset[len(dataset) - 1]], None)
    optimizer = torch.optim.AdamW(generator.core.parameters(), lr=5e-3)
    losses = []
    for step in range(250):
        optimizer.zero_grad()
        loss, _ = generator.prior_loss(batch, Draws(step, torch.arange(16)))
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert np.mean(losses[-20:]) < losses[0] / 5


@each
def test_save_then_load_gives_the_same_samples(name: str, trained: dict[str, Path], tmp_path: Path) -> None:
    generator = Generator.from_pretrained(trained[name], "cpu")
    generator.save_pretrained(tmp_path)
    again = Generator.from_pretrained(tmp_path, "cpu", domain=name)
    assert again.config == generator.config
    for key, value in generator.state_dict().items():
        assert torch.equal(again.state_dict()[key], value), key
    assert_equal(name, generator.sample(4, seed=1), again.sample(4, seed=1))


@each
def test_shards_and_batches_join_to_the_same_samples(name: str, trained: dict[str, Path]) -> None:
    generator = Generator.from_pretrained(trained[name], "cpu")
    whole = generator.sample(7, seed=3)
    assert_equal(name, whole, generator.sample(7, seed=3, batch_size=2))
    shards = [generator.sample(7, seed=3, shard=(i, 3)) for i in range(3)]
    assert_equal(name, whole, [made for shard in shards for made in shard])
    assert_equal(name, whole[2:5], generator.sample(3, seed=3, first=2))
    other = generator.sample(7, seed=4)
    assert any(not close(name, a, b) for a, b in zip(whole, other, strict=True))


def assert_equal(name: str, one: list[Any], other: list[Any]) -> None:
    assert len(one) == len(other)
    for a, b in zip(one, other, strict=True):
        assert close(name, a, b)


def close(name: str, one: Any, other: Any) -> bool:
    if one is None or other is None:
        return one is other
    return CASES[name].close(one, other)


@each
def test_files_hold_what_was_saved(name: str, tmp_path: Path) -> None:
    domain = Generator(debug_config(name).generator()).domain
    objects = CASES[name].objects(CASES[name].data)[:4]
    files = domain.save([*objects, None], tmp_path / f"saved{domain.extension}")
    again = [made for file in files for made in io.read(file)]
    assert [CASES[name].same(a, b) for a, b in zip(objects, again, strict=True)] == 4 * [True]


@each
def test_metrics_of_data_against_itself_are_those_of_perfect_copies(name: str) -> None:
    domain = Generator(debug_config(name).generator()).domain
    reference = domain.reference(CASES[name].data, "train")
    case = CASES[name]
    samples = (case.copies or case.objects)(case.data)
    metrics = {m.name: m for m in domain.metrics(samples, reference, workers=0, **case.measure)}
    values = {key: metric.value for key, metric in metrics.items()}
    expected = case.known
    assert {key: values.get(key) for key in expected} == pytest.approx(expected)
    assert all(metric.definition and metric.better not in (None, "") for metric in metrics.values())
    failed = len(samples) * [None]
    worse = {
        m.name: m.value for m in domain.metrics([*samples, *failed], reference, workers=0, **case.measure)
    }
    key, change = case.failed
    assert worse[key] == pytest.approx(change(values[key]))  # type: ignore[arg-type]


@each
def test_unknown_configuration_is_named(name: str) -> None:
    with pytest.raises(Gen3dError, match=r"unknown configuration key 'domain_config.colour'"):
        debug_config(name, domain_config={"colour": 1})


@each
def test_the_command_in_the_header_of_its_debug_config_works(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    header = (ROOT / "configs" / f"{name}_debug.yaml").read_text().splitlines()
    (command,) = [line[1:].split() for line in header if line[1:].split()[:2] == ["gen3d", "train"]]
    words = [w if not w.startswith("runs/") else str(tmp_path / "run") for w in command[1:]]
    learnt = any(True for _ in Generator(debug_config(name).generator()).codec.parameters())
    codec_steps = "2" if learnt else "0"
    assert main([*words, "--train.steps", "4", "--train.codec-steps", codec_steps, "--quiet"]) in (0, None)
    assert (tmp_path / "run" / "checkpoint" / "model.safetensors").is_file()
