"""Task, the first form of a prompt's life, and TaskSource, the seam every kind of task implements."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A prompt with the reference and the verifier that score its responses.

    `prompt` is plain text; where the model has a chat template and the source says `chat`, it becomes a user turn.
    """

    id: str  # stable across runs; equal prompts have equal ids
    prompt: str
    verifier: str
    reference: Mapping[str, Any]


class TaskSource(Protocol):
    """An endless, seeded stream of training tasks and a fixed list of held-out tasks that the stream never yields."""

    max_tokens: int  # of a response
    chat: bool

    def check(self) -> None:
        """Raise TaskError, before a run starts, for data that is absent or malformed."""

    def train_task(self, index: int, seed: int) -> Task:
        """The index-th training task. A pure function of (index, seed): resuming needs no state."""

    def heldout_tasks(self, count: int) -> list[Task]:
        """The first `count` held-out tasks, the same for every seed. Raises TaskError where there are fewer."""
