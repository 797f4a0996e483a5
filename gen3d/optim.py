"""Muon: momentum whose matrix updates are orthogonalised."""

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from gen3d.nn.precision import native_bf16
from gen3d.sharding import spread_like, whole

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the quintic that drives singular values towards 1 (Jordan et al., 2024)."""
ITERATIONS = 5
ADAM_RMS = 0.2
"""Root mean square of the entries of a typical AdamW update at learning rate 1, which Muon's are
scaled to, so that both live with one learning rate (arXiv 2502.16982, section 2.2)."""


class Muon(torch.optim.Optimizer):
    """Nesterov momentum, orthogonalised: every direction of a matrix moves equally far.

    The same method as `torch.optim.Muon`, which always multiplies in bf16: on processors without bf16
    instructions that takes ten times as long as this, which then multiplies in the parameters' precision.
    Where there are such instructions they take a quarter of the time. Matrices of one shape go together.

    Args:
        params: matrices, or groups of them.
        lr: learning rate, on AdamW's scale.
        momentum: decay rate of the momentum.
        weight_decay: decoupled decay.
        half: whether to multiply in bf16 where that is native; results then depend on the order of sums.

    Raises:
        ValueError: a parameter that is no matrix.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
        half: bool = True,
    ) -> None:
        self.half = half
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.ndim != 2:
                    raise ValueError(f"a parameter has shape {tuple(parameter.shape)}; Muon takes matrices")

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[Tensor]] = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is not None:
                    by_shape[parameter.shape].append(parameter)
            for parameters in by_shape.values():
                self._step(parameters, **{k: group[k] for k in ("lr", "momentum", "weight_decay")})
        return loss

    def _step(self, parameters: list[Tensor], lr: float, momentum: float, weight_decay: float) -> None:
        """Move matrices of one shape."""
        gradients, averages = [], []
        for parameter in parameters:
            state = self.state[parameter]
            if "momentum" not in state:
                state["momentum"] = torch.zeros_like(parameter)
            assert parameter.grad is not None
            gradients.append(parameter.grad)
            averages.append(state["momentum"])
        torch._foreach_lerp_(averages, gradients, 1 - momentum)
        # Of sharded matrices, every process takes all the directions and keeps its part.
        ahead = torch.stack([whole(m) for m in torch._foreach_lerp(gradients, averages, momentum)])
        half = self.half and native_bf16(ahead.device)
        moves = orthogonalise(ahead.bfloat16() if half else ahead).to(ahead)
        length = lr * ADAM_RMS * max(ahead.shape[-2:]) ** 0.5
        torch._foreach_mul_(parameters, 1 - lr * weight_decay)
        parts = [spread_like(move, p) for move, p in zip(moves, parameters, strict=True)]
        torch._foreach_add_(parameters, parts, alpha=-length)


def orthogonalise(matrices: Tensor) -> Tensor:
    """U V^T of the singular value decompositions U S V^T of (K, m, n) matrices, roughly.

    Five Newton-Schulz iterations, after which singular values lie between about 0.7 and 1.2
    (Jordan et al., 2024); tiny ones stay smaller.
    """
    a, b, c = COEFFICIENTS
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if tall else matrices
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x
