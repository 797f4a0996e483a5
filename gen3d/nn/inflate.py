"""Start from a published image transformer: DiT weights (arXiv 2212.09748) for tokens of 3D patches.

What an image model has learned of denoising helps in three dimensions (DiT-3D, arXiv 2307.01831, section
3.4). To start from a file:

    model.load_state_dict(inflate_dit(read_state(path), model.config, patch=4), strict=False)
"""

import pickle
from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from gen3d.errors import Gen3dError
from gen3d.nn.embeddings import TIME_FREQUENCIES, TIME_SCALE
from gen3d.nn.transformer import TransformerConfig

NEEDED = {"norm": ("layer",), "mlp": ("gelu", "gelu_exact"), "qk_norm": (False,), "modulation": ("full",)}
"""Fields of the configuration that make our blocks those of DiT, and their allowed values."""

BLOCK = {
    "attn.qkv": "attention.qkv",
    "attn.proj": "attention.out",
    "mlp.fc1": "mlp.up",
    "mlp.fc2": "mlp.down",
    "adaLN_modulation.1": "modulation",
}
"""Linear layers of a block: DiT's name -> ours."""


def inflate_dit(state: Mapping[str, Tensor], config: TransformerConfig, patch: int) -> dict[str, Tensor]:
    """The parameters of a `DiffusionTransformer` that a DiT of images has counterparts of.

    - Blocks and the last modulation are taken as they are.
    - Patch embedding: the (p, p) kernel is resized to the 3D patch bilinearly, its sum kept, then repeated
      along the new first axis and divided by its length (I3D, arXiv 1705.07750). Channel c of a cell takes
      the kernel of image channel c modulo 4, so that no two of the first four see the same.
    - Time: DiT counts from data to noise, gen3d from noise to data; the first layer is turned accordingly,
      which is exact. The embedding of "no class" is added to the last bias: the blocks know sums with it.
    - Left out, so that a fresh network keeps its own: the table of positions (ours are computed), the class
      table and the output layer, which belong to the task.

    Args:
        state: tensors by the names of the public DiT.
        config: of the transformer to be filled; heads must be those of the DiT, its tensors do not tell.
        patch: p, cells along an axis of a patch; a token is a patch flattened as (p, p, p, channels).

    Returns:
        Tensors by the names of `DiffusionTransformer`, for `load_state_dict(..., strict=False)`.

    Raises:
        Gen3dError: another architecture, width, depth or feed-forward width, or a missing tensor.
    """
    for name, allowed in NEEDED.items():
        if (value := getattr(config, name)) not in allowed:
            raise Gen3dError(f"{name} is {value!r}; a DiT needs {' or '.join(map(repr, allowed))}")
    _check_size(state, config)
    taken = {
        "embed.weight": _inflated(_of(state, "x_embedder.proj.weight"), config.channels, patch),
        "embed.bias": _of(state, "x_embedder.proj.bias"),
        "conditions.time.mlp.0.weight": _of(state, "t_embedder.mlp.0.weight") @ _reversal(),
        "conditions.time.mlp.0.bias": _of(state, "t_embedder.mlp.0.bias"),
        "conditions.time.mlp.2.weight": _of(state, "t_embedder.mlp.2.weight"),
        "conditions.time.mlp.2.bias": _of(state, "t_embedder.mlp.2.bias")
        + _of(state, "y_embedder.embedding_table.weight")[-1],
    }
    layers = {"final_layer.adaLN_modulation.1": "final_modulation"}
    for block in range(config.depth):
        layers |= {f"blocks.{block}.{theirs}": f"blocks.{block}.{ours}" for theirs, ours in BLOCK.items()}
    for theirs, ours in layers.items():
        for part in ("weight", "bias"):
            taken[f"{ours}.{part}"] = _of(state, f"{theirs}.{part}")
    return taken


def read_state(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a `.safetensors` or `.pt` file, on the CPU; nothing but tensors is unpickled.

    Where the file holds several sets, as the trainers of DiT write, the averaged weights ("ema") are
    taken, else those under "model".

    Raises:
        Gen3dError: the file is missing or damaged, or holds something else than tensors.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        if Path(path).suffix == ".safetensors":
            return load_file(path)
        found = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise Gen3dError(f"cannot read tensors from {path}: {error}") from error
    for key in ("ema", "model"):
        if isinstance(found, dict) and isinstance(found.get(key), dict):
            found = found[key]
            break
    if not isinstance(found, dict) or not all(isinstance(value, Tensor) for value in found.values()):
        raise Gen3dError(f"{path} holds no tensors by name")
    return found


def _check_size(state: Mapping[str, Tensor], config: TransformerConfig) -> None:
    depth = len({name.split(".")[1] for name in state if name.startswith("blocks.")})
    width = len(_of(state, "x_embedder.proj.bias"))
    if (width, depth) != (config.width, config.depth):
        raise Gen3dError(
            f"the DiT has width {width} and depth {depth}; the transformer has width {config.width} and "
            f"depth {config.depth}"
        )
    hidden, own = len(_of(state, "blocks.0.mlp.fc1.bias")), round(config.mlp_ratio * config.width)
    if hidden != own:
        raise Gen3dError(f"the DiT's feed-forward has width {hidden}; the transformer's has {own}")


def _inflated(kernel: Tensor, channels: int, patch: int) -> Tensor:
    """The weight (D, p^3 c) of the embedding of 3D patches, of a kernel (D, C, q, q) of 2D ones."""
    per_cell, rest = divmod(channels, patch**3)
    if rest:
        raise Gen3dError(
            f"tokens have {channels} channels; patches of {patch}^3 cells need a multiple of that"
        )
    resized = F.interpolate(kernel.float(), (patch, patch), mode="bilinear", antialias=True)
    resized = resized * (kernel.shape[-1] / patch) ** 2
    chosen = resized[:, torch.arange(per_cell) % kernel.shape[1]].movedim(1, -1)
    return (chosen[:, None] / patch).expand(-1, patch, -1, -1, -1).flatten(1)


def _reversal() -> Tensor:
    """The matrix R with sinusoid(1000 - s) = R sinusoid(s): a turn of every frequency's pair."""
    half = TIME_FREQUENCIES // 2
    frequencies = 10_000.0 ** (-torch.arange(half, dtype=torch.float64) / half)
    cos, sin = (TIME_SCALE * frequencies).cos().diag(), (TIME_SCALE * frequencies).sin().diag()
    return torch.cat([torch.cat([cos, sin], 1), torch.cat([sin, -cos], 1)]).float()


def _of(state: Mapping[str, Tensor], name: str) -> Tensor:
    if name not in state:
        raise Gen3dError(f"the DiT has no tensor {name!r}")
    return state[name]
