"""What users write: formulas, lists of elements, properties."""

import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pymatgen.core import Composition
from rdkit import Chem

from gen3d.domains.atoms.composition import MAX_ATOMS, NUMBERS, SYMBOLS, parse_element, parse_formula
from gen3d.domains.atoms.conditioning import (
    parse_elements,
    parse_properties,
)
from gen3d.domains.atoms.statistics import ELEMENTS
from gen3d.errors import Gen3dError


class TestFormulas:
    @pytest.mark.parametrize(
        "formula",
        "C6H6 Ca(OH)2 LiFePO4 H2 C Al2(SO4)3 Fe(Fe(CN)6)3 C(H(O2)3)4N CoCO3 CH3CH2OH".split(),
    )
    def test_pymatgen_reads_the_same(self, formula: str) -> None:
        expected = {element.Z: int(n) for element, n in Composition(formula).items()}
        assert parse_formula(formula) == expected
        assert parse_formula(f"  {formula}\n") == expected

    @pytest.mark.parametrize(
        ("formula", "message"),
        [
            ("", "no chemical formula"),
            ("  ", "no chemical formula"),
            ("Xx2", "unknown element 'Xx'"),
            ("X", "unknown element 'X'"),
            ("C-1", "'-1'"),
            ("(C", "'(C' has a bracket that is not closed"),
            ("C)", "'C)' closes a bracket that is not open"),
            ("()", "'()' has a bracket with nothing in it"),
            ("C()2", "nothing in it"),
            ("C0", "cannot read it from '0'"),
            ("C01", "cannot read it from '01'"),
            ("h2o", "cannot read it from 'h2o'"),
            ("2H", "cannot read it from '2H'"),
            ("H2 O", "cannot read it from ' O'"),
            ("H1.5", "cannot read it from '.5'"),
            ("C٣", "cannot read it"),
            ("C10001", f"more than {MAX_ATOMS}"),
            ("C1234567", f"more than {MAX_ATOMS}"),
            ("((C999)999)999", f"more than {MAX_ATOMS}"),
            ("C" + "9" * 5000, f"more than {MAX_ATOMS}"),
        ],
    )
    def test_mistakes_are_named(self, formula: str, message: str) -> None:
        with pytest.raises(Gen3dError, match=re.escape(message)):
            parse_formula(formula)

    def test_deep_brackets_are_no_trouble(self) -> None:
        assert parse_formula("(" * 5000 + "C" + ")" * 5000) == {6: 1}
        with pytest.raises(Gen3dError, match="not closed"):
            parse_formula("(" * 5000)

    @given(st.one_of(st.text(), st.text("CHOLiX()0123456789 ")))
    @settings(max_examples=500, deadline=None)
    def test_any_text_is_a_formula_or_a_named_mistake(self, text: str) -> None:
        try:
            counts = parse_formula(text)
        except Gen3dError:
            return
        assert counts
        assert all(1 <= z <= ELEMENTS and n >= 1 for z, n in counts.items())
        assert sum(counts.values()) <= MAX_ATOMS

    @given(st.dictionaries(st.integers(1, ELEMENTS), st.integers(1, 50), min_size=1, max_size=8))
    @settings(deadline=None)
    def test_what_is_written_is_read(self, counts: dict[int, int]) -> None:
        assert parse_formula("".join(f"{SYMBOLS[z]}{n}" for z, n in counts.items())) == counts

    def test_symbols_are_those_of_rdkit(self) -> None:
        table = Chem.GetPeriodicTable()
        assert {table.GetElementSymbol(z): z for z in range(1, ELEMENTS + 1)} == NUMBERS
        assert parse_element(" Li ") == 3


class TestLists:
    seen = torch.isin(torch.arange(ELEMENTS + 1), torch.tensor([1, 6, 8]))

    def test_elements(self) -> None:
        assert parse_elements(["O,C"], self.seen) == parse_elements(["C", "O", "C"], self.seen) == [6, 8]

    @pytest.mark.parametrize(
        ("symbols", "message"),
        [
            (["Q"], "unknown element 'Q'; allowed: symbols from H to Fm"),
            (["C,N"], "has not seen element N; it knows H, C, O"),
            ([","], "name at least one"),
            ([""], "name at least one"),
        ],
    )
    def test_elements_that_cannot_be(self, symbols: list[str], message: str) -> None:
        with pytest.raises(Gen3dError, match=message):
            parse_elements(symbols, self.seen)

    def test_properties_go_by_their_names_with_or_without_unit(self) -> None:
        names = ("gap_hartree", "Cv_cal_mol_K")
        assert parse_properties(["gap=0.2", "cv=-3e1"], names) == {"gap_hartree": 0.2, "Cv_cal_mol_K": -30.0}
        assert parse_properties(["gap_hartree= 1"], names) == {"gap_hartree": 1.0}

    @pytest.mark.parametrize(
        ("requests", "message"),
        [
            (["colour=1"], "unknown property 'colour'; allowed: gap_hartree, mu_debye"),
            (["gap"], "'gap' gives no number; write gap=0.2"),
            (["gap=high"], "'gap=high' gives no number"),
            (["gap=nan"], "'gap=nan' is not finite"),
            (["gap=1e999"], "is not finite"),
            (["gap=0.1", "gap_hartree=0.2"], "'gap_hartree' is asked for twice"),
        ],
    )
    def test_properties_that_cannot_be(self, requests: list[str], message: str) -> None:
        with pytest.raises(Gen3dError, match=message):
            parse_properties(requests, ("gap_hartree", "mu_debye"))

    def test_without_properties_none_is_allowed(self) -> None:
        with pytest.raises(Gen3dError, match="none, this checkpoint was trained without"):
            parse_properties(["gap=1"], ())
