"""The codec of the ADiT paper, its published sizes, and its cells."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pymatgen.core import Lattice
from torch import Tensor, nn

from gen3d.config import load_yaml
from gen3d.domains.atoms.adit import NANOMETRE, AditCodec, AditCodecConfig, _cells, _scaled
from gen3d.domains.atoms.batch import AtomsBatch, collate, pool_hydrogens
from gen3d.domains.atoms.dataset import open_dataset
from gen3d.domains.atoms.statistics import ELEMENTS, Kind
from gen3d.draws import Draws
from gen3d.errors import Gen3dError
from gen3d.generator import Generator
from gen3d.run_config import run_config
from gen3d.train import train

ROOT = Path(__file__).parents[1]
BOTH: tuple[Kind, ...] = ("molecule", "crystal")
PAPER = ["molecule_s_paper", "crystal_s_paper", "joint_s_paper"]


def batch_of(*sources: str, count: int = 4) -> AtomsBatch:
    systems = [s for source in sources for s in open_dataset(ROOT / "data" / "tiny" / source, "train")]
    return collate([pool_hydrogens(s, pool=False) for s in systems[-count:]], ())


def small(kinds: tuple[Kind, ...] = BOTH, seed: int = 0, **changes: float) -> AditCodec:
    torch.manual_seed(seed)
    config = AditCodecConfig("adit", width=32, depth=1, heads=2, **changes)  # type: ignore[arg-type]
    return AditCodec(config, kinds).eval()


def draws(count: int, seed: int = 0) -> Draws:
    return Draws(seed, torch.arange(count))


def count(*parts: nn.Module | Tensor) -> int:
    """Learned numbers of modules."""
    return sum(p.numel() for part in parts if isinstance(part, nn.Module) for p in part.parameters())


class TestPublishedSizes:
    @pytest.mark.parametrize("name", PAPER)
    def test_parameters(self, name: str) -> None:
        with torch.device("meta"):
            generator = Generator(run_config(load_yaml(ROOT / "configs" / f"{name}.yaml")).generator())
        codec = generator.codec
        assert isinstance(codec, AditCodec)
        encoder = count(
            codec.element_table,
            codec.embed_positions,
            codec.embed_fractional,
            codec.encoder,
            codec.posterior,
        )
        decoder = count(
            codec.embed_latent,
            codec.decoder,
            codec.head_elements,
            codec.head_positions,
            codec.head_fractional,
            codec.head_lattice,
        )
        assert encoder + decoder == count(codec)
        assert encoder == pytest.approx(25.81e6, rel=0.005)
        assert decoder == pytest.approx(25.28e6, rel=0.005)
        # Ours has no embedding of 230 space groups, 0.09 M.
        assert count(generator.core) == pytest.approx(32.56e6, rel=0.01)

    @pytest.mark.parametrize("name", PAPER)
    def test_the_recipe(self, name: str) -> None:
        config = run_config(load_yaml(ROOT / "configs" / f"{name}.yaml"))
        model, diffusion = config.model, config.diffusion
        assert (model.width, model.depth, model.heads, model.channels) == (384, 12, 6, 8)
        assert model.classes == {"kind": 2}
        assert model.scalars == ()
        assert model.self_conditioning
        # t in (0, 1): the weight of an x-prediction's error is 1 / (1 - min(t, 0.9))^2.
        t = torch.tensor([0.0, 0.5, 0.89, 0.95])
        weight = diffusion.path.sensitivity("v", t, diffusion.min_noise) / diffusion.path.sensitivity(
            diffusion.prediction, t, diffusion.min_noise
        )
        np.testing.assert_allclose(weight, 1 / (1 - t.clamp(max=0.9)), rtol=1e-4)


class TestCells:
    @pytest.mark.parametrize("seed", range(20))
    def test_lengths_and_angles_are_pymatgens(self, seed: int) -> None:
        generator = np.random.default_rng(seed)
        lattice = Lattice(generator.normal(size=(3, 3)) * 5)
        size = seed + 1
        scaled = _scaled(torch.tensor(lattice.matrix)[None], torch.tensor([size]))[0].numpy()
        np.testing.assert_allclose(scaled[:3] * size ** (1 / 3), lattice.abc, rtol=1e-5)
        np.testing.assert_allclose(np.degrees(scaled[3:]), lattice.angles, rtol=1e-5)

    @pytest.mark.parametrize(
        "parameters",
        [(3, 4, 5, 90, 90, 90), (3, 3, 3, 60, 60, 60), (2, 9, 4, 70, 100, 120), (5, 5, 8, 90, 90, 120)],
    )
    def test_round_trip(self, parameters: tuple[float, ...]) -> None:
        lattice = Lattice.from_parameters(*parameters)
        sizes = torch.tensor([7])
        (cell,) = _cells(_scaled(torch.tensor(lattice.matrix)[None], sizes), sizes).numpy()
        np.testing.assert_allclose(Lattice(cell).parameters, parameters, rtol=1e-6)
        assert np.linalg.det(cell) > 0
        np.testing.assert_allclose(np.triu(cell, 1), 0, atol=1e-12)

    def test_angles_that_close_no_cell_give_none(self) -> None:
        angles = np.radians([[30, 30, 100], [150, 150, 150], [90, 90, 90]])
        scaled = torch.from_numpy(np.hstack([np.ones((3, 3)), angles]))
        finite = torch.isfinite(_cells(scaled, torch.tensor([1, 1, 1]))).flatten(1).all(1)
        assert finite.tolist() == [False, False, True]


class TestCodec:
    @torch.no_grad()
    def test_a_sample_does_not_depend_on_its_batch_or_padding(self) -> None:
        codec, batch = small(), batch_of("qm9.sdf", "crystals.cif", count=8)
        tokens = codec.encode(batch)
        decoded = codec.decode(tokens)
        for i, size in enumerate(batch.mask.sum(1).tolist()):
            rows = {n: getattr(batch, n)[i : i + 1] for n in AtomsBatch.__dataclass_fields__}
            whole = {"lattice", "periodic", "properties"}
            alone = AtomsBatch(**{n: v if n in whole else v[:, :size] for n, v in rows.items()})
            encoded = codec.encode(alone)
            np.testing.assert_allclose(encoded.x[0], tokens.x[i, :size], atol=1e-5)
            assert not tokens.x[i, size:].any()
            again = codec.decode(encoded)
            for name in ("element_logits", "positions", "fractional"):
                whole_batch = getattr(decoded, name)[i, :size]
                np.testing.assert_allclose(getattr(again, name)[0], whole_batch, atol=1e-4)
            assert again.cells is not None
            assert decoded.cells is not None
            np.testing.assert_allclose(again.cells[0], decoded.cells[i], atol=1e-4)

    @torch.no_grad()
    def test_the_latent_of_a_crystal_depends_on_its_cell(self) -> None:
        codec, batch = small(), batch_of("crystals.cif")
        larger = AtomsBatch(**{**vars(batch), "lattice": batch.lattice + 0.1})
        one, other = codec.encode(batch).x, codec.encode(larger).x
        changed = (one - other).abs().amax((1, 2))
        assert (changed > 1e-3).all()

    @torch.no_grad()
    def test_a_sample_of_the_posterior_has_its_mean_and_variance(self) -> None:
        codec, batch = small(), batch_of("qm9.sdf", count=1)
        mean, log_variance = codec._posterior(batch, batch.numbers, batch.positions, batch.fractional)
        rows = {n: getattr(batch, n).expand(4000, *getattr(batch, n).shape[1:]) for n in vars(batch)}
        drawn = codec.encode(AtomsBatch(**rows), draws(4000)).x
        assert torch.equal(codec.encode(batch).x, mean)
        std = torch.exp(log_variance[0] / 2)
        np.testing.assert_array_less((drawn.mean(0) - mean[0]).abs() / std, 5 / math.sqrt(4000))
        np.testing.assert_allclose(drawn.std(0) / std, 1.0, atol=0.06)

    def test_tokens_are_numbered_in_the_order_of_the_file(self) -> None:
        tokens = small().encode(batch_of("qm9.sdf"))
        assert tokens.positions is not None
        assert tokens.positions[1, :, 0].tolist() == list(range(tokens.x.shape[1]))

    def test_loss_is_the_papers_sum(self) -> None:
        codec = small(type_corruption=0.0, position_corruption=0.0)
        nn.init.constant_(codec.posterior.weight, 0.0)  # mean 0 and variance 1: no divergence
        for head in (codec.head_positions, codec.head_fractional):
            nn.init.constant_(head.weight, 0.0)
        for head in (codec.head_elements, codec.head_lattice):
            nn.init.constant_(head.weight, 0.0)
            nn.init.constant_(head.bias, 0.0)
        batch = batch_of("qm9.sdf", "crystals.cif", count=8)
        loss, parts = codec.loss(batch, draws(8))
        mask, periodic = batch.mask, batch.periodic
        systems = list(open_dataset(ROOT / "data" / "tiny" / "crystals.cif", "train"))
        lattices = [Lattice(s.cell) for s in systems]
        sizes = np.array([len(s) for s in systems])
        lengths = np.array([c.abc for c in lattices]) / sizes[:, None] ** (1 / 3)
        angles = np.radians([c.angles for c in lattices])
        n = len(mask)

        def mean(squares: torch.Tensor, kind: torch.Tensor) -> float:
            """Over the atoms and axes of each sample of one kind, then over all samples."""
            return sum(squares[b, mask[b]].mean().item() for b in range(n) if kind[b]) / n

        expected = {
            "element": math.log(ELEMENTS + 1),
            "position": mean((batch.positions / NANOMETRE).square(), ~periodic),
            "fractional": mean(batch.fractional.square(), periodic),
            "length": (lengths**2).mean() * len(systems) / n,
            "angle": (angles**2).mean() * len(systems) / n,
            "kl": 0.0,
        }
        assert {k: v.item() for k, v in parts.items()} == pytest.approx(expected, rel=1e-4, abs=1e-6)
        weights = {"element": 1, "position": 10, "fractional": 10, "length": 1, "angle": 10, "kl": 1e-5}
        assert loss.item() == pytest.approx(sum(weights[k] * v for k, v in expected.items()), rel=1e-4)

    def test_divergence_is_that_of_torch(self) -> None:
        codec, batch = small(type_corruption=0.0, position_corruption=0.0), batch_of("qm9.sdf")
        mean, log_variance = codec._posterior(batch, batch.numbers, batch.positions, batch.fractional)
        posterior = torch.distributions.Normal(mean, torch.exp(log_variance / 2))
        divergence = torch.distributions.kl_divergence(posterior, torch.distributions.Normal(0.0, 1.0))
        _, parts = codec.loss(batch, draws(4))
        expected = [d[m].mean().item() for d, m in zip(divergence.sum(-1), batch.mask, strict=True)]
        assert parts["kl"].item() == pytest.approx(np.mean(expected), rel=1e-4)

    @pytest.mark.parametrize("sources", [("qm9.sdf",), ("crystals.cif",)])
    def test_loss_falls_when_overfitting(self, sources: tuple[str, ...]) -> None:
        codec, batch = small(kl=0.0), batch_of(*sources)
        optimizer = torch.optim.AdamW(codec.parameters(), lr=3e-3)
        losses = []
        for step in range(200):
            optimizer.zero_grad()
            loss, parts = codec.loss(batch, draws(4, seed=step))
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert np.mean(losses[-20:]) < losses[0] / 10
        if "length" in parts:
            assert parts["length"].item() < 0.05
            assert parts["angle"].item() < 0.05


@pytest.mark.parametrize(
    "options", [{"formula": "CH4"}, {"elements": ("C",)}, {"scaffold": "x.sdf"}], ids=lambda o: next(iter(o))
)
def test_what_needs_explicit_elements_is_refused(options: dict[str, object]) -> None:
    generator = tiny_generator("molecule_s_paper")
    with pytest.raises(Gen3dError, match=f"{next(iter(options))} needs a model whose latents show elements"):
        generator.sample(1, **options)  # type: ignore[arg-type]


def test_it_samples_the_wanted_number_of_atoms() -> None:
    generator = tiny_generator("molecule_s_paper")
    dataset = generator.domain.dataset(ROOT / "data" / "tiny" / "qm9.sdf", "train")
    generator.domain.fit(dataset)
    made = generator.sample(3, num_atoms=15, steps=2)
    assert [mol.GetNumAtoms() for mol in made] == [15, 15, 15]


def tiny_generator(name: str) -> Generator:
    torch.manual_seed(0)
    return Generator(run_config(tiny_values(name)).generator()).eval()


def tiny_values(name: str) -> dict[str, Any]:
    """The configuration `name` with tiny networks."""
    values = load_yaml(ROOT / "configs" / f"{name}.yaml")
    values["domain_config"]["codec"] |= {"width": 32, "depth": 1, "heads": 2}
    values["model"] |= {"width": 32, "depth": 1, "heads": 2}
    return values


def test_the_paper_run_trains_and_samples_both_kinds(tmp_path: Path) -> None:
    values = tiny_values("joint_s_paper")
    values["train"] |= {"steps": 4, "codec_steps": 2, "batch_size": 6}
    sources = ",".join(str(ROOT / "data" / "tiny" / name) for name in ("qm9.sdf", "crystals.cif"))
    checkpoint = train(run_config(values), sources, tmp_path, progress=False)
    losses = [json.loads(line)["loss"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert losses
    assert np.isfinite(losses).all()
    for name in BOTH:
        generator = Generator.from_pretrained(checkpoint, "cpu", domain=name)
        assert torch.equal(generator.latent_std, torch.ones(8))  # latents are not normalised
        assert len(generator.sample(3, steps=3)) == 3
