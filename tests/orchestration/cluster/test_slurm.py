"""The Slurm script: what sbatch reads, and what happens on the nodes, played by fakes of srun, ray and the driver."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from orchestration.cli import main
from orchestration.cluster.job import jobs_of

GIVEN = ["cluster=slurm", "cluster.partition=gpu", "cluster.cpus_per_node=8", "experiment=quickstart"]
DEADLINE_S = 60

# One process for each task, all on this machine, as srun starts them on the nodes.
SRUN = """#!/bin/bash
while [ "$1" != bash ]; do echo "srun $1" >>"$TRACE"; shift; done
trap 'kill $(jobs -p)' TERM
for task in $(seq 0 $((SLURM_JOB_NUM_NODES - 1))); do SLURM_PROCID=$task "$@" & done
wait
"""
# A head that is there once it has been started, and nodes that stay until they are killed.
RAY = """#!/bin/bash
echo "ray $* mode=$RAY_AUTH_MODE token=$RAY_AUTH_TOKEN" >>"$TRACE"
case "$1 $2" in
  "start --head") touch "$TRACE.up"; exec sleep 50 ;;
  "start --address"*) exec sleep 50 ;;
  "health-check "*) test -e "$TRACE.up" ;;
esac
"""
DRIVER = """#!/bin/bash
echo "temper $*" >>"$TRACE"
trap 'echo "driver was asked to stop" >>"$TRACE"; sleep 1; exit 0' TERM
for _ in $(seq "$DRIVER_TENTHS"); do sleep 0.1; done
exit "$DRIVER_EXIT"
"""


def script(*overrides: str) -> str:
    (job,) = jobs_of([*GIVEN, *overrides])
    return job.plan.cluster.document(job)


def directives(text: str) -> set[str]:
    return set(re.findall(r"^#SBATCH (.*)$", text, re.MULTILINE))


def test_the_script_asks_for_what_was_configured():
    """Every key of conf/cluster/slurm has its option; unset ones are left to the cluster."""
    text = script(
        "cluster.account=lab",
        "cluster.gpus_per_node=4",
        "cluster.time=2-00:00:00",
        "cluster.folder=/shared/work",
        "+cluster.options.qos=high",
        "rollout.workers=6",
        "rollout.num_gpus=1",
        "learner.num_gpus=1",
        "learner.ranks=2",
    )
    assert directives(text) == {
        "--job-name=temper-quickstart-s0",
        "--partition=gpu",
        "--account=lab",
        "--nodes=2",  # 8 GPUs, 4 a node
        "--ntasks-per-node=1",
        "--cpus-per-task=8",
        "--gpus-per-node=4",
        "--exclusive",
        "--time=2-00:00:00",
        "--signal=B:TERM@300",
        "--no-kill",
        "--chdir=/shared/work",
        "--qos=high",
    }
    assert "--nodes=5" in directives(script("cluster.nodes=5"))
    assert not any("account" in one or "gpus" in one for one in directives(script()))


@pytest.mark.parametrize(
    "overrides",
    [
        (),
        ("cluster.container='apptainer exec --nv temper.sif'", "cluster.setup='module load cuda'"),
        ("+cluster.env.NCCL_DEBUG='a b; $(false)'", "run.dir='/shared/a b/$HOME'"),
    ],
)
def test_bash_and_shellcheck_accept_it(overrides):
    """No syntax error and no finding, also with values that mean something to a shell."""
    text = script(*overrides)
    subprocess.run(["bash", "-n"], input=text, text=True, check=True, timeout=DEADLINE_S)
    shellcheck = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if shellcheck is None:
        pytest.skip("shellcheck is not installed")
    # SC2016 would have $ in single quotes expand: here that would be the fault.
    found = subprocess.run(
        [shellcheck, "--exclude=SC2016", "-"],
        input=text,
        text=True,
        capture_output=True,
        check=False,
        timeout=DEADLINE_S,
    )
    assert found.returncode == 0, found.stdout


@pytest.fixture
def node(tmp_path, monkeypatch) -> Path:
    """A machine where srun, ray and temper are fakes; the file holds what they were asked."""
    for name, text in {"srun": SRUN, "ray": RAY, "temper": DRIVER}.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    trace = tmp_path / "trace"
    trace.touch()
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("TRACE", str(trace))
    monkeypatch.setenv("SLURM_JOB_NUM_NODES", "3")
    monkeypatch.setenv("DRIVER_TENTHS", "1")
    monkeypatch.setenv("DRIVER_EXIT", "0")
    return trace


def start(text: str) -> subprocess.Popen:
    return subprocess.Popen(["bash", "-c", text], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def wait_for(trace: Path, pattern: str) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not re.search(pattern, trace.read_text()):
        assert time.monotonic() < deadline, trace.read_text()
        time.sleep(0.05)


def test_a_head_and_two_nodes_start_and_the_driver_decides_the_exit_code(node, monkeypatch):
    """One `ray start --head`, the others join it, all with one secret token; the job ends as the driver ends."""
    monkeypatch.setenv("DRIVER_EXIT", "7")
    monkeypatch.setenv("DRIVER_TENTHS", "30")
    job = start(script("run.steps=3"))
    output, _ = job.communicate(timeout=DEADLINE_S)
    assert job.returncode == 7, output
    trace = node.read_text()
    assert len(re.findall(r"^ray start --head --port=6379 --num-cpus=8 --num-gpus=0", trace, re.MULTILINE)) == 1
    assert len(re.findall(r"^ray start --address=\S+:6379 --num-cpus=8", trace, re.MULTILINE)) == 2
    tokens = set(re.findall(r"mode=token token=([0-9a-f]{64})$", trace, re.MULTILINE))
    assert len(tokens) == 1
    assert trace.count("mode=token token=") == trace.count("ray ") - trace.count("temper train cluster=ray ")
    assert "temper train cluster=ray cluster.address=auto experiment=quickstart run.steps=3" in trace
    assert tokens.pop() not in output


def test_before_the_time_limit_the_driver_writes_its_checkpoint(node, monkeypatch):
    """Slurm's TERM reaches the driver alone, and the job waits until it has finished: exit code 0."""
    monkeypatch.setenv("DRIVER_TENTHS", "400")
    job = start(script())
    wait_for(node, r"temper train")
    job.send_signal(signal.SIGTERM)
    output, _ = job.communicate(timeout=DEADLINE_S)
    assert job.returncode == 0, output
    assert "driver was asked to stop" in node.read_text()


def test_everything_runs_inside_the_container(node, tmp_path):
    """The prefix stands before ray, on all nodes, and before the driver."""
    (tmp_path / "inside").write_text('#!/bin/bash\necho "inside $*" >>"$TRACE"\nexec "$@"\n')
    (tmp_path / "inside").chmod(0o755)
    job = start(script("cluster.container=inside"))
    output, _ = job.communicate(timeout=DEADLINE_S)
    assert job.returncode == 0, output
    trace = node.read_text()
    for line in re.findall(r"^(ray start.*) mode=|^(temper train.*)$", trace, re.MULTILINE):
        assert f"inside {''.join(line)}" in trace


def test_a_head_that_does_not_start_ends_the_job(node, tmp_path, monkeypatch):
    """No driver is started, and the job fails with the head's own words before it: at once where it has one node."""
    monkeypatch.setenv("SLURM_JOB_NUM_NODES", "1")
    (tmp_path / "ray").write_text('#!/bin/bash\n[ "$1" = start ] && echo "port is taken" >&2\nexit 1\n')
    job = start(script())
    output, _ = job.communicate(timeout=DEADLINE_S)
    assert job.returncode == 1
    assert re.search(r"port is taken.*the driver finds no Ray on \S+:6379", output, re.DOTALL)
    assert "temper train" not in node.read_text()


def test_sbatch_gets_the_script_and_its_number_is_told(tmp_path, monkeypatch, capsys):
    """What --dry-run prints is what sbatch reads from its standard input."""
    (tmp_path / "sbatch").write_text(f"#!/bin/bash\ncat >{tmp_path}/got\necho '4711;cluster'\n")
    (tmp_path / "sbatch").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr("faulthandler.register", lambda *_, **__: None)
    assert main(["launch", *GIVEN]) == 0
    assert "Slurm job 4711" in capsys.readouterr().out
    assert (tmp_path / "got").read_text() == script()
