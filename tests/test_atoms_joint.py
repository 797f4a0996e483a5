"""Models of atoms: one of molecules and crystals together, and data that do not fit."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_domains import TINY, debug_config

from gen3d.domains.atoms.dataset import AtomsDataset
from gen3d.domains.atoms.domain import Systems
from gen3d.domains.atoms.native import from_native
from gen3d.domains.atoms.system import AtomicSystem
from gen3d.draws import Draws
from gen3d.errors import Gen3dError
from gen3d.generator import Generator
from gen3d.train import train

JOINT = {
    "domain_config": {"kinds": ["molecule", "crystal"], "properties": []},
    "model": {"axes": 9, "position_channels": 9},
    "train": {"steps": 4, "codec_steps": 2},
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a joint model."""
    source = f"{TINY / 'qm9.sdf'},{TINY / 'crystals.cif'}"
    return train(debug_config("molecule", **JOINT), source, tmp_path_factory.mktemp("joint"), progress=False)


class TestJointModel:
    @pytest.mark.parametrize("name", ["molecule", "crystal"])
    def test_one_checkpoint_serves_both(self, checkpoint: Path, name: str) -> None:
        generator = Generator.from_pretrained(checkpoint, "cpu", domain=name)
        made = generator.sample(4, steps=3)
        systems = [from_native(m) for m in made if m is not None]
        assert systems
        assert {s.periodic for s in systems} == {name == "crystal"}
        assert [len(from_native(m)) for m in generator.sample(3, steps=2, num_atoms=8)] == [8, 8, 8]

    def test_weights_under_either_name_are_the_same(self, checkpoint: Path) -> None:
        one, other = (Generator.from_pretrained(checkpoint, "cpu", domain=n) for n in ("molecule", "crystal"))
        for key, value in one.state_dict().items():
            assert torch.equal(value, other.state_dict()[key])

    def test_a_condition_tells_the_kind(self, checkpoint: Path) -> None:
        draws = Draws(0, torch.arange(3))
        for kind, index in (("molecule", 0), ("crystal", 1)):
            domain = Generator.from_pretrained(checkpoint, "cpu", domain=kind).domain
            assert domain.layout(domain.SampleOptions(), draws).conditions["kind"].tolist() == 3 * [index]

    def test_data_of_one_kind_is_not_enough(self) -> None:
        domain = Generator(debug_config("molecule", **JOINT).generator()).domain
        with pytest.raises(Gen3dError, match="holds molecule data; this model is for crystal and molecule"):
            domain.dataset(TINY / "qm9.sdf", "train")

    def test_a_model_of_one_kind_serves_no_other(self, tmp_path: Path) -> None:
        Generator(debug_config("molecule").generator()).save_pretrained(tmp_path)
        with pytest.raises(Gen3dError, match=r"domain '?molecule'?, not 'crystal'"):
            Generator.from_pretrained(tmp_path, "cpu", domain="crystal")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"kinds": []}, "kinds are"),
        ({"kinds": ["molecule", "molecule"]}, "each once"),
        ({"kinds": ["crystal"]}, "domain 'molecule' needs 'molecule' among them"),
        ({"codec": {"element_channels": 1}}, "element_channels is 1; at least 2"),
        ({"codec": {"hydrogen_channels": 1}}, "hydrogen_channels is 1; allowed: 0, or at least 2"),
    ],
)
def test_atoms_configurations_that_cannot_be(values: dict[str, Any], message: str) -> None:
    with pytest.raises(Gen3dError, match=message):
        debug_config("molecule", domain_config=values)


def test_data_that_does_not_fit_is_named(tmp_path: Path) -> None:
    heavy = AtomicSystem(np.array([6, 104]), np.array([[0.0, 0, 0], [2, 0, 0]]))
    AtomsDataset.from_systems([heavy]).save(tmp_path / "heavy.npz")
    for source, changes, message in [
        (TINY / "crystals.cif", {}, "holds crystal data; this model is for molecule"),
        (tmp_path / "heavy.npz", {"properties": []}, "holds element 104; allowed: atomic numbers 1 to 100"),
    ]:
        domain = Generator(debug_config("molecule", domain_config=changes).generator()).domain
        with pytest.raises(Gen3dError, match=message):
            domain.dataset(source, "train")
    domain = Generator(debug_config("molecule", domain_config={"properties": ["taste"]}).generator()).domain
    with pytest.raises(Gen3dError, match="property 'taste' is unknown for every system"):
        domain.fit(domain.dataset(TINY / "qm9.sdf", "train"))


def test_a_trained_model_learns_from_data_without_its_properties_but_not_from_new_elements() -> None:
    generator = Generator(debug_config("molecule").generator())
    domain = generator.domain
    domain.fit(domain.dataset(TINY / "qm9.sdf", "train"))
    mean = generator.codec.property_mean.clone()
    bare = AtomicSystem(np.array([6, 8]), np.array([[0.0, 0, 0], [1.13, 0, 0]]))
    domain.fit(Systems([AtomsDataset.from_systems([bare])], pooled=True))
    assert torch.equal(generator.codec.property_mean, mean)
    assert generator.codec.histogram("molecule").sum() == 1
    strange = AtomicSystem(np.array([6, 16, 17]), np.array([[0.0, 0, 0], [1.6, 0, 0], [0, 1.7, 0]]))
    with pytest.raises(Gen3dError, match="not seen S, Cl"):
        domain.fit(Systems([AtomsDataset.from_systems([strange])], pooled=True))
