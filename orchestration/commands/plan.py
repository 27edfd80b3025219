"""Simulate a run before it is made: how many rollout and learner GPUs, what staleness, does speculation pay, how many
hours.

temper plan from=runs/latest                               rates as that finished run had them, and its configuration
temper plan from=runs/latest plan.workers=[1,2,4,8] plan.staleness=[0,1,2] run.steps=1000
temper plan experiment=quickstart plan=quickstart          rates of a file in conf/plan
temper plan plan.rates.decode={1:40,64:1600} plan.rates.lengths.mean=500 plan.rates.learner_tokens_per_s=9000

Whatever the configuration says of a run (run, task.max_tokens, rollout, speculative, eval) holds for those simulated. A
rate that is given wins over a measured one. It prints a table and draws plan.png; docs/scheduler.md explains both.
"""

import argparse
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from orchestration.config import RunPlan, load_plan, load_saved_plan
from orchestration.process import prepare
from orchestration.run_folder import RunFolder


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="from=<run folder>, and configuration overrides"
    )


def run(arguments: argparse.Namespace) -> int:
    prepare()
    console = Console()
    source = [override for override in arguments.overrides if override.startswith("from=")]
    rest = [override for override in arguments.overrides if override not in source]
    plan = calibrated(Path(source[-1].removeprefix("from=")), rest, console) if source else load_plan(rest)
    from orchestration.planner.grid import answers, checked_rates, combinations
    from orchestration.planner.picture import write_picture
    from orchestration.planner.table import sentences, table

    checked_rates(plan.plan.rates)
    with Progress(console=console, transient=True) as progress:
        bar = progress.add_task("simulating", total=len(combinations(plan)))
        found = answers(plan, each=lambda: progress.advance(bar))
    console.print(table(found, steps=plan.run.steps))
    for sentence in sentences(found):
        console.print(sentence, highlight=False, soft_wrap=True)
    picture = Path(plan.plan.picture)
    write_picture(found, picture, title=f"{plan.name}: {plan.run.steps} steps, simulated")
    console.print(f"picture: {picture}", highlight=False, soft_wrap=True)
    return 0


def calibrated(root: Path, overrides: list[str], console: Console) -> RunPlan:
    """The plan of an earlier run with `overrides`, and its rates; says how well they explain the run itself."""
    from orchestration.planner.answer import simulate
    from orchestration.planner.calibrate import calibrate, with_given
    from orchestration.planner.grid import Combination, setting

    folder = RunFolder.open(root)
    made, plan = load_saved_plan(folder.config, []), load_saved_plan(folder.config, overrides)
    measured = calibrate(folder, made)
    made = replace(made, plan=replace(made.plan, rates=measured.rates))
    own = Combination(
        workers=made.rollout.workers, ranks=made.learner.ranks, staleness=made.run.max_staleness, speculation=False
    )
    again = simulate(
        setting(made, own), total_steps=made.run.steps, gpus_per_worker=made.rollout.tensor_parallel
    ).steps_per_hour
    console.print(
        f"calibrated from {root}: it made {measured.measured_steps_per_hour:,.4g} steps per hour, and"
        f" {again:,.4g} when simulated",
        highlight=False,
        soft_wrap=True,
    )
    for sentence in measured.assumed:
        console.print(f"assumed: {sentence}", highlight=False, soft_wrap=True)
    return replace(plan, plan=replace(plan.plan, rates=with_given(measured.rates, plan.plan.rates)))
