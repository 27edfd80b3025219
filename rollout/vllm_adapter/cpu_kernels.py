"""RMS normalisation on a CPU by vLLM's own C++ kernel: vLLM 0.32 ships it there, but takes it on GPUs alone.

Its PyTorch form is a dozen small operations, which is a good part of a small model's step.

Seam: the operators of vllm.ir and their implementations by name. Check: tests/rollout/test_cpu_kernels.py.
"""

import torch
from torch import Tensor
from vllm import ir
from vllm.platforms import current_platform

IMPLEMENTATION = "cpu_c"


def _fits(x: Tensor, weight: Tensor | None, epsilon: float, variance_size: int | None = None) -> bool:
    return variance_size is None and weight is not None and weight.dtype == x.dtype and x.is_contiguous()


def _both_fit(
    x: Tensor, x_residual: Tensor, weight: Tensor | None, epsilon: float, variance_size: int | None = None
) -> bool:
    return _fits(x, weight, epsilon, variance_size) and x_residual.dtype == x.dtype and x_residual.is_contiguous()


@ir.ops.rms_norm.register_impl(IMPLEMENTATION, supports_args=_fits)
def rms_norm(x: Tensor, weight: Tensor | None, epsilon: float, variance_size: int | None = None) -> Tensor:
    normed = torch.empty_like(x)
    torch.ops._C.rms_norm(normed, x, weight, epsilon)
    return normed


@ir.ops.fused_add_rms_norm.register_impl(IMPLEMENTATION, supports_args=_both_fit, inplace=True)
def fused_add_rms_norm(
    x: Tensor, x_residual: Tensor, weight: Tensor | None, epsilon: float, variance_size: int | None = None
) -> tuple[Tensor, Tensor]:
    torch.ops._C.fused_add_rms_norm(x, x_residual, weight, epsilon)
    return x, x_residual


def install() -> None:
    """Make vLLM take them in this process wherever they fit. Behind the worker's start, which sets its own order."""
    current_platform.import_kernels()
    for operator in (ir.ops.rms_norm, ir.ops.fused_add_rms_norm):
        operator.set_default([IMPLEMENTATION, "native"])
