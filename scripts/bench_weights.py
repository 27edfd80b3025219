"""Time weight updates of a running engine against one copy of the same bytes in memory, transport by transport.

    OMP_NUM_THREADS=1 python scripts/bench_weights.py [--engine async_llm] [--hidden 512]

Each round publishes, updates and copies in turn, so that a machine that is busy with something else is busy with all
three. `publish` is the learner's part (serialise, checksum), `update` the engine's, from the payload to its proof by a
forward pass; generation stands still for `paused` of it, and before that while `broadcast` is fetched. The copy is
numpy's, from warm memory to warm memory.
"""

import argparse
import asyncio
import json
import os
import statistics
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

from orchestration.process import prepare

ROUNDS = 9
LAYERS, VOCABULARY = 4, 8192
PROBE_IDS = (3, 1, 4, 1, 5)
SHARED_MEMORY = Path("/dev/shm")
RANK = 16


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--engine", choices=("in_process", "async_llm"), default="in_process")
    arguments.add_argument("--hidden", type=int, default=512, help="width of the model")
    asyncio.run(measure(**vars(arguments.parse_args())))


async def measure(engine: str, hidden: int) -> None:
    prepare()
    import torch
    from peft import LoraConfig, get_peft_model

    from learner.broadcast import Broadcaster
    from rollout.config import RolloutConfig
    from rollout.vllm_adapter.start import environment

    config = RolloutConfig(engine=engine, max_model_len=64, max_num_seqs=8, kv_cache_gib=0.1)
    os.environ.update(environment(config))
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory(dir=SHARED_MEMORY) as shared:
        model = policy(hidden)
        model.save_pretrained(folder)
        running = await started(config, Path(folder))
        print(f"{engine}, {sum(p.numel() for p in model.parameters()) / 1e6:.1f} M parameters, float32\n")
        print("| transport | MB | copy ms | publish ms | update ms | paused ms | update / copy |")
        print("|---|---|---|---|---|---|---|")
        await row(running, model, "shared memory", None, 0)
        await row(running, model, "files in /dev/shm", Path(shared), 100)
        await row(running, model, "files on disk", Path(folder) / "weights", 200)
        await row(running, model, "broadcast, gloo", Broadcaster("127.0.0.1"), 250)
        adapted = get_peft_model(model, LoraConfig(r=RANK, target_modules="all-linear"))
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.01)
        await row(running, adapted, f"adapter of rank {RANK}", None, 300)
        await running.close()


def policy(hidden: int):
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(0)
    return Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=VOCABULARY,
            hidden_size=hidden,
            intermediate_size=3 * hidden,
            num_hidden_layers=LAYERS,
            num_attention_heads=8,
            num_key_value_heads=2,
            max_position_embeddings=512,
        )
    ).eval()


async def started(config, folder: Path):
    from rollout.config import SpeculativeConfig

    arguments = (config, SpeculativeConfig(), folder, 0, (2,), str)
    if config.engine == "in_process":
        from rollout.vllm_adapter.in_process import InProcessEngine

        return InProcessEngine(*arguments)
    from rollout.vllm_adapter.async_llm import AsyncEngine

    return await AsyncEngine.start(*arguments)


async def row(engine, model, name: str, to, first: int) -> None:
    """One line of the table: medians over the rounds; the ratio is the median of each round's."""
    import numpy as np
    import torch

    from learner.publish import publication
    from rollout.draw.distribution import entropy
    from rollout.messages import Probe, WeightUpdate

    with torch.no_grad():
        found = float(entropy(model(torch.tensor([PROBE_IDS])).logits[0, -1]))
    size = sum(p.numel() * 4 for p in model.parameters() if p.ndim)
    source, target = np.ones(size, np.uint8), np.zeros(size, np.uint8)
    rounds = []
    for version in range(first, first + ROUNDS):
        began = time.perf_counter()
        record, payload = publication(SimpleNamespace(model=model), version, (PROBE_IDS, found), {}, to)
        published = time.perf_counter()
        np.copyto(target, source)
        copied = time.perf_counter()
        probe = Probe(prompt_ids=PROBE_IDS, entropy=found)
        done = await engine.update_weights(
            WeightUpdate(version=version, checksum=record.checksum, payload=payload, probe=probe)
        )
        rounds.append((copied - published, published - began, done.seconds, done.paused_s, done.seconds))
    ratio = statistics.median(update / copy for copy, _, update, _, _ in rounds[1:])
    copy, publish, update, paused, _ = (statistics.median(column) * 1e3 for column in zip(*rounds[1:], strict=True))
    sent = bytes_of(payload)
    print(
        f"| {name} | {sent / 1e6:.1f} | {copy:.1f} | {publish:.1f} | {update:.1f} | {paused:.1f} | {ratio:.1f} |",
        flush=True,
    )


def bytes_of(payload) -> int:
    if isinstance(payload, bytes):
        return json.loads(payload)["bytes"]
    return os.path.getsize(payload) if isinstance(payload, str) else payload.nbytes


if __name__ == "__main__":
    main()
