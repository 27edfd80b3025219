"""What every process of a run does before it imports anything heavy: driver, Ray actors, tests.

Ray calls `prepare` in each worker through `worker_process_setup_hook`; commands and tests call it themselves.
"""

import faulthandler
import importlib.metadata
import os
import signal
import sys

import torch

# Kept alive for the life of the process: a torch.library.Library undoes its definitions when it is collected.
_torchvision_library: torch.library.Library | None = None


def guard_media_packages() -> None:
    """Let transformers and vLLM be imported when pip brought CUDA builds of torchvision and torchaudio beside CPU torch.

    vLLM's CPU wheel depends on them, the package index only has CUDA builds, and each breaks the import of every
    transformers model. torchvision works once two operators that no text model calls are declared; torchaudio and
    torchcodec cannot load their C++ library at all and are hidden, which libraries read as "not installed".
    Builds for CPU ("+cpu" in the version) are left alone. tests/orchestration/test_process.py says when this is unneeded.
    """
    global _torchvision_library
    if torch.version.cuda is not None:
        return
    for package in ("torchaudio", "torchcodec"):
        if package not in sys.modules and _is_cuda_build(package):
            sys.modules[package] = None  # importlib.util.find_spec answers None, `import` raises ModuleNotFoundError
    if _torchvision_library is None and _is_cuda_build("torchvision"):
        _torchvision_library = torch.library.Library("torchvision", "DEF")
        for operator in ("nms", "qnms"):
            _torchvision_library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")


def _is_cuda_build(package: str) -> bool:
    try:
        return "+cpu" not in importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return False


def prepare() -> None:
    """Settle the environment of this process; idempotent."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    os.environ.setdefault("DS_ACCELERATOR", "cpu" if torch.version.cuda is None else "cuda")
    # `kill -USR1 <pid>` writes all stacks to the process's log: how a stuck run is diagnosed.
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    guard_media_packages()
