"""Score a checkpoint on held-out tasks and print one JSON object.

temper eval runs/latest                              the newest checkpoint of a run, on the run's own task
temper eval runs/latest/checkpoints/step-000060 eval.tasks=400
temper eval path/to/model experiment=quickstart      any Hugging Face folder, on the task of a configuration
"""

import argparse
import asyncio
import json
import sys
import tempfile
from pathlib import Path

from orchestration.config import RunPlan, load_plan, load_saved_plan
from orchestration.errors import ConfigError
from orchestration.process import prepare
from orchestration.run_folder import RunFolder


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", type=Path, help="run folder, checkpoint folder or Hugging Face folder")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="configuration overrides")


def run(arguments: argparse.Namespace) -> int:
    prepare()
    model, plan = model_and_plan(arguments.checkpoint, arguments.overrides)
    from orchestration.launch import score

    with tempfile.TemporaryDirectory(prefix="temper-eval-") as logs:
        result = asyncio.run(score(plan, model, Path(logs)))
    sys.stdout.write(json.dumps({"model": str(model), "tasks": plan.eval.tasks, **result.metrics}) + "\n")
    return 0


def model_and_plan(checkpoint: Path, overrides: list[str]) -> tuple[Path, RunPlan]:
    """Where the weights are and what to score them on. Raises ConfigError."""
    checkpoint = checkpoint.resolve()
    if (checkpoint / "config.json").is_file():
        return checkpoint, load_plan(overrides)
    if (checkpoint / "config.yaml").is_file():
        folder, checkpoint = checkpoint, checkpoint / "checkpoints" / "latest"
    else:
        folder = checkpoint.parent.parent
    if not (checkpoint / "policy" / "config.json").is_file():
        raise ConfigError(
            f"{checkpoint} holds no policy: name a run folder with a checkpoint, a checkpoint, or a Hugging Face folder"
        )
    return checkpoint / "policy", load_saved_plan(RunFolder.open(folder).config, overrides)
