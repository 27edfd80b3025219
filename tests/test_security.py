"""What Temper never does: load pickles from outside, run a model's code, listen to strangers, write secrets down."""

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parent.parent
PACKAGES = ("rollout", "learner", "reward", "orchestration", "scripts")
# Handles of GPU memory, made and read by processes of one run; they travel inside Ray, which pickles by itself.
PICKLES = {"learner/gpu_memory.py", "rollout/vllm_adapter/weights/gpu_memory.py"}
PICKLERS = {"pickle", "cPickle", "_pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}


def trees() -> Iterator[tuple[str, ast.Module]]:
    for package in PACKAGES:
        for file in sorted((ROOT / package).rglob("*.py")):
            yield str(file.relative_to(ROOT)), ast.parse(file.read_text(encoding="utf-8"))


def calls(tree: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    """Every call with its dotted name: torch.load, model.from_pretrained."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def unsafe(tree: ast.Module) -> list[str]:
    """What in a module could run code that somebody has put into a file."""
    found = []
    for name, call in calls(tree):
        given = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
        if name == "torch.load" and given.get("weights_only", "True") != "True":
            found.append(f"line {call.lineno}: torch.load with weights_only={given['weights_only']}")
        if given.get("allow_pickle", "False") != "False":
            found.append(f"line {call.lineno}: {name} with allow_pickle")
        if given.get("trust_remote_code", "False") != "False":
            found.append(f"line {call.lineno}: {name} with trust_remote_code")
        if name in ("yaml.load", "yaml.unsafe_load", "yaml.full_load"):
            found.append(f"line {call.lineno}: {name}; yaml.safe_load makes plain values only")
    return found


def picklers(tree: ast.Module) -> set[str]:
    return {
        name.split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in ([alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""])
    } & PICKLERS


def test_no_file_can_bring_code_with_it():
    """No pickles, no code of models, no YAML with constructors, in any call of any module."""
    assert {file: found for file, tree in trees() if (found := unsafe(tree))} == {}


def test_pickle_is_imported_where_it_is_known_to_stay_inside_the_run():
    """Weights, rollouts, journal and files of users travel as safetensors, plain JSON and SQLite."""
    assert {file for file, tree in trees() if picklers(tree)} == PICKLES


@pytest.mark.parametrize(
    "line",
    [
        "torch.load(file, weights_only=False)",
        "torch.load(file, weights_only=trusted)",
        "np.load(file, allow_pickle=True)",
        "AutoModel.from_pretrained(folder, trust_remote_code=True)",
        "AutoModel.from_pretrained(folder, trust_remote_code=config.trust)",
        "yaml.load(text, Loader)",
    ],
)
def test_the_search_finds_what_it_looks_for(line):
    """Each of the forbidden calls, written down, is found."""
    assert unsafe(ast.parse(line))


class Planted:
    """A pickle of it makes a file when it is loaded."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self):
        return (Path.touch, (self.file,))


def test_a_planted_checkpoint_runs_nothing(tmp_path, monkeypatch):
    """torch.load as the learner calls it refuses a file that would run code: weights_only is its default."""
    monkeypatch.delenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", raising=False)
    torch.save({"weights": Planted(tmp_path / "owned")}, tmp_path / "state.pt")
    with pytest.raises(Exception, match="[Ww]eights_only|Weights only"):
        torch.load(tmp_path / "state.pt")
    assert not (tmp_path / "owned").exists()


LISTENERS = """
import os, sys
from orchestration.cluster.loopback import settle
from orchestration.config import ClusterConfig
from orchestration.process import prepare
prepare()
settle(ClusterConfig())
import psutil, ray
from orchestration.on_ray.connect import connect
connect(ClusterConfig(), cpus=1.0)
ours = {os.getpid(), *(child.pid for child in psutil.Process().children(recursive=True))}
for one in psutil.net_connections("tcp"):
    if one.status == "LISTEN" and one.pid in ours:
        print(one.laddr.ip)
ray.shutdown()
"""


def test_the_ray_of_a_local_run_listens_on_loopback_only():
    """Whoever can talk to Ray can run code in it: with cluster=local nobody from another machine can."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    done = subprocess.run(
        [sys.executable, "-c", LISTENERS], capture_output=True, text=True, check=True, timeout=200, env=environment
    )
    addresses = set(done.stdout.split())
    assert addresses, "nobody listens: the test looks in the wrong place"
    assert addresses <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}


def test_no_process_of_a_run_gets_its_secrets_from_ray(monkeypatch):
    """What Ray records of a run's environment names no key; processes inherit theirs from the node they run on."""
    from orchestration import process
    from rollout.config import RolloutConfig
    from rollout.vllm_adapter.start import environment

    for name in ("WANDB_API_KEY", "HF_TOKEN"):
        monkeypatch.setenv(name, "secret-7b1f0c")
    recorded = {**process.environment(), **environment(RolloutConfig())}
    assert "secret-7b1f0c" not in str(recorded)


def test_a_saved_configuration_names_no_secret(monkeypatch):
    """config.yaml holds what was configured, and configuration does not read the environment."""
    from orchestration.config import CONF, load_plan

    monkeypatch.setenv("WANDB_API_KEY", "secret-7b1f0c")
    assert "secret-7b1f0c" not in str(load_plan(["experiment=quickstart"]).tree)
    for file in CONF.rglob("*.yaml"):
        assert "oc.env" not in file.read_text(), file
