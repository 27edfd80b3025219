"""Write the responses that a run's journal still has to a Parquet file, one row each, with how every token was drawn.

temper export-rollouts runs/latest                      into the run folder, rollouts.parquet
temper export-rollouts runs/latest --to ~/best.parquet

The run may go on meanwhile. How long responses stay: run.keep_rollouts (steps; null keeps all). docs/run_folder.md
lists the columns.
"""

import argparse
import sys
from pathlib import Path

from orchestration.run_folder import RunFolder


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", type=Path, help="run folder")
    parser.add_argument("--to", type=Path, help="the file to write (default: rollouts.parquet in the run folder)")


def run(arguments: argparse.Namespace) -> int:
    folder = RunFolder.open(arguments.run)
    to = arguments.to or folder.root / "rollouts.parquet"
    from orchestration.journal.parquet import export_rollouts  # imports pyarrow and torch: seconds

    sys.stdout.write(f"{to}: {export_rollouts(folder.journal, to)} rollouts\n")
    return 0
