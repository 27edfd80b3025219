"""Make the probe of strategy=diff_adapt: how hard a prompt is for a policy, read off its hidden state.

    python scripts/train_difficulty_probe.py probe.safetensors --prompts 200 experiment=quickstart_math
    temper train experiment=quickstart_math strategy=diff_adapt strategy.probe=probe.safetensors

Draws ten responses to each of the task's training prompts, labels it by accuracy and entropy, and trains the probe on
the labels; prints how many prompts each class has and how well the probe tells held-out ones apart.
"""

import argparse
import asyncio
import tempfile
from pathlib import Path

from orchestration.process import prepare

prepare()

import ray  # noqa: E402
import torch  # noqa: E402
from transformers import AutoTokenizer  # noqa: E402

from orchestration.config import RunPlan, load_plan  # noqa: E402
from orchestration.difficulty import Observed, observe  # noqa: E402
from orchestration.launch import encoder, resolve_model  # noqa: E402
from orchestration.on_ray.connect import connect  # noqa: E402
from orchestration.on_ray.services import RayServices  # noqa: E402
from rollout.strategies.diff_adapt.labels import Difficulty, calibrated  # noqa: E402
from rollout.strategies.diff_adapt.training import ProbeTraining, macro_f1, train_probe  # noqa: E402

ANNOUNCEMENT = "<think>\nFirst I judge how difficult this is."


async def look(plan: RunPlan, model: Path, prompts: int, logs: Path) -> Observed:
    tokenizer, services = AutoTokenizer.from_pretrained(model), RayServices(plan, model, logs)
    connect(plan.cluster, services.cpus)
    try:
        _, worker = await asyncio.gather(services.verifier.start(), services.start_rollout_worker())
        announcement = tuple(tokenizer.encode(ANNOUNCEMENT, add_special_tokens=False))
        tasks = [plan.task.train_task(index, plan.seed) for index in range(prompts)]
        encode = encoder(tokenizer, plan.task.chat)
        return await observe(tasks, encode, announcement, worker, services.verifier, plan.task.max_tokens)
    finally:
        ray.shutdown()


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("probe", type=Path, help="file to write")
parser.add_argument("--prompts", type=int, default=200)
parser.add_argument("overrides", nargs="*", metavar="key=value", help="configuration of the run it is for")
arguments = parser.parse_intermixed_args()
plan = load_plan(arguments.overrides)
with tempfile.TemporaryDirectory(prefix="temper-probe-") as logs:
    observed = asyncio.run(look(plan, resolve_model(plan), arguments.prompts, Path(logs)))
thresholds = calibrated(observed.accuracies, observed.entropies)
labels = torch.tensor(
    [thresholds.difficulty(*pair) for pair in zip(observed.accuracies, observed.entropies, strict=True)]
)
trained = train_probe(torch.from_numpy(observed.hidden), labels, ANNOUNCEMENT, ProbeTraining(seed=plan.seed))
trained.probe.save(arguments.probe)
counts = {difficulty.name.lower(): int((labels == difficulty).sum()) for difficulty in Difficulty}
print(f"prompts {counts}; normal below {thresholds.calm:.3f} nats; mean accuracy {observed.accuracies.mean():.2f}")
common = torch.full_like(labels, labels.mode().values.item())
print(f"held-out prompts: accuracy {trained.accuracy:.2f}, macro-F1 {trained.macro_f1:.2f} (epoch {trained.epoch})")
print(f"always the commonest class: accuracy {(common == labels).double().mean():.2f}, {macro_f1(common, labels):.2f}")
