"""From a checked plan to a finished run: model, Ray, services, loop, report.

    plan --resolve model--> folder --start--> rollout | verifier | learner actors --RunLoop--> checkpoint, report

Everything that can be refused is refused before the first heavy thing starts (`preflight`).
"""

import asyncio
import logging
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from transformers import AutoTokenizer

from learner.model import vocabulary_of
from orchestration.chaos import ChaosConfig, chaos
from orchestration.checkpoint_store import CheckpointStore, SavedCheckpoint
from orchestration.config import RunPlan
from orchestration.errors import ConfigError
from orchestration.evaluation import EvaluationResult, evaluate
from orchestration.journal import Journal
from orchestration.loop import RunLoop, RunReport
from orchestration.models.prompts import encode_prompt
from orchestration.monitor import Monitor
from orchestration.on_ray.connect import connect
from orchestration.on_ray.services import RayServices
from orchestration.pace import scheduler_config
from orchestration.run_folder import RunFolder
from orchestration.scheduler import Scheduler
from orchestration.tasks.judging import check_judging, verifiers_of
from orchestration.tasks.task import Task
from orchestration.telemetry import Telemetry
from orchestration.watchdog import watchdog
from reward.service import check_tools
from rollout.strategies import Plain

log = logging.getLogger(__name__)


def train(plan: RunPlan, folder: RunFolder | None) -> RunReport:
    """Run `plan`, in a new folder or on from the newest checkpoint of `folder`; Ctrl-C ends it with a checkpoint."""
    preflight(plan)
    model = resolve_model(plan)
    check_model(plan, model)
    resumed = folder is not None
    folder = folder or RunFolder.create(plan)
    _log_to(folder.logs / "driver.log")
    with Journal.open(folder.journal, plan.run.keep_rollouts) as journal:  # from here on no other process drives it
        checkpoints = CheckpointStore(folder.checkpoints, plan.run.keep_checkpoints, plan.run.keep_best)
        saved = checkpoints.latest()
        version = saved.version if saved else 0
        journal.resume(version)
        if folder.saved_section("reward") != plan.tree["reward"]:
            journal.forget_verdicts()
        folder.write_config(plan)
        with _monitor(plan, folder, resumed_at=version if resumed else None) as monitor:
            return asyncio.run(_train(plan, folder, model, monitor, journal, checkpoints, saved))


async def _train(
    plan: RunPlan,
    folder: RunFolder,
    model: Path,
    monitor: Monitor,
    journal: Journal,
    checkpoints: CheckpointStore,
    saved: SavedCheckpoint | None,
) -> RunReport:
    tokenizer = AutoTokenizer.from_pretrained(model)
    encode = encoder(tokenizer, plan.task.chat)
    scheduler = Scheduler(scheduler_config(plan), saved and saved.state, still_owed(plan, journal, encode))
    services = RayServices(plan, model, folder.logs)
    connect(plan.cluster, services.cpus)
    try:
        loop = RunLoop(
            plan,
            scheduler,
            services,
            encode,
            journal,
            checkpoints,
            Telemetry(plan, monitor, tokenizer),
        )
        if saved is not None:
            loop.restore(saved.folder)
        stop_on_interrupt(loop.stop)
        await asyncio.gather(services.verifier.start(), services.learner.start(model, saved and saved.folder))
        with watchdog(plan.run.stall_deadline_s), _chaos(plan.chaos, folder, services):
            return await loop.run()
    finally:
        ray.shutdown()


def still_owed(plan: RunPlan, journal: Journal, encode: Callable[[Task], tuple[int, ...]]) -> dict[int, int]:
    """Task -> oldest version, of what earlier processes drew and this one takes up: the same prompt, as many responses.

    Task source, seed, tokenizer and group size may have been overridden since.
    """
    return {
        index: leftover.oldest_version
        for index, leftover in journal.leftovers().items()
        if leftover.samples == plan.run.group_size
        and leftover.prompt_ids == tuple(encode(plan.task.train_task(index, plan.seed)))
    }


@contextmanager
def _chaos(config: ChaosConfig, folder: RunFolder, services: RayServices) -> Iterator[None]:
    if not config.every_s:
        yield
        return
    killing = asyncio.create_task(chaos(config, folder.root, lambda: services.alive))
    try:
        yield
    finally:
        killing.cancel()


async def score(plan: RunPlan, model: Path, logs: Path) -> EvaluationResult:
    """Evaluate the policy in `model` on the plan's held-out tasks, without a learner."""
    plan = replace(plan, strategy=Plain(), cluster=replace(plan.cluster, colocated=False))  # the policy itself, alone
    services = RayServices(plan, model, logs)
    connect(plan.cluster, services.cpus)
    try:
        _, worker = await asyncio.gather(services.verifier.start(), services.start_rollout_worker())
        return await evaluate(
            plan.task.heldout_tasks(plan.eval.tasks),
            encoder(AutoTokenizer.from_pretrained(model), plan.task.chat),
            [worker],
            services.verifier,
            samples=plan.eval.samples,
            max_tokens=plan.task.max_tokens,
            label="score",
        )
    finally:
        ray.shutdown()


def preflight(plan: RunPlan) -> None:
    """Refuse what would fail later: data the tasks need, tools the verifiers need. Raises the error of its package."""
    plan.task.check()
    heldout = plan.task.heldout_tasks(plan.eval.tasks)
    train = [plan.task.train_task(index, plan.seed) for index in range(plan.run.groups_per_step)]
    check_judging(train, heldout)
    if plan.algorithm.teacher:
        for task in train:
            plan.feedback.check(task)
    plan.strategy.check_files()
    check_tools(verifiers_of([*train, *heldout]), plan.reward)


def check_model(plan: RunPlan, model: Path) -> None:
    """Refuse an algorithm that this model cannot serve. Raises ConfigError."""
    try:
        plan.algorithm.check(vocabulary_of(model))
    except ValueError as error:
        raise ConfigError(f"algorithm: {error}") from error


def resolve_model(plan: RunPlan) -> Path:
    """The policy's folder, built first where it must be, with a progress bar."""
    with Progress(
        TextColumn("building the policy"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total} steps, loss {task.fields[loss]:.3f}"),
        TimeRemainingColumn(),
        transient=True,
    ) as progress:
        bar = progress.add_task("", total=None, visible=False, loss=float("nan"))

        def show(done: int, total: int, loss: float) -> None:
            progress.update(bar, completed=done, total=total, loss=loss, visible=True)

        return plan.model.resolve(plan.task, show)


def encoder(tokenizer: Any, chat: bool) -> Callable[[Task], tuple[int, ...]]:
    """Task -> prompt token ids with the policy's own tokenizer."""
    return lambda task: encode_prompt(tokenizer, task, chat)


def _log_to(file: Path) -> None:
    """The driver's own log, beside those of its actors; the console belongs to the monitor."""
    handler = logging.FileHandler(file)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)


@contextmanager
def _monitor(plan: RunPlan, folder: RunFolder, resumed_at: int | None) -> Iterator[Monitor]:
    """The run's monitor; what stops the run is the last thing it notes, and the report is drawn in any case."""
    monitor = Monitor(
        plan.monitor,
        folder=folder.root,
        title=f"{plan.name} s{plan.seed}",
        total_steps=plan.run.steps,
        run_config=plan.tree,
        resumed_at=resumed_at,
    )
    try:
        yield monitor
    except Exception as error:
        monitor.event(f"the run stopped: {error}", problem=True)
        raise
    finally:
        monitor.close()


def stop_on_interrupt(stop: Callable[[], None]) -> None:
    """The first Ctrl-C (or SIGTERM, as Slurm sends) ends the run cleanly; a second one ends it at once."""
    loop = asyncio.get_running_loop()

    def interrupted() -> None:
        log.warning("stopping after this step; a second Ctrl-C stops at once, without a checkpoint")
        stop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, interrupted)
