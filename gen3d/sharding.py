"""Spreading a transformer over processes (FSDP2), and tensors of which each process holds a part.

With data parallelism every process has all parameters, averages and moments. Sharded, it has its share of
them and gathers a block's parameters when their turn comes: slower, for models that fit no other way.
"""

import torch
from torch import Tensor
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from gen3d.errors import Gen3dError
from gen3d.nn.transformer import Network


def shard(network: Network) -> None:
    """Spread the parameters over all processes, block by block; gradients become means over processes.

    Raises:
        Gen3dError: there is but one process.
    """
    if not torch.distributed.is_initialized() or torch.distributed.get_world_size() == 1:
        raise Gen3dError("train.shard is true, but there is one process; start several with torchrun")
    for part in (*network.blocks, network):
        fully_shard(part, reshard_after_forward=True)


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor; every process must ask for it at the same time."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def own_part(tensor: Tensor) -> Tensor:
    """The part of a tensor that this process holds, sharing its memory; of an ordinary one, all of it."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def spread_like(tensor: Tensor, other: Tensor) -> Tensor:
    """A whole tensor, the same in every process, spread as `other` is."""
    if not isinstance(other, DTensor):
        return tensor
    return distribute_tensor(tensor.to(other.device), other.device_mesh, other.placements, src_data_rank=None)
