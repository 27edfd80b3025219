"""What a policy that teaches itself is shown: the template filled in, and who is refused before a run."""

import numpy as np
import pytest

from orchestration.buffer import Group, Rewards, train_batch
from orchestration.config import load_plan
from orchestration.errors import ConfigError
from orchestration.feedback import FeedbackConfig, teacher
from orchestration.launch import preflight
from orchestration.tasks.errors import TaskError
from orchestration.tasks.task import Task
from reward.config import RewardConfig
from reward.messages import Status, Verdict
from rollout.messages import FinishReason, Rollout, VersionSpan

SUM = Task(id="sum", prompt="1+1=", verifier="math", reference={"answer": "2"})
MODULE = Task(id="m", prompt="and", verifier="verilog", reference={"reference_source": "module m;", "testbench": None})
STYLE = Task(id="style", prompt="in capitals", verifier="instructions", reference={"instructions": []})


def verdict(reward: float) -> Verdict:
    return Verdict(id="", reward=reward, status=Status.SCORED, detail=f"the {reward} sentence")


def test_the_template_is_filled_in():
    """With the task's prompt, its right answer as the verifier holds it, and the verifier's sentence."""
    feedback = FeedbackConfig(template="{solution}|{detail}|{prompt}")
    assert feedback.prompt(SUM, verdict(1.0)) == "2|the 1.0 sentence|1+1="
    assert feedback.prompt(MODULE, verdict(0.5)) == "module m;|the 0.5 sentence|and"


def test_braces_in_a_task_are_text():
    task = Task(id="b", prompt="{x}", verifier="math", reference={"answer": "{0}"})
    assert FeedbackConfig(template="{solution} {prompt}").prompt(task, verdict(0.0)) == "{0} {x}"


def test_only_wrong_answers_get_feedback_where_asked():
    feedback = FeedbackConfig(on="wrong")
    assert feedback.prompt(SUM, verdict(1.0)) is None
    assert feedback.prompt(SUM, verdict(0.9)) is not None


@pytest.mark.parametrize("template", ["{solution}", "{prompt} {answer}", "{prompt} {}", "{prompt.id}"])
def test_a_template_that_cannot_be_filled_in_is_refused(template):
    with pytest.raises(ValueError, match=r"feedback.template contains \{prompt\}, and may contain"):
        FeedbackConfig(template=template)


def test_a_task_without_a_solution_is_refused_where_one_is_shown():
    """Its reference is no text that answers it; a template without the solution takes it."""
    with pytest.raises(TaskError, match=r"task style is judged by instructions, .*: set feedback.template"):
        FeedbackConfig().check(STYLE)
    FeedbackConfig(template="{detail} {prompt}").check(STYLE)
    FeedbackConfig().check(SUM)


def test_feedback_reaches_the_learner_beside_its_own_response():
    """Through the encoder of prompts; without a teacher there is none."""
    ones = np.ones(2, np.float32)
    rollouts = [
        Rollout(
            group_id="g",
            index=index,
            prompt_ids=(1,),
            response_ids=ones.astype(np.int32),
            sampler_logprobs=-ones,
            temperatures=ones,
            entropies=ones,
            spans=(VersionSpan(version=0, start=0, end=2),),
            text="x",
            finish_reason=FinishReason.STOP,
            drafted_tokens=0,
            accepted_histogram=(),
            seconds=0.0,
        )
        for index in range(2)
    ]
    groups = {3: Group(SUM, rollouts, [verdict(1.0), verdict(0.0)])}
    teach = teacher(FeedbackConfig(template="{detail}{prompt}", on="wrong"), lambda task: tuple(task.prompt.encode()))
    rewards = Rewards(config=RewardConfig(), max_tokens=10)
    right, wrong = train_batch(0, groups, rewards, teach).samples
    assert right.teacher_prompt_ids is None
    assert bytes(wrong.teacher_prompt_ids.tolist()) == b"the 0.0 sentence1+1="
    assert wrong.prompt_ids.tolist() == [1]
    assert [one.teacher_prompt_ids for one in train_batch(0, groups, rewards).samples] == [None, None]


def test_a_run_asks_its_tasks_for_solutions_only_where_a_teacher_is_read(tmp_path, monkeypatch):
    """algorithm=distil is refused before anything starts for tasks without one; algorithm=grpo takes them."""
    monkeypatch.setattr("orchestration.tasks.spec_to_verilog.SpecToVerilog.train_task", lambda *_: STYLE)
    monkeypatch.setattr("orchestration.launch.check_judging", lambda *_: None)
    monkeypatch.setattr("orchestration.launch.check_tools", lambda *_: None)
    preflight(load_plan(["experiment=quickstart", "algorithm=grpo"]))
    with pytest.raises(TaskError, match="set feedback.template"):
        preflight(load_plan(["experiment=quickstart", "algorithm=distil"]))


def test_an_impossible_feedback_is_named_by_its_path():
    with pytest.raises(ConfigError, match=r"feedback.on: .*got 'none'"):
        load_plan(["feedback.on=none"])
