"""A document on the standard input of the program that takes jobs: sbatch, kubectl."""

import shutil
import subprocess
from collections.abc import Sequence

from orchestration.errors import LaunchError

DEADLINE_S = 60.0


def hand_over(document: str, command: Sequence[str], *, without: str, silent: str) -> str:
    """What `command` prints, stripped. Raises LaunchError, one sentence each: `without` completes the one for a program
    that is not here, `silent` the one for a program that does not answer in time."""
    program = command[0]
    if shutil.which(program) is None:
        raise LaunchError(f"there is no {program} here: {without}")
    try:
        done = subprocess.run(command, input=document, capture_output=True, text=True, timeout=DEADLINE_S, check=True)
    except subprocess.TimeoutExpired as late:
        raise LaunchError(f"{program} has not answered in {DEADLINE_S:.0f} s: {silent}") from late
    except subprocess.CalledProcessError as failed:
        raise LaunchError(f"{program} refused the job: {' '.join(failed.stderr.split())}") from failed
    return done.stdout.strip()
