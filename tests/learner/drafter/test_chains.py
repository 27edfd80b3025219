"""p, q and what counts of every draft, against float64 loops over samples drawn in every way a rollout may be."""

import dataclasses

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from learner.drafter.chains import Ends, Reading, Sums, Unrolled, batches_by_size, counted_drafts, descend, judge
from learner.drafter.layer import MtpLayer
from learner.drafter.losses import LOSSES, acceptance
from learner.drafter.rule import DraftRule
from rollout.draw.learned import Learned
from rollout.draw.temperature import EntropyLinear
from rollout.draw.truncation import TopW, Truncation

DRAFTS = 3
RULES = {
    "recorded": DraftRule(),
    "entropy": DraftRule(temperature=EntropyLinear(low=0.6, high=1.4)),
    "learned": DraftRule(temperature=Learned()),
    "top_p": DraftRule(truncation=Truncation(top_p=0.8)),
    "top_w": DraftRule(truncation=TopW(top_m=40)),
}


@pytest.fixture
def policy(model_path):
    return AutoModelForCausalLM.from_pretrained(model_path).eval()


@pytest.fixture
def layer(policy):
    layer = MtpLayer.like_last_layer(policy)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return layer


@pytest.fixture
def samples(drawn, make_batch):
    """Rollouts at temperatures that differ from token to token, some cut, some with tokens of somebody else."""
    return [sample for sample in drawn(make_batch(seed=2)).samples if counted_drafts(sample, DRAFTS)]


def unrolled_of(policy, layer, samples, rule=RULES["recorded"], drafts=DRAFTS) -> Unrolled:
    return Unrolled(Reading.of(policy, samples), layer, Ends.of(policy), rule, drafts)


def slow_target(model, sample, place: int) -> torch.Tensor:
    """What response token `place` was drawn from, in float64."""
    ids = torch.tensor([[*sample.prompt_ids, *sample.response_ids[:place]]], dtype=torch.int64)
    logits = model(input_ids=ids).logits[0, -1] / float(sample.temperatures[place])
    if sample.kept is not None and sample.kept.counts[place]:
        start = sample.kept.counts[:place].sum()
        mine = sample.kept.ids[start : start + sample.kept.counts[place]].tolist()
        outside = [token for token in range(len(logits)) if token not in mine]
        logits[outside] = -torch.inf
    return logits.softmax(-1)


def drafts_by_hand(samples):
    """(chain, draft, sample, response place) of every draft that counts; chains in the order of samples and places."""
    chain, found = 0, []
    for sample in samples:
        trained = np.ones(len(sample.response_ids), bool) if sample.trained is None else sample.trained
        for first in range(len(sample.response_ids) - 1):
            for draft in range(DRAFTS):
                place = first + 1 + draft
                if place >= len(sample.response_ids) or not trained[place]:
                    break
                found.append((chain, draft, sample, place))
            chain += 1
    return found


@torch.no_grad()
def test_the_target_is_what_each_token_was_drawn_from(policy, layer, samples, model_path):
    """Tempered as recorded, inside the kept tokens; counted up to the first token that the policy did not draw."""
    unrolled = unrolled_of(policy, layer, samples)
    chains = unrolled.chains(unrolled.outputs, slice(None))
    exact = AutoModelForCausalLM.from_pretrained(model_path, dtype=torch.float64).eval()
    expected = drafts_by_hand(samples)
    assert chains.counted.nonzero().tolist() == sorted([draft, chain] for chain, draft, _, _ in expected)
    assert sum(counted_drafts(sample, DRAFTS) for sample in samples) == len(expected)
    for chain, draft, sample, place in expected[::3]:
        p = slow_target(exact, sample, place)
        assert torch.allclose(chains.p[draft, chain].double(), p, atol=1e-5)
        assert chains.tokens[draft, chain] == sample.response_ids[place]


@torch.no_grad()
@pytest.mark.parametrize("kind", RULES)
def test_q_is_what_the_engine_draws_drafts_from(kind, policy, layer, samples):
    """At the recorded temperature, the one for the drafter's own entropy, or the last token's; and cut like p."""
    rule = RULES[kind]
    unrolled = unrolled_of(policy, layer, samples, rule)
    chains = unrolled.chains(unrolled.outputs, slice(None))
    raw = unrolled_of(policy, layer, samples).outputs.double() @ policy.lm_head.weight.double().T
    for chain, draft, sample, place in drafts_by_hand(samples)[::5]:
        z = raw[draft, chain]
        temperature = float(sample.temperatures[place])
        if kind == "entropy":
            entropy = -(z.softmax(-1) * z.log_softmax(-1)).sum()
            temperature = 0.6 + 0.8 * min(float(entropy) / 2.0, 1.0)
        if kind == "learned":
            temperature = float(sample.temperatures[place - draft - 1]) or 1.0
        q = (z / temperature).softmax(-1)
        if kind == "top_p":
            order = q.argsort(descending=True)
            q[order[int((q[order].cumsum(0) < 0.8).sum()) + 1 :]] = 0.0
            q /= q.sum()
        if kind == "top_w":
            assert 0 < int((chains.q[draft, chain] > 0).sum()) < 40
            q = torch.where(chains.q[draft, chain] > 0, q, 0.0)
            q /= q.sum()
        assert torch.allclose(chains.q[draft, chain].double(), q, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "kind"), [*((name, "recorded") for name in LOSSES), ("kl", "entropy"), ("end_to_end", "top_p")]
)
def test_chunks_and_parts_give_the_gradient_of_the_whole(
    name, kind, policy, layer, make_batch, truncated, with_context
):
    """A few chains and samples at a time: the same loss, counts and gradient as one backward pass over everything."""
    loss, rule = LOSSES[name], RULES[kind]
    samples = [one for one in with_context(truncated(make_batch(seed=2))).samples if counted_drafts(one, DRAFTS)]
    total = sum(counted_drafts(sample, DRAFTS) for sample in samples)
    whole = unrolled_of(policy, layer, samples, rule)
    chains = whole.chains(whole.outputs, slice(None))
    value = loss(chains).sum() / total
    expected = torch.autograd.grad(value, list(layer.parameters()))
    layer.zero_grad()
    sums = Sums.none(DRAFTS)
    for part in batches_by_size(samples, 40):
        descend(unrolled_of(policy, layer, [samples[index] for index in part], rule), loss, total, 7, sums)
    for parameter, gradient in zip(layer.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, atol=1e-5, rtol=1e-4)
    assert float(sums.loss) / total == pytest.approx(value.item(), abs=1e-5)
    assert sums.counted.sum() == total
    alpha = torch.where(chains.counted, acceptance(chains), 0.0)
    assert sums.accepted.tolist() == pytest.approx(alpha.sum(1).tolist(), rel=1e-4)
    assert sums.kept.tolist() == pytest.approx(alpha.cumprod(0).sum(1).tolist(), rel=1e-4)
    again = Sums.none(DRAFTS)
    judge(whole, loss, 5, again)
    assert float(again.loss) == pytest.approx(float(sums.loss), rel=1e-4)
    assert all(parameter.grad is None for parameter in policy.parameters())


@torch.no_grad()
def test_a_drafter_that_is_the_policy_is_always_accepted(policy, make_batch):
    """The policy's own hidden states in the place of the layer's outputs: p = q, whatever the temperatures."""
    samples = [sample for sample in make_batch().samples if counted_drafts(sample, 1)]
    reading = Reading.of(policy, samples)

    class Oracle(torch.nn.Module):
        def unroll(self, hidden, embeddings, rotary, drafts):
            return [reading.after.roll(-1, 1)] * drafts

    unrolled = Unrolled(reading, Oracle(), Ends.of(policy), DraftRule(), DRAFTS)
    sums = Sums.none(DRAFTS)
    judge(unrolled, LOSSES["end_to_end"], 100, sums)
    assert sums.acceptance == pytest.approx([1.0] * DRAFTS, abs=1e-5)
    assert float(sums.loss) == pytest.approx(0.0, abs=1e-3)


def test_a_response_of_one_token_has_no_drafts(make_sample):
    """Its token comes with the prompt; nor is there one where nothing behind the first token is the policy's."""
    rng = np.random.default_rng(0)
    assert counted_drafts(make_sample(rng, 0, [3], [4], 0.0), 8) == 0
    assert counted_drafts(make_sample(rng, 0, [3], [4, 5], 0.0), 8) == 1
    longer = dataclasses.replace(make_sample(rng, 0, [3], [4, 5, 6, 7], 0.0), trained=np.array([1, 1, 0, 1], bool))
    assert counted_drafts(longer, 8) == 2  # 5 after 4; 7 after 6
