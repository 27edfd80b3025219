"""Tasks from a file whose lines bring their own verifiers, all the way to the verdicts of the real pool."""

import asyncio
import json
from types import SimpleNamespace

import pytest

from orchestration.buffer import verify_requests
from orchestration.tasks.errors import TaskDataError, TaskError
from orchestration.tasks.jsonl import BOXED, Jsonl
from orchestration.tasks.judging import check_judging, verifiers_of
from orchestration.tasks.task import Task
from reward.config import RewardConfig
from reward.messages import Status, Verdict, VerifyRequest
from reward.service import VerifierPool, check_tools

CONFIG = RewardConfig(sandbox="unsafe", deadline_s=60.0)  # isolation has its own tests, and is not everywhere

LINES = [
    {"prompt": "What is 6 * 7?", "answer": 42},
    {
        "prompt": "Name two colours, no commas.",
        "verifier": "instructions",
        "reference": {"constraints": [{"kind": "no_commas"}, {"kind": "bullets", "exactly": 2}]},
    },
    {"prompt": "Which number am I thinking of?", "verifier": "majority", "reference": {}},
    {
        "prompt": "What is half of one? Think first.",
        "verifier": "composed",
        "reference": {
            "parts": {
                "right": {"verifier": "math", "weight": 0.75, "reference": {"answer": "1/2"}},
                "form": {
                    "verifier": "instructions",
                    "weight": 0.25,
                    "reference": {"constraints": [{"kind": "think_tags"}]},
                },
            }
        },
    },
    {"prompt": "Who wrote it?", "verifier": "similarity", "reference": {"paraphrase": 0}},
    {"prompt": "Its author?", "verifier": "similarity", "reference": {"paraphrase": 1}},
]
RESPONSES = {
    "math": [r"\boxed{42}", r"\boxed{41}"],
    "instructions": ["* red\n* blue", "- red, blue"],
    "majority": ["it is 3", r"\boxed{7}", r"\boxed{7.0}"],
    "composed": [r"<think>so</think>\boxed{0.5}", r"\boxed{0.5}", r"<think>so</think>\boxed{2}", "<think>so"],
}
REWARDS = {"math": [1, 0], "instructions": [1, 0], "majority": [0, 1, 1], "composed": [1, 0.75, 0.25, 0]}


@pytest.fixture
def tasks(tmp_path) -> list[Task]:
    file = tmp_path / "mixed.jsonl"
    file.write_text("\n".join(map(json.dumps, LINES)), encoding="utf-8")
    source = Jsonl(path=str(file))
    source.check()
    found = [*source._tasks.train, *source._tasks.heldout]
    return sorted(found, key=lambda task: [line["prompt"] for line in LINES].index(task.prompt.partition("\n")[0]))


def judged(*calls: list[VerifyRequest]) -> list[list[Verdict]]:
    """Every call at the same time, by one pool."""

    async def main() -> list[list[Verdict]]:
        pool = VerifierPool(CONFIG)
        try:
            return await asyncio.gather(*(pool.verify(requests) for requests in calls))
        finally:
            await pool.close()

    return asyncio.run(main())


def rollouts(texts: list[str]) -> list[SimpleNamespace]:
    return [SimpleNamespace(index=index, text=text) for index, text in enumerate(texts)]


def test_a_line_may_bring_its_verifier_and_its_reference(tasks):
    """Such a line is taken as it stands; the others get the source's verifier and instruction."""
    assert [task.verifier for task in tasks] == ["math", *(line["verifier"] for line in LINES[1:])]
    assert tasks[0].prompt == f"What is 6 * 7?\n\n{BOXED}"
    assert tasks[0].reference == {"answer": "42"}
    for task, line in zip(tasks[1:], LINES[1:], strict=True):
        assert (task.prompt, task.reference) == (line["prompt"], line["reference"])


def test_every_verifier_judges_what_its_lines_ask_for(tasks):
    """The loop's requests for each task, through the real pool: rewards by hand."""
    by_verifier = {task.verifier: task for task in tasks[:4]}
    assert set(by_verifier) == set(RESPONSES)
    calls = [verify_requests(task, rollouts(RESPONSES[name]), name) for name, task in by_verifier.items()]
    for name, verdicts in zip(by_verifier, judged(*calls), strict=True):
        assert [verdict.reward for verdict in verdicts] == pytest.approx(REWARDS[name]), name
        assert {verdict.status for verdict in verdicts} <= {Status.SCORED, Status.MALFORMED}


def test_paraphrases_are_judged_where_a_caller_puts_them_into_one_group(tasks):
    """The pool compares what has one group: the same words to both questions are similar in full."""
    first, second = tasks[4:]
    requests = [
        *verify_requests(first, rollouts(["Jane Austen", "Emily B"]), "q"),
        *verify_requests(second, [SimpleNamespace(index=7, text="Jane Austen")], "q"),
    ]
    (verdicts,) = judged(requests)
    assert [verdict.reward for verdict in verdicts] == pytest.approx([1.0, 0.0, 0.5])


def test_before_a_run_the_tasks_are_looked_through(tasks):
    """The parts of composed tasks are verifiers that must work; comparisons that no run can make are refused."""
    names = verifiers_of(tasks)
    assert names == ["instructions", "majority", "math", "similarity"]
    check_tools(names, CONFIG)
    check_judging(tasks[:4], tasks[:2])
    with pytest.raises(TaskError, match="judged by similarity, which compares responses to several prompts"):
        check_judging(tasks[4:], [])
    with pytest.raises(TaskError, match="held-out task .* judged by majority, .* greedy evaluation has one"):
        check_judging(tasks[:2], tasks[2:3])
    vote = {"verifier": "majority", "weight": 1, "reference": {}}
    composed = Task(id="c", prompt="p", verifier="composed", reference={"parts": {"vote": vote}})
    with pytest.raises(TaskError, match="held-out task c is judged by majority"):
        check_judging([composed], [composed])


def test_label_free_training_on_labelled_data(tmp_path):
    """task.verifier=majority on a file with answers: the answers go along as labels, for the logs."""
    file = tmp_path / "labelled.jsonl"
    file.write_text("\n".join(json.dumps({"prompt": f"{n}?", "answer": n}) for n in range(40)))
    source = Jsonl(path=str(file), verifier="majority")
    task = source.train_task(0, 0)
    (verdicts,) = judged(verify_requests(task, rollouts([f"#### {task.reference['answer']}"] * 2 + ["#### 99"]), "g"))
    assert [verdict.reward for verdict in verdicts] == [1, 1, 0]
    assert verdicts[0].components["label_right"] == 1.0


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ({"verifier": "mth", "reference": {}}, "line 2: there is no verifier 'mth', only .*composed.*math"),
        ({"verifier": "math", "reference": "42"}, "line 2: field 'reference' must be an object, .* got '42'; task.ref"),
        ({"verifier": "majority"}, "line 2: field 'answer' is absent"),
        ({"verifier": "majority", "reference": {"votes": 3}}, "line 2: a majority reference may have"),
        ({"verifier": "similarity", "reference": {}}, "line 2: similarity reference: paraphrase: Field required"),
        (
            {"verifier": "instructions", "reference": {"constraints": [{"kind": "wrds"}]}},
            r"line 2: constraint 1 \(wrds\): .* did you mean words\?",
        ),
        (
            {
                "verifier": "composed",
                "reference": {"parts": {"f": {"verifier": "instructions", "weight": 1, "reference": {}}}},
            },
            "line 2: part f: an instructions reference is",
        ),
    ],
)
def test_a_reference_that_cannot_judge_is_found_before_the_run(tmp_path, line, complaint):
    """File, line and what is wrong, in one sentence."""
    file = tmp_path / "shelf.jsonl"
    file.write_text("\n".join(json.dumps({"prompt": "p?", **one}) for one in ({"answer": "1"}, line)))
    with pytest.raises(TaskDataError, match=f"shelf.jsonl {complaint}"):
        Jsonl(path=str(file)).check()


def test_the_fields_can_have_other_names(tmp_path):
    """A file whose `verifier` and `reference` mean something else is read with the keys switched off."""
    file = tmp_path / "other.jsonl"
    lines = [{"prompt": f"{n}?", "answer": n, "verifier": "Bob", "reference": "p. 7"} for n in range(40)]
    file.write_text("\n".join(map(json.dumps, lines)))
    task = Jsonl(path=str(file), verifier_key="", reference_key="").train_task(0, 0)
    assert (task.verifier, set(task.reference)) == ("math", {"answer"})
