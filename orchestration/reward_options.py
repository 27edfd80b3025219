"""The command-line arguments that `temper verify` and `temper serve-verifier` share: the settings of the verifiers."""

import argparse
import os
from typing import Any

from orchestration.errors import ConfigError
from reward.config import RewardConfig


def add_reward_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--workers", type=int, help="responses judged at the same time, per verifier (default: cores)")
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="key=value",
        help="settings of the verifiers by their path, such as deadline_s=5 or sandbox=unsafe (reward/config.py)",
    )


def reward_config(arguments: argparse.Namespace) -> RewardConfig:
    """Defaults, then --workers, then key=value. Raises ConfigError, one sentence."""
    workers = arguments.workers
    if workers is None:
        workers = len(os.sched_getaffinity(0))
    if workers < 1:
        raise ConfigError(f"--workers is at least 1, got {workers}")
    if not arguments.overrides:
        return RewardConfig(default_workers=workers)
    from orchestration.config import build, yaml_value  # imports torch: seconds, spared where nothing is overridden

    tree: dict[str, Any] = {"default_workers": workers}
    for override in arguments.overrides:
        path, separator, value = override.partition("=")
        if not separator:
            raise ConfigError(f"{override!r} is not an override: write key=value")
        *sections, key = path.removeprefix("reward.").split(".")
        branch = tree
        for section in sections:
            branch = branch.setdefault(section, {})
            if not isinstance(branch, dict):
                raise ConfigError(f"{override!r}: {section} is a value, not a section")
        branch[key] = yaml_value(value)
    return build(RewardConfig, tree, "reward")
