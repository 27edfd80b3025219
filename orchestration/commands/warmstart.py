"""Build the tiny policy and give it its supervised start; the folder it prints loads in vLLM and transformers.

temper warmstart                                 for the quickstart's task
temper warmstart experiment=quickstart_math
"""

import argparse
import sys

from orchestration.config import load_plan
from orchestration.process import prepare


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="configuration overrides")


def run(arguments: argparse.Namespace) -> int:
    prepare()
    plan = load_plan(arguments.overrides)
    from orchestration.launch import resolve_model

    sys.stdout.write(f"{resolve_model(plan)}\n")
    return 0
