"""The configuration of a run: Hydra composes it, the dataclasses of the four packages own its keys, types and defaults.

    conf/*.yaml + command line --compose--> plain tree --build--> RunPlan, checked, every default filled in

A YAML file states only what differs from a dataclass; every field of every dataclass can be overridden by its path.
Building and checking are one walk, so that an unknown key, a wrong type or an impossible value is named by its path
before anything starts (Hydra's own `instantiate` reports the constructor's TypeError instead).
"""

import dataclasses
import difflib
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any, Literal

import hydra
import pydantic
from hydra.errors import HydraException, MissingConfigException
from hydra.utils import get_class
from omegaconf import OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from learner.config import LearnerConfig
from learner.objective import Objective
from orchestration.chaos import ChaosConfig
from orchestration.errors import ConfigError
from orchestration.feedback import FeedbackConfig
from orchestration.monitor import MonitorConfig
from orchestration.planner.config import PlanConfig
from reward.config import RewardConfig
from rollout.config import RolloutConfig, SpeculativeConfig
from rollout.draw.control import controller_of
from rollout.draw.temperature import Fixed
from rollout.draw.truncation import TopW, Truncation
from rollout.strategies import HIDDEN, OTHER_MODEL, Circumstances, Plain

CONF = Path(__file__).parent.parent / "conf"
TARGET = "_target_"


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """How long and how asynchronously to train, and what to write where. Steps are learner steps."""

    dir: str | None = None  # null: runs/<name>/<time>-s<seed>
    steps: int = 50
    groups_per_step: int = 16  # prompts
    group_size: int = 16  # responses per prompt
    max_staleness: int = 1  # no trained token is drawn by weights more than this many versions old; 0 is synchronous
    publish_every: int = 1  # steps
    max_refills: int = 9  # tasks tried in place of one that teaches nothing, where the algorithm refills its batches
    checkpoint_every: int = 0  # steps; 0: only at the end
    keep_checkpoints: int = 2  # the newest
    keep_best: int = 1  # besides them, those that did best in evaluation (pass@1)
    keep_rollouts: int | None = 10  # steps whose responses stay in the journal; 0: what a resume needs; null: all
    worker_restarts: int = 10  # of rollout and verifier workers together within an hour, before the run gives up
    restarts: int = 0  # of the whole run within an hour, from its newest checkpoint, when driver or learner are lost
    stall_deadline_s: float = 600.0  # without any event, the run stops and says who waited for whom
    self_check: bool = True  # before the first group: does each engine draw what it records, as the learner sees it?


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """Held-out evaluation: pass@1 and pass@k at T = 1 from `samples` responses a task, and greedy."""

    every: int = 10  # steps; 0: never during training
    tasks: int = 100  # held-out tasks
    samples: int = 8  # responses a task at T = 1
    at_start: bool = True
    at_end: bool = True


@dataclass(frozen=True, kw_only=True)
class NodeLabels:
    """Of the nodes that may hold each role, as `ray start --labels role=rollout` gives them; {}: any node.

    A value is what the label must be, or a condition of Ray's: `!spot`, `in(a,b)`, `!in(a,b)`.
    """

    rollout: dict[str, str] = field(default_factory=dict)
    learner: dict[str, str] = field(default_factory=dict)
    verifier: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class ClusterConfig:
    """Where the actors run. `address` null starts Ray on this machine; otherwise the cluster to join.

    Clusters that take jobs (`temper launch`) have more fields: orchestration/cluster.
    """

    address: str | None = None
    learner_placement: Literal["PACK", "STRICT_PACK", "SPREAD", "STRICT_SPREAD"] = "PACK"  # of its ranks over nodes
    node_labels: NodeLabels = field(default_factory=NodeLabels)
    colocated: bool = False  # engine i shares the node, and the GPU, of the learner's rank i
    object_store_gib: float = 0.25  # of a Ray started here
    connect_deadline_s: float = 30.0


@dataclass(frozen=True, kw_only=True)
class RunPlan:
    """Everything a run needs, built and checked; `tree` is the resolved configuration that produced it."""

    name: str
    seed: int = 0
    run: RunConfig = field(default_factory=RunConfig)
    eval: EvaluationConfig = field(default_factory=EvaluationConfig)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    learner: LearnerConfig = field(default_factory=LearnerConfig)
    reward: RewardConfig = field(default_factory=RewardConfig)
    feedback: FeedbackConfig = field(default_factory=FeedbackConfig)
    monitor: MonitorConfig = field(default_factory=MonitorConfig)
    chaos: ChaosConfig = field(default_factory=ChaosConfig)
    speculative: SpeculativeConfig = field(default_factory=SpeculativeConfig)
    plan: PlanConfig = field(default_factory=PlanConfig)  # of `temper plan` alone
    task: Any  # a TaskSource
    model: Any  # a model source: orchestration/models
    algorithm: Objective
    temperature: Any  # a TemperaturePolicy
    strategy: Any = field(default_factory=Plain)  # a RolloutStrategy, for what is trained; evaluation goes without
    truncation: Any = field(default_factory=Truncation)  # or TopW; evaluation draws from the whole vocabulary

    @property
    def tree(self) -> dict[str, Any]:
        """The plan as plain values with every default filled in; `build` gives the plan back."""
        return to_tree(self)


def load_plan(overrides: Sequence[str], conf: Path = CONF) -> RunPlan:
    """Compose `conf` with command-line overrides and build the plan. Raises ConfigError, one sentence."""
    return build_plan(compose(overrides, conf))


def load_saved_plan(file: Path, overrides: Sequence[str]) -> RunPlan:
    """Build the plan saved in a run folder, with `overrides` (dotted path = value) applied. Raises ConfigError."""
    saved = OmegaConf.load(file)
    for override in overrides:
        path, separator, value = override.partition("=")
        if not separator:
            raise ConfigError(f"{override!r} is not an override: write key=value")
        OmegaConf.update(saved, path, yaml_value(value))
    return build_plan(OmegaConf.to_container(saved, resolve=True))


def yaml_value(text: str) -> Any:
    """The value as YAML reads it: 3 is a number, null is None."""
    return OmegaConf.to_container(OmegaConf.create(f"value: {text}"))["value"]


def compose(overrides: Sequence[str], conf: Path = CONF) -> dict[str, Any]:
    """Hydra's composition as a plain tree."""
    groups = {str(path.relative_to(conf)) for path in conf.rglob("*") if path.is_dir()}
    try:
        with hydra.initialize_config_dir(str(conf.resolve()), version_base="1.3", job_name="temper"):
            composed = hydra.compose("config", [_settable(override, groups) for override in overrides])
        return OmegaConf.to_container(composed, resolve=True, throw_on_missing=True)
    except MissingMandatoryValue as missing:
        raise ConfigError(f"{missing.full_key} is not set; give it a value: {missing.full_key}=...") from missing
    except MissingConfigException as missing:
        if missing.options is None:
            raise ConfigError(" ".join(str(missing).split())) from missing
        group, _, name = missing.missing_cfg_file.rpartition("/")
        raise ConfigError(
            f"there is no {group}={name}; conf/{group} has {', '.join(sorted(missing.options))}"
            + _suggestion(name, missing.options)
        ) from missing
    except (HydraException, OmegaConfBaseException, ValueError) as error:  # ValueError: a group set to null
        raise ConfigError(" ".join(str(error).split())) from error


def _settable(override: str, groups: set[str]) -> str:
    """Let an override name any field of a dataclass, also one that no YAML file mentions; `build` checks it exists."""
    key = override.partition("=")[0]
    if key.startswith(("+", "~")) or key in groups or "@" in key or "=" not in override:
        return override
    return f"++{override}"


def build_plan(tree: Mapping[str, Any]) -> RunPlan:
    """Build and check the whole plan from a plain tree. Raises ConfigError."""
    plan = build(RunPlan, tree, "")
    check(plan)
    return plan


def build(cls: type, values: Any, path: str) -> Any:
    """Make a `cls` of plain `values`, recursively; `_target_` names a more specific class. Raises ConfigError."""
    if not isinstance(values, Mapping):
        raise ConfigError(f"{path}: expected the fields of {cls.__name__}, got {values!r}")
    values = dict(values)
    target = values.pop(TARGET, None)
    if target is not None:
        try:
            cls = get_class(target)
        except Exception as error:  # whatever importing a user's module raises
            raise ConfigError(f"{path}.{TARGET}: cannot import {target}: {' '.join(str(error).split())}") from error
    if not dataclasses.is_dataclass(cls):
        raise ConfigError(f"{path}.{TARGET} must name a dataclass, got {cls.__name__}")
    hints = typing.get_type_hints(cls)
    fields = {item.name: item for item in dataclasses.fields(cls) if item.init}
    for key in values:
        if key not in fields:
            raise ConfigError(
                f"unknown key {_join(path, key)}; {cls.__name__} has {', '.join(fields)}{_suggestion(key, fields)}"
            )
    arguments = {key: _build_value(hints[key], value, _join(path, key)) for key, value in values.items()}
    missing = [
        _join(path, name)
        for name, item in fields.items()
        if name not in arguments and item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise ConfigError(f"{missing[0]} is not set; give it a value: {missing[0]}=...")
    try:
        return cls(**arguments)
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{path}: {error}" if path and path not in str(error) else str(error)) from error


def _build_value(hint: Any, value: Any, path: str) -> Any:
    if isinstance(value, Mapping) and TARGET in value:
        return build(object, value, path)
    if dataclasses.is_dataclass(hint):
        return build(hint, value, path)
    if isinstance(value, Mapping) and any(isinstance(item, Mapping) and TARGET in item for item in value.values()):
        return {key: _build_value(Any, item, _join(path, key)) for key, item in value.items() if item is not None}
    try:
        return pydantic.TypeAdapter(hint, config={"arbitrary_types_allowed": True}).validate_python(value)
    except pydantic.ValidationError as error:
        problem = error.errors()[0]
        raise ConfigError(f"{path}: {problem['msg']}, got {value!r}") from error


def to_tree(value: Any) -> Any:
    """The inverse of `build`: plain values, `_target_` beside every dataclass."""
    if dataclasses.is_dataclass(value):
        cls = type(value)
        fields = {item.name: to_tree(getattr(value, item.name)) for item in dataclasses.fields(value) if item.init}
        return fields if cls is RunPlan else {TARGET: f"{cls.__module__}.{cls.__qualname__}", **fields}
    if isinstance(value, Mapping):
        return {key: to_tree(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_tree(item) for item in value]
    if isinstance(value, Enum):
        return value.value
    return str(value) if isinstance(value, Path) else value


def check(plan: RunPlan) -> None:
    """Refuse combinations that no single section can see. Raises ConfigError."""
    if plan.run.steps < 1 or plan.run.groups_per_step < 1:
        raise ConfigError("run.steps and run.groups_per_step are at least 1")
    if plan.run.group_size < 2:
        raise ConfigError(
            f"run.group_size={plan.run.group_size}: a group-relative advantage compares at least 2 responses"
            " to a prompt"
        )
    if plan.run.max_staleness < 0:
        raise ConfigError(f"run.max_staleness is 0 or more, got {plan.run.max_staleness}")
    for name, least in (("keep_checkpoints", 1), ("keep_best", 0), ("keep_rollouts", 0), ("max_refills", 0)):
        value = getattr(plan.run, name)
        if value is not None and value < least:
            raise ConfigError(f"run.{name} is at least {least}, got {value}")
    if plan.run.restarts and not plan.run.checkpoint_every:
        raise ConfigError(
            f"run.restarts={plan.run.restarts} starts a lost run again from its newest checkpoint, and"
            " run.checkpoint_every=0 writes none before the end: set it to a number of steps"
        )
    if plan.rollout.sleep and (plan.run.max_staleness or plan.strategy.needs & {OTHER_MODEL}):
        raise ConfigError(
            "rollout.sleep=true lets engines and learner take turns: set run.max_staleness=0, and take no strategy with"
            " a second model, which does not sleep"
        )
    if plan.run.publish_every > plan.run.max_staleness + 1:
        raise ConfigError(
            f"run.publish_every={plan.run.publish_every} with run.max_staleness={plan.run.max_staleness} would never"
            " free a slot: publish_every is at most max_staleness + 1"
        )
    if plan.task.max_tokens >= plan.rollout.max_model_len:
        raise ConfigError(
            f"task.max_tokens={plan.task.max_tokens} leaves no room for a prompt in"
            f" rollout.max_model_len={plan.rollout.max_model_len}"
        )
    if getattr(plan.temperature, "temperature", 1.0) == 0:
        raise ConfigError("temperature.temperature=0 is greedy: every response of a group would be the same")
    if not isinstance(plan.truncation, Truncation | TopW):
        kind = type(plan.truncation).__name__
        raise ConfigError(f"truncation._target_ should name Truncation or TopW of rollout.draw.truncation, got {kind}")
    _check_strategy(plan)
    if plan.algorithm.head is not None and plan.algorithm.head.policy != plan.temperature:
        raise ConfigError(
            f"algorithm.head.policy={plan.algorithm.head.policy} differs from temperature={plan.temperature}: the head"
            " is trained with the bounds it draws with, so set them under temperature alone"
        )
    learned = "hidden" in getattr(plan.temperature, "needs", ())
    if plan.rollout.model_runner == "v2" and (plan.truncation.active or learned):
        raise ConfigError(
            "rollout.model_runner=v2 knows no truncation and no learned temperature: set rollout.model_runner=v1, or"
            " truncation=none and another temperature"
        )
    _check_colocated(plan)
    _check_adapter(plan)
    _check_drafter(plan)
    for name, piece in plan.reward.shaping.items():
        try:
            piece.check(plan.task.max_tokens)
        except ValueError as error:
            raise ConfigError(f"reward.shaping.{name}: {error}") from error
    if plan.eval.tasks < 1 or plan.eval.samples < 1:
        raise ConfigError("eval.tasks and eval.samples are at least 1; eval.every=0 switches evaluation off")


def _check_colocated(plan: RunPlan) -> None:
    if not plan.cluster.colocated:
        return
    if plan.rollout.workers != plan.learner.ranks or plan.rollout.tensor_parallel > 1:
        raise ConfigError(
            "cluster.colocated=true gives every rank of the learner one engine, got"
            f" rollout.workers={plan.rollout.workers}, rollout.tensor_parallel={plan.rollout.tensor_parallel} and"
            f" learner.ranks={plan.learner.ranks}: set as many workers as ranks, and tensor_parallel=1"
        )
    if plan.rollout.num_gpus + plan.learner.num_gpus > 1:
        raise ConfigError(
            f"cluster.colocated=true lets two processes share a GPU, got rollout.num_gpus={plan.rollout.num_gpus:g} and"
            f" learner.num_gpus={plan.learner.num_gpus:g}: set both to 0.5"
        )
    if plan.cluster.node_labels.rollout:
        raise ConfigError("cluster.colocated=true puts engines on the learner's nodes: leave out node_labels.rollout")


def _check_adapter(plan: RunPlan) -> None:
    adapter = plan.learner.adapter
    if adapter is None:
        return
    if adapter.obstacle:
        raise ConfigError(f"learner.adapter: {adapter.obstacle}")
    if adapter.publish == "alone" and plan.rollout.transport == "cuda_ipc":
        raise ConfigError(
            "rollout.transport=cuda_ipc lends whole weights: set learner.adapter.publish=merged, or another transport"
        )


def _check_drafter(plan: RunPlan) -> None:
    drafter = plan.learner.drafter
    if drafter is None:
        return
    if plan.speculative.method != "mtp":
        raise ConfigError(
            "learner.drafter trains the layer that speculative=mtp drafts with, got"
            f" speculative.method={plan.speculative.method}: choose speculative=mtp, or drafter=frozen"
        )
    if (drafter.temperature, drafter.truncation) != (plan.temperature, plan.truncation):
        raise ConfigError(
            f"learner.drafter draws with {drafter.temperature} and {drafter.truncation}, the run with"
            f" {plan.temperature} and {plan.truncation}: set them under temperature and truncation alone"
        )


def _check_strategy(plan: RunPlan) -> None:
    if not hasattr(plan.strategy, "over"):
        kind = type(plan.strategy).__name__
        raise ConfigError(f"strategy._target_ should name a strategy of rollout.strategies, got {kind}")
    if HIDDEN in plan.strategy.needs and plan.rollout.model_runner != "v1":
        raise ConfigError(
            f"the strategy looks at hidden states, which rollout.model_runner={plan.rollout.model_runner} does not hand"
            " out: set rollout.model_runner=v1"
        )
    first = controller_of(plan.temperature).policy()
    run = Circumstances(
        group_size=plan.run.group_size,
        max_tokens=plan.task.max_tokens,
        learned_temperature="hidden" in first.needs,
        plain_draw=(plan.temperature, plan.truncation) == (Fixed(), Truncation()),
    )
    try:
        plan.strategy.check(run)
    except ValueError as error:
        raise ConfigError(str(error)) from error


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


def _suggestion(name: str, known: Sequence[str] | Mapping[str, Any]) -> str:
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {close[0]}?" if close else ""
