"""From a checked plan to a finished run: model, Ray, services, loop, report.

    plan --resolve model--> folder --start--> rollout | verifier | learner actors --RunLoop--> checkpoint, curves, report

Everything that can be refused is refused before the first heavy thing starts (`preflight`).
"""

import asyncio
import logging
import signal
from collections.abc import Callable
from pathlib import Path

import ray
from transformers import AutoTokenizer

from orchestration.checkpoint_store import CheckpointStore
from orchestration.config import RunPlan
from orchestration.journal import Journal
from orchestration.loop import RunLoop, RunReport
from orchestration.models.prompts import encode_prompt
from orchestration.monitor.monitor import Monitor
from orchestration.ray_services import RayServices, connect
from orchestration.run_folder import RunFolder
from orchestration.scheduler import Scheduler, SchedulerConfig
from orchestration.tasks.task import Task
from orchestration.telemetry import Telemetry
from reward.service import check_tools

log = logging.getLogger(__name__)


def preflight(plan: RunPlan) -> None:
    """Refuse what would fail later: tools the verifiers need, data the tasks need. Raises the error of its package."""
    plan.task.check()
    verifiers = {task.verifier for task in plan.task.heldout_tasks(1)}
    check_tools(sorted(verifiers), plan.reward)


def scheduler_config(plan: RunPlan) -> SchedulerConfig:
    return SchedulerConfig(
        groups_per_step=plan.run.groups_per_step,
        total_steps=plan.run.steps,
        max_staleness=plan.run.max_staleness,
        publish_every=plan.run.publish_every,
        eval_every=plan.eval.every,
        eval_at_start=plan.eval.at_start,
        eval_at_end=plan.eval.at_end,
        checkpoint_every=plan.run.checkpoint_every,
    )


async def launch(plan: RunPlan, folder: RunFolder, model: Path, monitor: Monitor) -> RunReport:
    """Run `plan` in `folder`, from its newest checkpoint where there is one. Ctrl-C writes a checkpoint and returns."""
    with Journal.open(folder.journal) as journal:
        checkpoints = CheckpointStore(folder.checkpoints, keep_last=plan.run.keep_checkpoints)
        checkpoint = checkpoints.latest()
        services = RayServices(plan, model, folder.logs)
        connect(plan.cluster, services.cpus)
        try:
            scheduler = Scheduler(scheduler_config(plan), checkpoint and checkpoint.state)
            journal.resume(scheduler.version)
            await asyncio.gather(
                services.verifier.start(), services.learner.start(model, checkpoint and checkpoint.folder)
            )
            loop = RunLoop(
                plan, scheduler, services, encoder(model, plan.task.chat), journal, checkpoints, Telemetry(plan, monitor)
            )
            stop_on_interrupt(loop.stop)
            return await loop.run()
        finally:
            ray.shutdown()


def encoder(model: Path, chat: bool) -> Callable[[Task], tuple[int, ...]]:
    """Task -> prompt token ids with the policy's own tokenizer."""
    tokenizer = AutoTokenizer.from_pretrained(model)
    return lambda task: encode_prompt(tokenizer, task, chat)


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
