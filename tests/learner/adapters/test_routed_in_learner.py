"""Adapters that route tokens, in a real learner: trained, saved, continued, and never published."""

import dataclasses

import numpy as np
import pytest
import safetensors.torch
import torch

from learner.adapters.dynmole import DynMole
from learner.adapters.lora_moe import HiLo, LoraMoe
from learner.adapters.losses import Balance, Orthogonality, RoutingVariance, TsallisEntropy, tsallis
from learner.adapters.queryable import QueryableLora
from learner.adapters.radar_gate import RadarGate
from learner.adapters.reference import Unadapted
from learner.adapters.routed import routed_layers
from learner.adapters.smora import Smora
from learner.batch import Share, Trained, shares
from learner.errors import ModelError
from learner.forward import Policy
from tests.learner.adapters.conftest import OBJECTIVE

LOSSES = {"balance": Balance(coefficient=0.1), "entropy": TsallisEntropy(coefficient=0.1)}
OUTPUTS = LOSSES | {"apart": Orthogonality(coefficient=0.1), "variance": RoutingVariance(coefficient=0.1)}
ADAPTERS = {
    "moe": LoraMoe(experts=3, rank=2, losses=OUTPUTS),
    "hilo": LoraMoe(allocation=HiLo(), losses=OUTPUTS),
    "smora": Smora(rank=8, active=4, block=2, speed=0.01, losses=OUTPUTS),
    "radar": RadarGate(experts=3, rank=2, losses=OUTPUTS),
    "dynmole": DynMole(rank=2, losses=OUTPUTS),
    "queryable": QueryableLora(rank=4, atoms=5, block=1, losses=LOSSES),
}


@pytest.fixture(params=ADAPTERS)
def adapter(request):
    return ADAPTERS[request.param]


def batches(make_batch, count):
    return [make_batch(seed=step, step=step, rewards=[1, 0, 0, 1] * 4) for step in range(count)]


def test_it_starts_as_the_base_and_can_be_switched_off(adapter, adapted, base, make_batch):
    """Additions of 0 at first; later, switched off, the base's bits."""
    batch = make_batch()
    trained = Trained(samples=batch.samples, advantages=np.zeros(len(batch.samples)))
    plain = Policy(adapted(ADAPTERS["moe"], 0), layout="auto", head_chunk_mib=1)
    micro = plain.micro_batch(trained, Share(indices=tuple(range(len(batch.samples))), live=True))
    with torch.no_grad():
        expected = Unadapted(plain)(micro)[0]
        torch.testing.assert_close(plain(micro)[0], expected, atol=1e-6, rtol=0)
        start = Policy(adapted(adapter, 0), layout="auto", head_chunk_mib=1)
        torch.testing.assert_close(start(micro)[0], expected, atol=1e-6, rtol=0)
        moved = Policy(adapted(adapter), layout="auto", head_chunk_mib=1)
        assert torch.equal(Unadapted(moved)(micro)[0], expected)
        assert (moved(micro)[0] - expected).abs().max() > 0.1


def test_only_the_adapter_moves_and_its_losses_are_told(adapter, start, make_batch, base):
    """Frozen are exactly the parameters of the model folder; every loss is a metric, and no statistics are kept."""
    worker = start(adapter)
    parameters = dict(worker.policy.named_parameters())
    before = {name: parameter.detach().clone() for name, parameter in parameters.items()}
    for batch in batches(make_batch, 4):
        metrics = worker.train(batch).metrics
    trained = {name for name, parameter in parameters.items() if parameter.requires_grad}
    still = {name for name in parameters if torch.equal(parameters[name], before[name])}
    assert still == parameters.keys() - trained
    assert {name.replace(".base_layer", "") for name in still} == {f"model.{one}" for one, _ in base.named_parameters()}
    assert all(np.isfinite(value) for value in metrics.values())
    assert {f"adapter/{name}" for name in adapter.losses} < metrics.keys()
    assert 0.0 < metrics["adapter/router_entropy"] < np.log(8)
    assert metrics["adapter/balance"] > 0.0
    assert all(layer.stats is None for layer in routed_layers(worker.policy.model))


def test_statistics_do_not_depend_on_the_layout(adapter, start, make_batch):
    """Pads and repeated prefixes are in none of them: padded rows give what the forest gives."""
    one, two = (start(adapter, layout=layout) for layout in ("forest", "padded"))
    for batch in batches(make_batch, 2):
        first, second = one.train(batch).metrics, two.train(batch).metrics
        names = [name for name in first if name.startswith("adapter/")]
        assert len(names) == len(adapter.losses) + 2
        for name in [*names, "train/grad_norm"]:
            assert first[name] == pytest.approx(second[name], rel=1e-3, abs=1e-6), name


@pytest.mark.parametrize("micro_batch_tokens", [10_000, 40])
def test_terms_reach_the_gradient(micro_batch_tokens, start, make_batch):
    """Where all responses are right only the terms pull: the norm is theirs, micro-batches weighed by their tokens."""
    adapter = LoraMoe(experts=3, rank=2, losses={"entropy": TsallisEntropy(coefficient=0.5)})
    objective = dataclasses.replace(OBJECTIVE, filters={})
    worker = start(adapter, objective, micro_batch_tokens=micro_batch_tokens)
    batch = make_batch(rewards=[1] * 16)
    policy, model = worker.policy, worker.policy.model
    trained = Trained(samples=batch.samples, advantages=np.zeros(16))
    plan = shares(batch.samples, 1, micro_batch_tokens)[0]
    assert (len(plan) == 1) == (micro_batch_tokens == 10_000)
    total, everything = 0.0, sum(len(sample.response_ids) for sample in batch.samples)
    for share in plan:
        micro = policy.micro_batch(trained, share)
        policy(micro)
        per_layer = [tsallis(layer.stats.probs, 1.1, 1e-5).mean() for layer in routed_layers(model)]
        total = total + 0.5 * sum(per_layer) / len(per_layer) * int(micro.mask.sum()) / everything
    parameters = [one for one in policy.parameters() if one.requires_grad]
    gradient = [one for one in torch.autograd.grad(total, parameters, allow_unused=True) if one is not None]
    norm = torch.stack([one.norm() for one in gradient]).norm()
    metrics = worker.train(batch).metrics
    assert metrics["train/loss"] == 0.0
    assert metrics["train/grad_norm"] == pytest.approx(norm.item(), rel=1e-4)
    assert metrics["train/grad_norm"] > 1e-4


def test_terms_weigh_micro_batches_by_their_tokens(start, make_batch):
    """The gradient of a term on a batch in two is the mean of both, by trained tokens; losses alone, no reward."""
    adapter = LoraMoe(experts=3, rank=2, top_k=3, losses={"entropy": TsallisEntropy(coefficient=1.0)})
    worker = start(adapter)
    model = worker.policy.model
    router = routed_layers(model)[0].router
    trained = Trained(samples=make_batch().samples, advantages=np.zeros(16))
    found = []
    for indices in ((0, 1, 2), (3, 4)):
        micro = worker.policy.micro_batch(trained, Share(indices=indices, live=True))
        worker.policy(micro)
        term, measures = adapter.terms(model, micro.node_rows, int(micro.mask.sum()), 40)
        whole = measures["adapter/entropy"].value / measures["adapter/entropy"].weight
        assert term.item() == pytest.approx(whole.item() * int(micro.mask.sum()) / 40, rel=1e-5)
        found.append(torch.autograd.grad(term, router)[0])
    assert all(one.abs().max() > 0 for one in found)
    idle = worker.policy.micro_batch(trained, Share(indices=(0,), live=False))
    worker.policy(idle)
    term, measures = adapter.terms(model, idle.node_rows, int(idle.mask.sum()), 40)
    assert term.item() == measures["adapter/entropy"].weight.item() == 0.0


def test_a_checkpoint_continues_bit_for_bit(adapter, start, make_batch, tmp_path):
    """Parameters, optimizer and SMoRA's counted bias; the frozen weights are not in it."""
    first, second, *later = batches(make_batch, 4)
    worker = start(adapter)
    worker.train(first)
    worker.train(second)
    worker.save(tmp_path)
    saved = safetensors.torch.load_file(tmp_path / "trained.safetensors")
    assert not any("base_layer" in name or "embed" in name or "head" in name for name in saved)
    metrics = [worker.train(batch).metrics for batch in later]
    again = start(adapter)
    again.load(tmp_path)
    if isinstance(adapter, Smora):
        assert any(layer.leaning.any() for layer in routed_layers(again.policy.model))
    for batch, expected in zip(later, metrics, strict=True):
        assert again.train(batch).metrics | {"learner/step_s": 0} == expected | {"learner/step_s": 0}
    ours, theirs = worker.policy.state_dict(), again.policy.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_it_is_neither_published_nor_exported(adapter, start, tmp_path):
    """One sentence, and the reason is in it before anything starts as well."""
    worker = start(adapter)
    for attempt in (worker.publish, lambda: worker.export(tmp_path)):
        with pytest.raises(
            ModelError, match=r"adapter of \S+ mixes its experts anew for every token, so it is no weight"
        ):
            attempt()
    assert adapter.obstacle.startswith(f"{adapter.method} mixes its experts anew for every token")
