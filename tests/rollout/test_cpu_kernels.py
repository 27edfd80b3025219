"""RMS normalisation by vLLM's C++ kernel: the formula's values, and vLLM's operator takes it where it fits."""

import pytest
import torch
from vllm import ir
from vllm.platforms import current_platform

from rollout.vllm_adapter import cpu_kernels

pytestmark = pytest.mark.skipif(not current_platform.is_cpu(), reason="GPUs have vLLM's own choice of kernels")
EPSILON = 1e-6


@pytest.fixture(scope="module", autouse=True)
def installed():
    before = {operator: operator.get_priority() for operator in (ir.ops.rms_norm, ir.ops.fused_add_rms_norm)}
    cpu_kernels.install()
    yield
    for operator, priority in before.items():
        operator.set_default(priority or ["native"])


def by_formula(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    wide = x.double()
    return wide / (wide.pow(2).mean(-1, keepdim=True) + EPSILON).sqrt() * weight.double()


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-6), (torch.bfloat16, 2e-2)])
@pytest.mark.parametrize("shape", [(1, 64), (7, 96), (3, 5, 128)])
def test_normalisation_is_the_formula_in_float64(dtype, tolerance, shape):
    """Also with a residual, which is added first and comes back as the sum."""
    torch.manual_seed(0)
    x, residual = torch.randn(shape).to(dtype), torch.randn(shape).to(dtype)
    weight = torch.rand(shape[-1]).to(dtype) + 0.5
    assert ir.ops.rms_norm.dispatch(x, weight, EPSILON).provider == cpu_kernels.IMPLEMENTATION
    normed = ir.ops.rms_norm(x, weight, EPSILON)
    torch.testing.assert_close(normed.double(), by_formula(x, weight), atol=tolerance, rtol=tolerance)

    total = (x.double() + residual.double()).to(dtype)
    if len(shape) == 2:
        found, summed = ir.ops.fused_add_rms_norm.maybe_inplace(x.clone(), residual.clone(), weight, EPSILON)
        torch.testing.assert_close(summed, total, atol=tolerance, rtol=tolerance)
        torch.testing.assert_close(found.double(), by_formula(total, weight), atol=2 * tolerance, rtol=2 * tolerance)


def test_what_the_kernel_cannot_take_goes_to_vllms_own_form():
    """A view with gaps, as heads are normalised in some models; other dtypes; a part of the columns."""
    weight = torch.ones(8)
    gaps = torch.randn(4, 16)[:, :8]
    for x, w, size in [
        (gaps, weight, None),
        (torch.randn(4, 8), weight.double(), None),
        (torch.randn(4, 8), weight, 4),
    ]:
        assert ir.ops.rms_norm.dispatch(x, w, EPSILON, size).provider == "native"
    torch.testing.assert_close(ir.ops.rms_norm(gaps, weight, EPSILON), by_formula(gaps, weight).float())
