"""What a drafter learns from each loss: held out, inside vLLM, and through a run that moves the policy away from it.

    OMP_NUM_THREADS=1 python scripts/bench_drafter.py
    OMP_NUM_THREADS=1 python scripts/bench_drafter.py --drafts 8 --seeds 0 1 2 --parts losses

The quickstart's policy after its warm start and its own samples. All drafters share a warm-up with soft cross-entropy;
then each loss gets as many steps again. `losses`: acceptance 1 - TV by position on held-out samples. `engine`: drafts
judged and accepted inside vLLM, beside 1 - TV of the learner at just those drafts. A draft counts where all before it
in its step passed and the response had not ended before it: vLLM goes on judging behind the end, and its own telemetry
counts those drafts as refused. `run`: that telemetry through a quickstart, with the drafter frozen and trained online.
Prints Markdown.
"""

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch

from learner.drafter.chains import Ends, Reading, Unrolled, batches_by_size
from learner.drafter.files import save_with_drafter, tensors_of
from learner.drafter.layer import MtpLayer
from learner.drafter.losses import LOSSES, acceptance
from learner.drafter.rule import DraftRule
from learner.drafter.train import TOKENS_AT_ONCE, DrafterTraining, OwnSample, draftable, judged, train_drafter
from orchestration.config import ClusterConfig, RunPlan, load_plan
from orchestration.models.drafter import own_sample
from orchestration.on_ray.actor import Service
from orchestration.on_ray.connect import connect
from orchestration.process import prepare
from rollout.config import SpeculativeConfig
from rollout.draw.temperature import EntropyLinear, Fixed
from rollout.draw.truncation import Truncation
from rollout.messages import GroupRequest
from rollout.vllm_adapter.start import environment
from rollout.worker import RolloutWorker

HELD_OUT = 0.1  # of the samples
RESPONSES = 1024  # that an engine draws with each rule
GROUP = 16
DEADLINE_S = 600.0
ENDS = 5  # steps at the beginning and at the end of a run over which telemetry is averaged
SHOWN = ("cross_entropy", "kl", "total_variation", "end_to_end")  # soft cross-entropy has the gradient of kl
RULES = {
    "T = 1": DraftRule(),
    "T = 0.7": DraftRule(temperature=Fixed(temperature=0.7)),
    "T 0.8 to 1.2 by entropy": DraftRule(temperature=EntropyLinear(entropy_high=1.0)),
    "top_p = 0.9": DraftRule(truncation=Truncation(top_p=0.9)),
}


@dataclass(frozen=True)
class Response:
    """One that an engine drew; of every step `judged` (its first draft's place, drafts judged, drafts accepted)."""

    sample: OwnSample
    judged: tuple[tuple[int, int, int], ...]


class JudgedWorker(RolloutWorker):
    """Notes which drafts were judged, where vLLM applies a step to its requests."""

    async def start(self) -> str:
        name = await super().start()
        self._steps: dict[str, tuple[Any, list[tuple[int, int, int]]]] = {}  # by request: it, and its steps
        scheduler = self._engine._vllm.engine_core.engine_core.scheduler
        update = scheduler.update_from_output

        def noted(scheduled: Any, found: Any) -> Any:
            for name, drafts in scheduled.scheduled_spec_decode_tokens.items():
                request = scheduler.requests[name]
                emitted = found.sampled_token_ids[found.req_id_to_index[name]]
                left = request.max_tokens - request.num_output_tokens
                stops = request.sampling_params.all_stop_token_ids
                end = next((place + 1 for place, token in enumerate(emitted) if token in stops), left)
                passed = len(emitted) - 1
                judged = min(len(drafts), passed + 1, end, left)
                entry = self._steps.setdefault(name, (request, []))
                entry[1].append((request.num_output_tokens, judged, min(passed, judged)))
            return update(scheduled, found)

        scheduler.update_from_output = noted
        return name

    async def responses(self, prompts: list[tuple[int, ...]], max_tokens: int, rule: DraftRule) -> list[Response]:
        """RESPONSES responses drawn by `rule`."""
        self._steps.clear()
        requests = [
            GroupRequest(
                group_id=f"{index}",
                prompt_ids=prompts[index % len(prompts)],
                n=GROUP,
                max_tokens=max_tokens,
                temperature=rule.temperature,
                truncation=rule.truncation,
            )
            for index in range(RESPONSES // GROUP)
        ]

        async def whole(request: GroupRequest) -> list[Any]:
            return [rollout async for rollout in self.generate(request)]

        groups = await asyncio.gather(*(whole(request) for request in requests))
        drawn = {(one.prompt_ids, tuple(one.response_ids.tolist())): one for group in groups for one in group}
        found = []
        for request, steps in self._steps.values():
            rollout = drawn[tuple(request.prompt_token_ids), tuple(request.output_token_ids)]
            found.append(Response(own_sample(rollout), tuple(steps)))
        return found


@torch.no_grad()
def predicted(
    policy: Any, layer: MtpLayer, responses: list[Response], rule: DraftRule, drafts: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """By position: drafts judged, accepted, and 1 - TV summed over just those that were judged."""
    judged, accepted, expected = np.zeros((3, drafts))
    usable = [one for one in responses if len(one.sample.response_ids) > 1]
    for part in batches_by_size([one.sample for one in usable], TOKENS_AT_ONCE):
        chosen = [usable[index] for index in part]
        reading = Reading.of(policy, [one.sample for one in chosen])
        unrolled = Unrolled(reading, layer, Ends.of(policy), rule, drafts)
        alpha = acceptance(unrolled.chains(unrolled.outputs, slice(None))).numpy()
        prompts = reading.prompt[unrolled.rows]
        starts = zip(unrolled.rows.tolist(), (unrolled.starts + 2 - prompts).tolist(), strict=True)
        chain = {place: index for index, place in enumerate(starts)}
        for row, one in enumerate(chosen):
            for place, made, passed in one.judged:
                if made:
                    judged[:made] += 1
                    accepted[:passed] += 1
                    expected[:made] += alpha[:made, chain[row, place]]
    return judged, accepted, expected


def three(values: Any) -> str:
    return " ".join(f"{value:.3f}" for value in values)


def table(*header: str) -> None:
    print(f"| {' | '.join(header)} |\n|{' --- |' * len(header)}", flush=True)


def compare_losses(policy: Any, samples: list[OwnSample], options: Any) -> dict[str, MtpLayer]:
    """The drafters of the first seed, by loss."""
    layers = {}
    table("loss", "acceptance by position, held out", "share of drafts kept", "by seed")
    held_out = draftable(samples)[: int(len(draftable(samples)) * HELD_OUT)]
    for loss in SHOWN:
        found = []
        for seed in options.seeds:
            training = DrafterTraining(
                drafts=options.drafts, loss=loss, seed=seed, held_out=HELD_OUT, steps=options.steps,
                warmup_steps=options.steps // 2,
            )  # fmt: skip
            layer, _ = train_drafter(policy, samples, training)
            layers.setdefault(loss, layer)
            found.append(judged(policy, layer, held_out, LOSSES[loss], DraftRule(), options.drafts))
        kept = [float(sums.kept.sum() / sums.counted.sum()) for sums in found]
        by_position = np.mean([sums.acceptance for sums in found], 0)
        print(f"| {loss} | {three(by_position)} | {statistics.mean(kept):.3f} | {three(kept)} |", flush=True)
    return layers


async def compare_engines(plan: RunPlan, policy: Any, folders: dict[str, Path], layers: dict, options: Any) -> None:
    from transformers import AutoTokenizer

    from orchestration.models.prompts import encode_prompt

    connect(ClusterConfig(), cpus=1.0)
    table("drafter", "drawn with", "drafts judged", "accepted in vLLM, by position", "1 - TV of the same drafts", "gap")
    for loss, folder in folders.items():
        tokenizer = AutoTokenizer.from_pretrained(folder)
        tasks = [plan.task.train_task(index, seed=1) for index in range(RESPONSES // GROUP)]
        prompts = [encode_prompt(tokenizer, task, plan.task.chat) for task in tasks]
        with tempfile.TemporaryDirectory() as logs:
            drafting = SpeculativeConfig(method="mtp", tokens=options.drafts)
            config = replace(plan.rollout, max_num_seqs=256)
            worker = await Service.start(
                loss, Path(logs) / "log", JudgedWorker, (loss, config, drafting, folder, 0),
                cpus=0.0, env=environment(config), deadline_s=DEADLINE_S,
            )  # fmt: skip
            await worker.call("start", deadline_s=DEADLINE_S)
            for name, rule in RULES.items() if loss == "end_to_end" else [next(iter(RULES.items()))]:
                arguments = (prompts, plan.task.max_tokens, rule)
                responses = await worker.call("responses", *arguments, deadline_s=DEADLINE_S)
                made, passed, expected = predicted(policy, layers[loss], responses, rule, options.drafts)
                gap = np.abs(passed / made - expected / made).max()
                cells = (loss, name, f"{made.sum():.0f}", three(passed / made), three(expected / made), f"{gap:.3f}")
                print(f"| {' | '.join(cells)} |", flush=True)
            worker.kill()
    ray.shutdown()


def run_quickstart(folder: Path, model: Path, options: Any, *overrides: str) -> list[dict]:
    command = [sys.executable, "-m", "orchestration.cli", "train", "experiment=quickstart", "model=huggingface"]
    command += [f"model.path={model}", "speculative=mtp", f"speculative.tokens={options.drafts}", "monitor=quiet"]
    command += ["speculative.adaptive=false", f"run.steps={options.run_steps}", f"run.dir={folder}"]
    command += ["eval.every=0", "eval.at_start=false", "eval.at_end=false", *overrides]
    with (folder.parent / f"{folder.name}.log").open("w") as log:
        subprocess.run(command, check=True, stdout=log, stderr=log)
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def compare_runs(folders: dict[str, Path], options: Any) -> None:
    table(
        "drafter before the run", "in the run", f"kept by position, first {ENDS} steps", f"last {ENDS} steps",
        "share kept, first, last", "reward", "entropy", "learner step, s",
    )  # fmt: skip
    runs = [(loss, "frozen") for loss in folders] + [(loss, loss) for loss in folders]
    for before, during in runs:
        overrides = ["drafter=frozen"]
        if during != "frozen":
            overrides = ["drafter=online", f"learner.drafter.loss={during}"]
        with tempfile.TemporaryDirectory() as folder:
            rows = run_quickstart(Path(folder) / "run", folders[before], options, *overrides)
        rows = [row for row in rows if "rollout/acceptance_position_1" in row]

        def kept(part: list[dict]) -> list[float]:
            names = [f"rollout/acceptance_position_{draft + 1}" for draft in range(options.drafts)]
            return [statistics.mean(row[name] for row in part) for name in names]

        def mean(name: str, part: list[dict]) -> str:
            return f"{statistics.mean(row[name] for row in part):.3f}"

        first, last = rows[:ENDS], rows[-ENDS:]
        share = [mean("rollout/acceptance_rate", part) for part in (first, last)]
        seconds = statistics.median(row["learner/step_s"] for row in rows)
        cells = (before, during, three(kept(first)), three(kept(last)), ", ".join(share))
        ends = (mean("train/reward", last), mean("entropy/mean", last), f"{seconds:.2f}")
        print(f"| {' | '.join(cells + ends)} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--drafts", type=int, default=3, help="of a step")
    parser.add_argument("--steps", type=int, default=160, help="of training, half of them the common warm-up")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--run-steps", type=int, default=40)
    parser.add_argument("--parts", nargs="+", default=["losses", "engine", "run"], choices=["losses", "engine", "run"])
    parser.add_argument("--losses", nargs="+", default=["cross_entropy", "end_to_end"], help="in engine and run")
    options = parser.parse_args()
    prepare()
    torch.set_num_threads(1)
    from transformers import AutoModelForCausalLM

    plan = load_plan(["experiment=quickstart", "model=tiny_mtp"])
    base = plan.model.base.resolve(plan.task, lambda done, total, loss: None)
    policy = AutoModelForCausalLM.from_pretrained(base)
    samples = [own_sample(rollout) for rollout in asyncio.run(plan.model.own_samples(base, plan.task))]
    print(f"{options.drafts} drafts, {options.steps} steps, seeds {options.seeds}, {len(samples)} samples\n")
    layers = compare_losses(policy, samples, options)
    with tempfile.TemporaryDirectory() as root:
        folders = {loss: Path(root) / loss for loss in options.losses}
        for loss, folder in folders.items():
            save_with_drafter(base, tensors_of(layers[loss], policy.dtype), folder)
        if "engine" in options.parts:
            print()
            asyncio.run(compare_engines(plan, policy, folders, layers, options))
        if "run" in options.parts:
            print()
            compare_runs(folders, options)


if __name__ == "__main__":
    main()
