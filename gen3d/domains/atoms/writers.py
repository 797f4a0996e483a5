"""Writing molecules and crystals: RDKit molecules, pymatgen Structures, ASE Atoms or atomic systems."""

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gen3d.domains.atoms.native import from_native, to_atoms, to_mol, to_structure
from gen3d.errors import Gen3dError, require


def write_sdf(objects: Sequence[Any], path: Path) -> None:
    """An SDF record per molecule; properties become data fields."""
    path.write_text("".join(map(_sdf, objects)), encoding="utf-8")


def write_xyz(objects: Sequence[Any], path: Path) -> None:
    """A plain XYZ frame per molecule, its name in the comment line.

    Raises:
        Gen3dError: a crystal is among them; plain XYZ has no lattice.
    """
    with open(path, "w", encoding="utf-8") as file:
        for system in map(from_native, objects):
            if system.periodic:
                raise Gen3dError("plain .xyz holds no lattice; write crystals as .extxyz, .cif or .vasp")
            file.write(f"{len(system)}\n{' '.join(system.name.split())}\n")
            for symbol, (x, y, z) in zip(to_atoms(system).symbols, system.positions, strict=True):
                file.write(f"{symbol:<2} {x:15.8f} {y:15.8f} {z:15.8f}\n")


def write_extxyz(objects: Sequence[Any], path: Path) -> None:
    """An extended XYZ frame per molecule or crystal, with lattice, name and properties."""
    extxyz = require("ase.io.extxyz", "atoms")
    with open(path, "w", encoding="utf-8") as file:
        extxyz.write_extxyz(file, [to_atoms(from_native(value)) for value in objects])


def write_cif(objects: Sequence[Any], path: Path) -> None:
    """A data block per crystal, in space group P1."""
    path.write_text("\n".join(_cif(value, i) for i, value in enumerate(objects)), encoding="utf-8")


def write_poscar(objects: Sequence[Any], path: Path) -> None:
    """One VASP structure file."""
    (value,) = objects
    system = from_native(value)
    poscar = require("pymatgen.io.vasp.inputs", "atoms").Poscar
    structure = to_structure(system).get_sorted_structure()  # the format lists atoms element by element
    comment = " ".join(system.name.split()) or structure.reduced_formula
    path.write_text(poscar(structure, comment=comment).get_str(significant_figures=10), encoding="utf-8")


def write_zip(objects: Sequence[Any], path: Path) -> None:
    """A zip archive with one .sdf per molecule and one .cif per crystal."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for i, value in enumerate(objects):
            periodic = from_native(value).periodic
            text = _cif(value, i) if periodic else _sdf(value)
            archive.writestr(f"{i:06d}.{'cif' if periodic else 'sdf'}", text)


def _sdf(value: Any) -> str:
    chem = require("rdkit.Chem", "atoms")
    mol = value if isinstance(value, chem.Mol) else to_mol(from_native(value))
    return chem.SDWriter.GetText(mol)


def _cif(value: Any, index: int) -> str:
    system = from_native(value)
    structure = to_structure(system)
    writer = require("pymatgen.io.cif", "atoms").CifWriter(structure, significant_figures=10)
    (block,) = writer.cif_file.data.values()
    # a block name holds no blanks, and readers need them all different
    block.header = "_".join(system.name.split()) or f"{structure.reduced_formula}_{index}"
    return str(block) + "\n"
