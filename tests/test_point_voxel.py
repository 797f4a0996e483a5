"""The transformer around which points become tokens and tokens a field."""

import pytest
import torch

from gen3d.errors import Gen3dError
from gen3d.nn.point_voxel import PointVoxelConfig, PointVoxelTransformer
from gen3d.nn.transformer import TransformerConfig

T = torch.tensor([0.3, 0.8])


def make(**changes: object) -> PointVoxelTransformer:
    voxels = PointVoxelConfig(resolution=8, patch=2, field_points=64, **changes)  # type: ignore[arg-type]
    config = TransformerConfig(
        8 * voxels.in_channels,
        width=24,
        depth=2,
        heads=2,
        positions="rotary",
        axes=3,
        out_channels=8 * voxels.out_channels,
        classes={"class": 3},
    )
    torch.manual_seed(0)
    model = PointVoxelTransformer(config, voxels)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


@pytest.fixture
def cloud() -> torch.Tensor:
    return torch.randn(2, 64, 3, generator=torch.Generator().manual_seed(0))


def test_an_untrained_model_predicts_zero(cloud: torch.Tensor) -> None:
    voxels = PointVoxelConfig(resolution=8, patch=2)
    config = TransformerConfig(32, 24, 2, 2, out_channels=8 * voxels.out_channels)
    assert not PointVoxelTransformer(config, voxels)(cloud, T).any()


@pytest.mark.parametrize("head_width", [0, 16])
def test_points_are_a_set(cloud: torch.Tensor, head_width: int) -> None:
    model = make(head_width=head_width)
    order = torch.randperm(64, generator=torch.Generator().manual_seed(1))
    assert torch.allclose(model(cloud[:, order], T), model(cloud, T)[:, order], atol=1e-4)


def test_further_points_read_the_same_field(cloud: torch.Tensor) -> None:
    """Points beyond those that make the field change nothing for the others, wherever they lie."""
    model = make(sparse=False)
    further = 4 * torch.randn(2, 100, 3, generator=torch.Generator().manual_seed(2))
    assert torch.allclose(model(torch.cat([cloud, further], 1), T)[:, :64], model(cloud, T), atol=1e-4)
    model = make()  # copies read no patch that was not read before
    assert torch.allclose(model(torch.cat([cloud, cloud], 1), T)[:, 64:], model(cloud, T), atol=1e-4)


def test_patches_that_no_point_reads_do_not_matter_without_attention(cloud: torch.Tensor) -> None:
    """With every patch alone, running the read ones only gives what running all gives."""
    results = []
    for sparse in (True, False):
        model = make(sparse=sparse)
        for block in model.transformer.blocks:
            torch.nn.init.zeros_(block.attention.out.weight)  # nothing passes between tokens
        results.append(model(cloud, T, cond={"class": torch.tensor([0, 2])}))
    assert torch.allclose(results[0], results[1], atol=1e-5)


def test_clouds_of_a_batch_do_not_mix(cloud: torch.Tensor) -> None:
    model = make()
    alone = torch.cat([model(cloud[i : i + 1], T[i : i + 1]) for i in range(2)])
    assert torch.allclose(model(cloud, T), alone, atol=1e-4)


def test_a_field_without_head_is_the_prediction(cloud: torch.Tensor) -> None:
    model = make(head_width=0)
    torch.nn.init.zeros_(model.transformer.out.weight)
    bias = model.transformer.out.bias
    bias.data.copy_(torch.tensor([1.0, -2.0, 3.0]).repeat(8))
    assert torch.allclose(model(cloud, T), torch.tensor([1.0, -2.0, 3.0]).expand(2, 64, 3), atol=1e-5)


def test_what_does_not_fit_is_refused(cloud: torch.Tensor) -> None:
    with pytest.raises(Gen3dError, match="patch is 5, which does not divide resolution 32; allowed: 1, 2, 4"):
        PointVoxelConfig(patch=5)
    with pytest.raises(Gen3dError, match="2 coordinates; 3 are needed"):
        make()(cloud[..., :2], T)
    mask = torch.ones(2, 64, dtype=torch.bool)
    mask[0, 3] = False
    with pytest.raises(Gen3dError, match="same number of points"):
        make()(cloud, T, mask=mask)
