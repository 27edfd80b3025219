"""Score a checkpoint on held-out tasks and print one JSON object.

temper eval runs/latest                              the newest checkpoint of a run, on the run's own task
temper eval runs/latest/checkpoints/version_000060 eval.tasks=400
temper eval path/to/model experiment=quickstart      any Hugging Face folder, on the task of a configuration
"""

import argparse
import asyncio
import json
import sys
import tempfile
from pathlib import Path

from orchestration.cluster.loopback import settle
from orchestration.config import RunPlan, load_plan, load_saved_plan
from orchestration.locate import POLICY, find_checkpoint
from orchestration.process import prepare


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", type=Path, help="run folder, checkpoint folder or Hugging Face folder")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="configuration overrides")


def run(arguments: argparse.Namespace) -> int:
    prepare()
    model, plan = model_and_plan(arguments.checkpoint, arguments.overrides)
    settle(plan.cluster)
    from orchestration.launch import score

    with tempfile.TemporaryDirectory(prefix="temper-eval-") as logs:
        result = asyncio.run(score(plan, model, Path(logs)))
    sys.stdout.write(json.dumps({"model": str(model), "tasks": plan.eval.tasks, **result.metrics}) + "\n")
    return 0


def model_and_plan(checkpoint: Path, overrides: list[str]) -> tuple[Path, RunPlan]:
    """Where the weights are and what to score them on. Raises ConfigError."""
    if (checkpoint / "config.json").is_file():
        return checkpoint.resolve(), load_plan(overrides)
    folder, checkpoint = find_checkpoint(checkpoint)
    return checkpoint / POLICY, load_saved_plan(folder.config, overrides)
