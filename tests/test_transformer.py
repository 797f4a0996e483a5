"""The transformer: symmetries, hooks and sizes, against brute force and published numbers."""

import dataclasses
import math
from itertools import product

import pytest
import torch
from torch import nn

from gen3d.config import from_dict, to_dict
from gen3d.errors import Gen3dError
from gen3d.nn.attention import Geometry, GlobalMixer, SelfAttention, WindowMixer
from gen3d.nn.embeddings import SentenceEmbedding, distance_basis, drop_conditions
from gen3d.nn.transformer import DiffusionTransformer, RMSNorm, TransformerConfig, preset

BATCH, TOKENS, CHANNELS, AXES = 3, 7, 5, 3
GEOMETRIES = {
    "none": {},
    "sincos": {"positions": "sincos", "axes": AXES},
    "rotary": {"positions": "rotary", "axes": AXES},
    "distance": {"positions": "distance", "axes": AXES, "distance_cutoff": 4.0},
    "window": {"positions": "rotary", "axes": AXES, "mixer": "window", "window": 1.5},
}


def small(**changes) -> TransformerConfig:
    return TransformerConfig(channels=CHANNELS, width=24, depth=3, heads=2, **changes)


def randomised(config: TransformerConfig) -> DiffusionTransformer:
    """A network in which nothing is zero any more."""
    torch.manual_seed(0)
    model = DiffusionTransformer(config).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model


@pytest.fixture(params=GEOMETRIES)
def geometry(request):
    return small(**GEOMETRIES[request.param])


@pytest.fixture
def inputs():
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(BATCH, TOKENS, CHANNELS, generator=generator)
    positions = 3 * torch.rand(BATCH, TOKENS, AXES, generator=generator)
    t = torch.tensor([0.1, 0.5, 0.9])
    return x, t, positions


def placed(config: TransformerConfig, positions: torch.Tensor) -> dict[str, torch.Tensor]:
    return {"positions": positions} if config.axes else {}


def test_untrained_network_returns_exactly_zero(geometry, inputs):
    x, t, positions = inputs
    config = dataclasses.replace(
        geometry,
        classes={"kind": 3},
        scalars=("energy",),
        text_width=4,
        self_conditioning=True,
        out_channels=2,
    )
    for modulation in ("single", "full"):
        model = DiffusionTransformer(dataclasses.replace(config, modulation=modulation))
        y = model(x, t, self_cond=x, **placed(config, positions))
        assert y.shape == (BATCH, TOKENS, 2)
        assert torch.equal(y, torch.zeros_like(y))


@pytest.mark.parametrize(("size", "millions"), [("s", 33.0), ("b", 130.5), ("l", 458.1), ("xl", 675.1)])
def test_presets_have_the_parameter_counts_of_dit(size, millions):
    """DiT-S/2, B/2, L/2, XL/2 on 32x32x4 latents: table 4 of arXiv 2212.09748 and its code."""
    config = preset(
        size,
        channels=2 * 2 * 4,
        norm="layer",
        mlp="gelu",
        modulation="full",
        qk_norm=False,
        positions="sincos",
        axes=2,
        classes={"label": 1000},
        out_channels=32,
    )
    with torch.device("meta"):
        model = DiffusionTransformer(config)
    count = sum(p.numel() for p in model.parameters())
    assert count / 1e6 == pytest.approx(millions, rel=0.01)


def test_swiglu_costs_as_much_as_gelu():
    for size in ("xs", "s", "b"):
        with torch.device("meta"):
            counts = [
                sum(p.numel() for p in DiffusionTransformer(preset(size, 8, mlp=mlp)).parameters())
                for mlp in ("swiglu", "gelu")
            ]
        assert counts[0] == pytest.approx(counts[1], rel=0.02)


def test_permuting_tokens_permutes_the_output(geometry, inputs):
    x, t, positions = inputs
    model = randomised(geometry)
    order = torch.randperm(TOKENS, generator=torch.Generator().manual_seed(2))
    y = model(x, t, **placed(geometry, positions))
    permuted = model(x[:, order], t, **placed(geometry, positions[:, order]))
    torch.testing.assert_close(permuted, y[:, order], rtol=1e-4, atol=1e-4)
    assert y.std() > 0.1


def test_padding_changes_nothing(geometry, inputs):
    x, t, positions = inputs
    model = randomised(geometry)
    alone = model(x, t, **placed(geometry, positions))
    garbage = torch.full((BATCH, 2, CHANNELS), math.nan)
    mask = torch.arange(TOKENS + 2)[None].expand(BATCH, -1) < TOKENS
    wide_positions = torch.cat([positions, torch.full((BATCH, 2, AXES), 1.7)], 1)
    padded = model(torch.cat([x, garbage], 1), t, mask=mask, **placed(geometry, wide_positions))
    torch.testing.assert_close(padded[:, :TOKENS], alone, rtol=1e-4, atol=1e-4)
    assert torch.equal(padded[:, TOKENS:], torch.zeros(BATCH, 2, CHANNELS))


def test_a_batch_equals_its_samples_one_by_one(geometry, inputs):
    x, t, positions = inputs
    model = randomised(geometry)
    mask = torch.arange(TOKENS)[None] < torch.tensor([7, 3, 5])[:, None]
    y = model(x, t, mask=mask, **placed(geometry, positions))
    for i, size in enumerate([7, 3, 5]):
        single = model(x[i : i + 1, :size], t[i : i + 1], **placed(geometry, positions[i : i + 1, :size]))
        torch.testing.assert_close(y[i : i + 1, :size], single, rtol=1e-4, atol=1e-4)


def test_kept_tokens_run_as_if_alone(geometry, inputs):
    x, t, positions = inputs
    model = randomised(geometry)
    keep = torch.tensor([[4, 0, 2], [1, 2, 3], [6, 5, 0]])
    rows = torch.arange(BATCH)[:, None]
    y, features = model(x, t, keep=keep, features=[1], **placed(geometry, positions))
    subset, expected = model(x[rows, keep], t, features=[1], **placed(geometry, positions[rows, keep]))
    torch.testing.assert_close(y[rows, keep], subset)
    torch.testing.assert_close(features[1], expected[1])
    y[rows, keep] = 0
    assert torch.equal(y, torch.zeros_like(y))


def test_equal_times_per_token_are_one_time(geometry, inputs):
    x, t, positions = inputs
    model = randomised(geometry)
    y = model(x, t, **placed(geometry, positions))
    per_token = model(x, t[:, None].expand(BATCH, TOKENS), **placed(geometry, positions))
    torch.testing.assert_close(per_token, y, rtol=1e-4, atol=1e-4)
    other = t[:, None].repeat(1, TOKENS)
    other[:, 0] = 0.3
    assert not torch.allclose(model(x, other, **placed(geometry, positions)), y, atol=1e-2)


def test_rotary_depends_on_position_differences_alone(inputs):
    x, t, positions = inputs
    shift = torch.tensor([1.3, -0.4, 2.2])
    rotary = randomised(small(**GEOMETRIES["rotary"]))
    y = rotary(x, t, positions=positions)
    torch.testing.assert_close(rotary(x, t, positions=positions + shift), y, rtol=1e-3, atol=1e-3)
    assert not torch.allclose(rotary(x, t, positions=1.5 * positions), y, atol=1e-2)
    sincos = randomised(small(**GEOMETRIES["sincos"]))
    assert not torch.allclose(
        sincos(x, t, positions=positions + shift), sincos(x, t, positions=positions), atol=1e-2
    )


def test_distance_positions_ignore_rigid_motions(inputs):
    x, t, positions = inputs
    model = randomised(small(**GEOMETRIES["distance"]))
    rotation, _ = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(3)))
    y = model(x, t, positions=positions)
    moved = model(x, t, positions=positions @ rotation.T + 1.0)
    torch.testing.assert_close(moved, y, rtol=1e-3, atol=1e-3)
    assert not torch.allclose(model(x, t, positions=1.2 * positions), y, atol=1e-2)


def test_first_channels_serve_as_positions(inputs):
    x, t, _ = inputs
    given = randomised(small(**GEOMETRIES["distance"]))
    implied = randomised(small(**GEOMETRIES["distance"], position_channels=AXES))
    torch.testing.assert_close(implied(x, t), given(x, t, positions=x[..., :AXES]))


def test_coincident_tokens_have_finite_gradients():
    model = randomised(small(**GEOMETRIES["distance"], position_channels=AXES))
    x = torch.zeros(1, 3, CHANNELS, requires_grad=True)
    model(x, torch.tensor([0.5])).sum().backward()
    assert x.grad.isfinite().all()


def test_distance_basis_is_a_gaussian_of_the_distance():
    positions = torch.tensor([[[0.0, 0.0], [3.0, 4.0]]])
    basis = distance_basis(positions, centres=11, cutoff=10.0)
    expected = [math.exp(-0.5 * (5.0 - centre) ** 2) for centre in range(11)]
    torch.testing.assert_close(basis[0, 0, 1], torch.tensor(expected))


@pytest.mark.parametrize("strength", [0.0, 0.4, 1.0])
def test_perturbation_blends_attention_with_its_values(inputs, strength):
    """Against attention written out: softmax(q k / sqrt d) v, then (1 - u) A v + u v on head 1 alone."""
    x = torch.randn(2, 4, 8, generator=torch.Generator().manual_seed(0))
    attention = SelfAttention(8, 2, None)
    weight, bias = attention.qkv.weight, attention.qkv.bias
    q, k, v = [x @ weight[i * 8 : (i + 1) * 8].T + bias[i * 8 : (i + 1) * 8] for i in range(3)]
    heads = []
    for head, u in [(0, 0.0), (1, strength)]:
        part = slice(4 * head, 4 * head + 4)
        weights = torch.softmax(q[..., part] @ k[..., part].transpose(1, 2) / 2.0, -1)
        heads.append((1 - u) * weights @ v[..., part] + u * v[..., part])
    expected = attention.out(torch.cat(heads, -1))
    perturb = torch.tensor([0.0, strength])
    result = attention(x, GlobalMixer(Geometry(None)), 0, perturb=perturb)
    torch.testing.assert_close(result, expected)


def test_perturbing_the_network(inputs):
    x, t, _ = inputs
    model = randomised(small())
    y = model(x, t)
    torch.testing.assert_close(model(x, t, perturb={1: {0: 0.0, 1: 0.0}}), y)
    halfway = model(x, t, perturb={1: {0: 0.5}})
    assert not torch.allclose(halfway, y, atol=1e-3)
    torch.testing.assert_close(model(x, t, perturb={1: torch.tensor([0.5, 0.0])}), halfway)


def test_identity_attention_everywhere_decouples_the_tokens(inputs):
    x, t, _ = inputs
    model = randomised(small())
    perturb = {layer: torch.ones(2) for layer in range(3)}
    changed = x.clone()
    changed[:, 0] += 1
    y, z = model(x, t, perturb=perturb), model(changed, t, perturb=perturb)
    torch.testing.assert_close(z[:, 1:], y[:, 1:])
    assert not torch.allclose(z[:, 0], y[:, 0], atol=1e-2)


@pytest.mark.parametrize("layer", [0, 1])
def test_window_attention_is_full_attention_within_cells(layer):
    generator = torch.Generator().manual_seed(4)
    q, k, v = torch.randn(3, 2, 2, 20, 8, generator=generator)
    positions = 4 * torch.rand(2, 20, 2, generator=generator) - 2
    mask = torch.arange(20)[None] < torch.tensor([20, 13])[:, None]
    cells = torch.floor(positions / 1.5 + layer / 2)
    allowed = torch.zeros(2, 20, 20, dtype=torch.bool)
    for b, i, j in product(range(2), range(20), range(20)):
        allowed[b, i, j] = torch.equal(cells[b, i], cells[b, j]) and mask[b, j]
    logits = (q @ k.transpose(-1, -2) / math.sqrt(8)).masked_fill(~allowed[:, None], -torch.inf)
    expected = (torch.softmax(logits, -1).nan_to_num() @ v) * mask[:, None, :, None]
    result = WindowMixer(Geometry(mask, positions, window=1.5))(q, k, v, layer)
    torch.testing.assert_close(result, expected)


def test_ways_to_give_no_condition(inputs):
    x, t, _ = inputs
    model = randomised(small(classes={"kind": 3}, scalars=("energy",), text_width=4))
    text = torch.randn(BATCH, 6, 4)
    cond = {
        "kind": torch.tensor([0, 1, 2]),
        "energy": torch.tensor([0.1, -1.0, 2.0]),
        "text": text,
        "text_mask": torch.arange(6)[None] < torch.tensor([6, 2, 4])[:, None],
    }
    given, nothing = model(x, t, cond=cond), model(x, t)
    everyone = torch.ones(BATCH, dtype=torch.bool)
    null = drop_conditions(cond, {name: everyone for name in ("kind", "energy", "text")})
    torch.testing.assert_close(model(x, t, cond=null), nothing)
    null["kind"] = torch.full((BATCH,), 3)
    torch.testing.assert_close(model(x, t, cond=null), nothing)
    for name in ("kind", "energy", "text"):
        without = model(x, t, cond=drop_conditions(cond, {name: torch.tensor([True, False, False])}))
        assert not torch.allclose(without[0], given[0], atol=1e-3), name
        torch.testing.assert_close(without[1:], given[1:])
    cond["text"] = text.masked_fill(~cond["text_mask"][..., None], math.nan)
    torch.testing.assert_close(model(x, t, cond=cond), given)


def test_a_text_is_told_as_a_whole_by_the_mean_of_its_real_tokens():
    layer = SentenceEmbedding(4, 3)
    text, mask = torch.randn(2, 5, 4), torch.arange(5)[None] < torch.tensor([3, 0])[:, None]
    assert not layer(text, mask).any()
    torch.nn.init.normal_(layer.out.weight)
    mean = text[0, :3].mean(0)
    expected = layer.out.weight @ (2 * mean / mean.norm())
    torch.testing.assert_close(layer(text, mask), torch.stack([expected, torch.zeros(3)]))


def test_missing_self_condition_is_zero(inputs):
    x, t, _ = inputs
    model = randomised(small(self_conditioning=True))
    torch.testing.assert_close(model(x, t), model(x, t, self_cond=torch.zeros_like(x)))
    assert not torch.allclose(model(x, t), model(x, t, self_cond=x), atol=1e-2)


def test_distances_of_an_earlier_prediction_are_seen(inputs):
    """With the linear ways in closed, it acts through its distances alone: turning it changes nothing."""
    x, t, _ = inputs
    config = small(
        positions="distance", axes=3, position_channels=3, distance_cutoff=4.0, self_conditioning=True
    )
    model = randomised(config)
    nn.init.zeros_(model.embed_self.weight)
    first = torch.randn(BATCH, TOKENS, CHANNELS, generator=torch.Generator().manual_seed(5))
    turned = first.clone()
    turned[..., :3] = first[..., :3] @ torch.linalg.qr(torch.randn(3, 3, dtype=x.dtype))[0] + 0.7
    stretched = first.clone()
    stretched[..., :3] *= 1.5
    y = model(x, t, self_cond=first)
    torch.testing.assert_close(model(x, t, self_cond=turned), y, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(model(x, t, self_cond=stretched), y, atol=1e-2)
    torch.testing.assert_close(model(x, t), model(x, t, self_cond=torch.zeros_like(x)))


def test_features_are_the_outputs_of_blocks(inputs):
    """The head applied by hand to the last block's features gives the prediction."""
    x, t, _ = inputs
    model = randomised(small())
    y, features = model(x, t, features=[0, 2])
    assert set(features) == {0, 2}
    signal = torch.nn.functional.silu(model.conditions(t, {}))
    shift, scale = model.final_modulation(signal).chunk(2, -1)
    h = features[2]
    h = h / (h.square().mean(-1, keepdim=True) + 1e-6).sqrt()
    torch.testing.assert_close(y, model.out(h * (1 + scale) + shift), rtol=1e-4, atol=1e-4)


def test_rms_norm_is_that_of_torch():
    x = torch.randn(2, 3, 16)
    norm = RMSNorm(16)
    nn.init.normal_(norm.weight)
    torch.testing.assert_close(norm(x), nn.functional.rms_norm(x, (16,), norm.weight, 1e-6))


def test_bfloat16_autocast_stays_close(geometry, inputs):
    x, t, positions = inputs
    torch.manual_seed(0)
    model = DiffusionTransformer(geometry)
    for parameter in model.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.05)
    exact = model(x, t, **placed(geometry, positions))
    with torch.autocast("cpu", torch.bfloat16):
        rough = model(x, t, **placed(geometry, positions))
    assert rough.dtype == torch.float32
    assert (rough - exact).norm() < 0.05 * exact.norm()


def test_configuration_survives_json(geometry):
    assert from_dict(TransformerConfig, to_dict(geometry)) == geometry


@pytest.mark.parametrize(
    "fields",
    [
        {"heads": 5},
        {"positions": "rotary"},
        {"mixer": "window"},
        {"positions": "distance", "axes": 3, "mixer": "window"},
        {"positions": "distance", "axes": 3, "position_channels": 2},
        {"scalars": ("a.b",)},
        {"scalars": ("",)},
        {"scalars": ("type",)},
        {"scalars": ("training",)},
        {"scalars": ("gap", "gap")},
        {"scalars": ("gap",), "classes": {"gap": 2}},
        {"classes": {"text": 2}},
    ],
)
def test_contradicting_configurations_are_refused(fields):
    with pytest.raises(Gen3dError):
        TransformerConfig(**{"channels": 4, "width": 24, "heads": 2, **fields})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"cond": {"colour": torch.zeros(BATCH)}}, "colour"),
        ({"cond": {"kind": torch.tensor([0, 9, 0])}}, "9"),
        ({"self_cond": torch.zeros(BATCH, TOKENS, CHANNELS)}, "self_conditioning"),
        ({"perturb": {3: {0: 1.0}}}, "block 3"),
        ({"perturb": {0: {2: 1.0}}}, "head 2"),
        ({"features": [7]}, "block 7"),
        ({"positions": torch.zeros(BATCH, TOKENS, 2)}, "2 axes"),
    ],
)
def test_unusable_inputs_are_named(inputs, arguments, message):
    x, t, positions = inputs
    model = DiffusionTransformer(small(classes={"kind": 3}, positions="sincos", axes=3))
    with pytest.raises(Gen3dError, match=message):
        model(x, t, **{"positions": positions, **arguments})
    with pytest.raises(Gen3dError, match="huge"):
        preset("huge", 4)
