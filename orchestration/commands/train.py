"""Train a policy.

    temper train experiment=quickstart                     spec -> Verilog on this machine, minutes
    temper train experiment=quickstart run.steps=20 seed=1 any value can be overridden by its path

Ctrl-C finishes the step, writes a checkpoint and exits; `temper resume RUN`, or resume=RUN here, goes on from there.
"""

import argparse
import dataclasses
import sys
import textwrap
from pathlib import Path

from orchestration.cluster.loopback import settle
from orchestration.config import CONF, RunPlan, load_plan, load_saved_plan
from orchestration.process import prepare
from orchestration.run_folder import RunFolder
from orchestration.supervisor import start_driver, supervise


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="configuration overrides, see below")
    parser.add_argument("--conf", type=Path, default=CONF, help="configuration folder (default: the one Temper ships)")
    parser.add_argument("--driver", action="store_true", help=argparse.SUPPRESS)  # started by a supervisor
    parser.epilog = f"choices (group=name):\n{_groups()}\n\nkeys and their defaults:\n{_keys()}"


def _groups() -> str:
    found = {group.name: sorted(file.stem for file in group.glob("*.yaml")) for group in sorted(CONF.iterdir())}
    return "\n".join(f"  {group}={'|'.join(names)}" for group, names in found.items() if names)


def _keys() -> str:
    """Every section whose fields have defaults, one line each; the other sections depend on the group chosen."""
    lines = ["  seed=0"]
    for section in dataclasses.fields(RunPlan):
        if isinstance(section.default_factory, type) and dataclasses.is_dataclass(section.default_factory):
            values = dataclasses.asdict(section.default_factory())
            shown = "  ".join(
                f"{section.name}.{key}={'null' if value is None else value}" for key, value in values.items()
            )
            lines.append(textwrap.fill(shown, 118, initial_indent="  ", subsequent_indent="  ", break_on_hyphens=False))
    return "\n".join(lines)


def run(arguments: argparse.Namespace) -> int:
    prepare()
    plan, folder = plan_and_folder(arguments.overrides, arguments.conf)
    settle(plan.cluster)
    if plan.run.restarts and not arguments.driver:
        return _supervised(arguments, plan, folder)
    from orchestration.launch import train  # imports Ray and transformers: seconds

    report = train(plan, folder)
    if not report.completed:
        root = folder.root if folder else plan.run.dir or "runs/latest"
        sys.stderr.write(f"stopped at step {report.version} of {plan.run.steps}; continue with: temper resume {root}\n")
    return 0


def _supervised(arguments: argparse.Namespace, plan: RunPlan, folder: RunFolder | None) -> int:
    root = folder.root if folder else RunFolder.root_of(plan)
    flags = ["--driver", "--conf", str(arguments.conf)]
    first = ["train", *arguments.overrides, *([] if folder else [f"run.dir={root}"]), *flags]
    # Overrides of a resumed run go with every attempt: a driver may be lost before it has written them down.
    again = first if folder else ["train", f"resume={root}", *flags]
    return supervise(first, root, again, plan.run.restarts, start_driver)


def plan_and_folder(overrides: list[str], conf: Path) -> tuple[RunPlan, RunFolder | None]:
    """A new plan (its folder is made once it has passed all checks), or that of the run that `resume=` names."""
    resume = [override for override in overrides if override.startswith("resume=")]
    rest = [override for override in overrides if override not in resume]
    if not resume:
        return load_plan(rest, conf), None
    folder = RunFolder.open(Path(resume[-1].removeprefix("resume=")))
    return load_saved_plan(folder.config, rest), folder
