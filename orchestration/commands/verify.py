"""Judge the responses in a file: one JSON object a line in, one verdict a line out, in their order (docs/verifiers.md).

    temper verify cases.jsonl > verdicts.jsonl
    temper verify cases.jsonl --out verdicts.jsonl --workers 4 deadline_s=5
    generate | temper verify - | jq .reward

A line is {"id", "verifier", "response", "reference"} and, where responses are judged together, "group". Nothing is
judged before the whole file has been checked. Exit code 0 when everything was judged, whatever the rewards; 2 for a
line that is no case; 1 for a fault of ours, such as a missing tool.
"""

import argparse
import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from orchestration.errors import ConfigError
from orchestration.reward_options import add_reward_arguments, reward_config

SIGPIPE_EXIT = 141  # as a shell reports it


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("cases", type=Path, help="file with one case a line, - for standard input")
    parser.add_argument("--out", type=Path, help="file for the verdicts (default: standard output)")
    add_reward_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from orchestration.case_file import CaseFile
    from reward.service import check_tools

    config = reward_config(arguments)
    signal.signal(signal.SIGINT, interrupt)
    console = Console(stderr=True)
    columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeRemainingColumn(), TextColumn(""))
    try:
        with CaseFile(arguments.cases) as cases:
            with console.status(f"checking {cases.name}") if console.is_terminal else contextlib.nullcontext():
                survey = cases.survey()
            check_tools(sorted(survey.verifiers), config)
            with (
                output(arguments.out, arguments.cases) as out,
                Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress,
            ):
                bar = progress.add_task("judging", total=survey.cases)
                tally = asyncio.run(judge(cases, config, out, lambda done: progress.advance(bar, done)))
    except BrokenPipeError:
        abandon_stdout()
        return SIGPIPE_EXIT
    except KeyboardInterrupt:
        abandon_stdout()
        raise
    sys.stderr.write(f"{tally}\n")
    return 0


def interrupt(number: int, frame: object) -> None:
    """Ctrl-C at once: asyncio's own handler asks the loop, which may be waiting for whoever should read our output."""
    raise KeyboardInterrupt


def abandon_stdout() -> None:
    """Nobody reads it any more, and the interpreter flushes it once more at the end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


async def judge(cases, config, out: TextIO, advance):
    from orchestration.judge_file import judge_file
    from reward.service import VerifierPool

    def write(verdict: dict[str, Any]) -> None:
        out.write(json.dumps(verdict) + "\n")

    pool = VerifierPool(config)
    try:
        return await judge_file(cases.units(), pool, write, advance)
    finally:
        await pool.close()


@contextlib.contextmanager
def output(out: Path | None, cases: Path) -> Iterator[TextIO]:
    """The stream that verdicts go to. Raises ConfigError."""
    if out is None:
        yield sys.stdout
        sys.stdout.flush()
        return
    if out.exists() and cases.exists() and out.samefile(cases):
        raise ConfigError(f"--out {out} is the file of the cases: name another one")
    try:
        file = out.open("w", encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"--out {out} cannot be written: {error.strerror or error}") from error
    with file:
        yield file
