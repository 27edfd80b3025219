"""What every process of a run does before it imports anything heavy.

Commands and tests call `prepare`. All other processes get it from Python itself: `environment()` puts the folder
`startup/` on PYTHONPATH, and the `sitecustomize` in there calls `prepare` when an interpreter starts: Ray's actors, but
also the processes that vLLM starts on its own, which no hook of Ray's reaches. It hides another `sitecustomize`.
"""

import faulthandler
import importlib.abc
import importlib.metadata
import os
import signal
import sys
from pathlib import Path

RAY_TOKEN = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
STARTUP = Path(__file__).parent / "startup"
_TORCHVISION_OPERATORS = ("nms", "qnms")
_kept: list[object] = []  # a torch.library.Library undoes its definitions when it is collected


def environment() -> dict[str, str]:
    """Environment variables with which a child process prepares itself."""
    inherited = os.environ.get("PYTHONPATH", "")
    return {"PYTHONPATH": f"{STARTUP}{os.pathsep}{inherited}" if inherited else str(STARTUP)}


def prepare() -> None:
    """Settle the environment of this process; idempotent and quick (imports nothing heavy)."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    if any(name in os.environ for name in RAY_TOKEN) or (Path.home() / ".ray" / "auth_token").is_file():
        # As `ray start` does by itself; a driver without a word of it cannot join that cluster, and one with it can
        # join any. The first Ray that is started on a machine leaves a token there.
        os.environ.setdefault("RAY_AUTH_MODE", "token")
    if _is_cpu_build("torch"):
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    # `kill -USR1 <pid>` writes all stacks to the process's log: how a stuck run is diagnosed.
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    guard_media_packages()


def guard_media_packages() -> None:
    """Let transformers and vLLM be imported when pip brought CUDA builds of torchvision and torchaudio beside CPU
    torch.

    vLLM's CPU wheel depends on them, the package index only has CUDA builds, and each breaks the import of every
    transformers model. torchvision works once two operators that no text model calls are declared; torchaudio and
    torchcodec cannot load their C++ library at all and are hidden, which libraries read as "not installed".
    tests/orchestration/test_process.py fails when this is no longer needed.
    """
    if not _is_cpu_build("torch"):
        return
    for package in ("torchaudio", "torchcodec"):
        if package not in sys.modules and not _is_cpu_build(package):
            sys.modules[package] = None  # importlib.util.find_spec answers None, `import` raises ModuleNotFoundError
    if not _is_cpu_build("torchvision") and not any(isinstance(finder, _TorchvisionGuard) for finder in sys.meta_path):
        sys.meta_path.insert(0, _TorchvisionGuard())


class _TorchvisionGuard(importlib.abc.MetaPathFinder):
    """Declares the missing operators just before torchvision is imported: nobody pays for torch who needs none."""

    def find_spec(self, name: str, path: object, target: object = None) -> None:
        if name != "torchvision" or _kept:
            return
        import torch

        library = torch.library.Library("torchvision", "DEF")
        _kept.append(library)
        for operator in _TORCHVISION_OPERATORS:
            library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")


def _is_cpu_build(package: str) -> bool:
    """True also where the package is absent: then there is nothing to guard against."""
    try:
        return "+cpu" in importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return True
