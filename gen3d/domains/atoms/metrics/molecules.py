"""Validity, uniqueness, novelty and PoseBusters of generated molecules, by named protocols.

Protocol "rdkit" (metrics without a suffix): bonds from coordinates by RDKit's DetermineBonds; valid is one
connected, neutral molecule without radicals that sanitises (see `native.perceive`). Protocol "edm" (suffix
`_edm`): bonds by the distance lookup of `stability`; valid is a graph that RDKit sanitises, judged by its
largest fragment, as EDM, GeoLDM and their successors count. The two disagree by points on the same samples;
compare only like with like.

Molecules are told apart by canonical SMILES without stereochemistry and hydrogens. The SMILES of the
reference are its own where it has them, which costs no perception, and are perceived from its coordinates
otherwise. For QM9 the two agree on 99.9 % of the molecules (the rest are tautomers and charge-separated forms
written differently), so novelty has a floor of 0.1 % there.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from gen3d.domains.atoms.metrics.distributions import (
    LocalGeometry,
    content_metrics,
    geometry_metrics,
    local_geometry,
)
from gen3d.domains.atoms.metrics.relaxation import relaxation_metrics
from gen3d.domains.atoms.metrics.stability import CITATION as EDM
from gen3d.domains.atoms.metrics.stability import bond_orders, stability_metrics
from gen3d.domains.atoms.native import VALID, from_native, perceive, to_mol
from gen3d.domains.atoms.system import AtomicSystem
from gen3d.errors import Gen3dError, require
from gen3d.metrics import Estimate, Metric, percentage
from gen3d.parallel import guarded_map

if TYPE_CHECKING:
    from rdkit.Chem import Mol

logger = logging.getLogger(__name__)

RDKIT = "RDKit DetermineBonds (Kim & Kim, Bull. Korean Chem. Soc. 36, 1769, 2015)"
POSEBUSTERS = "Buttenschoen et al., Chem. Sci. 15, 3130 (2024)"
REFERENCE_LIMIT = 10_000
"""Reference molecules, evenly spaced, whose geometry is compared with."""


@dataclass(frozen=True)
class Inspection:
    """What one molecule contributes.

    Attributes:
        smiles: canonical SMILES by the protocol "rdkit"; None when not valid.
        connected: whether all atoms hang together, by the same bonds.
        smiles_edm: SMILES of the largest fragment by the protocol "edm"; None when not valid.
        geometry: bonds and angles of a valid molecule.
    """

    smiles: str | None = None
    connected: bool = False
    smiles_edm: str | None = None
    geometry: LocalGeometry | None = None


def molecule_metrics(
    samples: Sequence[Any],
    reference: Sequence[AtomicSystem],
    *,
    workers: int | None = None,
    posebusters: bool = False,
    xtb: int = 0,
    progress: bool = False,
) -> list[Metric]:
    """Measure generated molecules against a reference set, usually the training data.

    Args:
        samples: `AtomicSystem`s or RDKit molecules with a conformer; None where generation failed.
        reference: molecules, an `AtomsDataset` for instance; its `smiles` are used when it has some.
        workers: processes, all cores by default; 0 computes in this one (see `guarded_map`).
        posebusters: run the PoseBusters of configuration "mol" on the valid samples, about a second each.
        xtb: number of valid samples to relax by GFN2-xTB, a second or more each.
        progress: show bars.

    Raises:
        Gen3dError: there is nothing to measure or to compare with, or something that is no molecule.
        MissingExtra: a package is not installed.
    """
    require("rdkit", "atoms")
    if not len(samples) or not len(reference):
        raise Gen3dError(
            f"{len(samples)} samples against {len(reference)} reference molecules: both must be there"
        )
    systems = _to_systems(samples)
    generated = [s for s in systems if s is not None]
    chosen = np.linspace(0, len(reference) - 1, min(REFERENCE_LIMIT, len(reference))).astype(int)
    comparison = [reference[int(i)] for i in chosen]
    found = guarded_map(
        inspect_molecule,
        [*generated, *comparison],
        workers=workers,
        description="bonds" if progress else None,
    )
    inspections = [f or Inspection() for f in found]
    ours, theirs = inspections[: len(generated)], inspections[len(generated) :]
    known = reference_smiles(reference, workers=workers, progress=progress)

    metrics: list[Metric] = [
        *validity_metrics(ours, known, len(samples)),
        *stability_metrics(systems),
        *geometry_metrics(*([i.geometry for i in group if i.geometry] for group in (ours, theirs))),
        *content_metrics([s.numbers for s in generated], [s.numbers for s in comparison]),
    ]
    valid = [s for s, i in zip(generated, ours, strict=True) if i.smiles is not None]
    if posebusters:
        metrics += posebusters_metrics(valid, len(samples), workers=workers, progress=progress)
    if xtb:
        metrics += relaxation_metrics(valid, xtb, workers=workers, progress=progress)
    return metrics


def inspect_molecule(system: AtomicSystem) -> Inspection:
    """Perceive the bonds of a molecule by both protocols."""
    from rdkit import Chem
    from rdkit.Chem import rdDetermineBonds
    from rdkit.rdBase import BlockLogs

    with BlockLogs():
        smiles_edm = _edm_smiles(system)
        if not np.isfinite(system.positions).all():
            return Inspection(smiles_edm=smiles_edm)
        mol = to_mol(system)
        if mol.GetBoolProp(VALID):
            return Inspection(canonical_smiles(mol), True, smiles_edm, local_geometry(mol))
        rdDetermineBonds.DetermineConnectivity(mol)
        return Inspection(connected=len(Chem.GetMolFrags(mol)) == 1, smiles_edm=smiles_edm)


def canonical_smiles(mol: "Mol") -> str:
    """SMILES without stereochemistry and hydrogens.

    Stereochemistry goes first: RDKit keeps a hydrogen that marks the side of a double bond, as in an imine.
    """
    from rdkit import Chem

    flat = Chem.Mol(mol)
    Chem.RemoveStereochemistry(flat)
    return Chem.MolToSmiles(Chem.RemoveHs(flat), isomericSmiles=False)


def reference_smiles(
    reference: Sequence[AtomicSystem], *, workers: int | None = None, progress: bool = False
) -> set[str]:
    """Canonical SMILES of all reference molecules; those that cannot be read are left out."""
    description = "reference" if progress else None
    written = getattr(reference, "smiles", None)
    if written is not None:
        found = guarded_map(_canonical, [str(s) for s in written], workers=workers, description=description)
        return set(filter(None, found))
    found = guarded_map(inspect_molecule, list(reference), workers=workers, description=description)
    return {i.smiles for i in found if i and i.smiles}


def validity_metrics(inspections: Sequence[Inspection], known: set[str], total: int) -> list[Metric]:
    """Validity, uniqueness and novelty.

    Args:
        inspections: of the samples that were generated.
        known: canonical SMILES of the reference.
        total: number of all samples, failed ones included.
    """
    valid = [i.smiles for i in inspections if i.smiles is not None]
    unique = set(valid)
    novel = unique - known
    valid_edm = [i.smiles_edm for i in inspections if i.smiles_edm is not None]
    return [
        percentage(
            "validity",
            len(valid),
            total,
            "% of all samples in which RDKit determines bonds of one neutral molecule without radicals",
            citation=RDKIT,
        ),
        percentage(
            "novelty",
            len(novel),
            len(unique),
            "% of the distinct valid SMILES that the reference does not hold",
            citation=RDKIT,
        ),
        _plain_percentage(
            "uniqueness",
            len(unique),
            len(valid),
            "% of valid samples: distinct SMILES / valid samples",
            RDKIT,
        ),
        _plain_percentage(
            "valid_unique", len(unique), total, "% of all samples: distinct valid SMILES / all samples", RDKIT
        ),
        _plain_percentage(
            "valid_unique_novel",
            len(novel),
            total,
            "% of all samples: distinct valid SMILES not in the reference / all samples",
            RDKIT,
        ),
        percentage(
            "connected",
            sum(i.connected for i in inspections),
            total,
            "% of all samples whose atoms RDKit's neighbour rule joins into one piece, valid or not",
            citation=RDKIT,
        ),
        percentage(
            "validity_edm",
            len(valid_edm),
            total,
            "% of all samples whose EDM lookup bonds RDKit sanitises, in one piece or not",
            citation=EDM,
        ),
        _plain_percentage(
            "valid_unique_edm",
            len(set(valid_edm)),
            total,
            "% of all samples: distinct SMILES of the largest EDM fragment / all samples",
            EDM,
        ),
    ]


def posebusters_metrics(
    valid: Sequence[AtomicSystem], total: int, *, workers: int | None = None, progress: bool = False
) -> list[Metric]:
    """Pass rates of every PoseBusters test and of all tests, over the valid and over all samples.

    Args:
        valid: samples valid by the protocol "rdkit".
        total: number of all samples.
        workers: see `guarded_map`.
        progress: show a bar.
    """
    require("posebusters", "eval")
    description = "PoseBusters" if progress else None
    reports = guarded_map(bust, list(valid), workers=workers, timeout=120.0, description=description)
    done = [r for r in reports if r]
    passed = {test: sum(report[test] for report in done) for test in (done[0] if done else {})}
    passed["all"] = sum(all(report.values()) for report in done)
    metrics: list[Metric] = []
    for test, count in passed.items():
        what = "all PoseBusters tests" if test == "all" else f"the PoseBusters test {test}"
        for suffix, denominator, whom in (("", len(valid), "valid"), ("_of_all", total, "all")):
            metrics.append(
                percentage(
                    f"posebusters_{test}{suffix}",
                    count,
                    denominator,
                    f"% of {whom} samples that are valid and pass {what}, configuration mol",
                    citation=POSEBUSTERS,
                )
            )
    return metrics


def bust(system: AtomicSystem) -> dict[str, bool]:
    """PoseBusters verdicts by test; empty when the bonds cannot be perceived.

    A test that cannot be carried out gives NaN and is no failure: for some
    strained cages of QM9 no conformers can be generated to compare the internal energy with.
    """
    from rdkit.rdBase import BlockLogs

    with BlockLogs():
        mol = perceive(system)
        if mol is None:
            return {}
        row = _buster().bust([mol]).iloc[0]
    # NaN is the only float among the verdicts
    return {str(test): isinstance(verdict, float) or bool(verdict) for test, verdict in row.items()}


@lru_cache
def _buster() -> Any:
    from posebusters import PoseBusters

    buster = PoseBusters(config="mol")
    # The configuration lists the slow energy test twice, once without reading its verdict.
    modules = [m for m in buster.config["modules"] if m.get("chosen_binary_test_output")]
    for module in modules:
        if module["function"] == "energy_ratio":
            module["parameters"]["num_threads"] = 1  # the processes share the cores already
    return PoseBusters(config={**buster.config, "modules": modules})


def _plain_percentage(name: str, count: int, total: int, definition: str, citation: str) -> Estimate:
    """A share of distinct things depends on the number of samples: it has no binomial interval."""
    return Estimate(name, 100 * count / total if total else None, definition, "higher", citation)


def _canonical(smiles: str) -> str:
    """Canonical form, or "" when RDKit cannot read it."""
    from rdkit import Chem
    from rdkit.rdBase import BlockLogs

    with BlockLogs():
        mol = Chem.MolFromSmiles(smiles)
        return canonical_smiles(mol) if mol is not None else ""


def _edm_smiles(system: AtomicSystem) -> str | None:
    from rdkit import Chem

    orders = bond_orders(system)
    mol = Chem.RWMol()
    for number in system.numbers:
        mol.AddAtom(Chem.Atom(int(number)))
    for i, j in zip(*np.nonzero(np.triu(orders)), strict=True):
        mol.AddBond(int(i), int(j), Chem.BondType.values[int(orders[i, j])])
    try:
        Chem.SanitizeMol(mol)
    except (ValueError, RuntimeError):
        return None
    return Chem.MolToSmiles(max(Chem.GetMolFrags(mol, asMols=True), key=lambda m: m.GetNumAtoms()))


def _to_systems(samples: Sequence[Any]) -> list[AtomicSystem | None]:
    """One system per sample; None, with a warning, for what cannot be converted."""
    systems: list[AtomicSystem | None] = []
    complaints: list[Gen3dError] = []
    for sample in samples:
        try:
            systems.append(None if sample is None else from_native(sample))
        except Gen3dError as error:
            complaints.append(error)
            systems.append(None)
    if len(complaints) == len(samples):
        raise complaints[0]
    if complaints:
        logger.warning(
            "%d of %d samples count as failed; the first: %s", len(complaints), len(samples), complaints[0]
        )
    return systems
