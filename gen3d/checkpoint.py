"""Checkpoints: a folder with `model.safetensors`, `config.json` and `README.md`.

The header of `model.safetensors` carries the configuration, so that weights and configuration change
places in one atomic rename and can never mismatch, whenever a writer is killed. `config.json` is the
same text for people and for the hub; when the two differ, the header counts and a warning says so.
"""

import json
import warnings
from collections.abc import Collection, Mapping
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO
from zlib import crc32

from gen3d.errors import Gen3dError
from gen3d.files import atomic_write

if TYPE_CHECKING:
    from torch import Tensor, nn

FORMAT_VERSION = 1
"""Raised by one whenever older code could no longer read what newer code writes."""

LONGEST_HEADER = 100_000_000
"""Bytes; the limit of the safetensors format."""

WEIGHTS, CONFIG, CARD = FILES = ("model.safetensors", "config.json", "README.md")


def write(folder: str | Path, tensors: "Mapping[str, Tensor]", config: Mapping[str, Any], card: str) -> None:
    """Write a checkpoint, or replace the one in `folder`; it is readable at every moment.

    Raises:
        Gen3dError: the folder cannot be written; what it held stays readable.
    """
    folder = Path(folder)
    config = {"format_version": FORMAT_VERSION, **config}
    write_tensors(folder / WEIGHTS, tensors, config)
    for name, text in ((CONFIG, json.dumps(config, indent=2) + "\n"), (CARD, card)):
        with atomic_write(folder / name) as temporary:
            temporary.write_text(text, encoding="utf-8")


def read(folder: str | Path) -> "tuple[dict[str, Tensor], dict[str, Any]]":
    """The tensors (on the CPU) and the configuration of a checkpoint.

    Raises:
        Gen3dError: as `read_config`.
    """
    read_config(folder)
    tensors, header = read_tensors(Path(folder) / WEIGHTS)
    # The file may have been replaced since its header was read; what it holds now belongs together.
    return tensors, _checked(header, folder)


def read_config(folder: str | Path) -> dict[str, Any]:
    """The configuration of a checkpoint, without reading weights or importing torch.

    Raises:
        Gen3dError: the folder or its weights are missing, are damaged, were not written by gen3d, or
            were written by a newer gen3d.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise Gen3dError(f"there is no checkpoint folder {folder}")
    if not (folder / WEIGHTS).is_file():
        raise Gen3dError(f"{folder} is no checkpoint: {WEIGHTS} is missing")
    config = _checked(read_header(folder / WEIGHTS), folder)
    try:
        copy = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return config
    except (OSError, ValueError) as error:
        raise Gen3dError(f"cannot read {folder / CONFIG}: {error}") from error
    if copy != config:
        warnings.warn(
            f"{folder / CONFIG} differs from the configuration inside {WEIGHTS}, which counts", stacklevel=2
        )
    return config


def write_tensors(path: Path, tensors: "Mapping[str, Tensor]", header: Mapping[str, Any]) -> None:
    """Write tensors and a JSON-ready `header` to one safetensors file, atomically."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with atomic_write(path) as temporary:
        try:
            save_file(plain, temporary, metadata={"gen3d": json.dumps(header)})
        except SafetensorError as error:
            raise Gen3dError(f"cannot write {path}: {error}") from error


def read_tensors(path: Path) -> "tuple[dict[str, Tensor], dict[str, Any]]":
    """The tensors (on the CPU) and the header of a file made by `write_tensors`.

    Raises:
        Gen3dError: the file is missing, damaged, or was not written by gen3d.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    # Opened once: `safe_open` opens a file twice, and might find two versions of one being replaced.
    try:
        data = path.read_bytes()
        return load(data), _header(BytesIO(data), path)
    except (SafetensorError, OSError) as error:
        raise _damaged(path, error) from error


def read_header(path: Path) -> dict[str, Any]:
    """The header of a file made by `write_tensors`; raises as `read_tensors`."""
    try:
        with open(path, "rb") as file:
            return _header(file, path)
    except OSError as error:
        raise _damaged(path, error) from error


def fingerprint(tensors: "Mapping[str, Tensor]") -> int:
    """A 32-bit checksum of names and values."""
    import torch

    value = 0
    for name, tensor in sorted(tensors.items()):
        values = tensor.detach().cpu().reshape(-1).view(torch.uint8)
        value = crc32(values.numpy().tobytes(), crc32(name.encode(), value))
    return value


def fill(
    module: "nn.Module", tensors: "Mapping[str, Tensor]", source: str | Path, fresh: "Collection[str]" = ()
) -> None:
    """Copy tensors into the parameters and buffers of `module`, one for one, in the module's own precision.

    Those named in `fresh` may be absent, and then stay as they are.

    Raises:
        Gen3dError: a tensor is missing, is left over, or has another shape.
    """
    own = module.state_dict()
    tensors = {**{name: own[name] for name in fresh}, **tensors}
    for wrong, what in (
        (own.keys() - tensors.keys(), "is missing"),
        (tensors.keys() - own.keys(), "is unknown"),
    ):
        if wrong:
            more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
            raise Gen3dError(f"{source} does not fit its configuration: tensor {min(wrong)!r} {what}{more}")
    for name, tensor in tensors.items():
        if own[name].shape != tensor.shape:
            raise Gen3dError(
                f"{source} does not fit its configuration: tensor {name!r} has shape "
                f"{tuple(tensor.shape)}, expected {tuple(own[name].shape)}"
            )
    module.load_state_dict(dict(tensors))


def _header(file: BinaryIO, path: Path) -> dict[str, Any]:
    """What `write_tensors` put into the header: 8 bytes of length, then JSON (the safetensors format)."""
    length = int.from_bytes(file.read(8), "little")
    try:
        if length > LONGEST_HEADER:
            raise ValueError(f"its header would have {length} bytes")
        text = json.loads(file.read(length)).get("__metadata__", {}).get("gen3d")
    except (ValueError, AttributeError) as error:
        raise _damaged(path, error) from error
    if text is None:
        raise Gen3dError(f"{path} was not written by gen3d: its header holds no configuration")
    return json.loads(text)


def _damaged(path: Path, error: Exception) -> Gen3dError:
    return Gen3dError(f"cannot read {path}, it is damaged or no safetensors file: {error}")


def _checked(config: dict[str, Any], folder: str | Path) -> dict[str, Any]:
    version = config.get("format_version")
    if not isinstance(version, int) or version > FORMAT_VERSION:
        raise Gen3dError(
            f"{folder} has checkpoint format {version!r}; this gen3d reads up to {FORMAT_VERSION}: "
            "upgrade gen3d"
        )
    return config


def plain_card(domain: str, parameters: int) -> str:
    """A model card that says what the configuration says."""
    return (
        f"---\nlibrary_name: gen3d\ntags: [{domain}, diffusion, transformer]\n---\n\n"
        f"# gen3d {domain}\n\nA generator of domain `{domain}` with {parameters:,} "
        f"parameters.\n\n```python\nimport gen3d\n\nsamples = gen3d.load(PATH).sample(8, seed=0)\n```\n\n"
        "`config.json` holds the architecture, the noise process and the sampling defaults.\n"
    )
