"""A run as a Slurm job: an sbatch script that starts Ray on all its nodes and the driver on the first.

    #SBATCH lines, cluster.setup, values      written here, from the configuration
    node.sh                                   the rest, the same for every job

The job's Ray asks for a token made in the job, so other users of the machine cannot talk to it.
"""

import math
import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from orchestration.cluster.bundles import Bundle
from orchestration.cluster.hand_over import hand_over
from orchestration.cluster.job import Job, LaunchedCluster
from orchestration.errors import ConfigError

BODY = Path(__file__).parent / "node.sh"


@dataclass(frozen=True, kw_only=True)
class Slurm(LaunchedCluster):
    """One job of whole nodes; more nodes can join while it runs (docs/cluster.md).

    partition      as `sinfo` lists them
    nodes          None: as few as hold the run
    time           limit as Slurm writes it, [days-]hours:minutes:seconds
    stop_before_s  so long before the limit the run is asked to write a checkpoint and end; `resume=` goes on from there
    folder         where the job runs and `runs/` appears, on a file system that all nodes share; None: the present one
    setup          shell lines run first on the first node, whose environment the others inherit
    container      a command that runs another one inside a container: "apptainer exec --nv temper.sif"
    options        further options of sbatch, by their long name: {qos: high, mail-type: END}
    """

    kind: ClassVar[str] = "slurm"
    partition: str
    account: str | None = None
    nodes: int | None = None
    cpus_per_node: int
    gpus_per_node: int = 0
    time: str = "24:00:00"
    stop_before_s: int = 300
    folder: str | None = None
    setup: str = ""
    container: str = ""
    options: dict[str, str] = field(default_factory=dict)

    def document(self, job: Job) -> str:
        nodes = self.nodes or job.nodes(Bundle(cpus=self.cpus_per_node, gpus=self.gpus_per_node))
        directives = {
            "job-name": job.name,
            "partition": self.partition,
            "account": self.account,
            "nodes": nodes,
            "ntasks-per-node": 1,
            "cpus-per-task": self.cpus_per_node,
            "gpus-per-node": self.gpus_per_node or None,
            "exclusive": "",
            "time": self.time,
            "signal": f"B:TERM@{self.stop_before_s}",
            "no-kill": "",  # the run goes on without a node that is lost
            "chdir": self.folder,
            **self.options,
        }
        resources = [
            f"--num-cpus={self.cpus_per_node}",
            f"--num-gpus={self.gpus_per_node}",
            f"--object-store-memory={math.ceil(self.object_store_gib * 2**30)}",
        ]
        lines = [
            "#!/bin/bash",
            *(
                f"#SBATCH --{name}{f'={value}' if value != '' else ''}"
                for name, value in directives.items()
                if value is not None
            ),
            "set -euo pipefail",
            *(f"export {name}={shlex.quote(value)}" for name, value in self.env.items()),
            *([self.setup.rstrip()] if self.setup else []),
            f"cpus={self.cpus_per_node}",
            f"container=({shlex.join(shlex.split(self.container))})",
            f"resources=({shlex.join(resources)})",
            f"command=({shlex.join(job.command)})",
        ]
        self._check(lines)
        return "\n".join(lines) + "\n\n" + BODY.read_text()

    def submit(self, document: str) -> str:
        answer = hand_over(
            document,
            ["sbatch", "--parsable"],
            without="run this on a login node of the cluster, or look at --dry-run",
            silent="look at `squeue --me`",
        )
        number = answer.partition(";")[0]
        return f"Slurm job {number}; its console: slurm-{number}.out"

    @staticmethod
    def _check(lines: list[str]) -> None:
        for line in lines:
            if line.startswith("#SBATCH") and "\n" in line:
                raise ConfigError(f"{line!r} is more than one line: a value of cluster.options holds a line break")
