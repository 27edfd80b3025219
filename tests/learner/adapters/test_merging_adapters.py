"""Every adapter that merges: what is trained, published, merged, exported and continued, in a real learner."""

import dataclasses

import pytest
import safetensors.torch
import torch
from transformers import AutoModelForCausalLM

from learner.adapters.lora import Lora
from learner.adapters.lora_moe import HiLo, LoraMoe
from learner.adapters.merge import merged_weights
from learner.adapters.reference import Unadapted
from learner.adapters.targets import LowestCondition, NamedLayers
from learner.batch import Share, Trained, trained_part
from learner.errors import CheckpointError
from learner.forward import Policy
from learner.model import load_model
from learner.objective.regularisers import ReferenceKl
from rollout.vllm_adapter.weights.adapter import merged
from rollout.vllm_adapter.weights.payload import read

DEEPSPEEDS_IMPORT = "ignore:.torch.jit.script_method. is deprecated:DeprecationWarning"
MLP = NamedLayers(names=("gate_proj", "up_proj", "down_proj"))
ADAPTERS = {
    "lora": Lora(rank=4, alpha=6.0),
    "rank-stabilised, orthogonal": Lora(rank=4, init="orthogonal", rank_stabilised=True, targets=MLP),
    "kappa": Lora(rank=3, alpha=4.0, targets=LowestCondition(keep=5)),
    "static mix": LoraMoe(routing="static", experts=3, top_k=2, rank=2),
    "hilo": LoraMoe(routing="static", allocation=HiLo()),
}


# ZeRO-2 deals with parameters of both kinds in one way, however they were chosen.
STAGED = [(0, name) for name in ADAPTERS] + [(2, name) for name in ("lora", "static mix")]


@pytest.fixture(params=ADAPTERS)
def adapter(request):
    return ADAPTERS[request.param]


def batches(make_batch, count):
    return [make_batch(seed=step, step=step, rewards=[1, 0, 0, 1] * 4) for step in range(count)]


def test_it_starts_as_the_base(adapter, adapted, base, logits, tokens):
    """Version 0 of the engines is the model folder: the additions are 0 at first."""
    torch.testing.assert_close(logits(adapted(adapter, scale=0), tokens), logits(base, tokens), atol=1e-5, rtol=0)


def test_merged_weights_compute_the_same(adapter, adapted, base, logits, tokens):
    model = adapted(adapter)
    expected = logits(model, tokens)
    assert (expected - logits(base, tokens)).abs().max() > 0.1
    whole = AutoModelForCausalLM.from_config(base.config).eval()
    whole.load_state_dict(merged_weights(model))
    torch.testing.assert_close(logits(whole, tokens), expected, atol=1e-5, rtol=1e-5)


def test_switched_off_it_is_the_base_bit_for_bit(adapter, model_path, adapted, make_batch):
    """In both layouts, also while a forward pass waits for its backward pass, and it is on again afterwards."""
    for layout in ("forest", "padded"):
        plain = Policy(load_model(model_path, torch.float32, torch.device("cpu")), layout=layout, head_chunk_mib=1)
        policy = Policy(adapted(adapter), layout=layout, head_chunk_mib=1)
        batch = make_batch(rewards=[1, 0, 0, 1] * 4)
        trained = Trained(samples=batch.samples, advantages=torch.zeros(len(batch.samples)).numpy())
        micro = policy.micro_batch(trained, Share(indices=tuple(range(len(batch.samples))), live=True))
        before = policy(micro)[0]
        with torch.no_grad():
            off, expected = Unadapted(policy)(micro), plain(micro)
            assert torch.equal(off[0], expected[0])
            assert torch.equal(off[1], expected[1])
            assert torch.equal(Unadapted(policy).hidden_states(micro), plain.hidden_states(micro))
            assert torch.equal(Unadapted(policy).as_reference(micro).hidden, plain.as_reference(micro).hidden)
        before.sum().backward()
        assert all(p.grad is not None for p in policy.parameters() if p.requires_grad)
        assert torch.equal(policy(micro)[0], before)
        assert (before - expected[0]).abs().max() > 0.1


@pytest.mark.filterwarnings(DEEPSPEEDS_IMPORT)
@pytest.mark.parametrize(("stage", "name"), STAGED)
def test_only_the_adapter_moves(stage, name, start, make_batch, base):
    """Frozen parameters keep every bit, get no gradient and no optimizer state; the others all move."""
    worker = start(ADAPTERS[name], zero_stage=stage)
    parameters = dict(worker.policy.named_parameters())
    before = {name: parameter.detach().clone() for name, parameter in parameters.items()}
    for batch in batches(make_batch, 3):
        worker.train(batch)
    trained = {name for name, parameter in parameters.items() if parameter.requires_grad}
    frozen = {name.replace(".base_layer", "") for name in parameters.keys() - trained}
    assert frozen == {f"model.{name}" for name, _ in base.named_parameters()}
    assert {name for name in parameters if not torch.equal(parameters[name], before[name])} == trained
    optimized = sum(one.numel() for group in worker.engine.optimizer.param_groups for one in group["params"])
    assert optimized <= sum(parameters[name].numel() for name in trained) + 64  # ZeRO pads
    assert all(parameters[name].grad is None for name in parameters if name not in trained)


def test_what_engines_merge_is_what_the_learner_merges(adapter, start, make_batch, model_path):
    """Published alone or as whole weights, an engine ends up with the same bits."""
    alone, whole = start(adapter), start(dataclasses.replace(adapter, publish="merged"))
    for batch in batches(make_batch, 2):
        assert alone.train(batch).metrics["train/loss"] == whole.train(batch).metrics["train/loss"]
    record, payload = alone.publish()
    sent = read(payload, record.version)
    assert sent.is_adapter
    assert all(name.endswith((".lora_A.weight", ".lora_B.weight")) for name in sent.tensors)
    engine = merged(model_path, sent.tensors, record.version, tied=True)
    tensors = safetensors.torch.load(whole.publish()[1].tobytes())
    assert engine.keys() == tensors.keys()
    assert all(torch.equal(engine[name], tensors[name]) for name in tensors)
    assert whole.publish()[0].probe_entropy == record.probe_entropy


def test_an_export_is_the_merged_model(adapter, start, make_batch, tmp_path, logits, tokens):
    """transformers loads it without knowing of any adapter, and it computes what the learner computes."""
    worker = start(dataclasses.replace(adapter, publish="merged"))
    worker.train(batches(make_batch, 1)[0])
    worker.export(tmp_path / "policy")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "policy").eval()
    tensors = safetensors.torch.load(worker.publish()[1].tobytes())
    assert model.state_dict().keys() == tensors.keys()
    assert all(torch.equal(model.state_dict()[name], tensors[name]) for name in tensors)
    assert (tmp_path / "policy" / "tokenizer.json").exists()
    assert not list((tmp_path / "policy").glob("adapter*"))


@pytest.mark.filterwarnings(DEEPSPEEDS_IMPORT)
@pytest.mark.parametrize(("stage", "name"), STAGED)
def test_a_checkpoint_continues_bit_for_bit(stage, name, start, make_batch, tmp_path):
    """It holds the adapter alone; a new learner goes on with the same numbers and bits."""
    first, *later = batches(make_batch, 3)
    adapter = ADAPTERS[name]
    worker = start(adapter, zero_stage=stage)
    worker.train(first)
    worker.save(tmp_path)
    saved = {name.partition("/")[2] for name in safetensors.torch.load_file(tmp_path / "trained.safetensors")}
    assert saved == {name for name, one in worker.policy.named_parameters() if one.requires_grad}
    metrics = [worker.train(batch).metrics for batch in later]
    again = start(adapter, zero_stage=stage)
    again.load(tmp_path)
    for batch, expected in zip(later, metrics, strict=True):
        assert again.train(batch).metrics | {"learner/step_s": 0} == expected | {"learner/step_s": 0}
    assert again.publish()[0] == worker.publish()[0]


@pytest.mark.filterwarnings(DEEPSPEEDS_IMPORT)
@pytest.mark.parametrize(("stage", "name"), [(0, "lora"), (2, "lora"), (0, "static mix")])
def test_bfloat16_publishes_what_it_rounds_once(stage, name, start, make_batch, model_path):
    """An adapter in bfloat16 on a bfloat16 base: engines and the learner merge to the same bits, and only it moves."""
    adapter = ADAPTERS[name]
    alone, whole = start(adapter, dtype="bfloat16", zero_stage=stage), dataclasses.replace(adapter, publish="merged")
    whole = start(whole, dtype="bfloat16", zero_stage=stage)
    base = {name: one.clone() for name, one in alone.policy.named_parameters() if not one.requires_grad}
    for batch in batches(make_batch, 2):
        alone.train(batch)
        whole.train(batch)
    assert all(torch.equal(dict(alone.policy.named_parameters())[name], one) for name, one in base.items())
    tensors = safetensors.torch.load(whole.publish()[1].tobytes())
    record, payload = alone.publish()
    sent = read(payload, record.version).tensors
    assert {one.dtype for one in sent.values()} == {torch.bfloat16}
    folder = {
        name: one.bfloat16() for name, one in safetensors.torch.load_file(model_path / "model.safetensors").items()
    }
    for layer in {name.rpartition(".lora_")[0] for name in sent}:
        a, b = (sent[f"{layer}.lora_{letter}.weight"].double() for letter in "AB")
        exact = folder[f"{layer}.weight"].double() + b @ a
        found = tensors[f"{layer}.weight"]
        assert found.dtype == torch.bfloat16
        torch.testing.assert_close(found.double(), exact, rtol=2**-8, atol=1e-6)
        assert not torch.equal(found, folder[f"{layer}.weight"])


@pytest.mark.parametrize(
    "other", [None, Lora(rank=2), Lora(rank=4), Lora(rank=4, targets=NamedLayers(names=("up_proj",)))]
)
def test_a_checkpoint_of_another_adapter_is_refused(other, start, make_batch, tmp_path):
    """Also one of the same shapes on other layers, which nothing else would notice."""
    worker = start(Lora(rank=4, targets=NamedLayers(names=("gate_proj",))))
    worker.train(batches(make_batch, 1)[0])
    worker.save(tmp_path)
    with pytest.raises(CheckpointError, match="is of another model or adapter"):
        start(other).load(tmp_path)


def test_the_reference_is_the_policy_without_its_adapter(adapter, start, plain_learner, model_path, make_batch):
    """No second model: 0 in the first step, then the KL between the folder's log-probabilities and the present ones."""
    objective = dataclasses.replace(
        start(None).objective, filters={}, regularisers={"kl": ReferenceKl(coefficient=0.0)}
    )
    worker, first, plain = start(adapter, objective), plain_learner(model_path), plain_learner(model_path)
    assert isinstance(worker.reference, Unadapted)
    one, two = batches(make_batch, 2)
    assert worker.train(one).metrics["train/reference_kl"] == pytest.approx(0.0, abs=1e-9)
    plain.model.load_state_dict(merged_weights(worker.policy.model))
    with torch.no_grad():
        samples = trained_part(two, objective).samples
        d = torch.cat([first.logprobs(sample)[0] - plain.logprobs(sample)[0] for sample in samples])
    metrics = worker.train(two).metrics
    assert metrics["train/reference_kl"] == pytest.approx((d.exp() - d - 1).mean().item(), rel=1e-3)
    assert metrics["train/reference_kl"] > 1e-5
