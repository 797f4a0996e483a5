"""The checkpoints that come with gen3d do what their users expect of them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from rdkit import Chem

import gen3d
from gen3d import io
from gen3d.diffusion.objective import diffusion_loss
from gen3d.domains.shapes.metrics.distances import chamfer
from gen3d.domains.shapes.normalise import unit_box
from gen3d.draws import Draws
from gen3d.errors import Gen3dError
from gen3d.info import shipped
from gen3d.locate import SHIPPED

ROOT = Path(__file__).parents[1]
FOLDERS = sorted(path for path in SHIPPED.iterdir() if path.is_dir())


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: path.name)
def test_size_and_card(folder: Path) -> None:
    facts = shipped(folder)
    domain = facts["domain"]
    assert domain in (folder.name, folder.name.split("-")[0])
    assert facts["megabytes"] <= 25
    needed = {
        "shape": {"1nna_cd", "cov_cd", "copies_1nna_cd"},
        "scene-prior": {"1nna_iou", "cov_iou"},
        "image": {"1nna", "class_right", "colour_right"},
        "object": {"1nna", "class_right", "colour_right", "known_shape"},
    }.get(domain, {"validity", "novelty"})
    assert needed <= set(facts["metrics"])
    card = (folder / "README.md").read_text()
    for word in ("Data", "Command", "Hardware", "Minutes", "Limits", "licen"):
        assert word in card


@pytest.mark.slow
def test_molecules_are_valid_and_distinct() -> None:
    """Far below the measured values, so that chance does not fail it; far above a broken model."""
    generator = gen3d.load("molecule", "cpu")
    molecules = generator.sample(64, seed=5, progress=False)
    valid = [Chem.MolToSmiles(m) for m in molecules if generator.domain.valid(m)]
    assert len(valid) >= 64 * 0.2
    assert len(set(valid)) >= 0.9 * len(valid)


def test_edits_stay_close_when_they_begin_late() -> None:
    """What is settled by t = 0.9 is the molecule; at t = 0.1 hardly anything is.

    Not so for the few molecules of one or two heavy atoms that QM9 begins with: they are unlike all others.
    """
    generator = gen3d.load("molecule", "cpu")
    molecules = [m for m in io.read(ROOT / "data" / "tiny" / "qm9.sdf") if m.GetNumHeavyAtoms() > 2]
    same = {}
    for start in (0.9, 0.1):
        edited = generator.edit(molecules, start, seed=1, steps=20)
        assert len(edited) == len(molecules)
        pairs = zip(molecules, edited, strict=True)
        same[start] = sum(Chem.MolToSmiles(a) == Chem.MolToSmiles(b) for a, b in pairs)
    assert same[0.9] >= 0.75 * len(molecules)
    assert same[0.1] <= 0.25 * len(molecules)
    again = generator.edit(molecules, 0.1, seed=1, steps=20)
    assert [Chem.MolToSmiles(m) for m in again] == [Chem.MolToSmiles(m) for m in edited]
    with pytest.raises(Gen3dError, match=r"start is 1\.0; allowed: 0 <= start < 1"):
        generator.edit(molecules, 1.0)


@pytest.mark.slow
def test_the_model_listens_to_properties(shared_data: Path) -> None:
    """Told a true property, it predicts molecules better than when told another molecule's.

    One at a time, as in training; the mean over all properties counts.
    """
    generator = gen3d.load("molecule", "cpu")
    domain = generator.domain
    dataset = domain.dataset(shared_data / "molecules" / "qm9", "valid")
    items = [dataset[i] for i in range(1000)]
    batch = domain.collate(items, None)
    config = replace(generator.config.diffusion, condition_dropout=0.0)
    draws = Draws(0, torch.arange(len(items)))
    gains = []
    with torch.no_grad():
        tokens = generator.codec.encode(batch)
        tokens = tokens.with_values((tokens.x - generator.latent_mean) / generator.latent_std)
        for column in range(len(domain.config.properties)):
            losses = []
            for values in (batch.properties[:, column], batch.properties[:, column].roll(7)):
                told = torch.full_like(batch.properties, torch.nan)
                told[:, column] = values
                cond = domain.conditions(replace(batch, properties=told))
                losses.append(diffusion_loss(generator.core, tokens, cond, config, draws)[0].item())
            gains.append(losses[1] - losses[0])
    assert np.mean(gains) > 0, gains


@pytest.mark.slow
def test_crystals_hold_together() -> None:
    generator = gen3d.load("crystal", "cpu")
    crystals = generator.sample(32, seed=5, progress=False)
    assert sum(map(generator.domain.valid, crystals)) >= 32 * 0.8
    assert len({c.composition.reduced_formula for c in crystals}) >= 32 * 0.8


@pytest.mark.slow
def test_rock_salt_is_found_from_its_formula() -> None:
    """Nearest neighbours of sodium in NaCl are chlorine, 2.82 angstrom away (experiment, 298 K)."""
    generator = gen3d.load("crystal", "cpu")
    made = generator.sample(12, seed=1, formula="NaCl", progress=False)
    distances = []
    for crystal in made:
        assert crystal.composition.reduced_formula == "NaCl"
        sodium = next(site for site in crystal if site.specie.symbol == "Na")
        near = [n for n in crystal.get_neighbors(sodium, 6.0) if n.specie.symbol == "Cl"]
        distances.append(min(n.nn_distance for n in near) if near else np.inf)
    assert np.median(distances) == pytest.approx(2.82, abs=0.3)


@pytest.mark.slow
def test_clouds_fill_their_frame_and_differ() -> None:
    """The longest half-extent of a shape is 1, and an object is not its neighbour's copy."""
    generator = gen3d.load("shape", "cpu")
    clouds = [np.asarray(c.vertices) for c in generator.sample(6, seed=5, steps=20, progress=False)]
    for cloud in clouds:
        centre, scale = unit_box(np.quantile(cloud, [0.01, 0.5, 0.99], axis=0))
        assert scale == pytest.approx(0.95, abs=0.25)
        assert np.abs(centre).max() < 0.3
    distances = [chamfer(a, b) for i, a in enumerate(clouds) for b in clouds[:i]]
    assert np.median(distances) > 0.02


@pytest.mark.slow
def test_chairs_are_taller_than_tables() -> None:
    """Told a class, the model makes shapes like it: height over the longer side of the ground."""
    generator = gen3d.load("shape", "cpu")
    tallness = {}
    for name in ("chair", "table"):
        made = generator.sample(6, seed=1, steps=20, class_name=name, progress=False)
        spans = np.array([np.ptp(np.quantile(c.vertices, [0.02, 0.98], axis=0), axis=0) for c in made])
        tallness[name] = np.median(spans[:, 1] / spans[:, [0, 2]].max(1))
    assert tallness["chair"] > 1.3 * tallness["table"]


@pytest.mark.slow
def test_meshes_are_watertight() -> None:
    meshes = gen3d.load("shape-voxels", "cpu").sample(4, seed=1, steps=20, progress=False)
    made = [mesh for mesh in meshes if mesh is not None]
    assert len(made) >= 3
    for mesh in made:
        assert mesh.is_watertight
        assert mesh.volume > 0
        assert np.abs(mesh.vertices).max() < 1.1
        assert isinstance(mesh.metadata["floaters_removed"], int)
