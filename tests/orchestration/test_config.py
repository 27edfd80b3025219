"""Configuration: what is wrong is named by its path in one sentence, and what is right survives being saved."""

import pytest
from omegaconf import OmegaConf

from orchestration.config import CONF, build_plan, load_plan, load_saved_plan
from orchestration.errors import ConfigError
from rollout.draw.truncation import TopW, Truncation

GROUP_FILES = sorted(
    (path.parent.name, path.stem) for path in CONF.glob("*/*.yaml") if path.parent.name != "experiment"
)
# Adapters that no engine can run; their sentence: tests/learner/adapters/test_conf.py.
REFUSED = {("adapter", name) for name in ("dynmole", "expert_losses", "lora_moe", "queryable", "radar_gate", "smora")}
NEEDS_MORE = {  # group files that mean nothing without a value of the user's
    ("task", "jsonl"): ["task.path=data.jsonl"],
    ("task", "gsm8k"): ["task.path=data.jsonl"],
    ("task", "huggingface"): ["task.path=data"],
    ("task", "verilog_eval"): ["task.path=problems"],
    ("model", "huggingface"): ["model.path=model"],
    ("speculative", "draft_model"): ["speculative.model=drafter"],
    ("drafter", "online"): ["model=tiny_mtp", "speculative=mtp"],
    ("algorithm", "aepo"): ["strategy=second_rollout"],
    ("algorithm", "introllm"): ["temperature=learned"],
    ("strategy", "diff_adapt"): ["strategy.probe=probe.safetensors"],
    ("strategy", "model_switch"): ["strategy.other_model=large", "strategy.threshold=1.0"],
    ("cluster", "slurm"): ["cluster.partition=gpu", "cluster.cpus_per_node=8"],
    ("cluster", "kuberay"): [
        *("cluster.image=temper:gpu", "cluster.claim=runs", "cluster.cpus_per_node=8", "cluster.memory_per_node=64Gi")
    ],
    ("reward", "overlong"): ["reward.shaping.overlong.buffer_tokens=8"],
}


@pytest.mark.parametrize(("group", "name"), [file for file in GROUP_FILES if file not in REFUSED])
def test_every_file_in_conf_builds(group, name):
    """Each shipped group file composes into a plan with no other change than the values it asks for."""
    load_plan([f"{group}={name}", *NEEDS_MORE.get((group, name), [])])


@pytest.mark.parametrize("name", sorted(path.stem for path in (CONF / "experiment").glob("*.yaml")))
def test_every_experiment_builds_and_is_named_after_its_file(name):
    """runs/<experiment>/ is the file's name."""
    assert load_plan([f"experiment={name}"]).name == name


def test_a_value_can_be_set_by_its_path_even_where_no_file_mentions_it():
    """Defaults live in dataclasses; the command line reaches all of them, in pieces of the objective too."""
    plan = load_plan(
        [
            "experiment=quickstart",
            "seed=7",
            "run.steps=3",
            "learner.weight_decay=0.1",
            "temperature=entropy_linear",
            "temperature.high=1.5",
            "algorithm.weights.mismatch.cap=3.0",
        ]
    )
    assert (plan.seed, plan.run.steps, plan.learner.weight_decay) == (7, 3, 0.1)
    assert plan.temperature.high == 1.5
    assert plan.algorithm.weights["mismatch"].cap == 3.0


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ([], Truncation()),
        (["truncation=top_p"], Truncation(top_p=0.95)),
        (["truncation=top_k", "truncation.min_p=0.1"], Truncation(top_k=20, min_p=0.1)),
        (["truncation=top_w", "truncation.top_m=50"], TopW(top_m=50)),
    ],
)
def test_truncation_is_a_group_of_its_own(overrides, expected):
    """Off by default; one word switches a rule on, and its fields combine."""
    assert load_plan(overrides).truncation == expected


def test_a_piece_can_be_taken_out_by_one_flag():
    """~algorithm.filters.mixed is the ablation of dynamic sampling."""
    assert "mixed" in load_plan([]).algorithm.filters
    assert "mixed" not in load_plan(["~algorithm.filters.mixed"]).algorithm.filters


def test_a_saved_plan_is_the_same_plan(tmp_path):
    """config.yaml holds everything: read back, with or without an override, it gives the plan that wrote it."""
    overlong = ["reward=overlong", "reward.shaping.overlong.buffer_tokens=8", "reward.drop=[error,timeout]"]
    plan = load_plan(["experiment=quickstart", "temperature=entropy_linear", *overlong])
    assert plan.reward.shaping["overlong"].buffer_tokens == 8
    file = tmp_path / "config.yaml"
    OmegaConf.save(OmegaConf.create(plan.tree), file)
    assert load_saved_plan(file, []) == plan
    assert load_saved_plan(file, ["run.steps=999"]).run.steps == 999


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (
            ["experiment=quikstart"],
            r"there is no experiment=quikstart; conf/experiment has .*did you mean quickstart\?",
        ),
        (["algorithm=ppo9"], r"there is no algorithm=ppo9"),
        (["run.stepz=3"], r"unknown key run.stepz; RunConfig has .*did you mean steps\?"),
        (["learner.learning_rate=1"], r"unknown key learner.learning_rate; LearnerConfig has "),
        (["algorithm.surrogate.epslo=0.1"], r"unknown key algorithm.surrogate.epslo; .*did you mean eps_lo\?"),
        (["nonsense=1"], r"unknown key nonsense"),
        (["run.keep_checkpoints=0"], "run.keep_checkpoints is at least 1, got 0"),
        (["run.keep_rollouts=-1"], "run.keep_rollouts is at least 0, got -1"),
        (["run.steps=many"], r"run.steps: .*integer.*got 'many'"),
        (["rollout.dtype=float8"], r"rollout.dtype: .*'float32'.*got 'float8'"),
        (["learner.lr=-1"], r"learner.lr is positive, got -1"),
        (["temperature.temperature=0"], r"temperature.temperature=0 is greedy"),
        (["run.group_size=1"], r"run.group_size=1: a group-relative advantage compares at least 2"),
        (["run.publish_every=3"], r"run.publish_every=3 with run.max_staleness=1 would never free a slot"),
        (["rollout.sleep=true"], r"rollout.sleep=true .*: set run.max_staleness=0"),
        (
            ["cluster.colocated=true", "rollout.workers=2"],
            r"colocated=true .*workers=2, .* and learner.ranks=1: set as",
        ),
        (
            ["cluster.colocated=true", "rollout.num_gpus=1", "learner.num_gpus=0.5"],
            "num_gpus=1 and .*=0.5: set both to",
        ),
        (["rollout.max_model_len=8"], r"task.max_tokens=\d+ leaves no room for a prompt"),
        (["rollout.kv_on_update=keep"], r"rollout.kv_on_update=keep needs rollout.prefix_caching=false"),
        (["temperature._target_=rollout.draw.nowhere.Thing"], r"temperature._target_: cannot import"),
        (["temperature=null"], r"Config group override must be a string"),
        (["algorithm=introllm"], r"algorithm.head: HeadTraining.policy .*got Fixed: choose temperature=learned"),
        (["algorithm=aepo"], r"algorithm.advantage: .* the run draws none: choose strategy=second_rollout"),
        (
            ["algorithm=aepo", "strategy=second_rollout", "temperature=entropy_linear"],
            r"algorithm.advantage: .*main one is drawn at 1, got EntropyLinear.*: choose temperature=fixed",
        ),
        (["algorithm=dcpo", "~algorithm.marks.right"], r"algorithm: TemperatureRatio reads the mark 'right'"),
        (
            ["algorithm=siren", "~algorithm.regularisers.peaks"],
            r"algorithm: a controller turns regularisers.peaks.anchor, but .*: add the piece or leave out",
        ),
        (
            ["algorithm=introllm", "temperature=learned", "algorithm.head.policy.tau_max=2"],
            r"algorithm.head.policy=.* differs from temperature=.*set them under temperature alone",
        ),
        (["truncation=top_q"], r"there is no truncation=top_q; .*did you mean"),
        (["truncation.top_p=1.5"], r"truncation: Truncation.top_p is a mass in \(0, 1\], got 1.5"),
        (["truncation=top_k", "truncation.top_k=2.5"], r"truncation.top_k: .*integer.*got 2.5"),
        (
            ["truncation=top_w", "truncation.top_p=0.9"],
            r"unknown key truncation.top_p; TopW has .*did you mean top_m\?",
        ),
        (["truncation._target_=learner.config.LearnerConfig"], r"should name Truncation or TopW .*got LearnerConfig"),
        (["task=jsonl"], r"task.path is not set"),
        (["reward.drop=[timeout]"], r"reward.drop keeps error, .*got timeout"),
        (["reward.drop=[error,scored]"], r"reward.drop .* never has scored"),
        (["reward.drop=[late,error]"], r"reward.drop.*'timeout'.*got"),
        (["reward=overlong"], r"reward.shaping.overlong.buffer_tokens is not set"),
        (
            ["reward=overlong", "reward.shaping.overlong.buffer_tokens=9999"],
            r"reward.shaping.overlong: OverlongPenalty needs buffer_tokens <= max_tokens <= task.max_tokens, got 9999",
        ),
    ],
)
def test_what_is_wrong_is_named_in_one_sentence(overrides, sentence):
    """Unknown key, wrong type, impossible combination: the path, what was expected, what was given."""
    with pytest.raises(ConfigError, match=sentence) as raised:
        load_plan(overrides)
    assert "\n" not in str(raised.value)


def test_a_plan_needs_a_task():
    """A tree without a required section names the first one that is missing."""
    with pytest.raises(ConfigError, match="task is not set"):
        build_plan({"name": "x"})
