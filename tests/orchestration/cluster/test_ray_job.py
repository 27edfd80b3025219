"""`temper launch cluster=ray_job`: what the job server is asked, and the quickstart as a job of a local cluster."""

import os
import socket
import subprocess
import sys
import time
from contextlib import closing

import psutil
import pytest
import yaml

from orchestration.cli import main
from orchestration.cluster.job import jobs_of

DEADLINE_S = 300
SECRET = "secret-7b1f0c"


def test_the_job_runs_the_installed_temper_in_a_shared_folder(tmp_path):
    """Nothing is sent along; a path with a space stays one; `program` says where Temper is."""
    (job,) = jobs_of(
        ["cluster=ray_job", f"cluster.folder={tmp_path}/a b", "cluster.program=/opt/temper/bin/temper", "run.steps=3"]
    )
    request = yaml.safe_load(job.plan.cluster.document(job))
    assert request == {
        "address": "http://127.0.0.1:8265",
        "entrypoint": f"cd '{tmp_path}/a b' && exec /opt/temper/bin/temper train cluster=ray cluster.address=auto"
        " run.steps=3",
        "metadata": {"job_name": "temper-custom-s0"},
        "runtime_env": {},
    }


def test_variables_travel_with_the_job():
    """They are Ray's runtime environment, which every process of the job gets."""
    (job,) = jobs_of(["cluster=ray_job", "+cluster.env.NCCL_DEBUG=INFO"])
    request = yaml.safe_load(job.plan.cluster.document(job))
    assert request["runtime_env"] == {"env_vars": {"NCCL_DEBUG": "INFO"}}


def test_where_no_job_server_answers_it_says_so(capsys, monkeypatch):
    """Exit code 1, with the address and how to start one."""
    monkeypatch.setattr("faulthandler.register", lambda *_, **__: None)
    address = f"http://127.0.0.1:{free_port()}"
    assert main(["launch", "cluster=ray_job", f"cluster.address={address}"]) == 1
    error = capsys.readouterr().err
    assert f"no job server takes the job at cluster.address={address}" in error
    assert "ray start --head" in error


@pytest.mark.slow
@pytest.mark.timeout(3 * DEADLINE_S)
def test_the_quickstart_as_a_job_of_a_local_cluster(tmp_path):
    """`ray start --head`, `temper launch`: the job succeeds, its run folder is whole, and no secret is in it."""
    environment = {**os.environ, "RAY_AUTH_MODE": "disabled", "WANDB_API_KEY": SECRET, "HF_TOKEN": SECRET}
    ports = {name: free_port() for name in ("port", "dashboard-port", "dashboard-agent-listen-port")}
    work = tmp_path / "work"
    work.mkdir()
    ray = [sys.executable, "-m", "ray.scripts.scripts"]
    with subprocess.Popen(
        [
            *(*ray, "start", "--head", "--num-cpus=2", "--object-store-memory=200000000", "--disable-usage-stats"),
            *("--ray-client-server-port", str(free_port()), "--block"),
            *(f"--{name}={port}" for name, port in ports.items()),
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=environment,
    ) as head:
        try:
            address = f"http://127.0.0.1:{ports['dashboard-port']}"
            launch = [
                *(sys.executable, "-m", "orchestration.cli", "launch", "cluster=ray_job", f"cluster.address={address}"),
                *(f"cluster.program={sys.executable} -m orchestration.cli", f"cluster.folder={work}"),
                *("experiment=quickstart", "run.steps=3", "eval.tasks=10", "monitor.wandb=offline"),
            ]
            number = launched(launch, environment)
            info = finished(address, number)
            assert str(info.status) == "SUCCEEDED", info.message
            assert SECRET not in str(info)
        finally:
            ended = [head, *psutil.Process(head.pid).children(recursive=True)]
            head.terminate()
            head.wait(timeout=60)
            for process in ended[1:]:
                if process.is_running():
                    process.kill()
    folder = work / "runs" / "latest"
    whole = {"config.yaml", "metrics.jsonl", "journal.sqlite", "report.html", "curves.png", "checkpoints", "logs"}
    assert whole <= {path.name for path in folder.iterdir()}
    assert (folder / "checkpoints" / "latest" / "policy" / "config.json").is_file()
    assert len((folder / "metrics.jsonl").read_text().split('"train/reward"')) == 4
    for file in folder.rglob("*"):
        if file.is_file():
            assert SECRET.encode() not in file.read_bytes(), file


def launched(command: list[str], environment: dict[str, str]) -> str:
    """The job's number; the job server is there some seconds after the head."""
    deadline = time.monotonic() + DEADLINE_S
    while True:
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=DEADLINE_S)
        if done.returncode == 0:
            return done.stdout.split("Ray job ")[1].split(";")[0]
        assert "no job server takes the job" in done.stderr, done.stderr
        assert time.monotonic() < deadline, done.stderr
        time.sleep(2.0)


def finished(address: str, number: str):
    """What the job server knows of a job that has ended."""
    from ray.job_submission import JobSubmissionClient

    client, deadline = JobSubmissionClient(address), time.monotonic() + DEADLINE_S
    while not (info := client.get_job_info(number)).status.is_terminal():
        assert time.monotonic() < deadline, client.get_job_logs(number)
        time.sleep(1.0)
    return info


def free_port() -> int:
    with closing(socket.socket()) as attempt:
        attempt.bind(("127.0.0.1", 0))
        return attempt.getsockname()[1]
