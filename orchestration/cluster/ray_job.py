"""A run as a job of a Ray cluster that is up: its driver starts on the cluster's head, through the job server.

Temper is not sent along: it is installed on every node, with vLLM and the rest of what a run takes. So the nodes need
no package index, and what runs is what was installed.
"""

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import yaml

from orchestration.cluster.job import Job, LaunchedCluster
from orchestration.errors import LaunchError


@dataclass(frozen=True, kw_only=True)
class RayJob(LaunchedCluster):
    """`ray job submit`.

    address  of the job server, which the head's dashboard is
    folder   where the driver runs and `runs/` appears, on a file system that all nodes share; None: the present one
    program  how the head calls Temper, for example by its full path
    """

    kind: ClassVar[str] = "ray_job"
    address: str | None = "http://127.0.0.1:8265"
    folder: str | None = None
    program: str = "temper"

    def document(self, job: Job) -> str:
        command = [*shlex.split(self.program), *job.command[1:]]
        folder = Path(self.folder or Path.cwd())
        return yaml.safe_dump(
            {
                "address": self.address,
                "entrypoint": f"cd {shlex.quote(str(folder))} && exec {shlex.join(command)}",
                "metadata": {"job_name": job.name},
                "runtime_env": {"env_vars": dict(self.env)} if self.env else {},
            },
            explicit_start=True,
            sort_keys=False,
            width=1000,
        )

    def submit(self, document: str) -> str:
        from ray.job_submission import JobSubmissionClient  # seconds

        request = yaml.safe_load(document)
        address = request.pop("address")
        try:
            number = JobSubmissionClient(address).submit_job(**request)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise LaunchError(
                f"no job server takes the job at cluster.address={address} ({' '.join(str(error).split())}): start the"
                " head with `ray start --head` and give cluster.address=http://<head>:8265"
            ) from error
        return f"Ray job {number}; follow it with: ray job logs --address {address} --follow {number}"
