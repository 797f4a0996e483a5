"""Atomic systems as batches and latents: hydrogens, frames, lattices, the codec, and decoding."""

import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from gen3d.domains.atoms.batch import (
    SLOTS,
    AtomsBatch,
    PooledSystem,
    augment,
    canonical,
    collate,
    pool_hydrogens,
    turn,
)
from gen3d.domains.atoms.codec import AtomsCodec, CodecConfig, _assignment_error
from gen3d.domains.atoms.dataset import AtomsDataset, open_dataset
from gen3d.domains.atoms.decoding import to_systems
from gen3d.domains.atoms.domain import token_counts
from gen3d.domains.atoms.frames import random_frames
from gen3d.domains.atoms.lattice import lattice_cells
from gen3d.domains.atoms.statistics import ELEMENTS, DecodedAtoms
from gen3d.domains.atoms.system import AtomicSystem
from gen3d.draws import Draws

TINY = Path(__file__).parents[1] / "data" / "tiny"
QUIET = {"position_noise": 0.0, "torus_noise": 0.0, "content_noise": 0.0}
ALL_SEEN = torch.arange(ELEMENTS + 1) > 0


def draws(count: int, seed: int = 0) -> Draws:
    return Draws(seed, torch.arange(count))


def molecule(symbols: str, places: list[tuple[float, float, float]]) -> AtomicSystem:
    numbers = np.array([{"H": 1, "C": 6, "N": 7, "O": 8, "F": 9}[s] for s in symbols])
    return AtomicSystem(numbers, np.array(places, float))


def around(centre: tuple[float, float, float], count: int) -> list[tuple[float, float, float]]:
    """`count` points about one angstrom from a centre, none twice."""
    directions = np.random.default_rng(count).normal(size=(count, 3))
    return [tuple(centre + d / np.linalg.norm(d)) for d in directions]


H2 = molecule("HH", [(0, 0, 0), (0.74, 0, 0)])
METHANE = molecule("CHHHH", [(0, 0, 0), *around((0, 0, 0), 4)])
WATER = molecule("HOH", [(0.76, 0.59, 0), (0, 0, 0), (-0.76, 0.59, 0)])
CROWDED = molecule("CHHHHHHO", [(0, 0, 0), *around((0, 0, 0), 6), (5, 0, 0)])
ONLY_HYDROGEN = molecule("HHHHHHH", [(0, 0, 0), *around((0, 0, 0), 6)])


def tiny_molecules() -> list[AtomicSystem]:
    return list(open_dataset(TINY / "qm9.sdf", "train"))


def tiny_crystals() -> list[AtomicSystem]:
    return list(open_dataset(TINY / "crystals.cif", "train"))


def pooled_batch(systems: list[AtomicSystem]) -> AtomsBatch:
    return collate([pool_hydrogens(s) for s in systems], ())


def perfect(batch: AtomsBatch) -> DecodedAtoms:
    """What a decoder without any error says."""
    return DecodedAtoms(
        batch.mask,
        100.0 * nn.functional.one_hot(batch.numbers, ELEMENTS + 1),
        100.0 * nn.functional.one_hot(batch.hydrogen_counts, SLOTS + 1),
        batch.hydrogens,
        batch.positions,
        batch.fractional,
        lattice_cells(batch.lattice, batch.mask.sum(1)),
    )


def assert_same_atoms(one: AtomicSystem, other: AtomicSystem) -> None:
    """The same atoms at the same places, whatever their order and the common shift."""
    assert Counter(one.numbers.tolist()) == Counter(other.numbers.tolist())
    places = [s.positions - s.positions.mean(0) for s in (one, other)]
    assert largest_gap(one.numbers, places[0], other.numbers, places[1]) < 1e-4


def largest_gap(numbers: np.ndarray, places: np.ndarray, others: np.ndarray, targets: np.ndarray) -> float:
    """Largest distance, angstrom, in the best matching of atoms to atoms of their element."""
    gaps = np.linalg.norm(places[:, None] - targets, axis=-1) + 100.0 * (numbers[:, None] != others)
    return float(gaps[linear_sum_assignment(gaps)].max())


def distances(batch: AtomsBatch) -> Tensor:
    return torch.cdist(batch.positions, batch.positions, compute_mode="donot_use_mm_for_euclid_dist")


class TestPooling:
    @pytest.mark.parametrize("system", [H2, METHANE, WATER, CROWDED, ONLY_HYDROGEN, *tiny_molecules()])
    @pytest.mark.parametrize("pool", [True, False])
    def test_no_atom_is_lost(self, system: AtomicSystem, pool: bool) -> None:
        batch = collate([pool_hydrogens(system, pool)], ())
        (back,) = to_systems(perfect(batch), ALL_SEEN, periodic=False)
        assert back is not None
        assert_same_atoms(back, system)

    @pytest.mark.parametrize(
        ("system", "numbers", "counts"),
        [
            (H2, [1], [1]),
            (METHANE, [6], [4]),
            (WATER, [8], [2]),
            (CROWDED, [6, 1, 1, 8], [4, 0, 0, 0]),
            (ONLY_HYDROGEN, [1, 1, 1], [4, 0, 0]),
        ],
    )
    def test_known_molecules(self, system: AtomicSystem, numbers: list[int], counts: list[int]) -> None:
        pooled = pool_hydrogens(system)
        assert pooled.numbers.tolist() == numbers
        assert pooled.hydrogen_counts.tolist() == counts

    @pytest.mark.parametrize("system", tiny_molecules())
    def test_a_hydrogen_goes_to_the_nearest_heavy_atom(self, system: AtomicSystem) -> None:
        pooled = pool_hydrogens(system)
        heavy = system.positions[system.numbers > 1]
        owners: Counter[int] = Counter()
        for place in system.positions[system.numbers == 1]:
            owners[min(range(len(heavy)), key=lambda i: math.dist(heavy[i], place))] += 1
        assert pooled.hydrogen_counts.tolist() == [owners[i] for i in range(len(heavy))]
        lengths = np.linalg.norm(pooled.hydrogens, axis=-1)
        assert lengths[lengths > 0].max() < 1.2

    def test_hydrogens_of_crystals_are_atoms_of_their_own(self) -> None:
        cell = np.diag([4.0, 4.0, 4.0])
        pooled = pool_hydrogens(AtomicSystem(np.array([3, 1]), np.array([[0, 0, 0], [2.0, 2, 2]]), cell))
        assert pooled.numbers.tolist() == [3, 1]
        assert pooled.hydrogen_counts.tolist() == [0, 0]
        np.testing.assert_allclose(pooled.fractional, [[0, 0, 0], [0.5, 0.5, 0.5]])
        assert not pooled.positions.any()

    def test_tokens_are_counted_without_pooling_and_never_fewer_than_carry_the_rest(self) -> None:
        systems = [*tiny_molecules(), H2, METHANE, ONLY_HYDROGEN]
        dataset = AtomsDataset.from_systems(systems)
        expected = [len(pool_hydrogens(s).numbers) for s in systems[:-1]]
        counted = token_counts(dataset, pooled=True)
        assert counted.tolist()[:-1] == expected
        assert (dataset.sizes - counted <= SLOTS * counted).all()


class TestBatches:
    def test_properties_stand_in_their_columns_and_nan_where_unknown(self) -> None:
        one = AtomicSystem(WATER.numbers, WATER.positions, properties={"b": 2.0, "a": 1.0})
        batch = collate([pool_hydrogens(one), pool_hydrogens(H2)], ("a", "b", "c"))
        nan = math.nan
        np.testing.assert_array_equal(batch.properties, [[1.0, 2.0, nan], [nan, nan, nan]])

    def test_molecules_are_centred_on_their_tokens(self) -> None:
        batch = pooled_batch(tiny_molecules())
        np.testing.assert_allclose(batch.positions.sum(1), 0, atol=1e-5)

    def test_augmentation_turns_molecules_and_shifts_crystals(self) -> None:
        molecules, crystals = pooled_batch(tiny_molecules()), pooled_batch(tiny_crystals())
        turned = augment(molecules, draws(len(molecules.mask)), rotate=True)
        np.testing.assert_allclose(distances(turned), distances(molecules), atol=1e-4)
        assert (turned.positions - molecules.positions).abs().max() > 0.5
        # hydrogens turn with the atoms that carry them
        before, after = (b.positions[:, :, None] + b.hydrogens for b in (molecules, turned))
        np.testing.assert_allclose(after.norm(dim=-1), before.norm(dim=-1), atol=1e-4)
        shifted = augment(crystals, draws(len(crystals.mask)), rotate=True)
        assert (shifted.fractional >= 0).all()
        assert (shifted.fractional < 1).all()
        gap = (shifted.fractional - crystals.fractional) % 1.0
        first = gap[:, :1].expand_as(gap)
        wrapped = (gap - first + 0.5) % 1.0 - 0.5
        assert wrapped[crystals.mask].abs().max() < 1e-5
        assert (gap[:, 0] > 1e-3).any(1).all()


def small_codec(*kinds: str, seed: int = 0, **changes: float) -> AtomsCodec:
    """A codec whose weights are all random, so that nothing is zero by its initialisation."""
    torch.manual_seed(seed)
    config = CodecConfig(element_channels=4, width=32, depth=2, heads=2, **changes)  # type: ignore[arg-type]
    codec = AtomsCodec(config, kinds or ("molecule",))  # type: ignore[arg-type]
    for parameter in codec.parameters():
        nn.init.normal_(parameter, std=0.3)
    return codec.eval()


def fields(decoded: DecodedAtoms) -> dict[str, Tensor]:
    named = {name: getattr(decoded, name) for name in DecodedAtoms.__dataclass_fields__}
    return {name: value for name, value in named.items() if value is not None}


def select(batch: AtomsBatch, *index: Tensor | slice) -> AtomsBatch:
    """Rows, and tokens where a field has them."""
    whole = {"lattice", "periodic", "properties"}
    names = AtomsBatch.__dataclass_fields__
    return AtomsBatch(*(getattr(batch, n)[index[:1] if n in whole else index] for n in names))


CASES = [
    pytest.param(("molecule",), tiny_molecules, id="molecule"),
    pytest.param(("crystal",), tiny_crystals, id="crystal"),
    pytest.param(("molecule", "crystal"), lambda: tiny_molecules()[:5] + tiny_crystals(), id="joint"),
]


@pytest.mark.parametrize(("kinds", "systems"), CASES)
class TestSymmetryOfTheCodec:
    @torch.no_grad()
    def test_permuted_tokens_give_permuted_latents_and_outputs(self, kinds, systems) -> None:
        codec, system = small_codec(*kinds), systems()[-1]
        batch = pooled_batch([system])
        order = torch.randperm(batch.mask.shape[1], generator=torch.Generator().manual_seed(0))
        shuffled = select(batch, slice(None), order)
        one, other = codec.encode(batch), codec.encode(shuffled)
        np.testing.assert_allclose(one.x[:, order], other.x, atol=1e-6)
        decoded, again = fields(codec.decode(one)), fields(codec.decode(other))
        for name, value in decoded.items():
            expected = value if name == "cells" else value[:, order]
            np.testing.assert_allclose(expected, again[name], atol=1e-4, err_msg=name)

    @torch.no_grad()
    def test_a_sample_does_not_depend_on_its_batch_or_padding(self, kinds, systems) -> None:
        codec, chosen = small_codec(*kinds), systems()
        together = codec.encode(pooled_batch(chosen))
        decoded = fields(codec.decode(together))
        for i, system in enumerate(chosen):
            alone = codec.encode(pooled_batch([system]))
            size = alone.x.shape[1]
            np.testing.assert_allclose(together.x[i, :size], alone.x[0], atol=5e-6)  # float32 rounding
            assert not together.x[i, size:].any()
            for name, value in fields(codec.decode(alone)).items():
                whole = decoded[name][i] if name == "cells" else decoded[name][i, :size]
                np.testing.assert_allclose(whole, value[0], atol=2e-4, err_msg=name)

    def test_gradients_are_finite(self, kinds, systems) -> None:
        codec, batch = small_codec(*kinds), pooled_batch(systems())
        codec.loss(batch, draws(len(batch.mask)))[0].backward()
        assert all(torch.isfinite(p.grad).all() for p in codec.parameters() if p.grad is not None)
        idle = [name for name, p in codec.named_parameters() if p.grad is None]
        assert idle == []


class TestExplicitChannels:
    @torch.no_grad()
    def test_positions_and_lattice_are_what_they_were(self) -> None:
        codec = small_codec("molecule", "crystal")
        batch = pooled_batch(tiny_molecules()[:5] + tiny_crystals())
        x = codec.encode(batch).x
        assert torch.equal(x[..., codec.slices["position"]], batch.positions)
        lattice = x[:, :, codec.slices["lattice"]]
        given = batch.lattice[:, None].expand_as(lattice)
        np.testing.assert_array_equal(lattice[batch.mask], given[batch.mask])

    @torch.no_grad()
    def test_torus_channels_are_points_of_circles(self) -> None:
        codec, batch = small_codec("crystal"), pooled_batch(tiny_crystals())
        torus = codec.encode(batch).x[..., codec.slices["torus"]][batch.mask].numpy()
        angle = 2 * np.pi * batch.fractional[batch.mask].numpy()
        np.testing.assert_allclose(torus, np.concatenate([np.cos(angle), np.sin(angle)], -1), atol=1e-6)

    @torch.no_grad()
    def test_a_whole_cell_further_is_the_same_place(self) -> None:
        codec, batch = small_codec("crystal"), pooled_batch(tiny_crystals())
        shifted = AtomsBatch(**{**vars(batch), "fractional": batch.fractional + 1.0})
        np.testing.assert_allclose(codec.encode(batch).x, codec.encode(shifted).x, atol=1e-5)
        losses = [codec.loss(b, draws(4))[0].item() for b in (batch, shifted)]
        assert losses[0] == pytest.approx(losses[1], rel=1e-4)

    @torch.no_grad()
    def test_element_and_hydrogen_channels_have_unit_variance(self) -> None:
        codec, batch = small_codec(), pooled_batch(tiny_molecules())
        x = codec.encode(batch).x[batch.mask]
        for name in ("element", "hydrogen"):
            part = x[:, codec.slices[name]]
            np.testing.assert_allclose(part.mean(-1), 0, atol=1e-5)
            np.testing.assert_allclose(part.square().mean(-1), 1, atol=1e-2)

    @torch.no_grad()
    def test_the_order_of_hydrogens_does_not_matter(self) -> None:
        codec, batch = small_codec(), pooled_batch([METHANE, WATER])
        reordered = AtomsBatch(**{**vars(batch), "hydrogens": batch.hydrogens.clone()})
        reordered.hydrogens[0, 0] = batch.hydrogens[0, 0, [2, 0, 3, 1]]
        reordered.hydrogens[1, 0, :2] = batch.hydrogens[1, 0, [1, 0]]
        np.testing.assert_allclose(codec.encode(batch).x, codec.encode(reordered).x, atol=1e-5)
        losses = [codec.loss(b, draws(2))[0].item() for b in (batch, reordered)]
        assert losses[0] == pytest.approx(losses[1], rel=1e-5)


class Oracle(nn.Module):
    """In place of the decoder: says what it was told."""

    def __init__(self, raw: Tensor) -> None:
        super().__init__()
        self.raw = raw

    def forward(self, x: Tensor, t: Tensor, mask: Tensor) -> Tensor:
        return self.raw


class TestGeometry:
    @pytest.mark.parametrize(("kinds", "systems"), CASES)
    def test_no_decoder_moves_what_the_latent_says(self, kinds, systems) -> None:
        codec, batch = small_codec(*kinds), pooled_batch(systems())
        for parameter in codec.decoder.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
        decoded = codec.decode(codec.encode(batch))
        right = perfect(batch)
        mask = batch.mask[..., None]
        if "molecule" in kinds:
            torch.testing.assert_close(decoded.positions * mask, right.positions * mask)
        if "crystal" in kinds:
            apart = (decoded.fractional - right.fractional + 0.5) % 1.0 - 0.5
            rows = batch.periodic
            assert (apart * mask)[rows].abs().max() < 1e-5
            torch.testing.assert_close(decoded.cells[rows], right.cells[rows], rtol=1e-4, atol=1e-4)


class TestLoss:
    @pytest.mark.parametrize(("kinds", "systems"), CASES)
    def test_a_perfect_decoder_has_none(self, kinds, systems) -> None:
        codec, batch = small_codec(*kinds, **QUIET), pooled_batch(systems())
        right = perfect(batch)
        parts = {
            "element": right.element_logits,
            "count": right.count_logits,
            "hydrogens": right.hydrogens.roll(0, 2).flatten(2),
        }
        zeros = torch.zeros(*batch.mask.shape, 1)
        raw = [
            parts[name].float() if width and name in parts else zeros.expand(-1, -1, width)
            for name, width in codec.outputs.items()
        ]
        codec.decoder = Oracle(torch.cat(raw, -1))  # type: ignore[assignment]
        loss, _ = codec.loss(batch, draws(len(batch.mask)))
        assert loss.item() < 1e-6

    def test_an_untrained_decoder_costs_what_it_leaves_out(self) -> None:
        codec = AtomsCodec(CodecConfig(width=32, depth=1, heads=2, **QUIET), ("molecule",))  # type: ignore[arg-type]
        batch = pooled_batch(tiny_molecules())
        _, parts = codec.loss(batch, draws(len(batch.mask)))
        assert parts["element"].item() == pytest.approx(math.log(ELEMENTS + 1), rel=1e-5)
        assert parts["count"].item() == pytest.approx(math.log(SLOTS + 1), rel=1e-5)
        squares = batch.hydrogens.square().sum((1, 2, 3)) / batch.hydrogen_counts.sum(1).clamp(min=1)
        assert parts["hydrogens"].item() == pytest.approx(squares.mean().item(), rel=1e-5)

    @pytest.mark.parametrize("kinds", [("molecule",), ("crystal",)])
    def test_halves_of_a_batch_average_to_the_whole(self, kinds) -> None:
        codec = AtomsCodec(CodecConfig(width=32, depth=1, heads=2), kinds)
        systems = tiny_molecules()[:12] if kinds == ("molecule",) else tiny_crystals()
        for parameter in codec.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
        half = len(systems) // 2
        whole, first, second = (
            codec.loss(pooled_batch(part), Draws(0, torch.arange(len(part)) + start))[0].item()
            for part, start in ((systems, 0), (systems[:half], 0), (systems[half:], half))
        )
        assert (first + second) / 2 == pytest.approx(whole, rel=1e-4)

    def test_the_decoder_sees_the_content_of_other_atoms_at_times(self, monkeypatch) -> None:
        """Acetaldehyde, whose heavy atoms differ in hydrogens: a third of the drawn half draw themselves.

        The geometry stays, and channels of one kind stay together.
        """
        codec = AtomsCodec(CodecConfig(**QUIET, swapped_content=1.0), ("molecule",))
        places = [(0.0, 0, 0), (1.5, 0, 0), (2.1, 1.0, 0)]
        symbols = molecule("CCOHHHH", [*places, *around(places[0], 3), (1.9, -1.0, 0)])
        batch = pooled_batch([symbols] * 3000)
        shown = []
        whole = codec.decode
        monkeypatch.setattr(codec, "decode", lambda tokens: shown.append(tokens) or whole(tokens))
        codec.loss(batch, draws(3000))
        before, after = codec.encode(batch).x[:, :3].detach(), shown[0].x[:, :3].detach()
        assert torch.equal(after[..., codec.slices["position"]], before[..., codec.slices["position"]])
        part = codec.slices["hydrogen"]
        same = (after[:, :, None, part] == before[:, None, :, part]).all(-1)
        assert torch.equal(same.sum(-1), torch.ones(3000, 3, dtype=torch.long))
        moved = 1 - same.diagonal(dim1=1, dim2=2).float().mean()
        assert moved == pytest.approx(0.5 * 2 / 3, abs=0.02)
        assert not torch.equal(after[..., codec.slices["element"]], before[..., codec.slices["element"]])

    def test_the_best_assignment_of_slots_is_scipys(self) -> None:
        generator = torch.Generator().manual_seed(0)
        predicted, target = torch.randn(2, 60, SLOTS, 3, generator=generator)
        counts = torch.arange(60) % (SLOTS + 1)
        errors = _assignment_error(predicted, target, torch.arange(SLOTS) < counts[:, None])
        for p, q, count, error in zip(predicted, target, counts.tolist(), errors.tolist(), strict=True):
            cost = ((p[:count, None] - q[None, :count]) ** 2).sum(-1).numpy()
            assert error == pytest.approx(cost[linear_sum_assignment(cost)].sum(), rel=1e-5, abs=1e-6)

    @pytest.mark.parametrize(
        ("kinds", "systems"),
        [(("molecule",), [METHANE, WATER, *tiny_molecules()[15:17]]), (("crystal",), tiny_crystals())],
        ids=["molecule", "crystal"],
    )
    def test_overfitting_makes_reconstruction_exact(self, kinds, systems) -> None:
        torch.manual_seed(0)
        config = CodecConfig(width=64, depth=2, heads=2)
        codec, batch = AtomsCodec(config, kinds), pooled_batch(systems)
        optimizer = torch.optim.AdamW(codec.parameters(), lr=3e-3)
        before = codec.loss(batch, draws(4))[0].item()
        for step in range(400):
            optimizer.param_groups[0]["lr"] = 3e-3 * (1 - step / 400)
            optimizer.zero_grad()
            loss, _ = codec.loss(batch, draws(4, seed=step))
            loss.backward()
            optimizer.step()
        assert loss.item() < before / 10
        with torch.no_grad():
            decoded = codec.eval().decode(codec.encode(batch))
        made = to_systems(decoded, ALL_SEEN, periodic=kinds == ("crystal",))
        for one, system in zip(made, systems, strict=True):
            assert one is not None
            assert Counter(one.numbers.tolist()) == Counter(system.numbers.tolist())
            error = crystal_error(one, system) if system.periodic else molecule_error(one, system)
            assert error < 0.1


def molecule_error(one: AtomicSystem, other: AtomicSystem) -> float:
    """Largest distance, angstrom, in the frame of the batch, which is centred on heavy atoms."""
    centred = other.positions - other.positions[other.numbers > 1].mean(0)
    return largest_gap(one.numbers, one.positions, other.numbers, centred)


def crystal_error(one: AtomicSystem, other: AtomicSystem) -> float:
    """Largest error of a place or an entry of the cell's shape, angstrom; atoms in the same order."""
    assert one.cell is not None
    assert other.cell is not None
    gap = (one.fractional - other.fractional + 0.5) % 1.0 - 0.5
    lengths = np.linalg.norm(one.cell, axis=1) - np.linalg.norm(other.cell, axis=1)
    return float(max(np.linalg.norm(gap @ one.cell, axis=1).max(), np.abs(lengths).max()))


class TestDecoding:
    def test_numbers_that_are_not_finite_give_none(self) -> None:
        molecules, crystals = perfect(pooled_batch([WATER, H2])), perfect(pooled_batch(tiny_crystals()))
        molecules.positions[0, 0, 1] = math.nan
        assert [s is None for s in to_systems(molecules, ALL_SEEN, periodic=False)] == [True, False]
        assert crystals.cells is not None
        crystals.cells[2] = math.inf
        crystals.fractional[1, 0] = math.nan
        made = to_systems(crystals, ALL_SEEN, periodic=True)
        assert [s is None for s in made] == [False, True, True, False]

    def test_a_hydrogen_that_is_not_used_may_be_anything(self) -> None:
        decoded = perfect(pooled_batch([WATER]))
        decoded.hydrogens[0, 0, 2:] = math.nan
        (made,) = to_systems(decoded, ALL_SEEN, periodic=False)
        assert made is not None
        assert_same_atoms(made, WATER)

    def test_elements_that_were_not_seen_are_not_chosen(self) -> None:
        decoded = perfect(pooled_batch([WATER]))
        seen = torch.zeros(ELEMENTS + 1, dtype=torch.bool)
        seen[[1, 9]] = True
        decoded.element_logits[..., 9] = 1.0
        (made,) = to_systems(decoded, seen, periodic=False)
        assert made is not None
        assert made.numbers.tolist() == [9, 1, 1]

    def test_crystals_keep_their_shape(self) -> None:
        crystals = tiny_crystals()
        decoded = to_systems(perfect(pooled_batch(crystals)), ALL_SEEN, periodic=True)
        for made, given in zip(decoded, crystals, strict=True):
            assert made is not None
            assert made.numbers.tolist() == given.numbers.tolist()
            assert crystal_error(made, given) < 1e-4


def test_canonical_batches_turn_hydrogens_along() -> None:
    batch = pooled_batch(tiny_molecules())
    turned = canonical(turn(batch, random_frames(draws(len(batch.mask)).normal("r", 4))))
    still = canonical(batch)
    generic = (still.positions[:, :, None] + still.hydrogens).flatten(1, 2)
    other = (turned.positions[:, :, None] + turned.hydrogens).flatten(1, 2)
    np.testing.assert_allclose(torch.cdist(generic, generic), torch.cdist(other, other), atol=5e-3)


def test_pooled_systems_are_plain_arrays() -> None:
    pooled = pool_hydrogens(METHANE)
    assert isinstance(pooled, PooledSystem)
    assert pooled.hydrogens.dtype == pooled.positions.dtype == np.float32
