"""The console command `temper`: picks the subcommand, turns a known error into one sentence and a non-zero exit code.

temper train experiment=quickstart
temper doctor
"""

import argparse
import importlib
import sys
from collections.abc import Sequence

COMMANDS = {
    "train": "train a policy: temper train experiment=quickstart",
    "launch": "run a training as a job of a cluster: Slurm, Ray or Kubernetes",
    "resume": "go on with a run from its newest checkpoint: temper resume runs/latest",
    "eval": "score a checkpoint on held-out tasks and print JSON",
    "export": "take a policy out of a run: a folder that transformers and vLLM load",
    "export-rollouts": "write the responses a run has kept to a Parquet file",
    "verify": "judge the responses in a file, one JSON object a line",
    "serve-verifier": "judge responses over HTTP",
    "warmstart": "build the tiny policy and give it its supervised start",
    "train-drafter": "give a policy multi-token-prediction layers that draft for it: speculative=mtp",
    "doctor": "say what is installed and what is missing for a configuration",
    "plan": "simulate a run before it is made: how many GPUs, what staleness, how many hours",
    "report": "draw curves.png and report.html of a run folder again",
}


def main(argv: list[str] | None = None) -> int:
    """Exit code 0 when the command did what it was asked, 2 for bad input, 3 where a run lost somebody and can be
    resumed, 1 for everything else that went wrong."""
    argv = sys.argv[1:] if argv is None else argv
    return _run(parser_for(argv).parse_args(argv))


def parser_for(argv: Sequence[str]) -> argparse.ArgumentParser:
    """Only the command that is called is imported: the others may take seconds."""
    parser = argparse.ArgumentParser(
        prog="temper", description="Reinforcement learning of language models from verifiable rewards."
    )
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="command")
    for name, help_line in COMMANDS.items():
        if name not in argv[:1]:
            subparsers.add_parser(name, help=help_line)
            continue
        module = importlib.import_module(f"orchestration.commands.{name.replace('-', '_')}")
        subparser = subparsers.add_parser(
            name, help=help_line, description=module.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        module.add_arguments(subparser)
        subparser.set_defaults(module=module)
    return parser


def _run(arguments: argparse.Namespace) -> int:
    from learner.errors import LearnerError
    from orchestration.errors import CaseError, ConfigError, OrchestrationError, StallError, WorkerFailure
    from orchestration.models.errors import ModelError
    from orchestration.supervisor import LOST
    from orchestration.tasks.errors import TaskError
    from reward.errors import RewardError
    from rollout.errors import RolloutError

    try:
        return arguments.module.run(arguments)
    except KeyboardInterrupt:
        return 130  # as a shell reports it
    except (CaseError, ConfigError, ModelError, TaskError) as error:
        sys.stderr.write(f"temper: {error}\n")
        return 2
    except (OrchestrationError, LearnerError, RewardError, RolloutError) as error:
        sys.stderr.write(f"temper: {error}\n")
        lost = isinstance(error, StallError) or (isinstance(error, WorkerFailure) and error.died)
        return LOST if lost else 1


if __name__ == "__main__":
    sys.exit(main())
