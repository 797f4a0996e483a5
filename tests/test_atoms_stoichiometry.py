"""Stoichiometries of crystals, against counting by hand and brute force."""

import itertools
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from test_atoms_conditioning import ROOT, composition, random_generator

from gen3d.domains.atoms.options import CrystalOptions
from gen3d.domains.atoms.statistics import MAX_SPECIES, MAX_STOICHIOMETRIES, MAX_TOKENS
from gen3d.domains.atoms.stoichiometry import (
    count_atoms,
    draw_stoichiometries,
    fit_stoichiometries,
    likeliest_elements,
)
from gen3d.draws import Draws
from gen3d.generator import Generator


@pytest.fixture(scope="module")
def crystals() -> Generator:
    return random_generator("crystal")


def falling(made: Any) -> tuple[int, ...]:
    return tuple(sorted(composition(made).values(), reverse=True))


def known(codec: Any) -> dict[tuple[int, ...], int]:
    """The codec's table as a dictionary without zeros."""
    pairs = zip(codec.stoichiometries.tolist(), codec.stoichiometry_counts.tolist(), strict=True)
    return {tuple(k for k in atoms if k): count for atoms, count in pairs if count}


def fit(codec: Any, cells: list[list[int]]) -> None:
    fit_stoichiometries(codec, np.concatenate(cells), np.array([len(cell) for cell in cells]))


class TestCounting:
    def test_atoms_of_each_element(self) -> None:
        numbers = torch.tensor([[8, 12, 8, 14, 8, 8, 12], [11, 17, 0, 0, 0, 0, 0]])
        expected = torch.zeros(2, MAX_SPECIES, dtype=torch.long)
        expected[0, :3], expected[1, :2] = torch.tensor([4, 2, 1]), torch.tensor([1, 1])
        assert torch.equal(count_atoms(numbers), expected)

    def test_the_table_holds_what_the_data_holds(self, crystals: Generator) -> None:
        dataset = crystals.domain.dataset(ROOT / "data" / "tiny" / "crystals.cif", "train")
        found = Counter(
            tuple(sorted(Counter(dataset[i].numbers.tolist()).values(), reverse=True))
            for i in range(len(dataset))
        )
        assert known(crystals.codec) == found

    def test_what_the_table_cannot_hold_is_left_out(self) -> None:
        codec = random_generator("crystal").codec
        fit(codec, [[3, 8, 8], list(range(1, MAX_SPECIES + 2)), [6] * (MAX_TOKENS + 1), [5, 5, 9]])
        assert known(codec) == {(2, 1): 2}

    def test_the_commonest_are_kept_whatever_the_order_of_the_data(self) -> None:
        codec = random_generator("crystal").codec
        pairs = [(a, b) for a in range(1, MAX_TOKENS) for b in range(1, min(a, MAX_TOKENS - a) + 1)]
        pairs += [(a, b, 1) for a, b in pairs if a + b < MAX_TOKENS]
        assert len(pairs) > MAX_STOICHIOMETRIES
        cells = [list(np.repeat([9, 8, 7][: len(p)], p)) for p in pairs]
        twice = cells[-1:] + cells
        tables = []
        for order in (twice, twice[::-1]):
            fit(codec, order)
            tables.append(known(codec))
        assert tables[0] == tables[1]
        assert len(tables[0]) == MAX_STOICHIOMETRIES
        assert tables[0][pairs[-1]] == 2


class TestDrawing:
    CELLS = 3 * [[3, 8, 8, 8]] + [[6, 6, 6, 6]] + 2 * [[1, 2, 3, 4, 4]]

    def drawn(self, tokens: int, most: int = MAX_SPECIES) -> dict[tuple[int, ...], float]:
        codec = random_generator("crystal").codec
        fit(codec, self.CELLS)
        rows = draw_stoichiometries(codec, torch.full((4000,), tokens), Draws(0, torch.arange(4000)), most)
        shares = Counter(tuple(k for k in row if k) for row in rows.tolist())
        return {atoms: count / 4000 for atoms, count in shares.items()}

    def test_as_often_as_in_the_training_data(self) -> None:
        assert self.drawn(4) == pytest.approx({(3, 1): 0.75, (4,): 0.25}, abs=0.03)
        assert self.drawn(5) == {(2, 1, 1, 1): 1.0}

    def test_of_no_more_elements_than_there_are(self) -> None:
        assert self.drawn(4, most=1) == {(4,): 1.0}

    @pytest.mark.parametrize(("tokens", "most"), [(3, MAX_SPECIES), (5, 3)])
    def test_none_where_none_fits(self, tokens: int, most: int) -> None:
        assert self.drawn(tokens, most) == {(): 1.0}

    def test_sizes_side_by_side(self) -> None:
        codec = random_generator("crystal").codec
        fit(codec, self.CELLS)
        tokens = torch.tensor([5, 4, 3, 5])
        draws = Draws(1, torch.arange(4))
        together = draw_stoichiometries(codec, tokens, draws, MAX_SPECIES)
        assert together.sum(1).tolist() == [5, 4, 0, 5]
        alone = draw_stoichiometries(codec, tokens[1:2], Draws(1, torch.tensor([1])), MAX_SPECIES)
        assert torch.equal(together[1:2], alone)


class TestKeeping:
    @pytest.mark.parametrize("seed", range(5))
    def test_the_best_assignment_by_brute_force(self, seed: int) -> None:
        """Of the elements expected most often, all orders of 3 + 2 + 1 places over six atoms are tried."""
        scores = np.log(np.random.default_rng(seed).dirichlet(np.full(7, 0.5), size=6))
        atoms = np.array([3, 2, 1])
        expected = np.exp(scores).sum(0)
        elements = sorted(range(7), key=lambda z: -expected[z])[:3]
        orders = set(itertools.permutations(np.repeat(elements, atoms).tolist()))
        best = max(orders, key=lambda order: scores[range(6), order].sum())
        assert likeliest_elements(scores, atoms).tolist() == list(best)

    def test_what_is_right_already_is_left_alone(self) -> None:
        scores = np.full((6, 10), -9.0)
        numbers = [8, 3, 8, 3, 8, 5]
        scores[range(6), numbers] = -0.01
        assert likeliest_elements(scores, np.array([3, 2, 1])).tolist() == numbers

    def test_samples_have_stoichiometries_of_the_training_data(self, crystals: Generator) -> None:
        made = crystals.sample(24, seed=3, steps=2, progress=False)
        assert {falling(crystal) for crystal in made} <= set(known(crystals.codec))

    def test_with_allowed_elements(self, crystals: Generator) -> None:
        table = {atoms for atoms in known(crystals.codec) if len(atoms) <= 2}
        sizes = {sum(atoms) for atoms in table}
        made = crystals.sample(24, seed=1, steps=2, progress=False, elements=("Ti", "O"))
        assert all(set(composition(crystal)) <= {8, 22} for crystal in made)
        few = [falling(crystal) for crystal in made if len(crystal) in sizes]
        assert few
        assert set(few) <= table


class TestTelling:
    def test_as_in_training(self, crystals: Generator) -> None:
        domain = crystals.domain
        dataset = domain.dataset(ROOT / "data" / "tiny" / "crystals.cif", "train")
        conditions = domain.conditions(domain.collate([dataset[i] for i in range(len(dataset))], None))
        for i in range(len(dataset)):
            atoms = sorted(Counter(dataset[i].numbers.tolist()).values(), reverse=True)
            assert 3 * conditions["species"][i].item() == pytest.approx(len(atoms))
            told = [10 * conditions[f"atoms_{k}"][i].item() for k in (1, 2, 3, 4)]
            assert told == pytest.approx([*atoms, 0, 0, 0][:4])

    def test_of_a_formula(self, crystals: Generator) -> None:
        layout = crystals.domain.layout(
            CrystalOptions(formula="Ti2O3", num_atoms=10), Draws(0, torch.arange(2))
        )
        for name, value in {"species": 2 / 3, "atoms_1": 0.6, "atoms_2": 0.4, "atoms_3": 0.0}.items():
            np.testing.assert_allclose(layout.conditions[name], value, rtol=1e-6)

    def test_nothing_where_nothing_is_drawn(self, crystals: Generator) -> None:
        with pytest.warns(UserWarning, match="num_atoms is 60"):
            layout = crystals.domain.layout(CrystalOptions(num_atoms=60), Draws(0, torch.arange(2)))
        assert torch.isnan(layout.conditions["species"]).all()
        assert torch.isnan(layout.conditions["atoms_1"]).all()
