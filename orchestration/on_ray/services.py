"""The three services as Ray actors: started side by side, called by name, replaced when they die.

driver --+-- rollout-0, rollout-1, ...   RolloutWorker   one vLLM engine each
         +-- verifier-0                  VerifierPool    sandboxed processes
         +-- learner-0, learner-1, ...   LearnerWorker   one DeepSpeed rank each
"""

import asyncio
import itertools
import logging
import time
from pathlib import Path
from typing import Any

from orchestration.cluster import placement
from orchestration.cluster.bundles import bundles_of, engine_bundle
from orchestration.config import RunPlan
from orchestration.errors import WorkerFailure
from orchestration.on_ray.actor import Service
from orchestration.on_ray.learner import RayLearner
from orchestration.on_ray.rollout import RayRollout
from orchestration.on_ray.verifier import RayVerifier
from orchestration.restarts import Restarts
from rollout.vllm_adapter.start import environment
from rollout.worker import RolloutWorker

log = logging.getLogger(__name__)

NODE_LOSS_S = 5.0  # between the deaths of the workers of one node
WEIGHTS_FOLDER = "weights"  # inside the run's folder


class RayServices:
    """See `orchestration.services.Services`. Restarts of rollout and verifier workers share one budget."""

    def __init__(self, plan: RunPlan, model: Path, logs: Path) -> None:
        self.plan = plan
        self._model = model
        self._logs = logs
        self._numbers: dict[str, itertools.count] = {}
        self._started: list[Service] = []
        self._rollout_workers = 0
        self._engines: dict[Service, placement.Seat] = {}
        self._vacant = list(range(plan.learner.ranks))  # ranks that share their place with no engine
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
            self._leave(self._engines.pop(engine))
        seat = await self._seat(name)
        try:
            service = await self.start(
                "rollout",
                RolloutWorker,
                (name, config, self.plan.speculative, self._model, seed, self.plan.strategy),
                cpus=config.threads,
                gpus=config.num_gpus,
                seat=seat.strategy,
                env=environment(config),
                deadline_s=config.start_deadline_s,
                name=name,
            )
            await service.call("start", deadline_s=config.start_deadline_s)
        except BaseException:
            self._leave(seat)
            raise
        self._engines[service] = seat
        return RayRollout(service, config)

    async def _seat(self, name: str) -> placement.Seat:
        if self.plan.cluster.colocated:
            return self.learner.seat_of(self._vacant.pop(0))
        deadline_s = self.plan.rollout.start_deadline_s
        bundles = [engine_bundle(self.plan)]
        return placement.Seat(await placement.reserve(name, bundles, deadline_s=deadline_s, may_wait=self._works))

    def _leave(self, seat: placement.Seat) -> None:
        if seat.lent:
            self._vacant.append(seat.bundle)
        seat.give_back()

    def _works(self) -> bool:
        """Whether there is an engine that can draw."""
        return any(not engine.died for engine in self._engines)

    async def start(
        self, kind: str, factory: Any, arguments: tuple, *, name: str | None = None, **options: Any
    ) -> Service:
        """Start one actor with a log file of its own."""
        name = name or self._next_name(kind)
        service = await Service.start(name, self._logs / f"{name}.log", factory, arguments, **options)
        self._started = [*(one for one in self._started if not one.died), service]
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
