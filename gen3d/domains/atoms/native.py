"""Between atomic systems and the objects of RDKit, pymatgen and ASE."""

import warnings
from typing import Any

import numpy as np

from gen3d.domains.atoms.system import AtomicSystem
from gen3d.errors import Gen3dError, require

VALID = "gen3d_valid"
"""Boolean property of the molecules made here: whether bonds could be perceived."""

MAX_ITERATIONS = 1000
"""Bond-order assignments tried per molecule; molecules of QM9 size need a handful."""


def perceive(system: AtomicSystem, *, max_iterations: int = MAX_ITERATIONS) -> Any:
    """The RDKit molecule whose bonds follow from the atoms' positions, or None when there is none.

    Bonds and their orders come from RDKit's `rdDetermineBonds` (the xyz2mol algorithm, Kim and Kim 2015),
    for a neutral molecule whose atoms may carry charges that cancel, as QM9's zwitterions do. Its default
    neighbour rule is tried first; it counts atoms within 1.3 covalent radii as bonded, which draws bonds
    across small cages (5% of QM9), so a molecule that fails is tried once more with 1.15.

    A result is one connected, neutral molecule without radicals: sanitised, with its conformer and the
    stereochemistry that follows from it.

    Args:
        system: a molecule with all its hydrogens.
        max_iterations: the search for bond orders is given up after so many assignments.
    """
    return _perceive(_bare_mol(system), max_iterations)


def to_mol(system: AtomicSystem) -> Any:
    """The RDKit molecule of `perceive`; without bonds when they cannot be determined.

    The boolean property `gen3d_valid` tells which; the name and the measured properties go along.

    Raises:
        Gen3dError: the system is periodic.
    """
    bare = _bare_mol(system)
    perceived = _perceive(bare, MAX_ITERATIONS)
    mol = bare if perceived is None else perceived
    mol.SetProp("_Name", system.name)
    mol.SetBoolProp(VALID, perceived is not None)
    for key, value in system.properties.items():
        mol.SetDoubleProp(key, float(value))
    return mol


def from_mol(mol: Any) -> AtomicSystem:
    """The atoms of an RDKit molecule as they stand in its first conformer; no hydrogens are added.

    Raises:
        Gen3dError: it has no atoms, no 3D coordinates, or an atom that is no element.
    """
    if not mol.GetNumAtoms():
        raise Gen3dError("it has no atoms")
    if not mol.GetNumConformers() or not mol.GetConformer().Is3D():
        raise Gen3dError("it has no 3D coordinates (every z is 0 and its header does not say 3D)")
    properties = {}
    for key in mol.GetPropNames(includePrivate=False, includeComputed=False):
        value = _number(mol.GetProp(key))
        if key != VALID and value is not None:
            properties[key] = value
    return _checked(
        np.array([atom.GetAtomicNum() for atom in mol.GetAtoms()]),
        np.array(mol.GetConformer().GetPositions()),
        None,
        properties,
        mol.GetProp("_Name") if mol.HasProp("_Name") else "",
    )


def to_structure(system: AtomicSystem) -> Any:
    """The pymatgen Structure of a crystal; name and properties are in its `properties`.

    Raises:
        Gen3dError: the system has no lattice.
    """
    if system.cell is None:
        raise Gen3dError(f"{system.name or 'the system'} has no lattice, so it is no crystal")
    core = require("pymatgen.core", "atoms")
    return core.Structure(
        core.Lattice(system.cell),
        system.numbers.tolist(),
        system.fractional,
        properties={"name": system.name, **system.properties},
    )


def from_structure(structure: Any) -> AtomicSystem:
    """The atoms of a pymatgen Structure.

    Raises:
        Gen3dError: a site is partly occupied or holds no element.
    """
    if not structure.is_ordered:
        site = next(s for s in structure if not s.is_ordered)
        raise Gen3dError(f"it is disordered: site {site.species_string!r} is partly occupied")
    properties = {k: _number(v) for k, v in (structure.properties or {}).items()}
    return _checked(
        np.array([getattr(site.specie, "Z", 0) for site in structure]),
        np.array(structure.cart_coords),
        np.array(structure.lattice.matrix),
        {k: v for k, v in properties.items() if v is not None},
        str((structure.properties or {}).get("name", "")),
    )


def to_atoms(system: AtomicSystem) -> Any:
    """The ASE Atoms; name and properties are in its `info`."""
    ase = require("ase", "atoms")
    return ase.Atoms(
        numbers=system.numbers,
        positions=system.positions,
        cell=system.cell,
        pbc=system.periodic,
        info={**({"name": system.name} if system.name else {}), **system.properties},
    )


def from_atoms(atoms: Any) -> AtomicSystem:
    """The atoms of ASE Atoms: a crystal when periodic in all directions, a molecule when in none.

    Raises:
        Gen3dError: it is periodic in one or two directions, or an atom is no element.
    """
    if atoms.pbc.any() and not atoms.pbc.all():
        raise Gen3dError("it is periodic in some directions only; a molecule or a crystal is needed")
    values = {**(atoms.calc.results if atoms.calc is not None else {}), **atoms.info}
    properties = {k: _number(v) for k, v in values.items() if k != "name"}
    return _checked(
        np.array(atoms.numbers),
        np.array(atoms.positions),
        np.array(atoms.cell) if atoms.pbc.all() else None,
        {k: v for k, v in properties.items() if v is not None},
        str(values.get("name", "")),
    )


def to_native(system: AtomicSystem) -> Any:
    """An RDKit molecule, or a pymatgen Structure when the system is periodic."""
    return to_structure(system) if system.periodic else to_mol(system)


def from_native(value: Any) -> AtomicSystem:
    """The atoms of any of the objects above; an `AtomicSystem` is returned as it is.

    Raises:
        Gen3dError: it is of another type, or cannot be converted.
    """
    if isinstance(value, AtomicSystem):
        return value
    top = type(value).__module__.partition(".")[0]
    if top == "rdkit" and hasattr(value, "GetNumConformers"):
        return from_mol(value)
    if top == "pymatgen" and hasattr(value, "lattice") and hasattr(value, "cart_coords"):
        return from_structure(value)
    if top == "ase" and hasattr(value, "pbc"):
        return from_atoms(value)
    allowed = "AtomicSystem, rdkit Mol, pymatgen Structure, ase Atoms"
    raise Gen3dError(f"{type(value).__name__} is no set of atoms; allowed: {allowed}")


def _bare_mol(system: AtomicSystem) -> Any:
    """Atoms and one conformer, no bonds."""
    if system.periodic:
        raise Gen3dError(f"{system.name or 'the system'} is periodic, so it is no molecule")
    chem = require("rdkit.Chem", "atoms")
    mol = chem.RWMol()
    for number in system.numbers.tolist():
        atom = chem.Atom(number)
        atom.SetNoImplicit(True)  # the atoms are all there are
        mol.AddAtom(atom)
    conformer = chem.Conformer(len(system))
    conformer.SetPositions(np.ascontiguousarray(system.positions, dtype=np.float64))
    conformer.Set3D(True)
    mol.AddConformer(conformer)
    return mol.GetMol()


def _perceive(bare: Any, max_iterations: int) -> Any:
    chem = require("rdkit.Chem", "atoms")
    determine = require("rdkit.Chem.rdDetermineBonds", "atoms")
    if not bare.GetNumAtoms() or not np.isfinite(bare.GetConformer().GetPositions()).all():
        return None
    with require("rdkit.rdBase", "atoms").BlockLogs():
        for neighbours in ({}, {"useVdw": True, "covFactor": 1.15}):
            mol = chem.Mol(bare)
            try:
                determine.DetermineConnectivity(mol, **neighbours)
                # bond orders of scattered atoms make no sense and can take for ever
                if len(chem.GetMolFrags(mol)) != 1:
                    continue
                determine.DetermineBondOrders(mol, charge=0, embedChiral=False, maxIterations=max_iterations)
                chem.SanitizeMol(mol)
            except (ValueError, RuntimeError):
                continue
            if chem.GetFormalCharge(mol) or any(atom.GetNumRadicalElectrons() for atom in mol.GetAtoms()):
                continue
            chem.AssignStereochemistryFrom3D(mol)
            return mol
    return None


def _checked(
    numbers: np.ndarray,
    positions: np.ndarray,
    cell: np.ndarray | None,
    properties: dict[str, float],
    name: str,
) -> AtomicSystem:
    """A system whose atoms are elements at finite places, in a cell that spans a volume."""
    if not len(numbers):
        raise Gen3dError("it has no atoms")
    if (numbers < 1).any() or (numbers > 118).any():
        raise Gen3dError(f"atom {int(np.argmax((numbers < 1) | (numbers > 118))) + 1} is no element")
    if not np.isfinite(positions).all():
        raise Gen3dError("a coordinate is not a finite number")
    if cell is not None:
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            volume = abs(np.linalg.det(cell))
        if not np.isfinite(cell).all() or not 1e-6 < volume < np.inf:
            raise Gen3dError("its lattice vectors span no volume")
    return AtomicSystem(
        numbers.astype(np.int64),
        positions.astype(np.float64),
        None if cell is None else cell.astype(np.float64),
        properties,
        name,
    )


def _number(value: Any) -> float | None:
    """`value` as a float, None when it is no single number."""
    if isinstance(value, (bool, np.bool_)):
        return None
    try:
        return float(value)
    except (TypeError, ValueError):
        return None
