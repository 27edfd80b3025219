"""The fused GPU head, run in Triton's interpreter on the CPU, against float64 autograd over full logits."""

import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from learner.head import Picks, TokenHead, runs_fused
from learner.objective.reads import TopPEntropy
from rollout.draw.truncation import KeptSets

CASES = """
import numpy as np, torch
from triton.runtime import interpreter
from learner import fused_head
from learner.fused_head import FusedTokenLogprobs
from learner.head import Picks

multiply = interpreter.InterpreterBuilder.create_dot

def widened(tensor):  # the interpreter keeps bfloat16 as integers of 16 bits, and would multiply those
    if tensor.dtype.scalar != interpreter.tl.bfloat16:
        return tensor
    return interpreter.TensorHandle((tensor.data.astype(np.uint32) << 16).view(np.float32), interpreter.tl.float32)

interpreter.InterpreterBuilder.create_dot = lambda builder, a, b, total, *rest: multiply(
    builder, widened(a), widened(b), total, *rest
)
fused_head.ROWS, fused_head.BLOCK = 20, 20 * 256  # several blocks both ways, the last ones incomplete

def check(nodes, rows, picks, channels, vocab, dtype, tempered, with_bias, with_entropy, spread=1.0):
    generator = torch.Generator().manual_seed(rows)
    normal = lambda *shape: torch.randn(*shape, generator=generator)
    inputs = [spread * normal(nodes, channels), normal(vocab, channels), *([normal(vocab)] if with_bias else [])]
    inputs = [tensor.to(dtype).requires_grad_() for tensor in inputs]
    again = torch.randint(0, rows, (picks - rows,), generator=generator)
    chosen = Picks(
        row_nodes=torch.randint(0, nodes, (rows,), generator=generator).sort().values,
        temperatures=0.5 + torch.rand(rows, generator=generator) if tempered else None,
        rows=torch.cat((torch.arange(rows), again)).sort().values,
        tokens=torch.randint(0, 3 if picks > 2 * rows else vocab, (picks,), generator=generator),  # 3: equal tokens
    )
    of_logprobs, of_entropies = normal(picks), normal(rows)

    bias = inputs[2] if with_bias else None
    logprobs, entropies = FusedTokenLogprobs.apply(inputs[0], inputs[1], bias, chosen)
    loss = (logprobs * of_logprobs).sum()
    (loss + (entropies * of_entropies).sum() if with_entropy else loss).backward()

    exact = [tensor.detach().double().requires_grad_() for tensor in inputs]
    z = exact[0][chosen.row_nodes] @ exact[1].T + (exact[2] if with_bias else 0.0)
    tempered_z = z / chosen.temperatures.double()[:, None] if tempered else z
    wanted = tempered_z.log_softmax(-1)[chosen.rows, chosen.tokens]
    normalized = z.log_softmax(-1)
    wanted_entropies = -(normalized.exp() * normalized).sum(-1)
    loss = (wanted * of_logprobs).sum()
    (loss + (wanted_entropies * of_entropies).sum() if with_entropy else loss).backward()

    scale = max(1.0, z.abs().max().item())  # of rounding in float32
    torch.testing.assert_close(logprobs.double(), wanted, atol=1e-6 * scale, rtol=1e-6)
    torch.testing.assert_close(entropies.double(), wanted_entropies, atol=1e-6 * scale, rtol=1e-6)
    limit = 2e-6 * scale if dtype == torch.float32 else 8e-3  # bfloat16 rounds the blocks that are multiplied
    for ours, theirs in zip(inputs, exact):
        error = (ours.grad - theirs.grad).norm() / theirs.grad.norm()
        assert error <= limit, (error, limit, ours.shape)
    return logprobs.detach(), [tensor.grad for tensor in inputs]

for dtype in (torch.float32, torch.bfloat16):
    check(20, 30, 50, 37, 300, dtype, True, True, True)
    check(20, 30, 50, 32, 300, dtype, False, False, True)
    check(4, 5, 60, 16, 131, dtype, True, False, False)  # many equal tokens in one row
    check(1, 1, 1, 16, 3, dtype, True, True, True)
check(8, 8, 8, 16, 300, torch.float32, True, True, True, spread=25.0)  # logits in the hundreds

once, twice = (check(20, 30, 50, 37, 300, torch.bfloat16, False, True, True) for _ in range(2))
assert torch.equal(once[0], twice[0]) and all(map(torch.equal, once[1], twice[1])), "not the same bits again"

hidden = torch.ones(1, 16, requires_grad=True)  # logits 500 and -500 twice: nothing may become NaN
weight = torch.tensor([500.0, -500.0, -500.0])[:, None] * torch.eye(1, 16)
first = Picks(row_nodes=torch.tensor([0]), temperatures=None, rows=torch.tensor([0]), tokens=torch.tensor([0]))
logprob, entropy = FusedTokenLogprobs.apply(hidden, weight, None, first)
(logprob.sum() + entropy.sum()).backward()
assert logprob.item() == 0.0 and entropy.item() == 0.0 and (hidden.grad == 0.0).all()
"""


def run_triton(code: str, interpret: str = "1") -> None:
    """In a process of its own: the interpreter is chosen when a kernel is defined, and replaces parts of Triton."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "TRITON_INTERPRET": interpret},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]


def test_values_and_gradients_equal_those_of_full_logits():
    """At sizes that fit no tile, with one row, many picks per row, both dtypes, with and without temperature and bias.

    Twice the same inputs give twice the same bits, and a certain token pulls at nothing.
    """
    pytest.importorskip("triton")
    run_triton(CASES)


COMPILED = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from learner import fused_head, fused_kernels

VALUES = dict.fromkeys(("states_ptr", "hidden_ptr", "weight_ptr", "bias_ptr", "block_ptr"), "*bf16")
INDICES = dict.fromkeys(("nodes_ptr", "rows_ptr", "tokens_ptr", "starts_ptr"), "*i64")
SWITCHES = {"BIAS": True, "TEMPERED": True, "ENTROPY": True, "EVEN": True, "PICKS": 64}
ONE_ROW = {"rows": 1, "count": 1, "tiles": 1, "plane": 1}  # Triton makes a constant of an integer that is 1

for capability, tile in ((80, fused_head.DATA_CENTER), (90, fused_head.DATA_CENTER), (89, fused_head.SMALL)):
    options = tile.options()
    launch = {name: options.pop(name) for name in ("num_warps", "num_stages")}
    for kernel in (
        *(fused_kernels.partials, fused_kernels.gradient),
        *((fused_kernels.drawn, fused_kernels.sums, fused_kernels.put) if capability == 90 else ()),
    ):
        names = kernel.arg_names
        for constants in (SWITCHES, SWITCHES | ONE_ROW) if capability == 90 else (SWITCHES,):
            constants = {name: value for name, value in (constants | options).items() if name in names}
            types = {name: "*fp32" if name.endswith("_ptr") else "i32" for name in names} | VALUES | INDICES
            source = ASTSource(
                fn=kernel,
                signature={name: "constexpr" if name in constants else types[name] for name in names},
                constexprs={(names.index(name),): value for name, value in constants.items()},
                attrs={
                    (place,): [["tt.divisibility", 16]]
                    for place, name in enumerate(names)
                    if name.endswith("_ptr") or name in ("channels", "stride")
                },
            )
            compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=launch)
            if kernel in (fused_kernels.partials, fused_kernels.gradient):
                product = "wgmma.mma_async" if capability == 90 else "mma.sync"
                assert product in compiled.asm["ptx"], "no tensor cores"
                assert compiled.metadata.shared <= {80: 163, 90: 227, 89: 99}[capability] * 1024
"""


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_the_kernels_compile_for_gpus():
    """To tensor-core instructions within shared memory on three generations, which needs no GPU.

    The interpreter forgives what the compiler does not.
    """
    pytest.importorskip("triton")
    run_triton(COMPILED, interpret="0")


def test_only_whole_rows_in_bfloat16_on_a_gpu_go_to_the_fused_head():
    """Truncation, reads, float32 and the CPU stay with the chunked function."""
    row = torch.zeros(1, dtype=torch.int64)
    whole = Picks(row_nodes=row, temperatures=None, rows=row, tokens=row)
    cut = Picks(
        row_nodes=row,
        temperatures=None,
        rows=row,
        tokens=row,
        kept=KeptSets(ids=torch.zeros(1, dtype=torch.int32), counts=torch.ones(1, dtype=torch.int64)),
    )

    def tensor(dtype: torch.dtype, is_cuda: bool = True) -> SimpleNamespace:
        return SimpleNamespace(dtype=dtype, is_cuda=is_cuda)

    half, full = tensor(torch.bfloat16), tensor(torch.float32)
    assert runs_fused(half, half, whole, ())
    assert not runs_fused(tensor(torch.bfloat16, is_cuda=False), half, whole, ())
    assert not runs_fused(full, full, whole, ())
    assert not runs_fused(half, half, cut, ())
    assert not runs_fused(half, half, whole, (TopPEntropy(),))


@pytest.mark.gpu
def test_on_a_gpu_the_head_takes_the_fused_path_and_agrees_with_float64():
    """At a vocabulary and a number of channels that fit no tile, through TokenHead."""
    torch.manual_seed(0)
    rows, vocab, channels = 300, 5003, 200
    linear = torch.nn.Linear(channels, vocab, device="cuda", dtype=torch.bfloat16)
    hidden = torch.randn(rows, channels, device="cuda", dtype=torch.bfloat16, requires_grad=True)
    every = torch.arange(rows, device="cuda")
    picks = Picks(
        row_nodes=every,
        temperatures=0.5 + torch.rand(rows, device="cuda"),
        rows=every,
        tokens=torch.randint(0, vocab, (rows,), device="cuda"),
    )
    logprobs, entropies = TokenHead(linear, chunk_mib=1)(hidden, picks)
    (logprobs.sum() + entropies.sum()).backward()
    exact = [tensor.detach().double().requires_grad_() for tensor in (hidden, linear.weight, linear.bias)]
    z = exact[0] @ exact[1].T + exact[2]
    wanted = (z / picks.temperatures.double()[:, None]).log_softmax(-1)[every, picks.tokens]
    normalized = z.log_softmax(-1)
    wanted_entropies = -(normalized.exp() * normalized).sum(-1)
    (wanted.sum() + wanted_entropies.sum()).backward()
    torch.testing.assert_close(logprobs.double(), wanted, atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(entropies.double(), wanted_entropies, atol=1e-4, rtol=1e-5)
    for ours, theirs in zip((hidden, linear.weight, linear.bias), exact, strict=True):
        assert (ours.grad - theirs.grad).norm() <= 1e-2 * theirs.grad.norm()
