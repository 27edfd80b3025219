"""Weights & Biases: the same rows, in the run folder, uploaded only when a key is there.

Without a key the run is recorded offline; `wandb sync <run folder>/wandb/offline-run-*` uploads it later. No network,
no wrong key and no slow upload may cost a training run: going online has a deadline and falls back to offline, and
so has the last upload.
"""

import logging
import os
import re
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)

ONLINE_DEADLINE_S = 20.0
UPLOAD_DEADLINE_S = 60.0


class WandbLog:
    """One W&B run. `mode` is "online" or "offline"."""

    def __init__(self, *, folder: Path, project: str, name: str, config: Mapping[str, Any], online: bool) -> None:
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # no crash reports to anybody unless asked for
        self._folder = folder
        self._arguments = {
            "dir": str(folder),
            "project": project,
            "name": name,
            # The same run folder is the same W&B run, also after a resume.
            "id": re.sub(r"[^A-Za-z0-9_-]", "-", f"{folder.parent.name}-{folder.name}"),
            "config": dict(config),
        }
        self._run = self._start("online" if online else "offline")
        # Evaluations arrive after later training steps: W&B's own step never falls, so each line carries its own.
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")

    def write(self, row: Mapping[str, float]) -> None:
        self._run.log(dict(row))

    def close(self) -> None:
        """Wait for the last upload, but not longer than the deadline."""
        upload = threading.Thread(target=self._run.finish, daemon=True)
        upload.start()
        upload.join(UPLOAD_DEADLINE_S)
        if upload.is_alive():
            logger.warning(
                "W&B did not finish its upload within %.0f s; the run is complete in %s: wandb sync %s",
                *(UPLOAD_DEADLINE_S, self._folder, self._folder / "wandb" / "run-*"),
            )

    def _start(self, mode: str):
        import wandb  # 1 s, and needless where W&B is disabled
        from wandb.errors import CommError, UsageError

        settings = wandb.Settings(
            silent=True,
            init_timeout=ONLINE_DEADLINE_S,
            console="off",  # logs/ has what the processes print
            disable_git=True,
            x_disable_stats=True,
            x_save_requirements=False,
        )
        resume = {"resume": "allow"} if mode == "online" else {}
        try:
            return wandb.init(mode=mode, settings=settings, **resume, **self._arguments)
        except (CommError, UsageError) as error:
            if mode == "offline":
                raise
            reason = " ".join(str(error).split())
            logger.warning("W&B cannot be reached, so this run is recorded offline: %s", reason)
            wandb.teardown()  # its service still holds the run's id
            return self._start("offline")
