"""A run as a job: the command line that a cluster is asked to run, one for each combination of a sweep.

    overrides --sweep--> combinations --plan, checked--> Job --LaunchedCluster.document--> text --submit--> its number

The command is `temper train` with the overrides as they were given, on the Ray cluster that the job finds around it.
Values with commas are Hydra's sweeps. They are not run through its submitit launcher, which sends one pickled Python
function to one process: a job of Temper is a Ray cluster of several nodes.
"""

import dataclasses
import itertools
import re
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from orchestration.cluster.bundles import Bundle, bundles_of, engine_bundle, nodes_needed, rank_bundle
from orchestration.config import CONF, ClusterConfig, RunPlan, load_plan, load_saved_plan
from orchestration.errors import ConfigError
from orchestration.run_folder import RUNS, RunFolder

SECRET = re.compile(r"KEY|TOKEN|SECRET|PASSWORD|CREDENTIAL", re.IGNORECASE)
NAME_CHARS = 40  # KubeRay appends to it, and a host name has 63 at most


@dataclass(frozen=True, kw_only=True)
class Job:
    """`name`: letters, digits and dashes. `command`: what the job runs once Ray is up."""

    name: str
    command: tuple[str, ...]
    plan: RunPlan

    def nodes(self, node: Bundle) -> int:
        """How many of these nodes hold all actors of the run. Raises ConfigError where an actor fits none."""
        count = nodes_needed(bundles_of(self.plan), node)
        if count is None:
            raise ConfigError(
                f"a node of {node} (cluster.cpus_per_node, cluster.gpus_per_node) is too small for this run: an engine"
                f" takes {engine_bundle(self.plan)}, a rank of the learner {rank_bundle(self.plan)}"
            )
        return count


@dataclass(frozen=True, kw_only=True)
class LaunchedCluster(ClusterConfig, ABC):
    """A cluster that takes jobs. `env`: variables of every process of the job, for everybody to read in it."""

    kind: ClassVar[str]
    env: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in self.env:
            if SECRET.search(name):
                raise ValueError(
                    f"cluster.env.{name} would be written into the job, for all who can see it: set it in the"
                    " environment of the nodes, or with cluster=kuberay in the Secret that cluster.secret names"
                )

    @abstractmethod
    def document(self, job: Job) -> str:
        """What would be submitted, as text."""

    @abstractmethod
    def submit(self, document: str) -> str:
        """Hand a document to the cluster; returns what to tell the user. Raises LaunchError."""


def jobs_of(overrides: Sequence[str], *, multirun: bool = False, conf: Path = CONF) -> list[Job]:
    """Every combination, checked, before any is submitted. Raises ConfigError."""
    stamp = time.strftime("%Y%m%d-%H%M%S")
    combinations = sweep(overrides) if multirun else [list(overrides)]
    jobs = []
    for number, combination in enumerate(combinations):
        job = _job(combination, conf)
        if len(combinations) > 1:  # they may start in the same second, and a folder is one run's
            folder = RUNS / job.plan.name / f"{stamp}-{number}"
            job = dataclasses.replace(job, name=f"{job.name}-{number}", command=(*job.command, f"run.dir={folder}"))
        jobs.append(job)
    return jobs


def sweep(overrides: Sequence[str]) -> list[list[str]]:
    """The product of all values with commas, in Hydra's grammar. Raises ConfigError."""
    try:
        parsed = OverridesParser.create().parse_overrides(list(overrides))
        return [
            list(combination)
            for combination in itertools.product(
                *(
                    [f"{one.get_key_element()}={value}" for value in one.sweep_string_iterator()]
                    if one.is_sweep_override()
                    else [one.input_line]
                    for one in parsed
                )
            )
        ]
    except HydraException as error:
        raise ConfigError(" ".join(str(error).split())) from error


def _job(overrides: Sequence[str], conf: Path) -> Job:
    of_cluster = [one for one in overrides if re.match(r"\+*cluster[.=]", one)]
    rest = [one for one in overrides if one not in of_cluster]
    resume = [one for one in rest if one.startswith("resume=")]
    if resume:  # the saved run knows the cluster it ran on; the one to launch on is on the command line
        rest = [one for one in rest if one not in resume]
        cluster = load_plan(of_cluster, conf).cluster
        saved = RunFolder.open(Path(resume[-1].removeprefix("resume="))).config
        plan = dataclasses.replace(load_saved_plan(saved, rest), cluster=cluster)
        joining = [resume[-1], "cluster.address=auto"]
    else:
        plan = load_plan(overrides, conf)
        cluster = plan.cluster
        joining = ["cluster=ray", "cluster.address=auto"]
    if not isinstance(cluster, LaunchedCluster):
        raise ConfigError("name the cluster to launch on: cluster=slurm, cluster=ray_job or cluster=kuberay")
    name = re.sub(r"[^a-z0-9]+", "-", f"temper-{plan.name}-s{plan.seed}".lower()).strip("-")[:NAME_CHARS]
    return Job(name=name, command=("temper", "train", *joining, *_shared_with_run(cluster), *rest), plan=plan)


def _shared_with_run(cluster: ClusterConfig) -> list[str]:
    """What the driver has to know of the cluster besides its address, where it differs from the default."""
    default = ClusterConfig()
    values = [
        f"cluster.{item.name}={getattr(cluster, item.name)}"
        for item in dataclasses.fields(ClusterConfig)
        if item.name not in ("address", "node_labels") and getattr(cluster, item.name) != getattr(default, item.name)
    ]
    for role, wanted in dataclasses.asdict(cluster.node_labels).items():
        labels = ",".join(f"{label}:'{value}'" for label, value in wanted.items())  # Hydra's quotes: it may be !spot
        values += [f"cluster.node_labels.{role}={{{labels}}}"] if labels else []
    return values
