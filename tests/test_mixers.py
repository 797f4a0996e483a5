"""Who attends to whom: mixers against loops and masks written out, and by the gradients of their outputs."""

import dataclasses
import math
from itertools import product

import pytest
import torch
from torch import Tensor, nn

from gen3d.errors import Gen3dError
from gen3d.nn.attention import FEW, Geometry, GlobalMixer, ReduceMixer, SelfAttention, WindowMixer, attend
from gen3d.nn.transformer import DiffusionTransformer, TransformerConfig

EDGE, WIDTH, HEADS = 4, 8, 2
DIT_3D = {
    # voxels 32, patches 4, one class: width, depth, heads, and the published millions of parameters.
    "S": (384, 12, 6, 32.8),
    "B": (768, 12, 12, 130.2),
    "L": (1152, 24, 16, 579.0),
    "XL": (1152, 28, 16, 674.7),
}


def grid(edge: int = EDGE, axes: int = 3) -> Tensor:
    """Positions (edge^A, A) of all cells of a grid, in order."""
    return torch.tensor(list(product(range(edge), repeat=axes)), dtype=torch.float32)


def some_of(batch: int, tokens: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Positions (B, N, 3) in random order, and a mask that leaves every sample another number of them."""
    generator = torch.Generator().manual_seed(seed)
    places = [grid()[torch.randperm(EDGE**3, generator=generator)[:tokens]] for _ in range(batch)]
    mask = torch.rand(batch, tokens, generator=generator) < 0.6
    mask[:, 0] = True
    return torch.stack(places), mask


def attention(reduce: int = 0) -> SelfAttention:
    torch.manual_seed(0)
    made = SelfAttention(WIDTH, HEADS, None, reduce)
    for parameter in made.parameters():
        nn.init.normal_(parameter, std=0.4)
    return made


def network(**changes) -> DiffusionTransformer:
    torch.manual_seed(0)
    config = TransformerConfig(channels=3, width=12, depth=4, heads=2, positions="sincos", axes=3)
    model = DiffusionTransformer(dataclasses.replace(config, **changes)).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model


def influences(outputs, inputs: Tensor) -> Tensor:
    """(N, N) True where output token i depends on input token j, by the Jacobian of `outputs`."""
    jacobian = torch.autograd.functional.jacobian(outputs, inputs)  # (1, N, D, 1, N, D)
    return jacobian[0, :, :, 0].abs().amax((1, 3)) > 0


@pytest.mark.parametrize("shift", [False, True])
@pytest.mark.parametrize("layer", [0, 1])
def test_gradients_reach_exactly_the_tokens_of_the_window(shift: bool, layer: int) -> None:
    places, edge = grid()[torch.randperm(EDGE**3)], 2.0
    mixer = WindowMixer(Geometry(None, places[None], window=edge, shift=shift))
    block, x = attention(), torch.randn(1, EDGE**3, WIDTH)
    reached = influences(lambda x: block(x, mixer, layer), x)
    offset = 1 if shift and layer == 1 else 0
    for i, j in product(range(EDGE**3), repeat=2):
        together = all(
            math.floor((a + offset) / edge) == math.floor((b + offset) / edge)
            for a, b in zip(places[i].tolist(), places[j].tolist(), strict=True)
        )
        assert bool(reached[i, j]) == together


def test_window_gradients_are_those_of_masked_attention() -> None:
    """Values and gradients, with padding and cells of different sizes, against one mask over all tokens."""
    positions, mask = some_of(3, 40)
    q, k, v = torch.randn(3, 3, HEADS, 40, 5, dtype=torch.float64).requires_grad_()
    cells = (positions / 1.5 + 0.5).floor()
    allowed = (cells[:, :, None] == cells[:, None]).all(-1) & mask[:, None]
    logits = (q @ k.mT / math.sqrt(5)).masked_fill(~allowed[:, None], -torch.inf)
    expected = (logits.softmax(-1).nan_to_num() @ v) * mask[:, None, :, None]
    found = WindowMixer(Geometry(mask, positions, window=1.5))(q, k, v, 1)
    torch.testing.assert_close(found, expected)
    weights = torch.randn_like(expected)
    grads = [
        torch.autograd.grad((y * weights).sum(), (q, k, v), allow_unused=True) for y in (found, expected)
    ]
    for ours, theirs in zip(*grads, strict=True):
        torch.testing.assert_close(ours, theirs.nan_to_num())


def test_moving_tokens_to_windows_has_right_second_derivatives() -> None:
    positions, mask = some_of(2, 12)
    mixer = WindowMixer(Geometry(mask, positions, window=2.0))
    cells = mixer.cells[0]
    x = torch.randn(2, 1, 12, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda x: cells.scatter(cells.gather(x) ** 3, 2), x)


def test_only_the_chosen_blocks_have_windows() -> None:
    """Two blocks, the second alone has windows: the first sees everything, the features show it."""
    places = grid(2)[None].repeat(1, 2, 1)
    places[:, 8:] += 2.0  # two cells of edge 2, far apart
    x, t = torch.randn(1, 16, 3), torch.tensor([0.3])
    other = x.clone()
    other[:, 8:] += 1.0

    def changed(model: DiffusionTransformer) -> list[bool]:
        """Whether the first cell's tokens after each block hear of a change in the second cell."""
        runs = [model(y, t, positions=places, features=range(4))[1] for y in (x, other)]
        return [not torch.allclose(runs[0][i][:, :8], runs[1][i][:, :8], atol=1e-4) for i in range(4)]

    windows = {"mixer": "window", "window": 2.0, "window_shift": False}
    assert changed(network(**windows)) == [False] * 4
    assert changed(network(**windows, mixer_blocks=(0, 1, 3))) == [False, False, True, True]
    assert changed(network(mixer="global")) == [True] * 4
    # Cells of odd blocks, shifted by one, hold corners of both.
    assert changed(network(**windows | {"window_shift": True})) == [False, True, True, True]


def reduced_by_loops(block: SelfAttention, x: Tensor, places: Tensor, edge: int) -> Tensor:
    """One sample (N, D) of real tokens: keys and values of concatenated neighbourhoods, one at a time."""
    spots: dict[tuple, list[Tensor]] = {}
    for token, place in zip(x, places.long().tolist(), strict=True):
        parts = spots.setdefault(tuple(p // edge for p in place), [torch.zeros(WIDTH)] * edge ** len(place))
        slot = 0
        for p in place:
            slot = slot * edge + p % edge
        parts[slot] = token
    sources = torch.stack([block.reduce(torch.cat(parts)) for parts in spots.values()])
    q = (block.qkv(x)[:, :WIDTH]).unflatten(-1, (HEADS, -1))
    k, v = (part.unflatten(-1, (HEADS, -1)) for part in block.qkv(sources)[:, WIDTH:].chunk(2, -1))
    heads = []
    for head in range(HEADS):
        weights = (q[:, head] @ k[:, head].T / math.sqrt(WIDTH // HEADS)).softmax(-1)
        heads.append(weights @ v[:, head])
    return block.out(torch.cat(heads, -1))


@pytest.mark.parametrize("edge", [1, 2, 3])
def test_reduced_keys_are_those_of_loops(edge: int) -> None:
    """Tokens missing, padding, neighbourhoods cut by the border, negative places: all at once."""
    positions, mask = some_of(3, 30)
    positions = positions - 1
    block, x = attention(edge**3), torch.randn(3, 30, WIDTH)
    y = block(x, ReduceMixer(Geometry(mask, positions, window=edge)), 0)
    for i in range(3):
        real = mask[i]
        expected = reduced_by_loops(block, x[i, real], positions[i, real], edge)
        torch.testing.assert_close(y[i, real], expected)


def test_a_reduced_key_pools_exactly_its_neighbourhood() -> None:
    places = grid()[torch.randperm(EDGE**3)]
    mixer = ReduceMixer(Geometry(None, places[None], window=2))
    linear, x = attention(8).reduce, torch.randn(1, EDGE**3, WIDTH)
    pooled = influences(lambda x: linear(mixer.sources(x)), x)
    assert pooled.shape == (8, EDGE**3)
    for key, corner in enumerate(grid(2) * 2):  # in the order of the grid
        inside = ((places >= corner) & (places < corner + 2)).all(-1)
        assert torch.equal(pooled[key], inside)


def test_every_mixer_is_global_when_its_window_covers_everything_or_one_token() -> None:
    positions, mask = some_of(2, 30)
    x = torch.randn(2, 30, WIDTH)
    block, pooled = attention(), attention(1)
    pooled.load_state_dict(block.state_dict(), strict=False)
    nn.init.eye_(pooled.reduce.weight)
    nn.init.zeros_(pooled.reduce.bias)
    expected = block(x, GlobalMixer(Geometry(mask)), 0)[mask]
    windows = WindowMixer(Geometry(mask, positions, window=100.0, shift=True))
    for layer in (0, 1):
        torch.testing.assert_close(block(x, windows, layer)[mask], expected)
    alone = ReduceMixer(Geometry(mask, positions, window=1))
    torch.testing.assert_close(pooled(x, alone, 0)[mask], expected)


def test_reduced_network_ignores_order_and_padding() -> None:
    model = network(mixer="kv_reduce", window=2.0, mixer_blocks=(0, 3))
    assert [block.attention.reduce is not None for block in model.blocks] == [True, False, False, True]
    positions, mask = some_of(2, 20)
    x, t = torch.randn(2, 20, 3), torch.tensor([0.2, 0.7])
    y = model(x, t, mask=mask, positions=positions)
    order = torch.randperm(20)
    permuted = model(x[:, order], t, mask=mask[:, order], positions=positions[:, order])
    torch.testing.assert_close(permuted, y[:, order], rtol=1e-4, atol=1e-4)
    for i in range(2):
        alone = model(x[i : i + 1, mask[i]], t[i : i + 1], positions=positions[i : i + 1, mask[i]])
        torch.testing.assert_close(y[i, mask[i]], alone[0], rtol=1e-4, atol=1e-4)
    assert y.std() > 0.1


@pytest.mark.parametrize("size", DIT_3D)
def test_sizes_of_dit_3d_have_its_parameters(size: str) -> None:
    """Table of arXiv 2307.01831, which counts the fixed table of positions (512, D); ours is computed."""
    width, depth, heads, millions = DIT_3D[size]
    config = TransformerConfig(
        channels=4**3 * 3,
        width=width,
        depth=depth,
        heads=heads,
        norm="layer",
        mlp="gelu_exact",
        modulation="full",
        qk_norm=False,
        positions="sincos",
        axes=3,
        mixer="window",
        window=4.0,
        mixer_blocks=tuple(range(0, depth, 3)),
        classes={"shape": 1},
    )
    with torch.device("meta"):
        model = DiffusionTransformer(config)
    count = sum(p.numel() for p in model.parameters()) + 8**3 * width
    assert round(count / 1e6, 1) == millions


def test_exact_gelu_is_the_gaussian_one() -> None:
    feed_forward = network(mlp="gelu_exact").blocks[0].mlp
    x = torch.randn(5, 12)
    hidden = feed_forward.up(x)
    hidden = hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2)))
    torch.testing.assert_close(feed_forward(x), feed_forward.down(hidden))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"mixer": "kv_reduce", "window": 1.5}, "1.5"),
        ({"mixer": "kv_reduce", "window": 0.0}, "0.0"),
        ({"mixer": "kv_reduce", "positions": "rotary", "axes": 1}, "rotary"),
        ({"mixer": "kv_reduce", "positions": "distance"}, "distance"),
        ({"mixer": "kv_reduce", "positions": "none", "axes": 0}, "axes"),
        ({"mixer": "window", "mixer_blocks": (0, 4)}, "block 4"),
        ({"mixer": "global", "mixer_blocks": (0,)}, "mixer_blocks"),
    ],
)
def test_contradicting_choices_are_refused(fields: dict, message: str) -> None:
    with pytest.raises((Gen3dError, ValueError), match=message):
        network(**fields)


@pytest.mark.parametrize(
    ("places", "message"),
    [(None, "needs positions"), ([[0.5, 0, 0]], "whole numbers"), ([[1, 0, 0], [1, 0, 0]], "one place")],
)
def test_unusable_grids_are_named(places: list | None, message: str) -> None:
    positions = None if places is None else torch.tensor([places], dtype=torch.float32)
    with pytest.raises(Gen3dError, match=message):
        ReduceMixer(Geometry(None, positions, window=2))


def test_perturbation_needs_a_key_per_token() -> None:
    model = network(mixer="kv_reduce", window=2.0, mixer_blocks=(1,))
    inputs = {"x": torch.randn(1, 8, 3), "t": torch.tensor([0.5]), "positions": grid(2)[None]}
    model(**inputs, perturb={0: {0: 1.0}})
    with pytest.raises(Gen3dError, match="kv_reduce"):
        model(**inputs, perturb={1: {0: 1.0}})


@pytest.mark.parametrize("keys", [1, 9, FEW, FEW + 1])
@pytest.mark.parametrize("kind", ["none", "bool", "bias"])
def test_attention_in_bf16_is_that_of_pytorch_in_full(keys: int, kind: str) -> None:
    """Values and gradients within what 8 bits hold, on either side of where the way of computing changes."""
    generator = torch.Generator().manual_seed(0)
    inputs = [torch.randn(2, 3, n, 16, generator=generator) for n in (7, keys, keys)]
    mask = None
    if kind == "bool":
        mask = torch.rand(2, 1, 1, keys, generator=generator) < 0.7
        mask[..., 0] = True
    elif kind == "bias":
        mask = torch.randn(2, 3, 7, keys, generator=generator)
        mask[..., 1:].masked_fill_(torch.rand(keys - 1, generator=generator) < 0.3, -math.inf)
    found = []
    for ours in (True, False):
        q, k, v = (x.clone().requires_grad_() for x in inputs)
        with torch.autocast("cpu", torch.bfloat16, enabled=ours):
            made = (attend if ours else nn.functional.scaled_dot_product_attention)(q, k, v, mask)
        made.float().square().sum().backward()
        found.append([made.float(), q.grad, k.grad, v.grad])
    for mine, theirs in zip(*found, strict=True):
        assert (mine - theirs).norm() <= 0.02 * theirs.norm() + 0.02
