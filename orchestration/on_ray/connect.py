"""Ray itself: started on this machine for one run, or joined where a cluster is up."""

import logging
import os
import socket

import ray

from orchestration import process
from orchestration.config import ClusterConfig
from orchestration.errors import ConfigError


def connect(cluster: ClusterConfig, cpus: float) -> None:
    """Start Ray here, or join the cluster at `cluster.address`. Raises ConfigError, one sentence."""
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    prepared = {"env_vars": process.environment()}
    if cluster.address is None:
        ray.init(
            address="local",  # otherwise Ray joins whatever `ray start` has left running on this machine
            num_cpus=max(os.cpu_count() or 1, int(cpus + 0.999)),
            include_dashboard=False,
            object_store_memory=int(cluster.object_store_gib * 2**30),
            runtime_env=prepared,
            **quiet,
        )
        return
    if ":" in cluster.address and "://" not in cluster.address:
        host, _, port = cluster.address.rpartition(":")
        try:
            socket.create_connection((host, int(port)), timeout=cluster.connect_deadline_s).close()
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"no Ray cluster answers at cluster.address={cluster.address} ({error}): start one with"
                " `ray start --head`, or leave cluster=local"
            ) from error
    try:
        ray.init(address=cluster.address, runtime_env=prepared, **quiet)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ConfigError(
            f"cannot join the Ray cluster at cluster.address={cluster.address} ({' '.join(str(error).split())}):"
            " start one with `ray start --head`, give this host the cluster's RAY_AUTH_TOKEN, or leave cluster=local"
        ) from error
