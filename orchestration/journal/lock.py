"""One driver per run folder: a lock that ends with the process that holds it, however it ends.

flock(2), because NFS carries it from host to host, and its server lets go of it some time after a host is gone
(docs/run_folder.md, "On a shared file system").
"""

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
    except OSError as error:
        file.close()
        raise JournalError(
            f"the file system of {path.parent} has no locks ({error}), so that a second driver would not be refused:"
            " mount it with them (Lustre: -o flock), or set run.dir to another"
        ) from error
    file.truncate(0)
    file.write(f"process {os.getpid()} on {socket.gethostname()}")
    file.flush()
    os.fsync(file.fileno())  # for drivers on other hosts to read
    return file
