"""What can be checked of docker/ without an engine: files that exist, pins, a user, and a compose file that fits."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from orchestration.cluster.kuberay import RAY_VERSION, RUNS, USER

ROOT = Path(__file__).parents[3]
DOCKERFILES = sorted((ROOT / "docker").glob("*.Dockerfile"))
COMPOSE = yaml.safe_load((ROOT / "docker" / "compose.yaml").read_text())


def instructions(file: Path) -> list[tuple[str, str]]:
    """(instruction, argument), continued lines joined, comments left out."""
    lines = [line for line in file.read_text().splitlines() if line and not line.startswith("#")]
    return [tuple(line.split(maxsplit=1)) for line in "\n".join(lines).replace("\\\n", " ").splitlines()]


@pytest.fixture(params=DOCKERFILES, ids=lambda file: file.name)
def dockerfile(request) -> list[tuple[str, str]]:
    return instructions(request.param)


@pytest.mark.parametrize("file", DOCKERFILES, ids=lambda file: file.name)
def test_hadolint_finds_nothing(file):
    """The linter of Dockerfiles accepts it; what is ignored says why in the file."""
    hadolint = shutil.which("hadolint", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if hadolint is None:
        pytest.skip("hadolint is not installed")
    found = subprocess.run([hadolint, str(file)], capture_output=True, text=True, check=False, timeout=60)
    assert found.returncode == 0, found.stdout


def test_what_is_copied_exists(dockerfile):
    """Every COPY from the source names a file or folder of the repository that .dockerignore lets through."""
    ignored = (ROOT / ".dockerignore").read_text().split()
    sources = [
        source
        for instruction, argument in dockerfile
        if instruction == "COPY" and "--from" not in argument
        for source in argument.split()[:-1]
    ]
    assert {"pyproject.toml", "rollout", "learner", "reward", "orchestration", "conf"} <= set(sources)
    for source in sources:
        assert (ROOT / source).exists(), source
        assert source not in ignored


def test_it_is_built_in_two_stages_from_pinned_images(dockerfile):
    """No `latest`, and the compilers' leftovers stay in the first stage."""
    images = [argument.split()[0] for instruction, argument in dockerfile if instruction == "FROM"]
    assert len(images) == 2
    for image in images:
        assert re.search(r":[^:]*\d+\.\d+\.\d+", image), image
    assert any(instruction == "COPY" and argument.startswith("--from=build") for instruction, argument in dockerfile)


def test_it_runs_without_root_and_says_whether_it_is_well(dockerfile):
    """The user is a number, as Kubernetes wants to see that it is not root, and the one of the manifest."""
    last = dict(dockerfile)  # of each instruction the last one
    assert last["USER"].split(":")[0] == str(USER)
    assert last["VOLUME"] == RUNS
    assert '"ray", "health-check"' in last["HEALTHCHECK"]
    made = next(argument for instruction, argument in dockerfile if "useradd" in argument)
    assert f"--uid {USER}" in made


def test_the_manifest_names_the_ray_that_is_installed():
    """KubeRay decides by `rayVersion` what it asks of the image."""
    pins = (ROOT / "constraints-cpu.txt").read_text()
    assert f"\nray=={RAY_VERSION}\n" in pins


def test_compose_is_a_head_and_two_workers():
    """The driver's node takes no actors; two workers do, once the head is healthy; all share the image's volume."""
    services = COMPOSE["services"]
    assert set(services) == {"head", "worker"}
    assert "--num-cpus=0" in services["head"]["entrypoint"]
    assert services["worker"]["deploy"] == {"replicas": 2}
    assert services["worker"]["depends_on"] == {"head": {"condition": "service_healthy"}}
    for service in services.values():
        assert (ROOT / "docker" / service["build"]["context"] / service["build"]["dockerfile"]).is_file()
        assert service["volumes"] == [f"runs:{RUNS}"]
        assert "ports" not in service  # nothing of it can be reached from outside
        assert service["environment"]["RAY_AUTH_MODE"] == "token"
        assert service["environment"]["RAY_AUTH_TOKEN"].startswith("${RAY_AUTH_TOKEN:?")  # none in the file
    assert set(COMPOSE["volumes"]) == {"runs"}
