"""The three services as Ray actors: started side by side, called by name, replaced when they die.

driver --+-- rollout-0, rollout-1, ...   RolloutWorker   one vLLM engine each
         +-- verifier-0                  VerifierPool    sandboxed processes
         +-- learner-0, learner-1, ...   LearnerWorker   one DeepSpeed rank each
"""

import asyncio
import contextlib
import itertools
import logging
import os
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import ray

from learner.messages import Publication, StepReport, TrainBatch
from learner.worker import LearnerWorker
from orchestration import process
from orchestration.actor import Service
from orchestration.checkpoint_store import check_arrived
from orchestration.cluster import placement
from orchestration.cluster.bundles import bundles_of, engine_bundle, rank_bundle, verifier_bundle
from orchestration.config import ClusterConfig, RunPlan
from orchestration.errors import ConfigError, WorkerFailure
from orchestration.locate import POLICY
from orchestration.restarts import Restarts
from reward.messages import Verdict, VerifyRequest
from reward.service import VerifierPool
from rollout.config import RolloutConfig
from rollout.draw.fit import Drawn, Recomputed
from rollout.errors import EngineLostError
from rollout.messages import EngineHealth, EngineMetrics, GroupRequest, Rollout, WeightConfirmation
from rollout.vllm_adapter.start import environment
from rollout.worker import RolloutWorker

log = logging.getLogger(__name__)

VERIFIER_START_S = 120.0
NODE_LOSS_S = 5.0  # between the deaths of the workers of one node
WEIGHTS_FOLDER = "weights"  # inside the run's folder


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
            " start one with `ray start --head`, or leave cluster=local"
        ) from error


class RayRollout:
    """See `orchestration.services.RolloutService`. An engine that is dead or stuck makes its worker a dead worker."""

    def __init__(self, service: Service, config: RolloutConfig) -> None:
        self.name = service.name
        self._service = service
        self._config = config

    async def generate(self, request: GroupRequest) -> AsyncIterator[Rollout]:
        # The engine's own deadline comes first: it knows which group was late.
        deadline_s = self._config.request_deadline_s + self._config.health_deadline_s
        async with contextlib.aclosing(self._service.stream("generate", request, deadline_s=deadline_s)) as answers:
            while rollouts := await self._watched(anext(answers, None)):
                for rollout in rollouts:
                    yield rollout

    async def abort(self, group_id: str) -> int:
        return await self._call("abort", group_id, deadline_s=self._config.health_deadline_s)

    async def update_weights(self, publication: Publication, payload: Any) -> WeightConfirmation:
        return await self._watched(
            self._service.call(
                "update_weights",
                publication.version,
                publication.checksum,
                publication.probe_ids,
                publication.probe_entropy,
                payload,
                deadline_s=self._config.request_deadline_s,
            )
        )

    async def sleep(self) -> None:
        await self._call("sleep", deadline_s=self._config.request_deadline_s)

    async def hidden_state(self, prompt_ids: tuple[int, ...]) -> np.ndarray:
        """See `rollout.engine.Engine`."""
        deadline_s = self._config.request_deadline_s + self._config.health_deadline_s
        return await self._watched(self._service.call("hidden_state", prompt_ids, deadline_s=deadline_s))

    async def metrics(self) -> EngineMetrics:
        return await self._call("metrics", deadline_s=self._config.health_deadline_s)

    async def health(self) -> EngineHealth:
        return await self._call("health", deadline_s=self._config.health_deadline_s)

    async def _call(self, method: str, *arguments: Any, deadline_s: float) -> Any:
        with self._lost_is_dead():
            return await self._service.call(method, *arguments, deadline_s=deadline_s)

    async def _watched(self, answer: Awaitable[Any]) -> Any:
        """Wait for an answer, and ask after the engine while it does not come."""
        waiting = asyncio.ensure_future(answer)
        try:
            while not (await asyncio.wait({waiting}, timeout=self._config.health_every_s))[0]:
                await self._check()
            with self._lost_is_dead():
                return waiting.result()
        finally:
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)  # it may have failed, too, meanwhile

    async def _check(self) -> None:
        """Raise WorkerFailure, and end the worker, unless its engine answers that it is well."""
        try:
            health = await self.health()
        except WorkerFailure as failure:
            if failure.died:
                raise
            raise self._dead(f"{self.name} does not say whether it is well: {failure}") from failure
        if not health.well:
            raise self._dead(health.reason)

    @contextlib.contextmanager
    def _lost_is_dead(self) -> Iterator[None]:
        """Nobody can tell a worker that hangs from one whose host is cut off, which answers nothing at all."""
        try:
            yield
        except WorkerFailure as failure:
            if isinstance(failure.__cause__, EngineLostError | TimeoutError):
                raise self._dead(str(failure)) from failure
            raise

    def _dead(self, reason: str) -> WorkerFailure:
        self._service.kill()
        return WorkerFailure(reason, worker=self.name, died=True)


class RayVerifier:
    """See `orchestration.services.VerifierService`: a dead pool is started again and gets the requests once more."""

    def __init__(self, services: "RayServices") -> None:
        self._services = services
        self._service: Service
        self._group: placement.PlacementGroup | None = None
        self._replacing = asyncio.Lock()

    async def start(self) -> None:
        plan = self._services.plan
        if self._group is not None:
            placement.release(self._group)
        self._group = await placement.reserve(
            "the verifier", [verifier_bundle(plan)], deadline_s=plan.rollout.start_deadline_s
        )
        self._service = await self._services.start(
            "verifier",
            VerifierPool,
            (plan.reward,),
            cpus=0,
            seat=placement.seat(self._group),
            env={"OMP_NUM_THREADS": "1"},
            deadline_s=VERIFIER_START_S,
        )

    async def verify(self, requests: Sequence[VerifyRequest]) -> list[Verdict]:
        while True:
            service = self._service
            try:
                return await service.call("verify", list(requests), deadline_s=self._services.plan.run.stall_deadline_s)
            except WorkerFailure as failure:
                if not failure.died:
                    raise
                async with self._replacing:
                    if self._service is service:  # nobody else has replaced it yet
                        await self._services.before_restart(failure)
                        await self.start()


class RayLearner:
    """See `orchestration.services.LearnerService`."""

    def __init__(self, services: "RayServices") -> None:
        self._services = services
        self._ranks: list[Service] = []
        self._group: placement.PlacementGroup | None = None
        self._address = ""  # of rank 0's host, as the other hosts of the cluster reach it
        self._turn = asyncio.Lock()  # one call at a time, in order
        self._deadline_s = services.plan.learner.step_deadline_s

    async def start(self, model: Path, checkpoint: Path | None) -> None:
        plan = self._services.plan
        config = plan.learner
        if self._group is not None:
            placement.release(self._group)  # with what may be left of earlier ranks
        self._group = await placement.reserve(
            "the learner",
            [rank_bundle(plan)] * config.ranks,
            strategy=plan.cluster.learner_placement,
            deadline_s=config.start_deadline_s,
        )
        self._address = placement.address(self._group) if plan.cluster.address else "127.0.0.1"
        meeting = self._address if config.ranks > 1 else "127.0.0.1"
        port = placement.meeting_port()
        self._ranks = await asyncio.gather(
            *(
                self._services.start(
                    "learner",
                    LearnerWorker,
                    (model, config, plan.algorithm, rank, config.ranks, meeting, port, plan.seed, plan.run.steps),
                    cpus=config.threads,
                    gpus=config.num_gpus,
                    seat=placement.seat(self._group, rank),
                    env={"OMP_NUM_THREADS": str(config.threads)},
                    deadline_s=config.start_deadline_s,
                )
                for rank in range(config.ranks)
            )
        )
        if checkpoint is not None:
            await self._all("load", checkpoint)

    async def train(self, batch: TrainBatch) -> StepReport:
        async with self._turn:
            return (await self._all("train", ray.put(batch)))[0]

    async def snapshot(self) -> tuple[Publication, Any]:
        async with self._turn:
            transport = self._services.plan.rollout.transport
            address = self._address if transport == "broadcast" else None
            how = self._services.weights_folder, transport == "cuda_ipc", address
            calls = (rank.call_split("publish", *how, deadline_s=self._deadline_s) for rank in self._ranks)
            return (await asyncio.gather(*calls))[0]

    async def score(self, responses: Sequence[Drawn]) -> tuple[int, list[Recomputed]]:
        async with self._turn:
            return (await self._all("score", responses))[0]

    async def save(self, folder: Path) -> None:
        began = time.monotonic()
        async with self._turn:
            asked = time.monotonic()
            await self._all("begin_save", folder, folder / POLICY)
            copied = time.monotonic()
        calls = (rank.call("finish_save", folder, deadline_s=self._deadline_s) for rank in self._ranks)
        answers = await asyncio.gather(*calls, return_exceptions=True)  # nobody writes any more when one failed
        for rank, written in zip(self._ranks, answers, strict=True):
            if isinstance(written, BaseException):
                raise written
            check_arrived(written, f"{rank.name} on {rank.host}")
        log.info(
            "%s: the learner stood still for %.2f s, all is on disk after %.2f s",
            *(folder, copied - asked, time.monotonic() - began),
        )

    async def _all(self, method: str, *arguments: Any) -> list[Any]:
        return await asyncio.gather(
            *(rank.call(method, *arguments, deadline_s=self._deadline_s) for rank in self._ranks)
        )


class RayServices:
    """See `orchestration.services.Services`. Restarts of rollout and verifier workers share one budget."""

    def __init__(self, plan: RunPlan, model: Path, logs: Path) -> None:
        self.plan = plan
        self._model = model
        self._logs = logs
        self._numbers: dict[str, itertools.count] = {}
        self._started: list[Service] = []
        self._rollout_workers = 0
        self._engines: dict[Service, placement.PlacementGroup] = {}
        self._restarts = Restarts(plan.run.worker_restarts, NODE_LOSS_S)
        self.learner = RayLearner(self)
        self.verifier = RayVerifier(self)

    @property
    def weights_folder(self) -> str | None:
        """Where publications are written as files; None where they travel in another way."""
        config = self.plan.rollout
        if config.transport != "shared_files":
            return None
        return config.transport_folder or str((self._logs.parent / WEIGHTS_FOLDER).resolve())

    @property
    def cpus(self) -> float:
        """CPUs the actors of this plan reserve together."""
        return sum(bundle.cpus for bundle in bundles_of(self.plan))

    async def start_rollout_worker(self) -> RayRollout:
        """Where other engines work, this one waits for room as long as the run takes, and so joins with a new node."""
        failure = WorkerFailure("a rollout worker died", worker="rollout", died=True)
        while True:
            self._rollout_workers += 1
            if self._rollout_workers > self.plan.rollout.workers:  # the first ones are no restarts
                await self.before_restart(failure)
            try:
                return await self._start_engine(self._next_name("rollout"), self.plan.seed + self._rollout_workers - 1)
            except WorkerFailure as died:
                if not (died.died and self._works()):
                    raise
                log.warning("%s while it started; another one takes its place", died)
                failure = died

    async def _start_engine(self, name: str, seed: int) -> RayRollout:
        config = self.plan.rollout
        for engine in [engine for engine in self._engines if engine.died]:
            placement.release(self._engines.pop(engine))
        group = await placement.reserve(
            name,
            [engine_bundle(self.plan)],
            deadline_s=config.start_deadline_s,
            may_wait=self._works,
        )
        try:
            service = await self.start(
                "rollout",
                RolloutWorker,
                (name, config, self.plan.speculative, self._model, seed, self.plan.strategy),
                cpus=config.threads,
                gpus=config.num_gpus,
                seat=placement.seat(group),
                env=environment(config),
                deadline_s=config.start_deadline_s,
                name=name,
            )
            await service.call("start", deadline_s=config.start_deadline_s)
        except BaseException:
            placement.release(group)
            raise
        self._engines[service] = group
        return RayRollout(service, config)

    def _works(self) -> bool:
        """Whether there is an engine that can draw."""
        return any(not engine.died for engine in self._engines)

    async def start(
        self, kind: str, factory: Any, arguments: tuple, *, name: str | None = None, **options: Any
    ) -> Service:
        """Start one actor with a log file of its own."""
        name = name or self._next_name(kind)
        service = await Service.start(name, self._logs / f"{name}.log", factory, arguments, **options)
        self._started.append(service)
        log.info("%s is up, process %d on %s", name, service.pid, service.host)
        return service

    async def before_restart(self, failure: WorkerFailure) -> None:
        """Wait as long as is due; raises the failure when the budget of restarts is spent."""
        pause_s = self._restarts.pause(time.monotonic())
        if pause_s is None:
            raise WorkerFailure(
                f"{failure} (run.worker_restarts={self.plan.run.worker_restarts} within an hour are used up)",
                worker=failure.worker,
                died=True,
            )
        await asyncio.sleep(pause_s)

    @property
    def alive(self) -> dict[str, Service]:
        """The actors that nobody knows to be dead, by name."""
        return {service.name: service for service in self._started if not service.died}

    def dump_stacks(self) -> None:
        for service in self._started:
            service.dump_stacks()

    def _next_name(self, kind: str) -> str:
        return f"{kind}-{next(self._numbers.setdefault(kind, itertools.count()))}"
