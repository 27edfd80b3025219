"""One driver per run folder: a lock that ends with the process that holds it, however it ends."""

import fcntl
import os
import socket
from pathlib import Path
from typing import TextIO

from orchestration.errors import JournalError


def lock(path: Path) -> TextIO:
    """Hold `path` for the life of the returned file. Raises JournalError, naming the holder, where another has it."""
    try:
        file = path.open("a+")
    except OSError as error:
        raise JournalError(f"the lock {path} of the run folder cannot be opened ({error})") from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        file.seek(0)
        holder = file.read().strip() or "an unknown process"
        file.close()
        raise JournalError(
            f"the run folder {path.parent} is already driven by {holder}: wait for it, stop it, or name another folder"
        ) from error
    file.truncate(0)
    file.write(f"process {os.getpid()} on {socket.gethostname()}")
    file.flush()
    return file
