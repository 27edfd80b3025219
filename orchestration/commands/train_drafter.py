"""Train a drafter for a policy on the policy's own samples; the folder it prints is the policy with that drafter.

temper train-drafter experiment=quickstart                for the tiny policy: a minute or two, then cached
temper train-drafter model=huggingface model.path=folder task=gsm8k temperature.temperature=0.8

It is trained for the temperature and truncation that the run will draw with. Use it with speculative=mtp. The first is
model=tiny_mtp; for others give model=huggingface model.path=what was printed.
"""

import argparse
import dataclasses
import json
import sys

from orchestration.cluster.loopback import settle
from orchestration.config import load_plan
from orchestration.process import prepare


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="configuration overrides")


def run(arguments: argparse.Namespace) -> int:
    prepare()
    plan = load_plan(arguments.overrides)
    settle(plan.cluster)  # samples are drawn through Ray
    from learner.drafter.train import DrafterTraining
    from orchestration.launch import resolve_model
    from orchestration.models.drafter import ACCEPTANCE_FILE, WithDrafter

    if not isinstance(plan.model, WithDrafter):
        model = WithDrafter(
            base=plan.model, training=DrafterTraining(), temperature=plan.temperature, truncation=plan.truncation
        )
        plan = dataclasses.replace(plan, model=model)
    folder = resolve_model(plan)
    acceptance = json.loads((folder / ACCEPTANCE_FILE).read_text())
    sys.stderr.write(f"acceptance of draft 1, 2, ...: {', '.join(f'{one:.3f}' for one in acceptance)}\n")
    sys.stdout.write(f"{folder}\n")
    return 0
