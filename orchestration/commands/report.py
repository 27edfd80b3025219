"""Draw curves.png and report.html of a run folder again, from what the run wrote.

temper report runs/latest
"""

import argparse
import sys
from pathlib import Path

from orchestration.run_folder import RunFolder


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", type=Path, help="run folder")


def run(arguments: argparse.Namespace) -> int:
    folder = RunFolder.open(arguments.run)
    from orchestration.monitor.report import write_report

    sys.stdout.write(f"{write_report(folder.root)}\n")
    return 0
