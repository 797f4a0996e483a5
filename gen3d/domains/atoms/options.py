"""The flags that `gen3d sample` gains for molecules and crystals. Imports no torch: `--help` is quick."""

from dataclasses import dataclass


@dataclass(frozen=True)
class MoleculeOptions:
    """What may be asked of new molecules."""

    num_atoms: int | None = None
    """Number of atoms, hydrogens included; drawn from the training histogram when left out."""
    formula: str | None = None
    """Composition such as C6H6: types are given, the geometry is generated."""
    elements: tuple[str, ...] = ()
    """Only these elements may occur, comma-separated such as C,H,O."""
    scaffold: str | None = None
    """SDF file of one molecule: its heavy atoms stay, the rest is generated around them."""
    property: tuple[str, ...] = ()
    """Wanted values such as gap=0.2. Units as in QM9: gap, homo and lumo in hartree, mu in debye, alpha in
    bohr^3, cv in cal/(mol K)."""


@dataclass(frozen=True)
class CrystalOptions:
    """What may be asked of new crystals."""

    num_atoms: int | None = None
    """Number of atoms in the cell; drawn from the training histogram when left out."""
    formula: str | None = None
    """Composition such as LiFePO4: crystal structure prediction. One formula unit a cell, or as many
    as num_atoms holds."""
    elements: tuple[str, ...] = ()
    """Only these elements may occur, comma-separated such as Li,Fe,O."""
