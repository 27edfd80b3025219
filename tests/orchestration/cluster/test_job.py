"""`temper launch`: the job's command trains what the user configured, and nothing impossible is submitted."""

import shlex

import pytest
import yaml

from orchestration.cli import main
from orchestration.cluster.job import jobs_of, sweep
from orchestration.config import NodeLabels, load_plan
from orchestration.errors import ConfigError
from orchestration.run_folder import RunFolder

SLURM = ["cluster=slurm", "cluster.partition=gpu", "cluster.cpus_per_node=8"]


@pytest.fixture(autouse=True)
def console(monkeypatch):
    """A captured console has no file that faulthandler could write to."""
    monkeypatch.setattr("faulthandler.register", lambda *_, **__: None)


def overrides_of(command: tuple[str, ...]) -> list[str]:
    assert command[:2] == ("temper", "train")
    return list(command[2:])


def test_the_job_trains_the_plan_that_was_checked():
    """The job's command line composes into the plan of the launch, but for the cluster it runs on."""
    given = [*SLURM, "experiment=quickstart", "run.steps=7", "cluster.learner_placement=SPREAD", "learner.lr=1e-3"]
    given += ["cluster.node_labels.rollout={ray.io/zone:'!a',x:'in(b,c)'}"]
    (job,) = jobs_of(given)
    plan = load_plan(overrides_of(job.command))
    assert {key: value for key, value in plan.tree.items() if key != "cluster"} == {
        key: value for key, value in job.plan.tree.items() if key != "cluster"
    }
    assert plan.cluster.address == "auto"
    assert plan.cluster.learner_placement == "SPREAD"
    assert plan.cluster.node_labels == NodeLabels(rollout={"ray.io/zone": "!a", "x": "in(b,c)"})
    assert job.name == "temper-quickstart-s0"


def test_a_sweep_is_the_product_of_its_values():
    """Hydra's grammar: choices and ranges multiply, lists and quoted commas stay whole."""
    assert sweep(["learner.lr=1e-4,3e-4", "seed=range(2)", "learner.betas=[0.9,0.99]", "task.path='a,b'"]) == [
        [f"learner.lr={lr}", f"seed={seed}", "learner.betas=[0.9,0.99]", "task.path='a,b'"]
        for lr in ("0.0001", "0.0003")
        for seed in (0, 1)
    ]


def test_the_jobs_of_a_sweep_share_no_folder():
    """They may start in the same second with the same seed; each has a name and a run folder of its own."""
    jobs = jobs_of([*SLURM, "experiment=quickstart", "learner.lr=1e-4,3e-4,1e-3"], multirun=True)
    assert len({job.name for job in jobs}) == 3
    assert len({load_plan(overrides_of(job.command)).run.dir for job in jobs}) == 3
    assert [job.plan.learner.lr for job in jobs] == [1e-4, 3e-4, 1e-3]


def test_one_impossible_combination_stops_the_whole_sweep():
    """Nothing is submitted when the last of the jobs would be refused."""
    with pytest.raises(ConfigError, match="publish_every is at most max_staleness"):
        jobs_of([*SLURM, "run.publish_every=1,2,3"], multirun=True)


def test_without_multirun_a_comma_is_refused():
    """A forgotten -m is a sentence, not a run with a strange value."""
    with pytest.raises(ConfigError):
        jobs_of([*SLURM, "learner.lr=1e-4,3e-4"])


def test_a_run_is_resumed_on_a_cluster(tmp_path):
    """`resume=` takes the run's own configuration and the cluster of the command line."""
    folder = RunFolder.create(load_plan(["experiment=quickstart", f"run.dir={tmp_path}/run", "seed=5"]))
    (job,) = jobs_of([*SLURM, f"resume={folder.root}", "run.steps=99"])
    assert overrides_of(job.command) == [f"resume={folder.root}", "cluster.address=auto", "run.steps=99"]
    assert (job.plan.seed, job.plan.run.steps, job.plan.cluster.partition) == (5, 99, "gpu")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["launch", "experiment=quickstart"], "name the cluster to launch on"),
        (["launch", "cluster=slurm", "cluster.cpus_per_node=8"], "cluster.partition is not set"),
        (["launch", "cluster=slurm", "cluster.partition=a"], "cluster.cpus_per_node is not set"),
        (
            ["launch", *SLURM, "rollout.num_gpus=4"],
            "a node of 8 CPU (cluster.cpus_per_node, cluster.gpus_per_node) is too small",
        ),
        (["launch", "cluster=kuberay"], "cluster.image is not set"),
        (
            ["launch", "cluster=ray_job", "cluster.env.HF_TOKEN=abc"],
            "cluster.env.HF_TOKEN would be written into the job",
        ),
        (["launch", *SLURM, "run.stepps=3"], "unknown key run.stepps"),
        (["train", *SLURM], "write `temper launch` for `temper train`"),
    ],
)
def test_what_cannot_be_launched_is_one_sentence(arguments, sentence, capsys):
    """Exit code 2 and what to write instead, before anything is submitted."""
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert sentence in captured.err
    assert captured.err.count("\n") == 1
    assert not captured.out


def test_a_dry_run_prints_and_submits_nothing(capsys):
    """Several documents of YAML in one stream stay apart."""
    assert main(["launch", "--dry-run", "-m", "cluster=ray_job", "experiment=quickstart", "seed=0,1"]) == 0
    first, second = yaml.safe_load_all(capsys.readouterr().out)
    assert "seed=0" in shlex.split(first["entrypoint"])
    assert "seed=1" in shlex.split(second["entrypoint"])


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([*SLURM], "there is no sbatch here"),
        (
            [
                "cluster=kuberay",
                "cluster.image=i",
                "cluster.claim=c",
                "cluster.cpus_per_node=4",
                "cluster.memory_per_node=8Gi",
            ],
            "there is no kubectl here",
        ),
    ],
)
def test_without_the_tool_of_the_cluster_it_says_so(arguments, sentence, capsys, monkeypatch, tmp_path):
    """Exit code 1, and the document can still be had by --dry-run."""
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(["launch", *arguments]) == 1
    assert sentence in capsys.readouterr().err
