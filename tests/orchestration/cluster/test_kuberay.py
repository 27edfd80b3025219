"""The RayJob manifest: valid for KubeRay and Kubernetes, safe to run, and as large as the run needs.

`SCHEMA` holds the fields of ray.io/v1 as KubeRay's API reference lists them (1.5), less status and what only services
have; what is inside a pod template is Kubernetes' own and is checked against its schema.
"""

import os
import shlex
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from orchestration.cli import main
from orchestration.cluster.job import jobs_of

RAYJOB = Path(__file__).parents[3] / "docker" / "rayjob.yaml"
GIVEN = [
    "cluster=kuberay",
    "cluster.image=temper:gpu",
    "cluster.claim=shared",
    "cluster.cpus_per_node=16",
    "cluster.memory_per_node=64Gi",
    "experiment=quickstart",
]

TEXT, NUMBER, YES_NO = {"type": "string"}, {"type": "integer", "minimum": 0}, {"type": "boolean"}
TEXTS = {"type": "object", "additionalProperties": TEXT}
ANYTHING = {"type": "object"}


def fields(required: tuple[str, ...] = (), **properties: dict) -> dict:
    return {"type": "object", "properties": properties, "required": list(required), "additionalProperties": False}


POD_TEMPLATE = fields(("spec",), metadata=ANYTHING, spec=ANYTHING)
HEAD = fields(
    ("template",),
    template=POD_TEMPLATE,
    headService=ANYTHING,
    enableIngress=YES_NO,
    rayStartParams=TEXTS,
    serviceType=TEXT,
    labels=TEXTS,
    resources=TEXTS,
)
WORKERS = fields(
    ("groupName", "template"),
    groupName=TEXT,
    replicas=NUMBER,
    minReplicas=NUMBER,
    maxReplicas=NUMBER,
    idleTimeoutSeconds=NUMBER,
    numOfHosts=NUMBER,
    suspend=YES_NO,
    rayStartParams=TEXTS,
    scaleStrategy=ANYTHING,
    template=POD_TEMPLATE,
    labels=TEXTS,
    resources=TEXTS,
)
CLUSTER = fields(
    ("headGroupSpec",),
    suspend=YES_NO,
    managedBy=TEXT,
    autoscalerOptions=ANYTHING,
    authOptions=fields(mode={"enum": ["disabled", "token"]}, secretName=TEXT, enableK8sTokenAuth=YES_NO),
    headServiceAnnotations=TEXTS,
    enableInTreeAutoscaling=YES_NO,
    gcsFaultToleranceOptions=ANYTHING,
    headGroupSpec=HEAD,
    rayVersion=TEXT,
    workerGroupSpecs={"type": "array", "items": WORKERS},
)
SCHEMA = fields(
    ("apiVersion", "kind", "metadata", "spec"),
    apiVersion={"const": "ray.io/v1"},
    kind={"const": "RayJob"},
    metadata=fields(name=TEXT, generateName=TEXT, namespace=TEXT, labels=TEXTS, annotations=TEXTS),
    spec=fields(
        ("rayClusterSpec",),
        activeDeadlineSeconds=NUMBER,
        backoffLimit=NUMBER,
        rayClusterSpec=CLUSTER,
        submitterPodTemplate=POD_TEMPLATE,
        metadata=TEXTS,
        clusterSelector=TEXTS,
        submitterConfig=fields(backoffLimit=NUMBER),
        managedBy=TEXT,
        deletionStrategy=ANYTHING,
        entrypoint=TEXT,
        runtimeEnvYAML=TEXT,
        jobId=TEXT,
        submissionMode={"enum": ["K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"]},
        entrypointResources=TEXT,
        entrypointNumCpus={"type": "number"},
        entrypointNumGpus={"type": "number"},
        ttlSecondsAfterFinished=NUMBER,
        shutdownAfterJobFinishes=YES_NO,
        suspend=YES_NO,
    ),
)


def manifest(*overrides: str) -> dict[str, Any]:
    (job,) = jobs_of([*GIVEN, *overrides])
    return yaml.safe_load(job.plan.cluster.document(job))


def groups(found: dict[str, Any]) -> tuple[dict, dict]:
    cluster = found["spec"]["rayClusterSpec"]
    return cluster["headGroupSpec"], cluster["workerGroupSpecs"][0]


def pods(found: dict[str, Any]) -> list[dict]:
    return [group["template"]["spec"] for group in groups(found)]


GPUS = ("cluster.gpus_per_node=8", "rollout.workers=12", "rollout.num_gpus=1", "learner.num_gpus=1", "learner.ranks=8")
MORE = ("+cluster.node_selector.gpu=h200", "cluster.secret=keys", "+cluster.env.NCCL_DEBUG=INFO", "reward=unsafe")


@pytest.mark.parametrize("overrides", [(), GPUS, MORE])
def test_kuberay_and_kubernetes_accept_it(overrides):
    """Known fields of the right types, in the RayJob and in both pods."""
    validate = pytest.importorskip("kubernetes_validate")
    found = manifest(*overrides)
    jsonschema.validate(found, SCHEMA)
    for spec in pods(found):
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}, "spec": spec}
        validate.validate(pod, validate.latest_version(), strict=True)


def test_the_schemas_refuse_what_is_wrong():
    """A misspelt field of the RayJob and one of a pod are found, so the test above says something."""
    validate = pytest.importorskip("kubernetes_validate")
    found = manifest()
    found["spec"]["rayClusterSpec"]["headGroupSpec"]["rayStartParam"] = {}
    with pytest.raises(jsonschema.ValidationError, match="rayStartParam"):
        jsonschema.validate(found, SCHEMA)
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}, "spec": {"container": []}}
    with pytest.raises(validate.ValidationError):
        validate.validate(pod, validate.latest_version(), strict=True)


def test_a_run_gets_as_many_pods_as_hold_it():
    """20 GPUs on pods of 8: three, each asking for all of its 8."""
    head, workers = groups(manifest(*GPUS))
    assert [workers[name] for name in ("replicas", "minReplicas", "maxReplicas")] == [3, 3, 3]
    (container,) = workers["template"]["spec"]["containers"]
    for kind in ("requests", "limits"):
        assert container["resources"][kind] == {"cpu": "16", "memory": "64Gi", "nvidia.com/gpu": "8"}
    assert head["rayStartParams"]["num-cpus"] == "0"  # no actor beside the driver
    assert "nvidia.com/gpu" not in head["template"]["spec"]["containers"][0]["resources"]["limits"]


def test_pods_have_no_rights_they_do_not_need():
    """Not root, no capabilities, no token of Kubernetes; Ray asks for a token of its own."""
    found = manifest()
    assert found["spec"]["rayClusterSpec"]["authOptions"] == {"mode": "token"}
    for spec in pods(found):
        assert spec["automountServiceAccountToken"] is False
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["runAsUser"] != 0
        assert spec["containers"][0]["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert spec["containers"][0]["securityContext"]["allowPrivilegeEscalation"] is False


def test_only_sandboxes_loosen_the_filter_of_system_calls():
    """bubblewrap needs namespaces of its own, inside a user namespace of the pod; without it the usual filter holds."""
    for spec in pods(manifest()):
        assert spec["securityContext"]["seccompProfile"] == {"type": "Unconfined"}
        assert spec["hostUsers"] is False
    for spec in pods(manifest("reward=unsafe")):
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert "procMount" not in spec["containers"][0]["securityContext"]


def test_a_secret_is_named_and_not_copied(monkeypatch):
    """The key of whoever launches is not in the manifest; the pods take theirs from the Secret."""
    monkeypatch.setenv("WANDB_API_KEY", "very-secret-key")
    (job,) = jobs_of([*GIVEN, "cluster.secret=keys"])
    text = job.plan.cluster.document(job)
    assert "very-secret-key" not in text
    for spec in pods(yaml.safe_load(text)):
        assert spec["containers"][0]["envFrom"] == [{"secretRef": {"name": "keys"}}]


def test_everything_a_run_writes_is_on_the_shared_volume():
    """Run folder and cache of models lie below the mount of the claim, in every pod."""
    for spec in pods(manifest()):
        (container,) = spec["containers"]
        mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
        assert mounts["runs"] == "/temper/runs"
        assert {"name": "runs", "persistentVolumeClaim": {"claimName": "shared"}} in spec["volumes"]
        assert {"name": "TEMPER_CACHE", "value": "/temper/runs/.cache"} in container["env"]


def test_the_example_is_what_its_command_writes(capsys, monkeypatch):
    """docker/rayjob.yaml follows the code: the command in its header gives the rest of the file."""
    monkeypatch.setattr("faulthandler.register", lambda *_, **__: None)
    header, start, rest = RAYJOB.read_text().partition("---\n")
    command = next(line for line in header.splitlines() if "temper launch" in line)
    assert main(shlex.split(command.removeprefix("#"))[1:]) == 0
    assert capsys.readouterr().out == start + rest


def test_kubectl_gets_the_manifest(tmp_path, monkeypatch, capsys):
    """`create`, as the name is made by the cluster; what it answers is told."""
    monkeypatch.setattr("faulthandler.register", lambda *_, **__: None)
    (tmp_path / "kubectl").write_text(
        f'#!/bin/bash\necho "$*" >{tmp_path}/asked\ncat >{tmp_path}/got\necho rayjob.ray.io/temper-x\n'
    )
    (tmp_path / "kubectl").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    assert main(["launch", *GIVEN]) == 0
    assert "rayjob.ray.io/temper-x" in capsys.readouterr().out
    assert (tmp_path / "asked").read_text().split()[0] == "create"
    assert yaml.safe_load((tmp_path / "got").read_text()) == manifest()
