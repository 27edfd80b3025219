"""Go on with a run from its newest checkpoint, and with what it had drawn and not yet trained.

    temper resume runs/latest                              as it was configured
    temper resume runs/latest run.steps=200                further than planned
    temper resume runs/latest rollout.workers=4 learner.ranks=2

Numbers of rollout workers and learner ranks, the staleness bound and the place where the run folder lies may change.
"""

import argparse
from pathlib import Path

from orchestration.commands import train
from orchestration.config import CONF


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", type=Path, help="run folder")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="overrides of the run's own configuration")
    parser.add_argument("--driver", action="store_true", help=argparse.SUPPRESS)  # started by a supervisor


def run(arguments: argparse.Namespace) -> int:
    arguments.overrides = [f"resume={arguments.run}", *arguments.overrides]
    arguments.conf = CONF  # the run has its own
    return train.run(arguments)
