"""The verifier service on Ray Serve: one replica with a pool of worker processes, behind Serve's HTTP proxy.

    caller --HTTP--> Serve's proxy --at most `ONGOING` calls--> replica: reward/http.py --> VerifierPool --> sandboxes
                          503 beyond `QUEUED` more              503 where the pool has no room

The pool itself says no when it has no room, with Retry-After and in a sentence; Serve's own limits stand behind it, for
calls that have not reached it. They are wide, because the proxy holds the body of a call that it keeps waiting.
Ray runs on this machine alone. The command's `RAY_ENVIRONMENT` keeps Ray's own ports on the loopback interface, except
one of the replica's, which asks for the token of this Ray session: from outside only the proxy can be talked to.
"""

import contextlib
import logging
import os
import signal
import threading
import time
from collections.abc import Iterator

import ray
from ray import serve
from ray.exceptions import RayError
from ray.serve.schema import ApplicationStatus

from orchestration import process
from orchestration.endpoint import Endpoint
from orchestration.errors import ServeError
from reward.config import RewardConfig
from reward.http import HttpConfig, build_app

APPLICATION = "verifier"
ONGOING = 256  # calls in the replica at a time: most of them wait for verdicts
QUEUED = 256  # calls that wait in the proxy for one of these to end
OBJECT_STORE_BYTES = 128 << 20  # bodies travel as messages; the store is hardly used
START_S = 120.0
CLOSE_S = 20.0  # for the replica to end its worker processes


class VerifierIngress:
    """The replica: it builds the application in its own process."""

    def __init__(self, config: RewardConfig, http: HttpConfig) -> None:
        self._config = config
        self._http = http

    def __serve_build_asgi_app__(self):  # the name that Serve asks for
        return build_app(self._config, self._http)


@contextlib.contextmanager
def serving(config: RewardConfig, http: HttpConfig, endpoint: Endpoint) -> Iterator[None]:
    """The service is up inside, and gone with all its processes after. Raises ServeError, one sentence."""
    try:
        start(config, http, endpoint)
        yield
        serve.delete(APPLICATION)  # calls at work get their verdicts, within `CLOSE_S`
    finally:
        ray.shutdown()


def start(config: RewardConfig, http: HttpConfig, endpoint: Endpoint) -> None:
    """Start Ray, Serve's proxy and the replica, and wait until it answers. Raises ServeError."""
    ray.init(
        address="local",  # never a Ray that runs here already
        num_cpus=max(2, os.cpu_count() or 1),
        include_dashboard=False,
        object_store_memory=OBJECT_STORE_BYTES,
        runtime_env={"env_vars": {**process.environment(), "OMP_NUM_THREADS": "1"}},
        log_to_driver=False,
        logging_level=logging.ERROR,
    )
    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    deployment = serve.deployment(
        serve.ingress()(VerifierIngress),
        name="verifier",
        num_replicas=1,  # one pool: its lanes bound the work, whatever the number of callers
        max_ongoing_requests=ONGOING,
        max_queued_requests=QUEUED,
        graceful_shutdown_timeout_s=CLOSE_S,
        graceful_shutdown_wait_loop_s=0.2,
        ray_actor_options={"num_cpus": 0},
    )
    try:
        serve.start(
            proxy_location="HeadOnly",
            http_options={"host": endpoint.host, "port": endpoint.port},
            logging_config={"log_level": "WARNING", "enable_access_log": False},
        )
        target = serve.RunTarget(target=deployment.bind(config, http), name=APPLICATION, route_prefix="/")
        serve.run_many([target], wait_for_applications_running=False)
    except (RuntimeError, RayError) as error:
        raise ServeError(f"Ray Serve did not start: {' '.join(str(error).split())}") from error
    wait_until_running()


def wait_until_running() -> None:
    """Raises ServeError where the replica fails, or is not up within `START_S`."""
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        application = serve.status().applications[APPLICATION]
        if application.status == ApplicationStatus.RUNNING:
            return
        if application.status == ApplicationStatus.DEPLOY_FAILED:
            raise ServeError(f"the verifier service did not start: {' '.join(application.message.split())}")
        time.sleep(0.1)
    raise ServeError(
        f"the verifier service was not up {START_S:g} s after its start: the logs of Ray Serve, in"
        " /tmp/ray/session_latest/logs/serve, say more"
    )


def wait_for_interrupt() -> None:
    """Until Ctrl-C or SIGTERM. A further one, while the service ends, changes nothing."""
    over = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: over.set())
    over.wait()
