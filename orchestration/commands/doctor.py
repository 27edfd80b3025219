"""Say what is installed, what is missing for a configuration, and how to get it. Exit code 1 when something needed is
missing.

temper doctor                            for the default configuration
temper doctor experiment=smollm2
"""

import argparse

from orchestration.config import load_plan
from orchestration.process import prepare


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="configuration overrides")


def run(arguments: argparse.Namespace) -> int:
    prepare()
    plan = load_plan(arguments.overrides)
    from rich.console import Console

    from orchestration.doctor import diagnose, exit_code, table

    findings = diagnose(plan)
    Console().print(table(findings))
    return exit_code(findings)
