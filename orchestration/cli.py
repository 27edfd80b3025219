"""The console command `temper`: picks the subcommand, turns a known error into one sentence and a non-zero exit code.

temper train experiment=quickstart
temper doctor
"""

import argparse
import importlib
import sys

COMMANDS = {
    "train": "train a policy: temper train experiment=quickstart",
    "eval": "score a checkpoint on held-out tasks and print JSON",
    "warmstart": "build the tiny policy and give it its supervised start",
    "doctor": "say what is installed and what is missing for a configuration",
    "report": "draw curves.png and report.html of a run folder again",
}


def main(argv: list[str] | None = None) -> int:
    """Exit code 0 when the command did what it was asked, 2 for bad input, 1 for everything else that went wrong."""
    parser = argparse.ArgumentParser(
        prog="temper", description="Reinforcement learning of language models from verifiable rewards."
    )
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="command")
    for name, help_line in COMMANDS.items():
        module = importlib.import_module(f"orchestration.commands.{name}")
        subparser = subparsers.add_parser(
            name, help=help_line, description=module.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        module.add_arguments(subparser)
        subparser.set_defaults(module=module)
    arguments = parser.parse_args(argv)
    return _run(arguments)


def _run(arguments: argparse.Namespace) -> int:
    from learner.errors import LearnerError
    from orchestration.errors import ConfigError, OrchestrationError
    from orchestration.models.errors import ModelError
    from orchestration.tasks.errors import TaskError
    from reward.errors import RewardError
    from rollout.errors import RolloutError

    try:
        return arguments.module.run(arguments)
    except KeyboardInterrupt:
        return 130  # as a shell reports it
    except (ConfigError, ModelError, TaskError) as error:
        sys.stderr.write(f"temper: {error}\n")
        return 2
    except (OrchestrationError, LearnerError, RewardError, RolloutError) as error:
        sys.stderr.write(f"temper: {error}\n")
        return 1


if __name__ == "__main__":
    sys.exit(main())
