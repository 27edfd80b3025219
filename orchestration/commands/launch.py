"""Run a training as a job of a cluster (docs/cluster.md).

    temper launch cluster=slurm cluster.partition=gpu cluster.cpus_per_node=64 cluster.gpus_per_node=8 experiment=...
    temper launch cluster=ray_job cluster.address=http://head:8265 experiment=...
    temper launch cluster=kuberay cluster.image=... cluster.claim=runs cluster.cpus_per_node=32 ...
    temper launch --dry-run ...                      print what would be submitted
    temper launch -m ... learner.lr=1e-4,3e-4 seed=0,1   one job for each combination, in Hydra's grammar
    temper launch cluster=... resume=RUN             go on from the newest checkpoint

The configuration is checked here, as `temper train` checks it, before anything is submitted.
"""

import argparse
import sys
from pathlib import Path

from orchestration.cluster.job import jobs_of
from orchestration.config import CONF
from orchestration.process import prepare


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="configuration overrides, as of `temper train`"
    )
    parser.add_argument("--dry-run", action="store_true", help="print the jobs instead of submitting them")
    parser.add_argument("-m", "--multirun", action="store_true", help="values with commas are a sweep")
    parser.add_argument("--conf", type=Path, default=CONF, help="configuration folder (default: the one Temper ships)")


def run(arguments: argparse.Namespace) -> int:
    prepare()
    jobs = jobs_of(arguments.overrides, multirun=arguments.multirun, conf=arguments.conf)
    documents = [job.plan.cluster.document(job) for job in jobs]  # all of them are refused, or none
    for job, document in zip(jobs, documents, strict=True):
        if arguments.dry_run:
            sys.stdout.write(document)
        else:
            sys.stdout.write(f"{job.name}: {job.plan.cluster.submit(document)}\n")
            sys.stdout.flush()
    return 0
