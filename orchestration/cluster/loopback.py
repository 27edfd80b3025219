"""Before Ray is imported: a Ray that a command starts for itself listens on the loopback interface only."""

import os

from orchestration.cluster.job import LaunchedCluster
from orchestration.config import ClusterConfig
from orchestration.errors import ConfigError

# Whoever can talk to Ray can run code in it. On Linux its processes would listen at every address; the variable says
# that this machine is the whole cluster, on any system. Ray reads it when it is imported; its children inherit it.
LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}


def settle(cluster: ClusterConfig) -> None:
    """Raises ConfigError for a cluster that a job has to be launched on."""
    if isinstance(cluster, LaunchedCluster):
        raise ConfigError(
            f"cluster={cluster.kind} describes a job that brings its own Ray: write `temper launch` for `temper train`,"
            " or cluster=ray to join a cluster that is up"
        )
    if cluster.address is None:
        for name, value in LOOPBACK.items():
            os.environ.setdefault(name, value)
