"""The table of the elements against pymatgen's."""

import numpy as np
import pytest
import torch
from pymatgen.core import Element

from gen3d.domains.atoms.elements import descriptors, element_vectors

BLOCKS = "spdf"


@pytest.mark.filterwarnings("ignore")
def test_descriptors_are_pymatgens() -> None:
    for number, row in enumerate(descriptors(), start=1):
        element = Element.from_Z(number)
        assert row[[0, 1]].tolist() == [element.row, element.group], element
        assert BLOCKS[int(row[6])] == element.block, element
        if not np.isnan(element.X):
            assert row[2] == pytest.approx(element.X), element
        radius = element.atomic_radius_calculated or element.atomic_radius
        if radius:
            assert row[3] == pytest.approx(float(radius)), element
        states = element.common_oxidation_states or element.oxidation_states or (0,)
        assert row[[4, 5]].tolist() == [max(states), min(states)], element


def test_vectors_are_uncorrelated_and_of_unit_variance() -> None:
    vectors = element_vectors(8)[1:].double()
    covariance = torch.cov(vectors.T, correction=0)
    torch.testing.assert_close(covariance, torch.eye(8, dtype=torch.float64), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("element", "relatives"), [("Li", {"Na"}), ("La", {"Ce", "Pr", "Nd"}), ("Fe", {"Co", "Ni"})]
)
def test_alike_elements_are_near(element: str, relatives: set[str]) -> None:
    vectors = element_vectors(8)
    distances = (vectors - vectors[Element(element).Z]).norm(dim=1)
    nearest = {Element.from_Z(int(z)).symbol for z in distances[1:].argsort()[1:4] + 1}
    assert relatives & nearest


@pytest.mark.parametrize("channels", [4, 12])
def test_fewer_or_more_channels(channels: int) -> None:
    vectors, full = element_vectors(channels), element_vectors(8)
    used = min(channels, 8)
    assert torch.equal(vectors[:, :used], full[:, :used])
    assert not vectors[:, used:].any()
