"""Formulas and elements as users write them."""

import re

from gen3d.errors import Gen3dError

SYMBOLS = (
    "X H He Li Be B C N O F Ne Na Mg Al Si P S Cl Ar K Ca Sc Ti V Cr Mn Fe Co Ni Cu Zn Ga Ge As Se Br Kr "
    "Rb Sr Y Zr Nb Mo Tc Ru Rh Pd Ag Cd In Sn Sb Te I Xe Cs Ba La Ce Pr Nd Pm Sm Eu Gd Tb Dy Ho Er Tm Yb Lu "
    "Hf Ta W Re Os Ir Pt Au Hg Tl Pb Bi Po At Rn Fr Ra Ac Th Pa U Np Pu Am Cm Bk Cf Es Fm"
).split()
"""Element symbols by atomic number, up to 100."""

NUMBERS = {symbol: number for number, symbol in enumerate(SYMBOLS) if number}

MAX_ATOMS = 10_000
"""Atoms that a formula may count."""

PIECE = re.compile(r"(?:(?P<symbol>[A-Z][a-z]?)|\))(?P<times>(?:[1-9][0-9]*)?)|(?P<opening>\()")


def parse_formula(formula: str) -> dict[int, int]:
    """Atomic number -> count of a formula such as C6H6, Ca(OH)2 or LiFePO4.

    Raises:
        Gen3dError: it is no formula, names no element, is empty, or counts more than MAX_ATOMS atoms.
    """
    text = formula.strip()
    groups: list[dict[int, int]] = [{}]  # one for every open bracket, and the whole
    at = 0
    while at < len(text):
        match = PIECE.match(text, at)
        if match is None:
            raise Gen3dError(f"{formula!r} is no chemical formula: cannot read it from {text[at:]!r} on")
        at = match.end()
        symbol, opening, times = match.group("symbol", "opening", "times")
        if opening:
            groups.append({})
            continue
        if symbol:
            group = {parse_element(symbol): 1}
        elif len(groups) == 1:
            raise Gen3dError(f"{formula!r} closes a bracket that is not open")
        elif not (group := groups.pop()):
            raise Gen3dError(f"{formula!r} has a bracket with nothing in it")
        factor = int((times or "1")[: len(str(MAX_ATOMS)) + 1])
        for number, count in group.items():
            groups[-1][number] = groups[-1].get(number, 0) + count * factor
        if sum(groups[-1].values()) > MAX_ATOMS:
            raise Gen3dError(f"{formula!r} counts more than {MAX_ATOMS} atoms")
    if len(groups) > 1:
        raise Gen3dError(f"{formula!r} has a bracket that is not closed")
    if not groups[0]:
        raise Gen3dError(f"{formula!r} is no chemical formula; write one such as C6H6 or LiFePO4")
    return groups[0]


def parse_element(symbol: str) -> int:
    """The atomic number of an element symbol.

    Raises:
        Gen3dError: there is no such element.
    """
    if symbol.strip() not in NUMBERS:
        raise Gen3dError(f"unknown element {symbol!r}; allowed: symbols from H to Fm, such as Li")
    return NUMBERS[symbol.strip()]
