"""Reads and marks in the learner itself: what an algorithm asks for reaches its loss, and its gradient the weights."""

import dataclasses
import itertools
import math
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from transformers import AutoModelForCausalLM

from learner.batch import trained_part
from learner.config import LearnerConfig
from learner.objective import Objective
from learner.objective.advantage import GroupMean
from learner.objective.aggregate import TokenMean
from learner.objective.reads import LogProbAt, ReferenceDivergence, TopPEntropy
from learner.objective.surrogate import Clipped
from learner.worker import LearnerWorker

CONF = Path(__file__).parents[2] / "conf"


@dataclass(frozen=True, kw_only=True)
class Probe:
    """X = the square of a read, or a mark times lp."""

    read: Any = None
    mark: str | None = None

    @property
    def needs(self):
        return frozenset() if self.read is None else frozenset({self.read})

    def __call__(self, stats):
        if self.mark is not None:
            return stats.marks[self.mark][:, None] * stats.lp, {}
        return stats.reads[self.read].square(), {}


@dataclass(frozen=True, kw_only=True)
class RewardMark:
    def __call__(self, outcomes):
        return 3.0 * outcomes.rewards + outcomes.groups


@dataclass(frozen=True, kw_only=True)
class SecondHalf:
    def __call__(self, outcomes):
        return torch.arange(len(outcomes.rewards)) % 3 > 0


def objective_of(**changes) -> Objective:
    """Nothing but the probe: without advantages there is no policy gradient."""
    pieces = {"advantage": lambda outcomes: torch.zeros_like(outcomes.rewards), "surrogate": Clipped()}
    return Objective(**(pieces | {"aggregate": TokenMean()} | changes))


@pytest.fixture
def start(model_path, free_port):
    def start(objective, **changes) -> LearnerWorker:
        config = LearnerConfig(**({"lr": 5e-3, "mismatch_kl_limit": 1e9} | changes))
        return LearnerWorker(model_path, config, objective, 0, 1, "127.0.0.1", free_port, 0, 10)

    return start


def gradient_of(worker, batch) -> dict[str, torch.Tensor]:
    caught = {}

    def catch(lr):
        named = worker.policy.model.named_parameters()
        caught.update({name: parameter.grad.detach().clone() for name, parameter in named})
        return 1.0

    worker.engine.step = catch
    worker.train(batch)
    return caught


def logits_of(model, sample):
    ids = torch.tensor([[*sample.prompt_ids, *sample.response_ids]], dtype=torch.int64)
    return model(input_ids=ids).logits[0, len(sample.prompt_ids) - 1 : -1]


def slow_value(read, logits, reference, token):
    lp = logits.log_softmax(-1)
    match read:
        case LogProbAt(temperature=temperature):
            return (logits / temperature).log_softmax(-1)[token]
        case ReferenceDivergence():
            return sum(lp[a].exp() * (lp[a] - reference.log_softmax(-1)[a]) for a in range(len(lp)))
        case TopPEntropy(p=p):
            total, chosen = 0.0, []
            for a in lp.argsort(descending=True).tolist():
                total += lp[a].exp().item()
                if total >= p:
                    break
                chosen.append(a)
            if not chosen:
                return 0.0 * lp.sum()
            q = lp[chosen].exp() / lp[chosen].exp().sum()
            return -(q * q.log()).sum()


def assert_equal_gradients(found, model):
    for name, parameter in model.named_parameters():
        scale = max(parameter.grad.abs().max().item(), 1e-3)
        torch.testing.assert_close(found[name].double(), parameter.grad, atol=5e-5 * scale, rtol=2e-3)


@pytest.mark.parametrize("micro_batch_tokens", [25, 10_000])
@pytest.mark.parametrize(
    "read", [LogProbAt(temperature=1.3, gradient=True), TopPEntropy(p=0.9), ReferenceDivergence()], ids=repr
)
def test_the_gradient_of_a_read_reaches_every_weight(read, micro_batch_tokens, start, model_path, make_batch):
    """Loss and gradient are those of slow float64 models, one sequence at a time, however the batch is cut."""
    objective = objective_of(regularisers={"probe": Probe(read=read)})
    policy, reference = (AutoModelForCausalLM.from_pretrained(model_path, dtype=torch.float64) for _ in range(2))
    worker = start(objective, micro_batch_tokens=micro_batch_tokens)
    batch = make_batch(groups=3)
    if read.reference:  # nothing diverges before the policy has moved
        worker.objective = objective_of(regularisers={"probe": Probe(read=TopPEntropy())})
        worker.train(batch)
        worker.objective = objective
        policy.load_state_dict(safetensors.torch.load(worker.publish()[1].tobytes()))
        batch = dataclasses.replace(batch, step=1)
    total, tokens = 0.0, 0
    for sample in batch.samples:
        with torch.no_grad():
            other = logits_of(reference, sample)
        for logits, at_reference, token in zip(logits_of(policy, sample), other, sample.response_ids, strict=True):
            total = total + slow_value(read, logits, at_reference, int(token)).square()
            tokens += 1
    (total / tokens).backward()
    assert_equal_gradients(gradient_of(worker, batch), policy)


def normalised(rewards) -> list[float]:
    """GRPO's advantages of one group."""
    if len(rewards) < 2:
        return [0.0] * len(rewards)
    return [(reward - statistics.fmean(rewards)) / (statistics.stdev(rewards) + 1e-6) for reward in rewards]


def of_conf(name) -> Objective:
    run = {"temperature": "fixed", "strategy": "second_rollout", "algorithm": name}
    parts = {group: OmegaConf.load(CONF / group / f"{file}.yaml") for group, file in run.items()}
    return instantiate(OmegaConf.create(parts).algorithm, _convert_="all")


def token_logprobs(model, sample, temperature):
    ids = torch.as_tensor(sample.response_ids, dtype=torch.int64)[:, None]
    return (logits_of(model, sample) / temperature).log_softmax(-1).gather(1, ids)[:, 0]


def test_aepo_against_a_slow_loop(start, model_path, make_batch):
    """The whole step: main responses as GRPO, right hotter ones by the gradient of lp at T = 1, wrong ones left out."""
    batch = make_batch(groups=3, size=5)
    samples = []
    for place, sample in enumerate(batch.samples):
        second = place % 5 >= 3
        heat = np.full(len(sample.response_ids), 1.2 if second else 1.0, np.float32)
        samples.append(dataclasses.replace(sample, temperatures=heat, reward=float([1, 0, 0, 1, 0][place % 5])))
    samples[5:10] = [dataclasses.replace(sample, reward=1.0) for sample in samples[5:10]]  # a group that agrees
    batch = dataclasses.replace(batch, samples=tuple(samples))
    model = AutoModelForCausalLM.from_pretrained(model_path, dtype=torch.float64)
    total, tokens = 0.0, 0
    for group in range(3):
        members = samples[5 * group : 5 * group + 5]
        main = zip(members[:3], normalised([sample.reward for sample in members[:3]]), strict=True)
        whole = normalised([sample.reward for sample in members])
        second = [(sample, 1.0) for sample, a in zip(members[3:], whole[3:], strict=True) if a > 0.05]
        for sample, advantage in [*main, *second]:
            drawn = token_logprobs(model, sample, float(sample.temperatures[0])).detach()
            weight = (drawn - torch.from_numpy(sample.sampler_logprobs)).exp().clamp(max=2.0)
            total = total - (weight * advantage * token_logprobs(model, sample, 1.0)).sum()
            tokens += len(drawn)
    (total / tokens).backward()
    worker = start(of_conf("aepo"), micro_batch_tokens=25)
    found = gradient_of(worker, batch)
    assert_equal_gradients(found, model)


def test_dcpo_against_a_slow_loop(start, model_path, make_batch):
    """The whole step below the target entropy: advantages mixed with the ratio of T = 1.2 to T = 1 where right."""
    batch = make_batch(groups=3, size=4, rewards=[1, 0, 0, 1] * 2 + [1] * 4, temperature=1.0)
    rewards = [sample.reward for sample in batch.samples]
    a = 0.03 / statistics.fmean(reward > 0.05 for reward in rewards)
    a = a / (1 + a)
    model = AutoModelForCausalLM.from_pretrained(model_path, dtype=torch.float64)
    total, tokens = 0.0, 0
    for group in range(3):
        members = batch.samples[4 * group : 4 * group + 4]
        for sample, advantage in zip(members, normalised([one.reward for one in members]), strict=True):
            lp = token_logprobs(model, sample, 1.0)
            ratio = (token_logprobs(model, sample, 1.2) - lp).detach().exp()
            credit = (1 - a) * advantage + a * (sample.reward > 0.05) * ratio
            weight = (lp.detach() - torch.from_numpy(sample.sampler_logprobs)).exp().clamp(max=2.0)
            total = total - (weight * credit * lp).sum()
            tokens += len(lp)
    (total / tokens).backward()
    worker = start(of_conf("dcpo"), micro_batch_tokens=25)
    worker.controller_states["contrast"] = {"entropy": 0.47}
    assert_equal_gradients(gradient_of(worker, batch), model)


def allowed_tokens(sample, place, vocabulary):
    if sample.kept is None or sample.kept.counts[place] == 0:
        return list(range(vocabulary))
    end = int(sample.kept.counts[: place + 1].sum())
    return sample.kept.ids[end - sample.kept.counts[place] : end].tolist()


@pytest.mark.parametrize("layout", ["forest", "padded"])
@pytest.mark.parametrize("micro_batch_tokens", [25, 10_000])
def test_distil_against_a_slow_loop(layout, micro_batch_tokens, drawn, start, model_path, make_batch, with_feedback):
    """The whole step, without its baseline: the present policy with feedback in its prompt is the teacher."""
    batch = with_feedback(drawn(make_batch(groups=3, size=4)))
    assert {sample.teacher_prompt_ids is None for sample in batch.samples} == {True, False}
    model = AutoModelForCausalLM.from_pretrained(model_path, dtype=torch.float64)
    total, tokens = 0.0, 0
    for sample in batch.samples:
        places = sample.trained_places.tolist()
        tokens += len(places)
        if sample.teacher_prompt_ids is None:
            continue
        ours = logits_of(model, sample)
        with torch.no_grad():
            theirs = logits_of(model, dataclasses.replace(sample, prompt_ids=sample.teacher_prompt_ids))
        cost, lp = {}, {}
        for place in places:
            inside = allowed_tokens(sample, place, ours.shape[-1])
            heat = float(sample.temperatures[place])
            logprobs = (ours[place, inside] / heat).log_softmax(-1)
            cost[place] = -((theirs[place, inside] / heat).softmax(-1) * logprobs).sum()
            lp[place] = logprobs[inside.index(int(sample.response_ids[place]))]
        for place in places:
            future = sum((cost[later].detach() for later in places if later > place), torch.tensor(0.0))
            weight = (lp[place].detach() - float(sample.sampler_logprobs[place])).exp().clamp(max=2.0)
            total = total + weight * (cost[place] + lp[place] * future)
    (total / tokens).backward()
    objective = of_conf("distil")
    objective = dataclasses.replace(objective, surrogate=dataclasses.replace(objective.surrogate, baseline=False))
    worker = start(objective, micro_batch_tokens=micro_batch_tokens, layout=layout)
    assert_equal_gradients(gradient_of(worker, batch), model)


def distributions(model, sample):
    """At each token: float64 [vocab] what it was drawn from, at the recorded temperature inside the kept tokens."""
    logits = logits_of(model, sample) / torch.from_numpy(sample.temperatures).double()[:, None]
    for place, row in enumerate(logits):
        cut = torch.zeros(len(row), dtype=torch.bool)
        if sample.kept is not None and (count := sample.kept.counts[place]):
            start = sample.kept.counts[:place].sum()
            cut[:] = True
            cut[sample.kept.ids[start : start + count].astype(np.int64)] = False
        yield row.masked_fill(cut, -torch.inf).softmax(0)


@pytest.mark.parametrize("cut", [False, True])
def test_apo_against_a_slow_loop(cut, start, model_path, make_batch, truncated):
    """The whole step of a policy that has left its reference: punished tokens are anchored, the others as in GRPO."""
    worker = start(of_conf("apo"), micro_batch_tokens=25)
    worker.train(make_batch(seed=1, groups=3))
    policy, reference = (AutoModelForCausalLM.from_pretrained(model_path, dtype=torch.float64) for _ in range(2))
    policy.load_state_dict(safetensors.torch.load(worker.publish()[1].tobytes()))
    batch = make_batch(groups=3, step=1, rewards=[1, 0, 0, 1] * 2 + [0] * 4)
    batch = truncated(batch) if cut else batch
    total, anchored = 0.0, []
    for group in range(3):
        members = batch.samples[4 * group : 4 * group + 4]
        for sample, advantage in zip(members, normalised([one.reward for one in members]), strict=True):
            share, length = 0.0, len(sample.response_ids)
            with torch.no_grad():
                others = list(distributions(reference, sample))
            for place, (pi, other) in enumerate(zip(distributions(policy, sample), others, strict=True)):
                token = int(sample.response_ids[place])
                ratio = pi[token] / pi[token].detach()
                weight = min((pi[token].log().item() - sample.sampler_logprobs[place]), math.log(2.0))
                if advantage < 0:
                    anchors = [a for a in other.argsort(descending=True)[:8].tolist() if a != token]
                    held = max(sum(other[a].item() for a in anchors), 1e-6)
                    ratio = 1.05 * ratio - 0.1 * sum(pi[a] for a in anchors) / held
                    anchored.append(sum(pi[a].item() for a in anchors) / held)
                share = share - math.exp(weight) * advantage * ratio
            total = total + share / length
    (total / len(batch.samples)).backward()
    assert max(abs(each - 1.0) for each in anchored) > 0.1, "the policy has moved"
    assert_equal_gradients(gradient_of(worker, batch), policy)


@pytest.mark.parametrize("layout", ["forest", "padded"])
def test_attention_entropy_against_a_slow_loop(layout, start, model_path, make_batch):
    """The whole step, a quarter of the way: DAPO with each token weighed by its rank in the attention of layer 1."""
    batch = make_batch(groups=3, size=4, rewards=[1, 0, 0, 1] * 2 + [1] * 4, temperature=1.0)
    model = AutoModelForCausalLM.from_pretrained(model_path, dtype=torch.float64, attn_implementation="eager")
    total, tokens = 0.0, 0
    for group in range(2):
        members = batch.samples[4 * group : 4 * group + 4]
        for sample, advantage in zip(members, normalised([one.reward for one in members]), strict=True):
            ids = torch.tensor([[*sample.prompt_ids, *sample.response_ids]], dtype=torch.int64)
            heads = model(input_ids=ids, output_attentions=True).attentions[1][0].detach()
            at = len(sample.prompt_ids) - 1 + torch.arange(len(sample.response_ids))
            rows = heads.mean(0)[at]
            wide = [-torch.xlogy(row, row).sum().item() / max(math.log((row > 0).sum()), 1e-9) for row in rows]
            lp = token_logprobs(model, sample, 1.0)
            weight = (lp.detach() - torch.from_numpy(sample.sampler_logprobs)).exp().clamp(max=2.0)
            for place in range(len(wide)):
                rank = sum(other < wide[place] for other in wide) / max(1, len(wide) - 1) if len(wide) > 1 else 0.5
                soft = 1.0 + 0.5 * (1.0 - 2.0 * 0.25) * (1.0 - 2.0 * rank)
                total = total - soft * weight[place] * advantage * lp[place]
            tokens += len(wide)
    (total / tokens).backward()
    worker = start(of_conf("attention_entropy"), micro_batch_tokens=25, layout=layout)
    worker.controller_states["low_to_high"] = {"step": 50.0}
    assert_equal_gradients(gradient_of(worker, batch), model)


def answer_states(model, samples) -> list[torch.Tensor]:
    """After the final norm, before the last token."""
    found = []
    for sample in samples:
        ids = torch.tensor([[*sample.prompt_ids, *sample.response_ids]], dtype=torch.int64)
        found.append(model(input_ids=ids, output_hidden_states=True).hidden_states[-1][0, -2])
    return found


@pytest.mark.parametrize("micro_batch_tokens", [25, 10_000])
@pytest.mark.parametrize("layout", ["forest", "padded"])
def test_hidden_align_against_a_slow_loop(layout, micro_batch_tokens, start, model_path, make_batch):
    """DAPO and the pairwise cosines of right answers, whether a group is in one micro-batch or in several."""
    rewards = [1, 0, 1, 1, 0] + [1, 1, 0, 0, 0] + [1, 0, 0, 0, 0] + [1] * 5  # three, two, one pairs; one dropped
    batch = make_batch(groups=4, size=5, rewards=rewards, temperature=1.0)
    samples = [dataclasses.replace(one, unshaped=rewards[i]) for i, one in enumerate(batch.samples)]
    batch = dataclasses.replace(batch, samples=tuple(samples))
    model = AutoModelForCausalLM.from_pretrained(model_path, dtype=torch.float64)
    total, tokens, apart, alike = 0.0, 0, [], {0: [], 1: []}
    for group in range(3):
        members = samples[5 * group : 5 * group + 5]
        for sample, advantage in zip(members, normalised([one.reward for one in members]), strict=True):
            lp = token_logprobs(model, sample, 1.0)
            weight = (lp.detach() - torch.from_numpy(sample.sampler_logprobs)).exp().clamp(max=2.0)
            total = total - (weight * advantage * lp).sum()
            tokens += len(lp)
        for right in (0, 1):
            states = answer_states(model, [one for one in members if one.unshaped == right])
            pairs = list(itertools.combinations(states, 2))
            if pairs:
                cosines = [torch.cosine_similarity(one, other, dim=0) for one, other in pairs]
                alike[right].append(sum(cosines).item() / len(pairs))
                if right:
                    apart.append(1 - sum(cosines) / len(pairs))
    (total / tokens + 0.5 * sum(apart) / len(apart)).backward()
    objective = of_conf("hidden_align")
    align = dataclasses.replace(objective.regularisers["align"], coefficient=0.5)  # as strong as the rest
    worker = start(
        dataclasses.replace(objective, regularisers={"align": align}),
        micro_batch_tokens=micro_batch_tokens,
        layout=layout,
    )
    found = {}
    worker.engine.step = lambda lr: (
        found.update({name: one.grad.detach().clone() for name, one in worker.policy.model.named_parameters()}) or 1.0
    )
    metrics = worker.train(batch).metrics
    assert_equal_gradients(found, model)
    assert metrics["regulariser/align"] == pytest.approx(0.5 * statistics.fmean(one.item() for one in apart), rel=1e-4)
    assert metrics["align/right_cosine"] == pytest.approx(statistics.fmean(alike[1]), rel=1e-4)
    assert metrics["align/wrong_cosine"] == pytest.approx(statistics.fmean(alike[0]), rel=1e-4)
    assert metrics["align/marked_fraction"] == 0.0


@pytest.mark.parametrize("minibatches", [1, 2])
def test_a_mark_belongs_to_its_sample(minibatches, start, model_path, make_batch):
    """Through filter, minibatches and micro-batches: the gradient of mark * lp of the last minibatch, by hand."""
    objective = objective_of(
        marks={"m": RewardMark()}, regularisers={"probe": Probe(mark="m")}, filters={"some": SecondHalf()}
    )
    batch = make_batch(groups=4, temperature=1.0)
    worker = start(objective, micro_batch_tokens=25, minibatches=minibatches)
    caught = []

    def catch(lr):
        named = worker.policy.model.named_parameters()
        caught.append({name: parameter.grad.detach().clone() for name, parameter in named})
        worker.policy.model.zero_grad()
        return 1.0

    worker.engine.step = catch
    worker.train(batch)
    assert len(caught) == minibatches
    kept = [sample for place, sample in enumerate(batch.samples) if place % 3 > 0]
    for part, gradient in zip(range(minibatches), caught, strict=True):
        groups = range(4) if minibatches == 1 else range(2 * part, 2 * part + 2)
        samples = [sample for sample in kept if sample.group in groups]
        model = AutoModelForCausalLM.from_pretrained(model_path, dtype=torch.float64)
        total = 0.0
        for sample in samples:
            ids = torch.as_tensor(sample.response_ids, dtype=torch.int64)
            lp = logits_of(model, sample).log_softmax(-1).gather(1, ids[:, None])
            total = total + (3.0 * sample.reward + sample.group) * lp.sum()
        (total / sum(len(sample.response_ids) for sample in samples)).backward()
        assert_equal_gradients(gradient, model)


def test_what_is_not_asked_for_is_not_computed(start, make_batch, monkeypatch):
    """Plain GRPO evaluates no read and needs no second model."""
    monkeypatch.setattr(TopPEntropy, "__call__", lambda *_: pytest.fail("nobody needs it"))
    worker = start(objective_of(advantage=GroupMean()))
    worker.train(make_batch())
    assert worker.reference is None
    assert worker.objective.reads == ()


def test_the_learner_reports_what_an_advantage_measures(start, make_batch):
    @dataclass(frozen=True, kw_only=True)
    class Measuring:
        def __call__(self, outcomes):
            return torch.zeros_like(outcomes.rewards)

        def measured(self, outcomes):
            return {"some/number": float(len(outcomes.rewards))}

    objective = objective_of(advantage=Measuring())
    assert trained_part(make_batch(), objective).metrics == {"some/number": 16.0}
    assert start(objective).train(make_batch()).metrics["some/number"] == 16.0
