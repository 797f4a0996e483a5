"""Muon against singular value decompositions and against PyTorch's own in bf16."""

import pytest
import torch
from torch import nn

from gen3d.optim import Muon, orthogonalise
from gen3d.run_config import TrainConfig
from gen3d.stage import make_optimizers


@pytest.mark.parametrize("shape", [(3, 8, 8), (2, 6, 20), (2, 20, 6), (1, 1, 5)])
def test_orthogonalised_matrices_keep_their_singular_vectors(shape: tuple[int, int, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    left, _ = torch.linalg.qr(torch.randn(shape[0], shape[1], shape[1], generator=generator))
    right, _ = torch.linalg.qr(torch.randn(shape[0], shape[2], shape[2], generator=generator))
    rank = min(shape[1:])
    left, right = left[..., :rank], right[..., :rank]
    values = torch.linspace(0.2, 3.0, rank).expand(shape[0], -1)
    inside = left.mT @ orthogonalise(left * values[:, None] @ right.mT) @ right
    found = inside.diagonal(dim1=-2, dim2=-1)
    assert found.min() > 0.65
    assert found.max() < 1.25
    torch.testing.assert_close(inside, torch.diag_embed(found), atol=2e-5, rtol=0)


def test_steps_are_those_of_pytorch() -> None:
    generator = torch.Generator().manual_seed(0)
    start = [torch.randn(shape, generator=generator) for shape in ((12, 7), (7, 12), (12, 7), (9, 9))]
    ours, theirs = ([nn.Parameter(x.clone()) for x in start] for _ in range(2))
    settings = {"lr": 0.05, "weight_decay": 0.1, "momentum": 0.95}
    optimizers = (
        Muon(ours, **settings),
        torch.optim.Muon(theirs, adjust_lr_fn="match_rms_adamw", **settings),
    )
    for _ in range(5):
        for mine, other in zip(ours, theirs, strict=True):
            mine.grad = torch.randn(mine.shape, generator=generator)
            other.grad = mine.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    moved = [(mine - x).norm() for mine, x in zip(ours, start, strict=True)]
    apart = [(mine - other).norm() for mine, other in zip(ours, theirs, strict=True)]
    assert max(a / m for a, m in zip(apart, moved, strict=True)) < 0.02  # bf16 there


def test_a_matrix_finds_its_target() -> None:
    target = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    matrix = nn.Parameter(torch.zeros(6, 4))
    optimizer = Muon([matrix])
    for step in range(300):
        optimizer.param_groups[0]["lr"] = 0.1 * (1 - step / 300)
        loss = (matrix - target).square().sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 1e-3


def test_only_matrices() -> None:
    with pytest.raises(ValueError, match=r"shape \(3,\); Muon takes matrices"):
        Muon([nn.Parameter(torch.zeros(3))])


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_every_parameter_has_one_optimizer(name: str) -> None:
    parameters = {
        "core.embed.weight": nn.Parameter(torch.zeros(4, 4)),
        "core.blocks.0.mlp.up.weight": nn.Parameter(torch.zeros(4, 4)),
        "core.blocks.0.mlp.up.bias": nn.Parameter(torch.zeros(4)),
    }
    made = make_optimizers(parameters, TrainConfig(optimizer=name))  # type: ignore[arg-type]
    owners = {}
    for optimizer in made:
        for group in optimizer.param_groups:
            owners |= {id(p): type(optimizer).__name__ for p in group["params"]}
    assert [owners[id(p)] for p in parameters.values()] == [
        "AdamW",
        "Muon" if name == "muon" else "AdamW",
        "AdamW",
    ]
