"""Weights of an image DiT in our transformer, against that DiT written out."""

import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from gen3d.errors import Gen3dError
from gen3d.nn.inflate import inflate_dit, read_state
from gen3d.nn.transformer import DiffusionTransformer, TransformerConfig

WIDTH, HEADS, CLASSES, CHANNELS_2D = 24, 3, 5, 4


def dit_state(depth: int = 1, patch: int = 2) -> dict[str, Tensor]:
    """Random tensors with the names and shapes of the public DiT (facebookresearch/DiT)."""
    d = WIDTH
    shapes = {
        "pos_embed": (1, 16, d),
        "x_embedder.proj.weight": (d, CHANNELS_2D, patch, patch),
        "x_embedder.proj.bias": (d,),
        "t_embedder.mlp.0.weight": (d, 256),
        "t_embedder.mlp.0.bias": (d,),
        "t_embedder.mlp.2.weight": (d, d),
        "t_embedder.mlp.2.bias": (d,),
        "y_embedder.embedding_table.weight": (CLASSES + 1, d),
        "final_layer.linear.weight": (patch * patch * 2 * CHANNELS_2D, d),
        "final_layer.linear.bias": (patch * patch * 2 * CHANNELS_2D,),
        "final_layer.adaLN_modulation.1.weight": (2 * d, d),
        "final_layer.adaLN_modulation.1.bias": (2 * d,),
    }
    for i in range(depth):
        layers = {
            "attn.qkv": (3 * d, d),
            "attn.proj": (d, d),
            "mlp.fc1": (4 * d, d),
            "mlp.fc2": (d, 4 * d),
            "adaLN_modulation.1": (6 * d, d),
        }
        for name, (out, into) in layers.items():
            shapes |= {f"blocks.{i}.{name}.weight": (out, into), f"blocks.{i}.{name}.bias": (out,)}
    generator = torch.Generator().manual_seed(0)
    return {name: 0.2 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def config(**changes) -> TransformerConfig:
    fields = {
        "channels": 2**3 * 3,
        "width": WIDTH,
        "depth": 1,
        "heads": HEADS,
        "norm": "layer",
        "mlp": "gelu",
        "qk_norm": False,
        "modulation": "full",
        "positions": "sincos",
        "axes": 3,
    }
    return TransformerConfig(**fields | changes)


def dit_signal(state: dict[str, Tensor], step: Tensor) -> Tensor:
    """DiT's conditioning vector of time steps (B,), 0 data and 1000 noise, without a class."""
    angles = step[:, None].double() * torch.exp(-math.log(10_000) * torch.arange(128) / 128)
    h = torch.cat([angles.cos(), angles.sin()], -1).float()
    h = F.silu(F.linear(h, state["t_embedder.mlp.0.weight"], state["t_embedder.mlp.0.bias"]))
    h = F.linear(h, state["t_embedder.mlp.2.weight"], state["t_embedder.mlp.2.bias"])
    return h + state["y_embedder.embedding_table.weight"][CLASSES]


def dit_block(state: dict[str, Tensor], x: Tensor, c: Tensor, approximate: str) -> Tensor:
    """Block 0 of DiT on tokens (B, N, D)."""

    def linear(name: str, h: Tensor) -> Tensor:
        return F.linear(h, state[f"blocks.0.{name}.weight"], state[f"blocks.0.{name}.bias"])

    def normed(h: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
        h = (h - h.mean(-1, keepdim=True)) / (h.var(-1, correction=0, keepdim=True) + 1e-6).sqrt()
        return h * (1 + scale[:, None]) + shift[:, None]

    parts = linear("adaLN_modulation.1", F.silu(c)).chunk(6, -1)
    qkv = linear("attn.qkv", normed(x, *parts[:2])).reshape(*x.shape[:2], 3, HEADS, WIDTH // HEADS)
    q, k, v = qkv.permute(2, 0, 3, 1, 4)
    mixed = torch.softmax(q @ k.mT * (WIDTH // HEADS) ** -0.5, -1) @ v
    x = x + parts[2][:, None] * linear("attn.proj", mixed.transpose(1, 2).reshape(x.shape))
    hidden = F.gelu(linear("mlp.fc1", normed(x, *parts[3:5])), approximate=approximate)
    return x + parts[5][:, None] * linear("mlp.fc2", hidden)


def filled(state: dict[str, Tensor], config: TransformerConfig, patch: int = 2) -> DiffusionTransformer:
    model = DiffusionTransformer(config).eval()
    model.load_state_dict(inflate_dit(state, config, patch), strict=False)
    return model


@pytest.mark.parametrize(("mlp", "approximate"), [("gelu", "tanh"), ("gelu_exact", "none")])
def test_a_filled_block_computes_what_the_dit_computes(mlp: str, approximate: str) -> None:
    state, t = dit_state(), torch.tensor([0.0, 0.4, 0.999])
    model = filled(state, config(mlp=mlp))
    x, places = torch.randn(3, 6, 24), torch.randint(0, 9, (3, 6, 3)).float()
    waves = 10_000.0 ** (-torch.arange(4) / 4)
    angles = places[..., None] * waves
    tokens = model.embed(x) + torch.cat([angles.cos(), angles.sin()], -1).flatten(-2)
    c = dit_signal(state, 1000 * (1 - t.double()))
    expected = dit_block(state, tokens, c, approximate)
    _, features = model(x, t, positions=places, features=[0])
    torch.testing.assert_close(features[0], expected, rtol=1e-3, atol=1e-3)
    assert (features[0] - tokens).abs().mean() > 0.1
    # The output layer is fresh, and its modulation is that of the DiT.
    assert not model.out.weight.any()
    modulation = [state[f"final_layer.adaLN_modulation.1.{part}"] for part in ("weight", "bias")]
    torch.testing.assert_close(model.final_modulation(F.silu(c)), F.linear(F.silu(c), *modulation))


def test_what_stays_fresh_is_the_class_table_and_the_output_layer() -> None:
    model = DiffusionTransformer(config(classes={"shape": 2}))
    fresh = model.state_dict().keys() - inflate_dit(dit_state(), model.config, 2).keys()
    assert fresh == {"conditions.classes.shape.table.weight", "out.weight", "out.bias"}


def test_a_volume_that_repeats_an_image_is_embedded_as_the_image() -> None:
    """Constant along the first axis, the first channels the image's; against a 2D convolution."""
    state = dit_state()
    weight = inflate_dit(state, config(channels=2**3 * CHANNELS_2D), 2)["embed.weight"]
    image = torch.randn(1, CHANNELS_2D, 6, 4)
    expected = F.conv2d(image, state["x_embedder.proj.weight"], stride=2)
    patches = image.unfold(2, 2, 2).unfold(3, 2, 2)  # (1, C, 3, 2, 2, 2)
    tokens = patches.permute(0, 2, 3, 4, 5, 1).unsqueeze(3).expand(-1, -1, -1, 2, -1, -1, -1).flatten(3)
    torch.testing.assert_close((tokens @ weight.T).movedim(-1, 1), expected)


def test_larger_patches_and_other_channels_keep_the_response_to_a_constant() -> None:
    state = dit_state()
    kernel = state["x_embedder.proj.weight"]
    for patch, channels in [(2, 3), (4, 3), (3, 4), (4, 6)]:
        inflated = inflate_dit(state, config(channels=patch**3 * channels), patch)["embed.weight"]
        sums = inflated.unflatten(1, (patch**3, channels)).sum(1)
        expected = kernel.sum((2, 3))[:, [c % CHANNELS_2D for c in range(channels)]]
        torch.testing.assert_close(sums, expected)


def test_files_are_read_safely(tmp_path: Path) -> None:
    state = dit_state()
    other = {name: tensor + 1 for name, tensor in state.items()}
    torch.save(state, tmp_path / "plain.pt")
    torch.save({"model": other, "ema": state}, tmp_path / "trainer.pt")
    torch.save({"model": state, "epoch": 3}, tmp_path / "model.pt")
    save_file(state, tmp_path / "state.safetensors")
    for name in ("plain.pt", "trainer.pt", "model.pt", "state.safetensors"):
        found = read_state(tmp_path / name)
        assert found.keys() == state.keys()
        assert all(torch.equal(found[k], state[k]) for k in state)


class Harmful:
    """Touches a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return Path.touch, (self.path,)


def test_unusable_files_are_named(tmp_path: Path) -> None:
    torch.save({"model": Harmful(tmp_path / "touched")}, tmp_path / "harmful.pt")
    torch.save({"epoch": 3}, tmp_path / "empty.pt")
    (tmp_path / "noise.pt").write_bytes(b"nothing of use")
    (tmp_path / "noise.safetensors").write_bytes(b"nothing of use")
    for name in ("harmful.pt", "empty.pt", "noise.pt", "noise.safetensors", "absent.pt"):
        with pytest.raises(Gen3dError, match=name):
            read_state(tmp_path / name)
    assert not (tmp_path / "touched").exists()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"width": 48}, "width 24 and depth 1; the transformer has width 48 and depth 1"),
        ({"depth": 2}, "width 24 and depth 1; the transformer has width 24 and depth 2"),
        ({"mlp_ratio": 2.0}, "width 96; the transformer's has 48"),
        ({"channels": 20}, "20 channels"),
        ({"norm": "rms"}, "norm is 'rms'; a DiT needs 'layer'"),
        ({"qk_norm": True}, "qk_norm is True"),
        ({"modulation": "single"}, "modulation is 'single'"),
    ],
)
def test_another_architecture_is_refused(fields: dict, message: str) -> None:
    with pytest.raises(Gen3dError, match=message):
        inflate_dit(dit_state(), config(**fields), 2)


def test_a_missing_tensor_is_named() -> None:
    state = dit_state()
    del state["blocks.0.attn.proj.bias"]
    with pytest.raises(Gen3dError, match=r"blocks\.0\.attn\.proj\.bias"):
        inflate_dit(state, config(), 2)
