"""What drafts of the policy's own drafter gain: tokens a second against decoding without, by batch size.

    OMP_NUM_THREADS=1 python scripts/bench_speculation.py
    OMP_NUM_THREADS=1 python scripts/bench_speculation.py --tokens 6 --batches 1 4

The quickstart's policy and drafter (model=tiny_mtp, built first where they are not in the cache), its prompts, T = 1.
One engine per column, each in a process of its own, all up at the same time and measured in turns, so that a noisy
neighbour disturbs all. `batch` responses are always in flight: whenever one ends the next begins, its prompt included.
Besides the ratio of wall times there is that of CPU times, which neighbours disturb less. Prints Markdown.
"""

import argparse
import asyncio
import statistics
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

import ray

from orchestration.config import ClusterConfig, RunPlan, load_plan
from orchestration.on_ray.actor import Service
from orchestration.on_ray.connect import connect
from orchestration.process import prepare
from rollout.config import SpeculativeConfig
from rollout.draw.temperature import Fixed
from rollout.messages import GroupRequest
from rollout.vllm_adapter.start import environment
from rollout.worker import RolloutWorker

PROMPTS = 256
WARM_UP_S = 1.0
DEADLINE_S = 600.0


@dataclass(frozen=True)
class Measured:
    tokens_per_s: float
    tokens_per_cpu_s: float
    accepted: tuple[int, ...]  # [j]: verification steps that kept j drafts


class MeasuredWorker(RolloutWorker):
    """Measures inside the engine's process: a call through Ray takes as long as some of these responses."""

    async def measure(self, prompts: list[tuple[int, ...]], max_tokens: int, batch: int, seconds: float) -> Measured:
        """`batch` responses in flight for so many seconds."""
        finished, serial = [], iter(range(1 << 30))
        stop = time.perf_counter() + seconds

        async def stream() -> None:
            while time.perf_counter() < stop:
                number = next(serial)
                request = GroupRequest(
                    group_id=str(number),
                    prompt_ids=prompts[number % len(prompts)],
                    n=1,
                    max_tokens=max_tokens,
                    temperature=Fixed(),
                )
                finished.extend([one async for one in self.generate(request)])

        began, cpu_began = time.perf_counter(), time.process_time()
        await asyncio.gather(*(stream() for _ in range(batch)))
        wall_s, cpu_s = time.perf_counter() - began, time.process_time() - cpu_began
        tokens = sum(len(one.response_ids) for one in finished)
        histograms = [one.accepted_histogram for one in finished if one.accepted_histogram]
        return Measured(tokens / wall_s, tokens / cpu_s, tuple(map(sum, zip(*histograms, strict=True))))


async def start(plan: RunPlan, model: Path, drafting: SpeculativeConfig, name: str, logs: Path) -> Service:
    config = replace(plan.rollout, max_model_len=128, max_num_seqs=256)
    worker = await Service.start(
        name,
        logs / f"{name}.log",
        MeasuredWorker,
        (name, config, drafting, model, 0),
        cpus=0.0,
        env=environment(config),
        deadline_s=DEADLINE_S,
    )
    await worker.call("start", deadline_s=DEADLINE_S)
    return worker


def by_position(accepted: tuple[int, ...]) -> str:
    """Acceptance of draft 1, 2, ... among those whose predecessors passed. Drafts behind a response's end count too."""
    reached = [sum(accepted[position:]) for position in range(len(accepted))]
    return " ".join(f"{later / earlier:.2f}" for earlier, later in zip(reached, reached[1:], strict=False) if earlier)


def break_even(ratios: dict[int, float]) -> str:
    lost = [batch for batch, ratio in sorted(ratios.items()) if ratio <= 1.0]
    return f"at {lost[0]}" if lost else f"above {max(ratios)}"


async def compare(plan: RunPlan, model: Path, columns: dict[str, SpeculativeConfig], options) -> None:
    from transformers import AutoTokenizer

    from orchestration.models.prompts import encode_prompt

    tokenizer = AutoTokenizer.from_pretrained(model)
    tasks = [plan.task.train_task(index, seed=1) for index in range(PROMPTS)]
    prompts = [encode_prompt(tokenizer, task, plan.task.chat) for task in tasks]
    with tempfile.TemporaryDirectory() as logs:
        workers = {name: await start(plan, model, drafting, name, Path(logs)) for name, drafting in columns.items()}

        async def measure(name: str, batch: int, seconds: float) -> Measured:
            arguments = (prompts, plan.task.max_tokens, batch, seconds)
            return await workers[name].call("measure", *arguments, deadline_s=DEADLINE_S)

        plain, *others = columns
        print(f"| batch | {plain}, tokens/s | " + " | ".join(f"{one}: ratio (of CPU time)" for one in others) + " |")
        print("|" + " --- |" * (2 + len(others)))
        ratios: dict[str, dict[int, float]] = {name: {} for name in others}
        accepted: dict[str, tuple[int, ...]] = {}
        for batch in options.batches:
            for name in columns:
                await measure(name, batch, WARM_UP_S)
            rounds = [
                {name: await measure(name, batch, options.seconds) for name in columns} for _ in range(options.rounds)
            ]
            cells = []
            for name in others:
                wall = statistics.median(one[name].tokens_per_s / one[plain].tokens_per_s for one in rounds)
                cpu = statistics.median(one[name].tokens_per_cpu_s / one[plain].tokens_per_cpu_s for one in rounds)
                ratios[name][batch] = cpu
                accepted[name] = tuple(map(sum, zip(*(one[name].accepted for one in rounds), strict=True)))
                cells.append(f"{wall:.2f} ({cpu:.2f})")
            speed = statistics.median(one[plain].tokens_per_s for one in rounds)
            print(f"| {batch} | {speed:.0f} | " + " | ".join(cells) + " |", flush=True)
        print(
            "\n| drafts | acceptance by position | tokens a step | break-even batch (CPU time) |\n" + "|" + " --- |" * 4
        )
        for name in others:
            steps = sum(accepted[name])
            mean = 1.0 + sum(kept * count for kept, count in enumerate(accepted[name])) / steps
            print(f"| {name} | {by_position(accepted[name])} | {mean:.2f} | {break_even(ratios[name])} |")
        for worker in workers.values():
            worker.kill()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4, 16, 64, 256])
    parser.add_argument("--tokens", type=int, nargs="+", default=[3, 8], help="drafts a step")
    parser.add_argument("--seconds", type=float, default=2.0, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--model", type=Path, help="a folder that `temper train-drafter` printed")
    options = parser.parse_args()
    prepare()
    plan = load_plan(["experiment=quickstart", "model=tiny_mtp"])
    from orchestration.launch import resolve_model

    model = options.model or resolve_model(plan)
    columns = {"without": SpeculativeConfig()}
    for tokens in options.tokens:
        for drafts in ("probabilistic", "greedy"):
            columns[f"{tokens}-{drafts}"] = SpeculativeConfig(method="mtp", tokens=tokens, drafts=drafts)
    columns["adaptive"] = SpeculativeConfig(method="mtp", tokens=max(options.tokens), adaptive=True)
    connect(ClusterConfig(), cpus=1.0)
    asyncio.run(compare(plan, model, columns, options))
    ray.shutdown()


if __name__ == "__main__":
    main()
