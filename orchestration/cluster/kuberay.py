"""A run as a RayJob of Kubernetes: the KubeRay operator starts a Ray cluster of pods for it, and ends it afterwards.

head pod      the driver; reserves no CPU, so that no actor lands on it
worker pods   `nodes` of them, each one Ray node: engines, learner, verifiers
claim         one volume at /temper/runs in all pods: run folder, checkpoints, weights, the cache of models
"""

import math
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import yaml

from orchestration.cluster.bundles import Bundle
from orchestration.cluster.hand_over import hand_over
from orchestration.cluster.job import Job, LaunchedCluster

RAY_VERSION = "2.60.0"
RUNS = "/temper/runs"  # of the images in docker/
USER = 1000  # of the images in docker/
SEEN_S = 600  # how long the pods of a finished run stay to be looked at


@dataclass(frozen=True, kw_only=True)
class KubeRay(LaunchedCluster):
    """apiVersion ray.io/v1.

    image            with Temper in it (docker/); a digest or a tag that does not move
    claim            the PersistentVolumeClaim, ReadWriteMany, for everything a run writes
    nodes            worker pods; None: as few as hold the run
    memory_per_node  as Kubernetes writes it; the object store of `object_store_gib` is within it
    secret           of the same namespace; its entries become environment variables: WANDB_API_KEY
    """

    kind: ClassVar[str] = "kuberay"
    image: str
    claim: str
    namespace: str = "default"
    nodes: int | None = None
    cpus_per_node: int
    gpus_per_node: int = 0
    memory_per_node: str
    head_cpus: int = 2
    head_memory: str = "8Gi"
    secret: str | None = None
    node_selector: dict[str, str] = field(default_factory=dict)

    def document(self, job: Job) -> str:
        return yaml.safe_dump(self.manifest(job), explicit_start=True, sort_keys=False, width=1000)

    def manifest(self, job: Job) -> dict[str, Any]:
        nodes = self.nodes or job.nodes(Bundle(cpus=self.cpus_per_node, gpus=self.gpus_per_node))
        sandboxed = job.plan.reward.sandbox == "bubblewrap"
        store = {"object-store-memory": str(math.ceil(self.object_store_gib * 2**30))}
        worker = {"cpu": str(self.cpus_per_node), "memory": self.memory_per_node}
        if self.gpus_per_node:
            worker["nvidia.com/gpu"] = str(self.gpus_per_node)
        return {
            "apiVersion": "ray.io/v1",
            "kind": "RayJob",
            "metadata": {
                "generateName": f"{job.name}-",
                "namespace": self.namespace,
                "labels": {"app.kubernetes.io/name": "temper"},
            },
            "spec": {
                "entrypoint": shlex.join(job.command),
                "submissionMode": "K8sJobMode",
                "backoffLimit": 0,
                "shutdownAfterJobFinishes": True,
                "ttlSecondsAfterFinished": SEEN_S,
                "rayClusterSpec": {
                    "rayVersion": RAY_VERSION,
                    "authOptions": {"mode": "token"},  # KubeRay 1.5.1 and later: it makes and hands out the token
                    "headGroupSpec": {
                        "rayStartParams": {"num-cpus": "0", **store},
                        "template": self._pod(
                            "ray-head", {"cpu": str(self.head_cpus), "memory": self.head_memory}, sandboxed
                        ),
                    },
                    "workerGroupSpecs": [
                        {
                            "groupName": "workers",
                            "replicas": nodes,
                            "minReplicas": nodes,
                            "maxReplicas": nodes,
                            "rayStartParams": {"num-cpus": str(self.cpus_per_node), **store},
                            "template": self._pod("ray-worker", worker, sandboxed),
                        }
                    ],
                },
            },
        }

    def submit(self, document: str) -> str:
        name = hand_over(
            document,
            ["kubectl", "create", "--filename=-", "--output=name"],  # `apply` knows no generateName
            without="install it, or send what --dry-run prints from elsewhere",
            silent="is the cluster there?",
        )
        return f"{name}; look at it with: kubectl --namespace {self.namespace} describe {name}"

    def _pod(self, container: str, resources: Mapping[str, str], sandboxed: bool) -> dict[str, Any]:
        environment = {"TEMPER_CACHE": f"{RUNS}/.cache", "OMP_NUM_THREADS": "1", **self.env}
        spec: dict[str, Any] = {
            "automountServiceAccountToken": False,
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": USER,
                "runAsGroup": USER,
                "fsGroup": USER,
                # bubblewrap makes the namespaces of its sandboxes itself, which the usual filter forbids
                "seccompProfile": {"type": "Unconfined" if sandboxed else "RuntimeDefault"},
            },
            "containers": [
                {
                    "name": container,
                    "image": self.image,
                    "env": [{"name": name, "value": value} for name, value in environment.items()],
                    **({"envFrom": [{"secretRef": {"name": self.secret}}]} if self.secret else {}),
                    "resources": {"requests": dict(resources), "limits": dict(resources)},
                    "securityContext": {
                        "allowPrivilegeEscalation": False,
                        "capabilities": {"drop": ["ALL"]},
                        **({"procMount": "Unmasked"} if sandboxed else {}),  # a sandbox mounts a /proc of its own
                    },
                    "volumeMounts": [
                        {"name": "runs", "mountPath": RUNS},
                        {"name": "shared-memory", "mountPath": "/dev/shm"},
                    ],
                }
            ],
            "volumes": [
                {"name": "runs", "persistentVolumeClaim": {"claimName": self.claim}},
                {
                    "name": "shared-memory",  # Ray's object store, with as much again for NCCL and torch
                    "emptyDir": {"medium": "Memory", "sizeLimit": f"{math.ceil(2 * self.object_store_gib)}Gi"},
                },
            ],
        }
        if sandboxed:
            spec["hostUsers"] = False  # Kubernetes unmasks /proc only in a user namespace of the pod
        if self.node_selector:
            spec["nodeSelector"] = dict(self.node_selector)
        return {"metadata": {"labels": {"app.kubernetes.io/name": "temper"}}, "spec": spec}
