"""The folder of one run: where everything it writes has its place.

runs/<name>/<time>-s<seed>/     config.yaml  metrics.jsonl  curves.png  report.html  journal.sqlite
                                checkpoints/  logs/  wandb/
runs/latest                     -> the run started last
"""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from orchestration.config import RunPlan
from orchestration.errors import ConfigError

RUNS = Path("runs")


@dataclass(frozen=True)
class RunFolder:
    """Paths inside `root`."""

    root: Path

    @property
    def config(self) -> Path:
        return self.root / "config.yaml"

    @property
    def checkpoints(self) -> Path:
        return self.root / "checkpoints"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    @property
    def journal(self) -> Path:
        return self.root / "journal.sqlite"

    @classmethod
    def create(cls, plan: RunPlan) -> "RunFolder":
        """Make a new run's folder and write the resolved config. Raises ConfigError where it already holds a run."""
        root = cls.root_of(plan)
        folder = cls(root.absolute())
        if folder.config.exists():
            raise ConfigError(
                f"run.dir={root} already holds a run: continue it with temper resume {root}, or name another folder"
            )
        try:
            folder.logs.mkdir(parents=True, exist_ok=True)
            folder.checkpoints.mkdir(exist_ok=True)
            folder.write_config(plan)
        except OSError as error:
            raise ConfigError(
                f"the run folder {root} cannot be written ({error}): set run.dir to one that can"
            ) from error
        folder._point_latest()
        return folder

    @staticmethod
    def root_of(plan: RunPlan) -> Path:
        """Where a run that begins now has its folder."""
        stamp = time.strftime("%Y%m%d-%H%M%S")
        return Path(plan.run.dir) if plan.run.dir else RUNS / plan.name / f"{stamp}-s{plan.seed}"

    @classmethod
    def open(cls, root: Path) -> "RunFolder":
        """The folder of an earlier run. Raises ConfigError where there is none."""
        folder = cls(root.resolve())
        if not folder.config.is_file():
            raise ConfigError(f"{root} is not a run folder: it has no config.yaml")
        return folder

    def saved_section(self, name: str) -> Any:
        """One section of the configuration that the run went by until now."""
        return OmegaConf.to_container(OmegaConf.load(self.config))[name]

    def write_config(self, plan: RunPlan) -> None:
        OmegaConf.save(OmegaConf.create(plan.tree), self.config)

    def _point_latest(self) -> None:
        """runs/latest -> this run, replaced in one step. A run outside runs/ leaves it alone."""
        runs = RUNS.absolute()
        if runs not in self.root.parents:
            return
        temporary = runs / f".latest-{self.root.name}"
        temporary.symlink_to(self.root.relative_to(runs))
        temporary.replace(runs / "latest")
