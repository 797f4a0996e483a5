"""What users may ask of molecules and crystals, kept by generators that have learned nothing."""

import itertools
import math
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import nnls
from scipy.stats import chisquare
from torch import nn

from gen3d.config import load_yaml, merge
from gen3d.domains.atoms.batch import SLOTS
from gen3d.domains.atoms.codec import AtomsCodec
from gen3d.domains.atoms.composition import SYMBOLS, parse_formula
from gen3d.domains.atoms.conditioning import (
    AllowedElements,
    ClosedShell,
    likeliest_counts,
)
from gen3d.domains.atoms.domain import AtomsDomain
from gen3d.domains.atoms.layout import draw_sizes
from gen3d.domains.atoms.native import from_native, to_mol
from gen3d.domains.atoms.options import CrystalOptions, MoleculeOptions
from gen3d.domains.atoms.statistics import ELEMENTS, DecodedAtoms
from gen3d.domains.atoms.system import AtomicSystem
from gen3d.draws import Draws
from gen3d.errors import Gen3dError
from gen3d.generator import Generator
from gen3d.io import write
from gen3d.run_config import run_config
from gen3d.tokens import Tokens

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("total", range(14))
def test_likeliest_counts_are_those_of_brute_force(total: int) -> None:
    scores = np.random.default_rng(total).normal(size=(4, 4))
    every = [c for c in itertools.product(range(4), repeat=4) if sum(c) == min(total, 12)]
    best = max(every, key=lambda counts: scores[range(4), counts].sum())
    assert likeliest_counts(scores, total).tolist() == list(best)


def random_generator(kind: str, **changes: Any) -> Generator:
    """The debug model of a kind, fitted to the fixture data, with random weights."""
    torch.manual_seed(0)
    values = merge(load_yaml(ROOT / "configs" / f"{kind}_debug.yaml"), changes)
    generator = Generator(run_config(values).generator())
    for name, parameter in generator.named_parameters():
        nn.init.normal_(parameter, std=0.3 if name.startswith("core") else 0.1)
    data = ROOT / "data" / "tiny" / ("crystals.cif" if kind == "crystal" else "qm9.sdf")
    dataset = generator.domain.dataset(data, "train")
    generator.domain.fit(dataset)
    generator.fit_latents([generator.domain.collate([dataset[i] for i in range(len(dataset))], None)])
    return generator.eval()


@pytest.fixture(scope="module")
def molecules() -> Generator:
    return random_generator("molecule")


@pytest.fixture(scope="module")
def crystals() -> Generator:
    return random_generator("crystal")


def composition(made: Any) -> dict[int, int]:
    return dict(Counter(from_native(made).numbers.tolist()))


def save_molecule(path: Path, numbers: list[int], places: np.ndarray) -> Path:
    write([to_mol(AtomicSystem(np.array(numbers), places))], path)
    return path


class TestCompositions:
    @pytest.mark.parametrize("formula", ["H2", "CH4", "C6H6", "H", "C2H6O", "O2", "C3H12"])
    def test_molecules(self, molecules: Generator, formula: str) -> None:
        made = molecules.sample(4, formula=formula, steps=3)
        assert [composition(m) for m in made] == 4 * [parse_formula(formula)]

    @pytest.mark.parametrize("formula", ["C6H6", "H2"])
    def test_molecules_whose_hydrogens_are_tokens(self, formula: str) -> None:
        generator = random_generator("molecule", domain_config={"codec": {"hydrogen_channels": 0}})
        made = generator.sample(3, formula=formula, steps=3)
        assert [composition(m) for m in made] == 3 * [parse_formula(formula)]

    def test_more_hydrogens_than_can_be_carried(self, molecules: Generator) -> None:
        with pytest.raises(Gen3dError, match="formula C2H13O has 13 hydrogens for 3 carriers; at most 4"):
            molecules.sample(1, formula="C2H13O")

    @pytest.mark.parametrize(("num_atoms", "units"), [(None, 1), (5, 1), (15, 3)])
    def test_crystals(self, crystals: Generator, num_atoms: int | None, units: int) -> None:
        made = crystals.sample(3, formula="SrTiO3", num_atoms=num_atoms, steps=3)
        assert [composition(m) for m in made] == 3 * [{8: 3 * units, 22: units, 38: units}]

    @pytest.mark.parametrize("num_atoms", [4, 6])
    def test_a_cell_holds_whole_formula_units(self, crystals: Generator, num_atoms: int) -> None:
        with pytest.raises(Gen3dError, match=f"num_atoms is {num_atoms}; .* needs a multiple of 5"):
            crystals.sample(1, formula="SrTiO3", num_atoms=num_atoms)

    def test_only_allowed_elements_occur(self, molecules: Generator, crystals: Generator) -> None:
        def occurring(generator: Generator, **options: Any) -> set[int]:
            return {z for made in generator.sample(30, steps=3, **options) for z in composition(made)}

        assert occurring(molecules) - {1, 6, 8}  # otherwise the next line would show nothing
        assert occurring(molecules, elements=("C,O,H",)) <= {1, 6, 8}
        assert occurring(crystals) - {11, 17}
        assert occurring(crystals, elements=("Na", "Cl")) <= {11, 17}

    @torch.no_grad()
    def test_predicted_elements_become_means_of_the_allowed_ones(self, molecules: Generator) -> None:
        codec = molecules.codec
        assert isinstance(codec, AtomsCodec)
        numbers, part = torch.tensor([6, 7, 8]), codec.slices["element"]
        table = codec.element_latents(numbers)
        latents = torch.randn(5, 4, codec.channels)
        latents[0, :3, part] = table
        moved = AllowedElements(numbers).constrain(codec, latents)
        for vector in moved[..., part].flatten(0, 1):
            # A convex combination: non-negative weights that sum to one (the last row).
            _, error = nnls(np.vstack([table.T, np.ones(3)]), np.append(vector, 1.0))
            assert error < 1e-4
        assert torch.cdist(moved[0, :3, part], table).argmin(-1).tolist() == [0, 1, 2]
        assert torch.equal(moved[..., : part.start], latents[..., : part.start])
        assert torch.equal(moved[..., part.stop :], latents[..., part.stop :])

    def test_elements_without_hydrogen_need_data_without(self, molecules: Generator) -> None:
        with pytest.raises(Gen3dError, match="no system of the training data is without hydrogens"):
            molecules.sample(1, elements=("C",))

    def test_elements_without_hydrogen(self) -> None:
        generator = random_generator("molecule")
        generator.codec.histogram("molecule")[3, 0] = 5
        for made in generator.sample(8, elements=("C", "O"), steps=3):
            assert set(composition(made)) <= {6, 8}
            assert sum(composition(made).values()) == 3


class TestClosedShells:
    """Against all assignments of hydrogen counts, tried one by one."""

    NUMBERS = torch.tensor([6, 7, 8])

    def raw(self, seed: int, real: int = 3) -> DecodedAtoms:
        generator = torch.Generator().manual_seed(seed)
        return DecodedAtoms(
            torch.arange(3)[None] < real,
            10.0 * torch.nn.functional.one_hot(self.NUMBERS, ELEMENTS + 1)[None],
            torch.randn(1, 3, SLOTS + 1, generator=generator),
            torch.zeros(1, 3, SLOTS, 3),
            torch.zeros(1, 3, 3),
            torch.zeros(1, 3, 3),
        )

    def choose(self, raw: DecodedAtoms, odd: float) -> tuple[int, ...]:
        seen = torch.zeros(ELEMENTS + 1, dtype=torch.bool)
        seen[self.NUMBERS] = True
        counts = ClosedShell(seen, odd).finish(raw, torch.tensor([0])).count_logits.argmax(-1)
        return tuple(counts[0, raw.mask[0]].tolist())

    @pytest.mark.parametrize("odd", [0.0, 0.1, 0.3, 0.5, 1.0])
    @pytest.mark.parametrize("real", [1, 2, 3])
    def test_the_likeliest_counts_given_how_often_radicals_occur(self, odd: float, real: int) -> None:
        prior = [math.log(share) if share else -1e9 for share in (1 - odd, odd)]
        for seed in range(20):
            raw = self.raw(seed, real)
            scores = raw.count_logits.log_softmax(-1)[0]
            ranked = []
            for counts in itertools.product(range(SLOTS + 1), repeat=real):
                likelihood = sum(scores[n, k].item() for n, k in enumerate(counts))
                electrons = int(self.NUMBERS[:real].sum()) + sum(counts)
                ranked.append((likelihood + prior[electrons % 2], counts))
            assert self.choose(raw, odd) == max(ranked)[1]

    @pytest.mark.parametrize("odd", [0.0, 0.1, 0.5, 1.0])
    def test_the_likeliest_elements_where_the_hydrogens_are_given(self, odd: float) -> None:
        prior = [math.log(share) if share else -1e9 for share in (1 - odd, odd)]
        seen = torch.zeros(ELEMENTS + 1, dtype=torch.bool)
        seen[self.NUMBERS] = True
        for seed in range(20):
            generator = torch.Generator().manual_seed(seed)
            logits = torch.randn(1, 3, ELEMENTS + 1, generator=generator)
            total = seed % 7
            raw = replace(self.raw(seed), element_logits=logits)
            done = ClosedShell(seen, odd, torch.tensor([total])).finish(raw, torch.tensor([0]))
            scores = logits[..., self.NUMBERS].log_softmax(-1)[0]
            ranked = []
            for choice in itertools.product(range(3), repeat=3):
                likelihood = sum(scores[n, k].item() for n, k in enumerate(choice))
                numbers = tuple(int(self.NUMBERS[k]) for k in choice)
                ranked.append((likelihood + prior[(sum(numbers) + total) % 2], numbers))
            assert tuple(done.element_logits[0].argmax(-1).tolist()) == max(ranked)[1]
            assert done.count_logits[0].argmax(-1).sum() == total

    @pytest.mark.parametrize("asked", [{}, {"num_atoms": 15}, {"elements": ("C", "N", "O")}])
    def test_every_molecule_has_an_even_number_of_electrons(self, asked: dict[str, Any]) -> None:
        generator = random_generator("molecule")
        generator.codec.histogram("molecule")[7, 0] += 1  # a size without hydrogens
        for made in generator.sample(32, seed=3, steps=2, **asked):
            assert sum(atom.GetAtomicNum() for atom in made.GetAtoms()) % 2 == 0

    def test_a_formula_of_radicals_is_remarked_upon(self, molecules: Generator) -> None:
        with pytest.warns(UserWarning, match="C3H has an odd number of electrons: all are radicals"):
            molecules.sample(1, formula="C3H", steps=2)


class TestSizes:
    @pytest.mark.parametrize("num_atoms", [3, 5, 18])
    def test_the_number_of_atoms_is_exact(self, molecules: Generator, num_atoms: int) -> None:
        made = molecules.sample(12, num_atoms=num_atoms, steps=2)
        assert {from_native(m).numbers.size for m in made} == {num_atoms}

    def test_the_number_of_atoms_in_a_cell_is_exact(self, crystals: Generator) -> None:
        assert {len(m) for m in crystals.sample(4, num_atoms=8, steps=2)} == {8}

    @pytest.mark.parametrize("num_atoms", [40, 33])
    def test_more_atoms_than_were_seen(
        self, molecules: Generator, crystals: Generator, num_atoms: int
    ) -> None:
        for generator, seen in ((molecules, "3 to 22"), (crystals, "2 to 8")):
            said = f"num_atoms is {num_atoms}; the model has seen {seen} atoms"
            with pytest.warns(UserWarning, match=said):
                made = generator.sample(2, num_atoms=num_atoms, steps=2)
            assert [from_native(m).numbers.size for m in made] == 2 * [num_atoms]

    def test_a_size_between_those_that_were_seen(self) -> None:
        generator = random_generator("molecule")
        histogram = generator.codec.histogram("molecule")
        histogram.zero_()
        histogram[3, 4] = histogram[6, 8] = 1
        with pytest.warns(UserWarning, match="the model has seen 7 to 14 atoms, none of them 10"):
            made = generator.sample(4, num_atoms=10, steps=2)
        assert {from_native(m).numbers.size for m in made} == {10}

    def test_more_atoms_than_were_seen_where_all_data_is_methane(self, molecules: Generator) -> None:
        generator = random_generator("molecule")
        histogram = generator.codec.histogram("molecule")
        histogram.zero_()
        histogram[1, 4] = 7
        for num_atoms in (6, 7, 11):
            (made,) = generator.sample(1, num_atoms=num_atoms, steps=2)
            assert from_native(made).numbers.size == num_atoms

    @pytest.mark.parametrize("num_atoms", [0, -4])
    @pytest.mark.parametrize("more", [{}, {"formula": "SrTiO3"}, {"elements": ("O",)}])
    def test_no_atoms(self, crystals: Generator, num_atoms: int, more: dict[str, Any]) -> None:
        with pytest.raises(Gen3dError, match=f"num_atoms is {num_atoms}; at least 1"):
            crystals.sample(1, num_atoms=num_atoms, **more)

    def test_sizes_follow_the_histogram(self, molecules: Generator) -> None:
        generator = random_generator("molecule")
        histogram = generator.codec.histogram("molecule")
        histogram.zero_()
        shares = {(1, 4): 10, (2, 6): 30, (5, 0): 40, (5, 8): 20}
        for size, count in shares.items():
            histogram[size] = count
        assert isinstance(generator.domain, AtomsDomain)
        tokens, hydrogens = draw_sizes(generator.codec.histogram("molecule"), Draws(3, torch.arange(10_000)))
        found = Counter(zip(tokens.tolist(), hydrogens.tolist(), strict=True))
        assert found.keys() == shares.keys()
        test = chisquare([found[size] for size in shares], [100 * count for count in shares.values()])
        assert test.pvalue > 1e-3

    @pytest.mark.parametrize("kind", ["molecule", "crystal"])
    def test_without_a_histogram_there_is_nothing_to_draw(self, kind: str) -> None:
        generator = random_generator(kind)
        generator.codec.histogram(kind).zero_()
        with pytest.raises(Gen3dError, match="no size histogram: it was never fitted"):
            generator.sample(1)


CHIRAL = np.array([[3.1, -2, 7], [4.5, -1.9, 7], [2.5, -0.6, 7.2], [2.5, -2.7, 8.2], [3.3, -1.7, 4.8]])


class TestScaffolds:
    @pytest.mark.parametrize("mirrored", [False, True])
    @pytest.mark.parametrize("count", [1, 2, 3, 5])
    def test_its_atoms_come_out_where_and_what_they_were(
        self, molecules: Generator, tmp_path: Path, count: int, mirrored: bool
    ) -> None:
        places = CHIRAL[:count] * ([-1, 1, 1] if mirrored else [1, 1, 1])
        numbers = [6, 7, 8, 6, 8][:count]
        path = save_molecule(tmp_path / "scaffold.sdf", [*numbers, 1], np.vstack([places, places[0] + 1.0]))
        made = [from_native(m) for m in molecules.sample(6, scaffold=str(path), steps=4)]
        for system in made:
            assert system.numbers[:count].tolist() == numbers
            np.testing.assert_allclose(system.positions[:count], places, atol=1e-3)
        assert len({len(s) for s in made}) > 1
        layout = molecules.domain.layout(MoleculeOptions(scaffold=str(path)), Draws(0, torch.arange(6)))
        assert (layout.mask.sum(1) >= count).all()

    @torch.no_grad()
    def test_what_sampling_moves_it_by_is_a_motion(self, molecules: Generator, tmp_path: Path) -> None:
        path = save_molecule(tmp_path / "scaffold.sdf", [6, 7, 8, 6, 8], CHIRAL)
        layout = molecules.domain.layout(MoleculeOptions(scaffold=str(path)), Draws(0, torch.arange(6)))
        codec, rows = molecules.codec, torch.arange(6)
        assert isinstance(codec, AtomsCodec)
        assert layout.constrain is not None
        assert layout.finish is not None
        torch.manual_seed(0)
        latents = torch.randn(*layout.mask.shape, codec.channels) * layout.mask[..., None]
        moved = layout.constrain(latents, rows)
        positions = moved[..., codec.slices["position"]]
        assert torch.equal(moved[:, 5:], latents[:, 5:])
        for placed in positions[:, :5].numpy():
            volume, given_volume = (np.linalg.det(x[1:4] - x[0]) for x in (placed, CHIRAL))
            assert volume == pytest.approx(given_volume, rel=1e-3)  # of the same sign: no mirror image
        np.testing.assert_allclose(layout.constrain(moved, rows), moved, atol=1e-4)
        # The end turns the whole molecule, hydrogens too.
        raw = replace(codec.decode(Tokens(moved, layout.mask)), positions=positions)
        done = layout.finish(raw, rows)
        before, after = ((d.positions[:, :, None] + d.hydrogens).flatten(1, 2) for d in (raw, done))
        exact = "donot_use_mm_for_euclid_dist"
        pairs = (torch.cdist(x, x, compute_mode=exact) for x in (before, after))
        np.testing.assert_allclose(*pairs, atol=1e-4)

    def test_with_a_number_of_atoms(self, molecules: Generator, tmp_path: Path) -> None:
        path = save_molecule(tmp_path / "scaffold.sdf", [6, 7], CHIRAL[:2])
        made = molecules.sample(5, scaffold=str(path), num_atoms=15, steps=2)
        assert {from_native(m).numbers.size for m in made} == {15}

    def test_more_heavy_atoms_than_were_seen(self, molecules: Generator, tmp_path: Path) -> None:
        places = 1.5 * np.array(list(itertools.product(range(3), repeat=3)), float)
        path = save_molecule(tmp_path / "scaffold.sdf", 27 * [6], places)
        with pytest.warns(UserWarning, match="27 heavy atoms are given; the model has seen up to 9"):
            (made,) = molecules.sample(1, scaffold=str(path), steps=2)
        np.testing.assert_allclose(from_native(made).positions[:27], places, atol=1e-3)
        with pytest.raises(Gen3dError, match="num_atoms is 25; what is given needs at least 27"):
            molecules.sample(1, scaffold=str(path), num_atoms=25)

    def test_what_is_no_scaffold_is_named(self, molecules: Generator, tmp_path: Path) -> None:
        hydrogen = save_molecule(tmp_path / "h.sdf", [1, 1], CHIRAL[:2])
        unseen = save_molecule(tmp_path / "si.sdf", [14, 6], CHIRAL[:2])
        garbage = tmp_path / "garbage.sdf"
        garbage.write_text("garbage\n\n\nx\n$$$$\n")
        for path, message in [
            (tmp_path / "missing.sdf", "missing.sdf is no file"),
            (hydrogen, "no molecule with a heavy atom"),
            (ROOT / "data" / "tiny" / "crystals.cif", "more than one molecule"),
            (ROOT / "data" / "tiny" / "qm9.sdf", "qm9.sdf holds more than one molecule; give a file of one"),
            (garbage, "holds no molecule that can be read: .*counts line"),
            (unseen, "has not seen element Si"),
        ]:
            with pytest.raises(Gen3dError, match=message):
                molecules.sample(1, scaffold=str(path))


class TestContradictions:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"formula": "CH4", "elements": ("C",)}, "formula and elements cannot be asked for together"),
            ({"formula": "CH4", "scaffold": "x.sdf"}, "formula and scaffold cannot be asked for together"),
            ({"scaffold": "x.sdf", "elements": ("C",)}, "scaffold and elements cannot"),
            ({"formula": "CH4", "num_atoms": 5}, "formula and num_atoms cannot be asked for together"),
            ({"formula": "CH4", "num_atoms": 0}, "formula and num_atoms cannot be asked for together"),
            ({"formula": ""}, "no chemical formula"),
            ({"scaffold": ""}, "is no file"),
            ({"formula": "SiH4"}, "has not seen element Si; it knows H, C"),
            ({"elements": ("H",)}, "at least one heavy element"),
            ({"elements": ("Si",)}, "has not seen element Si"),
            ({"elements": ("",)}, "name at least one"),
            ({"property": ("colour=1",)}, "unknown property 'colour'; allowed: gap_hartree, mu_debye"),
            ({"property": ("gap=big",)}, "gives no number"),
            ({"size": 3}, "unknown configuration key 'size'; allowed here: elements, formula"),
        ],
    )
    def test_molecules(self, molecules: Generator, options: dict[str, Any], message: str) -> None:
        with pytest.raises(Gen3dError, match=message):
            molecules.sample(1, **options)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"formula": "NaCl", "elements": ("Na",)}, "formula and elements cannot be asked for together"),
            ({"formula": "KCl"}, "has not seen element K; it knows"),
            ({"elements": (",",)}, "name at least one"),
            ({"num_atoms": 0}, "num_atoms is 0; at least 1"),
        ],
    )
    def test_crystals(self, crystals: Generator, options: dict[str, Any], message: str) -> None:
        with pytest.raises(Gen3dError, match=message):
            crystals.sample(1, **options)


class TestConditions:
    def test_a_property_is_told_in_standard_units(self, molecules: Generator) -> None:
        mean, std = molecules.codec.property_mean, molecules.codec.property_std
        value = (mean[0] + 2 * std[0]).item()
        options = MoleculeOptions(property=(f"gap={value}",))
        layout = molecules.domain.layout(options, Draws(0, torch.arange(3)))
        np.testing.assert_allclose(layout.conditions["gap_hartree"], 2.0, rtol=1e-3)
        assert torch.isnan(layout.conditions["mu_debye"]).all()

    def test_sizes_are_told_as_in_training(self, molecules: Generator) -> None:
        domain = molecules.domain
        dataset = domain.dataset(ROOT / "data" / "tiny" / "qm9.sdf", "train")
        trained = domain.conditions(domain.collate([dataset[-1]], None))
        pooled = dataset[-1]
        symbols = [SYMBOLS[z] for z in pooled.numbers]
        formula = "".join(symbols) + f"H{pooled.hydrogen_counts.sum()}"
        layout = domain.layout(MoleculeOptions(formula=formula), Draws(0, torch.arange(1)))
        for name in ("tokens", "hydrogens"):
            assert layout.conditions[name].tolist() == trained[name].tolist()

    def test_training_tells_some_samples_one_property(self, molecules: Generator) -> None:
        domain = molecules.domain
        dataset = domain.dataset(ROOT / "data" / "tiny" / "qm9.sdf", "train")
        batch = domain.collate(2000 * [dataset[0]], Draws(0, torch.arange(2000)))
        told = ~torch.isnan(batch.properties)
        assert told.sum(1).max() == 1
        np.testing.assert_allclose(told.float().mean(0), 0.15, atol=0.03)

    def test_a_property_that_never_varies_is_left_at_its_size(self) -> None:
        generator = random_generator("molecule")
        dataset = generator.domain.dataset(ROOT / "data" / "tiny" / "qm9.sdf", "train")
        part = dataset.parts[0]
        part.properties[:] = 3.0
        generator.codec.elements_seen.zero_()
        generator.domain.fit(dataset)
        assert generator.codec.property_mean.tolist() == [3.0, 3.0]
        assert generator.codec.property_std.tolist() == [1.0, 1.0]
        part.properties[:] = np.nan
        generator.codec.elements_seen.zero_()
        with pytest.raises(Gen3dError, match="property 'gap_hartree' is unknown for every system"):
            generator.domain.fit(dataset)


def test_options_of_both_kinds_have_defaults_that_ask_for_nothing() -> None:
    for options in (MoleculeOptions(), CrystalOptions()):
        assert all(value in (None, ()) for value in vars(options).values())
