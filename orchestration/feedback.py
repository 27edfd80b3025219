"""Feedback: what a policy that teaches itself is shown beside the prompt, after its answer has been judged.

    task, verdict --template--> text --as a prompt--> token ids --> TrainSample.teacher_prompt_ids

Looked at by algorithms that read a teacher (algorithm=distil), and by nothing else. Drawing never sees it.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from string import Formatter
from typing import Literal

from orchestration.tasks.errors import TaskError
from orchestration.tasks.task import Task
from reward.messages import Verdict

# Where the verifiers that compare with one right answer keep it.
SOLUTIONS = ("answer", "reference_source")
FIELDS = ("prompt", "solution", "detail")


@dataclass(frozen=True, kw_only=True)
class FeedbackConfig:
    """`template` becomes the prompt: {prompt} is the task's, {solution} its reference answer, {detail} the verifier's
    sentence about this answer. `on` says which answers get feedback; a wrong one has a reward below 1."""

    template: str = "{solution}\n\nThe text above is a correct answer to what follows.\n\n{prompt}"
    on: Literal["all", "wrong"] = "all"

    def __post_init__(self) -> None:
        unknown = {name for name in self._names if name not in FIELDS}
        if unknown or "prompt" not in self._names:
            raise ValueError(
                "feedback.template contains {prompt}, and may contain {solution} and {detail}, got"
                f" {self.template!r}"
            )
        if self.on not in ("all", "wrong"):
            raise ValueError(f"feedback.on is 'all' or 'wrong', got {self.on!r}")

    @property
    def _names(self) -> list[str]:
        return [name for _, name, _, _ in Formatter().parse(self.template) if name is not None]

    def check(self, task: Task) -> None:
        """Raises TaskError for a task that has no solution to show, where the template shows one."""
        if "solution" in self._names and solution_of(task) is None:
            raise TaskError(
                f"task {task.id} is judged by {task.verifier}, whose reference is no text that answers it: set"
                " feedback.template to one without {solution}, such as '{detail}\\n\\n{prompt}'"
            )

    def prompt(self, task: Task, verdict: Verdict) -> str | None:
        """The text of the prompt with feedback in it; None where this answer gets none."""
        if self.on == "wrong" and verdict.reward >= 1.0:
            return None
        return self.template.format(prompt=task.prompt, solution=solution_of(task), detail=verdict.detail)


def solution_of(task: Task) -> str | None:
    """The right answer of a task, where its reference has one as text."""
    found = [task.reference[name] for name in SOLUTIONS if isinstance(task.reference.get(name), str)]
    return found[0] if found else None


Teach = Callable[[Task, Verdict], tuple[int, ...] | None]  # to the token ids of the prompt with feedback


def teacher(feedback: FeedbackConfig, encode: Callable[[Task], tuple[int, ...]]) -> Teach:
    """Feedback as token ids, through the tokenizer and the chat template that prompts go through."""

    def teach(task: Task, verdict: Verdict) -> tuple[int, ...] | None:
        text = feedback.prompt(task, verdict)
        return None if text is None else encode(replace(task, prompt=text))

    return teach
