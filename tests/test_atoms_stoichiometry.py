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
    stretch,
    tie_groups,
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

    def test_other_sizes_are_stretched(self) -> None:
        assert self.drawn(8) == pytest.approx({(6, 2): 1 / 2, (8,): 1 / 6, (3, 2, 2, 1): 1 / 3}, abs=0.03)
        assert self.drawn(5, most=2) == pytest.approx({(4, 1): 3 / 4, (5,): 1 / 4}, abs=0.03)

    def test_one_element_where_all_known_ones_have_more(self) -> None:
        codec = random_generator("crystal").codec
        fit(codec, [[3, 8]])
        rows = draw_stoichiometries(codec, torch.tensor([6]), Draws(0, torch.arange(1)), 1)
        assert rows[0, 0] == rows.sum() == 6

    def test_a_codec_that_knows_none_draws_none(self) -> None:
        codec = random_generator("crystal").codec
        fit(codec, [list(range(1, MAX_SPECIES + 2))])
        assert not draw_stoichiometries(codec, torch.tensor([6]), Draws(0, torch.arange(1)), 8).any()

    @pytest.mark.parametrize(
        ("atoms", "size", "expected"),
        [
            ((8, 4, 2, 0), 14, (8, 4, 2, 0)),
            ((8, 4, 2, 0), 7, (4, 2, 1, 0)),
            ((3, 1), 60, (45, 15)),
            ((12, 1), 3, (2, 1)),
            ((5, 1, 1, 1), 4, (1, 1, 1, 1)),
        ],
    )
    def test_stretching(self, atoms: tuple[int, ...], size: int, expected: tuple[int, ...]) -> None:
        assert tuple(stretch(np.array(atoms), size)) == expected

    def test_sizes_side_by_side(self) -> None:
        codec = random_generator("crystal").codec
        fit(codec, self.CELLS)
        tokens = torch.tensor([5, 4, 3, 5])
        draws = Draws(1, torch.arange(4))
        together = draw_stoichiometries(codec, tokens, draws, MAX_SPECIES)
        assert together.sum(1).tolist() == [5, 4, 3, 5]
        alone = draw_stoichiometries(codec, tokens[1:2], Draws(1, torch.tensor([1])), MAX_SPECIES)
        assert torch.equal(together[1:2], alone)


class TestKeeping:
    @pytest.mark.parametrize("seed", range(5))
    def test_the_best_elements_by_brute_force(self, seed: int) -> None:
        """All ways to give three groups, of 3, 2 and 1 atoms, different elements out of seven are tried."""
        scores = np.log(np.random.default_rng(seed).dirichlet(np.full(7, 0.5), size=6))
        totals = [scores[:3].sum(0), scores[3:5].sum(0), scores[5]]
        ways = itertools.permutations(range(7), 3)
        best = max(ways, key=lambda way: sum(total[z] for total, z in zip(totals, way, strict=True)))
        assert likeliest_elements(scores, np.array([3, 2, 1])).tolist() == list(best)

    def test_tokens_of_a_group_are_tied_to_its_first(self) -> None:
        atoms = torch.tensor([[3, 2, 0], [1, 1, 1], [0, 0, 0]])
        assert tie_groups(atoms, 6).tolist() == [[0, 0, 0, 3, 3, 5], [0, 1, 2, 3, 4, 5], [0, 1, 2, 3, 4, 5]]

    def test_samples_have_stoichiometries_of_the_training_data(self, crystals: Generator) -> None:
        made = crystals.sample(24, seed=3, steps=2, progress=False)
        assert {falling(crystal) for crystal in made} <= set(known(crystals.codec))

    @pytest.mark.parametrize("sampler", ["euler", "heun", "ancestral"])
    def test_atoms_of_a_group_have_one_element_whatever_the_sampler(
        self, crystals: Generator, sampler: str
    ) -> None:
        """The latents themselves, before the decoder's choice is made to agree."""
        layout = crystals.domain.layout(CrystalOptions(), Draws(5, torch.arange(6)))
        seen = []
        whole = crystals.codec.decode
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(crystals.codec, "decode", lambda tokens: seen.append(tokens) or whole(tokens))
            crystals.sample(6, seed=5, steps=4, sampler=sampler, progress=False)
        (tokens,) = seen
        part = crystals.codec.slices["element"]
        order = torch.argsort(layout.mask.sum(1), stable=True)
        for row, source in enumerate(layout.ties.source[order]):
            for token in range(int(tokens.mask[row].sum())):
                torch.testing.assert_close(tokens.x[row, token, part], tokens.x[row, source[token], part])

    def test_with_allowed_elements(self, crystals: Generator) -> None:
        made = crystals.sample(24, seed=1, steps=2, progress=False, elements=("Ti", "O"))
        assert all(set(composition(crystal)) <= {8, 22} for crystal in made)

    @pytest.mark.parametrize("num_atoms", [None, 10])
    def test_a_formula(self, crystals: Generator, num_atoms: int | None) -> None:
        made = crystals.sample(3, steps=2, progress=False, formula="SrTiO3", num_atoms=num_atoms)
        times = (num_atoms or 5) // 5
        assert all(composition(crystal) == {8: 3 * times, 22: times, 38: times} for crystal in made)

    def test_training_ties_atoms_of_one_element(self, crystals: Generator) -> None:
        domain = crystals.domain
        dataset = domain.dataset(ROOT / "data" / "tiny" / "crystals.cif", "train")
        batch = domain.collate([dataset[i] for i in range(len(dataset))], None)
        source = crystals.codec.encode(batch).ties.source
        for row, numbers in enumerate(batch.numbers.tolist()):
            for token, number in enumerate(numbers):
                assert source[row, token] == (numbers.index(number) if number else token)


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
