"""Half precision where it is worth it."""

from typing import Any

import torch


def native_bf16(device: torch.device) -> bool:
    """Whether a device multiplies bf16 by itself, not by way of float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return False


def autocast(device: torch.device, enabled: bool) -> Any:
    """A context in which matrices are multiplied in bf16, if `enabled`."""
    return torch.autocast(device.type, torch.bfloat16, enabled=enabled)
