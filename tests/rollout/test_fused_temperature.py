"""The fused GPU kernels, run in Triton's interpreter on the CPU, against the definition in rollout/draw."""

import os
import subprocess
import sys

import pytest

pytest.importorskip("triton")

CASES = """
import math, torch
from rollout.draw.distribution import softmax_with_entropy, temper
from rollout.draw.temperature import EntropyLinear, Fixed, LogPivot
from rollout.vllm_adapter.fused_temperature import BLOCK, parameters_of, temper_

POLICIES = [
    Fixed(),
    Fixed(temperature=0.0),
    Fixed(temperature=1.7),
    EntropyLinear(low=0.5, high=1.6, entropy_low=1.0, entropy_high=5.0),
    EntropyLinear(low=1.4, high=0.6, entropy_low=3.0, entropy_high=9.0),
    LogPivot(pivot=0.5, rms=0.7, scale_positive=1.5, scale_negative=2.0, swing=0.3),
    LogPivot(pivot=0.5, rms=0.7, scale_positive=1.5, scale_negative=2.0, swing=0.3, released_sign=True),
    LogPivot(pivot=0.5, rms=0.0, scale_positive=1.0, scale_negative=1.0, base=1.2),
]
table = torch.tensor([parameters_of(policy) for policy in POLICIES])
for vocab in (7, BLOCK, 2 * BLOCK + 11):
    for spread in (0.01, 2.0, 60.0):
        generator = torch.Generator().manual_seed(vocab)
        requests = torch.tensor([*range(len(POLICIES)), *range(len(POLICIES)), -1])
        logits = spread * torch.randn(len(requests), vocab, generator=generator) + 30.0
        logits[::3, : vocab // 2] = -math.inf  # masked tokens, and whole blocks of them
        entropies = softmax_with_entropy(logits.double())[1].float()
        policies = [POLICIES[r] if r >= 0 else Fixed() for r in requests.tolist()]
        temperatures = torch.stack([p(h.unsqueeze(0)).squeeze(0) for p, h in zip(policies, entropies)])
        expected = temper(logits, temperatures)
        padded = torch.full((len(requests), vocab + 5), 99.0)  # rows that do not follow each other directly
        ours = padded[:, :vocab].copy_(logits)
        found = temper_(ours, requests.to(torch.int32), table)
        torch.testing.assert_close(found[0], entropies, atol=2e-5, rtol=1e-5)
        torch.testing.assert_close(found[1], temperatures, atol=2e-5, rtol=1e-5)
        torch.testing.assert_close(ours, expected, atol=2e-3, rtol=2e-5)
        torch.testing.assert_close(ours.softmax(-1), expected.softmax(-1), atol=1e-4, rtol=1e-3)
        assert (padded[:, vocab:] == 99.0).all(), "written behind the end of a row"
half = torch.randn(3, 500).bfloat16()
wanted = half.float() / 1.7
temper_(half, torch.tensor([2, 2, 2]), table)
torch.testing.assert_close(half.float(), wanted, atol=0.0, rtol=2**-7)  # the interpreter cuts where a GPU rounds
"""


def run_interpreted(code: str, interpret: str = "1") -> None:
    """In a process of its own: the interpreter is chosen when a kernel is defined, and replaces parts of Triton."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "TRITON_INTERPRET": interpret},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]


def test_the_kernels_compute_what_rollout_draw_defines():
    """Entropy, temperature and logits / T agree for every policy, with masked tokens, in one block and in many."""
    run_interpreted(CASES)


GLUE = """
from orchestration import process
process.prepare()
from types import SimpleNamespace
import pytest, torch
from vllm.v1.outputs import LogprobsTensors
from rollout.config import RolloutConfig
from rollout.draw.distribution import entropy
from rollout.draw.temperature import EntropyLinear, Fixed, Learned
from rollout.draw.truncation import Truncation
from rollout.messages import GroupRequest
from rollout.vllm_adapter import model_runner_v2 as v2
from rollout.vllm_adapter.requests import sampling_params
from rollout.vllm_adapter.start import SEAMS

def asking(temperature, truncation=Truncation()):
    ask = GroupRequest(
        group_id="g", prompt_ids=(1,), n=1, max_tokens=9, temperature=temperature, truncation=truncation
    )
    return sampling_params(ask, ())

POLICIES = [Fixed(temperature=0.5), EntropyLinear(low=0.5, high=2.0, entropy_high=6.0), Fixed(temperature=0.0)]
processor = v2.Temperatures(None, SimpleNamespace(max_num_reqs=5, device="cpu"))
for slot, policy in zip((4, 0, 2), POLICIES):
    v2.Temperatures.validate_params(asking(policy))
    assert processor.add_request(slot, asking(policy))
processor.apply_staged_writes()
for refused in (asking(Learned()), asking(Fixed(), Truncation(top_p=0.9))):
    with pytest.raises(ValueError, match="v1"):
        v2.Temperatures.validate_params(refused)

logits = 3.0 * torch.randn(6, 300, generator=torch.Generator().manual_seed(0))
rows = torch.tensor([0, 0, 4, 2, 2, 0])  # three requests, two of them with drafts
entropies = entropy(logits)
wanted = torch.stack([{4: 0.5 + 0 * h, 0: POLICIES[1](h), 2: 0 * h}[r] for r, h in zip(rows.tolist(), entropies)])
processed = processor.apply(logits.clone(), SimpleNamespace(expanded_idx_mapping=rows))
torch.testing.assert_close(processed, logits / torch.where(wanted > 0, wanted, 1.0)[:, None])
drawn = torch.arange(6)
tensors = LogprobsTensors(drawn[:, None], processed.log_softmax(-1)[drawn, drawn][:, None], torch.zeros(6))
record = processor.record(tensors)
expected = torch.where(wanted > 0, processed.log_softmax(-1)[drawn, drawn], 0.0)
torch.testing.assert_close(record.logprobs, torch.stack((expected, entropies, wanted), 1))
assert record.logprob_token_ids.tolist() == [[t] * 3 for t in range(6)]

class Speculator:
    def sample_draft(self, hidden, positions, idx_mapping, step):
        return self.compute_draft_logits(hidden, step)
    def compute_draft_logits(self, hidden, step):
        return hidden.clone()

speculator = Speculator()
v2.temper_drafts(speculator, processor)
torch.testing.assert_close(speculator.sample_draft(logits, None, rows, 0), processed)
assert SEAMS["v2"]["worker_cls"] == f"{v2.__name__}.{v2.TemperWorkerV2.__name__}"
assert SEAMS["v2"]["logits_processors"] == [f"{v2.__name__}:{v2.Temperatures.__name__}"]
"""


@pytest.mark.slow
def test_the_processor_tempers_each_row_by_its_own_request_and_records_it():
    """Also the rows of drafts and the drafter's own; what Model Runner V2 cannot do is refused with a remedy."""
    run_interpreted(GLUE)


COMPILED = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from rollout.vllm_adapter import fused_temperature as fused

shape = {"stride": "i32", "partials_ptr": "*fp32", "plane": "i32", "blocks": "i32", "vocab": "i32"}
common = shape | {"BLOCK_": "constexpr"}
policy = {"requests_ptr": "*i32", "table_ptr": "*fp32", "found_ptr": "*fp32", "rows": "i32", "PADDED": "constexpr"}
for kernel, signature, sizes in (
    (fused._partials, common, {"BLOCK_": fused.BLOCK}),
    (fused._scale, common | policy, {"BLOCK_": fused.BLOCK, "PADDED": 64}),
):
    for dtype in ("*fp32", "*bf16"):
        source = ASTSource(fn=kernel, signature={"logits_ptr": dtype} | signature, constexprs=sizes)
        assert triton.compile(source, target=GPUTarget("cuda", 90, 32)).asm["ptx"]
"""


@pytest.mark.slow
def test_the_kernels_compile_for_a_gpu():
    """To PTX for compute capability 9.0, which needs no GPU: the interpreter forgives what the compiler does not."""
    run_interpreted(COMPILED, interpret="0")
