"""Weights that change under a running engine: each token is drawn by the version it says, or the engine says no."""

import asyncio
from collections.abc import Mapping
from types import SimpleNamespace

import numpy as np
import pytest
import safetensors.torch
import torch
import xxhash
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from torch import Tensor
from transformers import Qwen2ForCausalLM

from learner.publish import ADAPTER, adapter_by_name, publication
from orchestration.errors import WorkerFailure
from rollout.config import RolloutConfig, SpeculativeConfig
from rollout.draw.distribution import entropy
from rollout.draw.temperature import Fixed
from rollout.errors import EngineLostError, WeightUpdateError
from rollout.messages import FinishReason, Rollout, Taken
from tests.models import random_mtp_policy
from tests.rollout.engines import DEADLINE_S, Running, ask, recompute, recorded_errors, started, update, update_of

SLOW = pytest.mark.slow
GROUPS, GROUP_SIZE, TOKENS = 4, 8, 400
DRAFTING = "mtp_layers"


def engine(request, folder, **changes) -> Running:
    policy = random_mtp_policy(folder)
    config = RolloutConfig(max_model_len=512, max_num_seqs=64, kv_cache_gib=0.1, **changes)
    return started(folder, policy, config, SpeculativeConfig(method="mtp"), f"rollout-{request.node.name}")


@pytest.fixture(scope="module", params=["in_process", pytest.param("async_llm", marks=SLOW)])
def running(request, ray_cluster, tmp_path_factory) -> Running:
    with engine(request, tmp_path_factory.mktemp("policy"), engine=request.param) as worker:
        yield worker


def drafting_layers(running: Running) -> dict[str, Tensor]:
    saved = load_file(running.folder / "model.safetensors")
    return {name: one for name, one in saved.items() if DRAFTING in name}


@torch.no_grad()
def moved(policy: Qwen2ForCausalLM, seed: int) -> Qwen2ForCausalLM:
    """Every weight somewhere else, biases too."""
    new = Qwen2ForCausalLM(policy.config).eval()
    generator = torch.Generator().manual_seed(seed)
    for mine, theirs in zip(new.parameters(), policy.parameters(), strict=True):
        mine.copy_(theirs + 0.02 * torch.randn(theirs.shape, generator=generator))
    return new


def blurred(layers: Mapping[str, Tensor], seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: one + 0.01 * torch.randn(one.shape, generator=generator) for name, one in layers.items()}


def under_load(running: Running, first: int, updates: int, every_s: float) -> tuple[dict, list, list[Rollout]]:
    """Keep the engine full while versions from `first` on arrive; policies by version, confirmations, rollouts."""
    layers, base = drafting_layers(running), running.policy
    [[now]] = running.generate(ask(f"before {first}", Fixed(), n=1, max_tokens=1))
    versions = range(first, first + updates)
    policies = {now.spans[0].version: base} | {version: moved(base, version) for version in versions}
    prepared = [update_of(policies[version], version, blurred(layers, version)) for version in versions]

    async def load(worker: int, rollouts: list[Rollout], over: asyncio.Event) -> None:
        asked = 0
        while not over.is_set():
            group = await running.group(ask(f"{first}-{worker}-{asked}", Fixed(), GROUP_SIZE, TOKENS))
            assert [rollout.index for rollout in group] == list(range(GROUP_SIZE))
            rollouts += group
            asked += 1

    async def all_of() -> tuple[list, list[Rollout]]:
        rollouts, over = [], asyncio.Event()
        tasks = [asyncio.create_task(load(worker, rollouts, over)) for worker in range(GROUPS)]
        confirmations = []
        for arguments in prepared:
            await asyncio.sleep(every_s)
            confirmations.append(await update(running, arguments))
        over.set()
        await asyncio.gather(*tasks)
        return confirmations, rollouts

    confirmations, rollouts = running.wait(all_of())
    running.policy = policies[first + updates - 1]
    return policies, confirmations, rollouts


def span_errors(policies: dict[int, Qwen2ForCausalLM], rollout: Rollout) -> list[float]:
    """Per span: the largest |recorded logprob - that of transformers with the weights of the span's version|."""
    tokens = torch.tensor(rollout.response_ids).long().unsqueeze(1)
    found = []
    for span in rollout.spans:
        part = slice(span.start, span.end)
        logprobs = recompute(policies[span.version], rollout).log_softmax(-1).gather(1, tokens)[:, 0].numpy()
        found.append(float(np.abs(logprobs[part] - rollout.sampler_logprobs[part]).max()))
    return found


def check_versions(running: Running, first: int, updates: int, every_s: float) -> None:
    policies, confirmations, rollouts = under_load(running, first, updates, every_s)
    layers = drafting_layers(running).values()
    assert [one.version for one in confirmations] == list(range(first, first + updates))
    for one in confirmations:
        assert one.probe_error < 1e-4
        assert one.policy.bytes == sum(p.numel() * 4 for p in running.policy.parameters())
        assert one.drafter == Taken(parameters=11, bytes=sum(layer.nbytes for layer in layers))
    assert len({version for one in rollouts for version in np.unique(one.versions).tolist()}) == updates + 1
    crossed = [one for one in rollouts if len(one.spans) > 2]
    assert crossed, "no response lived through two updates: this test would prove nothing"
    for rollout in crossed[:12] + rollouts[-4:]:
        assert max(span_errors(policies, rollout)) < 1e-4
    assert not any(rollout.stale_kv for rollout in rollouts)


def test_every_token_is_drawn_by_the_version_it_says(running):
    """Four updates under load: logprobs are those of each span's own weights, no response is lost, drafts follow."""
    check_versions(running, first=1, updates=4, every_s=0.1)


@SLOW
def test_updates_every_second_for_a_while(running):
    """The same for ten seconds."""
    check_versions(running, first=11, updates=10, every_s=1.0)


def without(name: str):
    return lambda tensors: {one: tensor for one, tensor in tensors.items() if name not in one}


def narrowed(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: one[:, 1:] if name.endswith("0.mlp.up_proj.weight") else one for name, one in tensors.items()}


REFUSED = {
    "part of a fused layer is missing": (without("1.self_attn.k_proj.weight"), "layers.1.self_attn.qkv_proj.weight"),
    "a bias is missing": (without("0.self_attn.v_proj.bias"), "would leave model.layers.0.self_attn.qkv_proj.bias of"),
    "a norm is missing": (
        without("model.norm.weight"),
        "would leave model.norm.weight of the policy at an old version",
    ),
    "the head is missing": (without("lm_head"), "would leave lm_head.weight of the policy at an old version"),
    "a shape is another": (
        narrowed,
        r"do not fit the engine's policy at model.layers.0.mlp.up_proj.weight \[128, 63\]",
    ),
    "a name is unknown": (
        lambda tensors: tensors | {"model.nonsense.weight": torch.ones(3)},
        "do not fit the engine's policy at model.nonsense.weight",
    ),
    "a drafting layer is missing": (without("input_proj"), "would leave .*input_proj.weight of the drafter"),
    "the temperature head is another's": (
        lambda tensors: tensors | {"temperature_head.inner.weight": torch.ones(3, 3)},
        "bring a temperature head of shapes",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_an_update_that_would_leave_something_behind_is_refused(running, kind):
    """In one sentence, before anything is touched: the engine draws with exactly the weights it had."""
    spoil, sentence = REFUSED[kind]
    new = moved(running.policy, 77)
    version, _, probe, found, _ = update_of(new, 90)
    tensors = spoil({**new.state_dict(), **blurred(drafting_layers(running), 77)})
    content = safetensors.torch.save({name: one.clone().contiguous() for name, one in tensors.items()})
    payload = np.frombuffer(content, np.uint8)
    with pytest.raises(WorkerFailure, match=sentence) as failure:
        running.wait(update(running, (version, xxhash.xxh3_128_hexdigest(payload), probe, found, payload)))
    assert isinstance(failure.value.__cause__, WeightUpdateError)
    request = ask(f"after {kind}", Fixed(), n=2)
    [rollouts] = running.generate(request)
    for rollout in rollouts:
        assert rollout.spans[-1].version < version
        assert max(recorded_errors(running.policy, rollout, request)) < 1e-4


def test_weights_on_a_file_system_reach_the_engine(running, tmp_path):
    """A path in place of the bytes; a file that is damaged, or not there, is refused."""
    new = moved(running.policy, 5)
    version, checksum, *probe, payload = update_of(new, 50, drafting_layers(running))
    file = tmp_path / "weights"
    with pytest.raises(WorkerFailure, match="there is no such file"):
        running.wait(update(running, (version, checksum, *probe, str(file))))
    payload[:-10].tofile(file)
    with pytest.raises(WorkerFailure, match="arrived damaged"):
        running.wait(update(running, (version, checksum, *probe, str(file))))
    payload.tofile(file)
    confirmation = running.wait(update(running, (version, checksum, *probe, str(file))))
    running.policy = new
    assert confirmation.checksum == checksum
    request = ask("from a file", Fixed(), n=2)
    [[rollout, _]] = running.generate(request)
    assert [span.version for span in rollout.spans] == [50]
    assert max(recorded_errors(new, rollout, request)) < 1e-4


def test_an_adapter_alone_gives_what_peft_computes(running):
    """LoRA matrices and the drafter travel alone; what is drawn is the adapted policy of transformers and peft."""
    base = Qwen2ForCausalLM.from_pretrained(running.folder).eval()
    shape = LoraConfig(r=4, lora_alpha=16, target_modules=["q_proj", "v_proj", "o_proj", "gate_proj", "lm_head"])
    adapted = get_peft_model(base, shape).eval()
    for version, seed in ((60, 1), (61, 2)):
        generator = torch.Generator().manual_seed(seed)
        for name, parameter in adapted.named_parameters():
            if "lora_" in name:
                torch.nn.init.normal_(parameter, std=0.1, generator=generator)
        layers = blurred(drafting_layers(running), seed)
        record, payload = publication(SimpleNamespace(model=adapted), version, probe_of_model(adapted), layers)
        confirmation = running.wait(
            update(running, (version, record.checksum, record.probe_ids, record.probe_entropy, payload))
        )
        running.policy = adapted
        brought = sum(layer.nbytes for layer in layers.values())
        assert payload.nbytes - brought < 0.3 * confirmation.policy.bytes
        assert confirmation.drafter == Taken(parameters=11, bytes=brought)
        request = ask(f"adapted {version}", Fixed())
        [rollouts] = running.generate(request)
        for rollout in rollouts:
            assert max(recorded_errors(adapted, rollout, request)) < 1e-4
    half = {name: one for name, one in adapter_by_name(adapted).items() if "1.mlp.gate_proj.lora_B" not in name}
    running.policy = adapted.merge_and_unload()
    spoilt = np.frombuffer(safetensors.torch.save(half, ADAPTER), np.uint8)
    with pytest.raises(WorkerFailure, match="half an adapter, or one of a layer .*: model.layers.1.mlp.gate_proj"):
        running.wait(update(running, (62, xxhash.xxh3_128_hexdigest(spoilt), (1, 2), 0.0, spoilt)))


@torch.no_grad()
def probe_of_model(model: torch.nn.Module) -> tuple[tuple[int, ...], float]:
    prompt = (3, 1, 4, 1, 5)
    return prompt, float(entropy(model(torch.tensor([prompt])).logits[0, -1]))


def test_an_engine_sleeps_until_new_weights_come(running):
    """Refused while it draws, which it goes on with; asleep, the next update wakes it, and it draws with that."""

    async def in_the_middle() -> list[Rollout]:
        drawing = asyncio.create_task(running.group(ask("in the middle", Fixed(), n=2, max_tokens=TOKENS)))
        await asyncio.sleep(0.1)
        with pytest.raises(WorkerFailure, match="1 groups are being generated, and the engine is asked to sleep"):
            await running.worker.call("sleep", deadline_s=DEADLINE_S)
        return await drawing

    assert all(rollout.finish_reason is not FinishReason.ABORT for rollout in running.wait(in_the_middle()))
    running.wait(running.worker.call("sleep", deadline_s=DEADLINE_S))
    new = moved(running.policy, 8)
    running.wait(update(running, update_of(new, 95, drafting_layers(running))))
    running.policy = new
    request = ask("awake", Fixed(), n=2)
    [rollouts] = running.generate(request)
    for rollout in rollouts:
        assert [span.version for span in rollout.spans] == [95]
        assert max(recorded_errors(new, rollout, request)) < 1e-4


def test_an_engine_whose_weights_are_in_doubt_draws_no_more(running):
    """The probe disagrees when the weights are in: what was being drawn fails, and so does all that comes after.

    The last test of this engine.
    """
    version, checksum, probe, found, payload = update_of(running.policy, 99)

    async def doubted() -> list:
        waiting = asyncio.create_task(running.group(ask("waiting", Fixed(), GROUP_SIZE, TOKENS)))
        await asyncio.sleep(0.1)
        with pytest.raises(WorkerFailure, match="v99 but does not draw with them: .*; start a new worker") as failure:
            await update(running, (version, checksum, probe, found + 0.5, payload))
        assert isinstance(failure.value.__cause__, WeightUpdateError)
        return await asyncio.gather(waiting, running.group(ask("late", Fixed())), return_exceptions=True)

    for failure in running.wait(doubted()):
        assert isinstance(failure, WorkerFailure)
        assert isinstance(failure.__cause__, EngineLostError)


@SLOW
def test_kept_keys_are_said_to_be_old(request, ray_cluster, tmp_path):
    """With kv_on_update=keep a response that lives through an update says so, and only such a response."""
    with engine(request, tmp_path, kv_on_update="keep", prefix_caching=False) as running:
        _, _, rollouts = under_load(running, 1, 2, 0.1)
        [later] = running.generate(ask("later", Fixed()))
        rollouts += later
        assert {rollout.stale_kv for rollout in rollouts} == {False, True}
        assert all(rollout.stale_kv == (len(rollout.spans) > 1) for rollout in rollouts)
