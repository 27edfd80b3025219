"""Speculative decoding inside a real vLLM engine: drafts pass as often as they should, and are counted.

That tokens are drawn from what the record says, whatever drafts: test_exactness_in_vllm.py.
"""

import math
from collections.abc import Sequence
from itertools import zip_longest

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import Qwen2ForCausalLM

from rollout.draw.learned import Learned
from rollout.draw.temperature import EntropyLinear, Fixed
from rollout.draw.truncation import Truncation
from rollout.messages import GroupRequest
from tests.rollout.engines import Running, ask, update, update_of
from tests.rollout.exactness import Said, mass_before, said, temperatures_of

ADAPTIVE = EntropyLinear(low=0.5, high=1.6, entropy_low=2.5, entropy_high=5.0)
LEARNED = Learned(tau_min=0.5, tau_max=1.6, tau_0=1.2)
SLOW = pytest.mark.slow


def kinds(*names: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("running", names, indirect=True, scope="session")


EVERY_KIND = kinds(
    *("mtp-probabilistic", "draft_model-probabilistic"),
    *(pytest.param(name, marks=SLOW) for name in ("mtp-greedy", "draft_model-greedy", "ngram-greedy")),
)


@EVERY_KIND
def test_drafts_are_accepted_and_counted(running, request):
    """The histogram counts every verification step, and its accepted drafts and one token a step make the response.

    N-grams often draft nothing: such a step verifies nothing and is not counted.
    """
    always = "ngram" not in request.node.callspec.params["running"]
    [rollouts] = running.generate(ask("count", ADAPTIVE, n=16, max_tokens=64))
    for rollout in rollouts:
        steps = sum(rollout.accepted_histogram)
        assert rollout.accepted_tokens <= rollout.drafted_tokens
        # the first token comes with the prompt; the last step may be cut at max_tokens
        assert len(rollout.response_ids) <= 1 + steps + rollout.accepted_tokens + 3 or not always
    assert sum(rollout.accepted_tokens for rollout in rollouts) > 0


@kinds("mtp-probabilistic")
def test_the_engine_counts_drafts_by_position(running):
    """Its metrics agree with the responses' own histograms: position k passed wherever more than k drafts did."""

    def metrics():
        return running.wait(running.worker.call("metrics", deadline_s=60.0))

    before = metrics()
    [rollouts] = running.generate(ask("positions", ADAPTIVE, n=16, max_tokens=64))
    after = metrics()
    judged, passed = (
        [now - then for now, then in zip_longest(getattr(after, name), getattr(before, name), fillvalue=0)]
        for name in ("drafted_by_position", "accepted_by_position")
    )
    assert passed == [
        sum(count for one in rollouts for kept, count in enumerate(one.accepted_histogram) if kept > position)
        for position in range(len(passed))
    ]
    assert sum(judged) == sum(one.drafted_tokens for one in rollouts)
    assert 0 < passed[0] < judged[0]


@kinds("draft_model-probabilistic", pytest.param("draft_model-greedy", marks=SLOW))
def test_a_draft_passes_as_often_as_the_distributions_overlap(running, request):
    """The second token of 1 500 responses: its draft passes with probability sum min(p, q) = 1 - TV, z < 4.

    q is the draft model's own, by transformers, at the temperature and truncation of the request (a learned one stays
    where the token before left it). Verified as if they were certain, drafts would still give exact draws, but pass
    with sum p q only, which is 10 standard deviations away. Certain drafts pass with p of the drafter's likeliest.
    """
    drafter = Qwen2ForCausalLM.from_pretrained(running.folder / "draft").eval()
    certain = request.node.callspec.params["running"].endswith("greedy")
    requests = [
        ask("linear", ADAPTIVE, 500, 2),
        ask("hot, top-p", Fixed(temperature=1.3), 500, 2, Truncation(top_p=0.8)),
        ask("learned", LEARNED, 500, 2),
    ]
    passed, chances, as_certain = [], [], []
    for asked, group in zip(requests, running.generate(*requests), strict=True):
        judged = [one for one in group if sum(one.accepted_histogram)]
        for one, p, q in zip(judged, said(running.policy, judged), said(drafter, judged), strict=True):
            at = torch.tensor(one.temperatures) if asked.temperature == LEARNED else None
            target = drawn_from(asked, p, None if at is None else at[1])
            draft = drawn_from(asked, q, None if at is None else at[0])
            overlap = target[draft.argmax()] if certain else torch.minimum(target, draft).sum()
            passed.append(one.accepted_histogram[0] == 0)
            chances.append(overlap.item())
            as_certain.append((target * draft).sum().item())
    assert len(passed) > 1300
    assert abs(excess(passed, chances)) < 4.0
    assert certain or excess(passed, as_certain) > 10.0


def drawn_from(request: GroupRequest, said: Said, temperature: Tensor | None) -> Tensor:
    """float64 [vocab]: what the second token is drawn from; `temperature` where it is not the policy's to say."""
    if temperature is None:
        temperature = temperatures_of(request.temperature, said.entropies)[1]
    tempered = (said.logits[1:2] / temperature).float().double()
    cut = mass_before(tempered) >= request.truncation.top_p if request.truncation.active else torch.tensor(False)
    return tempered.masked_fill(cut, -torch.inf).softmax(-1)[0]


def excess(passed: Sequence[bool], chances: Sequence[float]) -> float:
    """Standard deviations that the number of passes lies above its mean."""
    p = np.array(chances)
    return float((np.array(passed) - p).sum() / math.sqrt((p * (1.0 - p)).sum()))


def acceptance(running: Running, name: str) -> float:
    [rollouts] = running.generate(ask(name, Fixed(temperature=1.7), n=64, max_tokens=128))
    return sum(one.accepted_tokens for one in rollouts) / sum(one.drafted_tokens for one in rollouts)


@kinds("mtp-probabilistic")
def test_the_drafter_follows_the_learner(running):
    """A policy with its vocabulary reshuffled is as easy to draft for; new drafting layers take effect."""
    before = acceptance(running, "before")
    shuffled = Qwen2ForCausalLM(running.policy.config).eval()
    shuffled.load_state_dict(running.policy.state_dict())
    order = torch.randperm(shuffled.config.vocab_size, generator=torch.Generator().manual_seed(7))
    with torch.no_grad():
        for matrix in (shuffled.model.embed_tokens.weight, shuffled.lm_head.weight):
            matrix.copy_(matrix[order])
    saved = load_file(running.folder / "model.safetensors")
    layers = {name: one for name, one in saved.items() if "mtp_layers" in name}
    broken = {name: torch.zeros_like(one) if "final_layernorm" in name else one for name, one in layers.items()}
    found = []
    for version, beside in enumerate(({}, broken, layers), start=running.version + 1):
        running.wait(update(running, update_of(shuffled, version, beside)))
        running.policy = shuffled
        found.append(acceptance(running, f"v{version}"))
    assert before > 0.05
    assert abs(found[0] - before) < 0.3 * before
    assert abs(found[1] - before) > 0.4 * before
    assert abs(found[2] - before) < 0.3 * before
