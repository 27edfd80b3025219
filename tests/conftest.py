"""Every test process starts like a process of a run; tests that need Ray share one local cluster."""

import logging
import os

import pytest

from orchestration.process import environment, prepare

prepare()


@pytest.fixture(scope="session")
def ray_cluster():
    """A local Ray for the whole session. Tests that start their own run must not use it."""
    import ray

    ray.init(
        address="local",  # never one that `ray start` has left on this machine
        num_cpus=max(2, os.cpu_count() or 1),
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        object_store_memory=128 * 2**20,
        runtime_env={"env_vars": environment()},
    )
    yield
    ray.shutdown()
