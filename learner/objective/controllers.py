"""Controllers: what one step measured sets the knobs of the next. Their state is plain values in the checkpoint."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Protocol

State = Mapping[str, float]


class Controller(Protocol):
    """A frozen piece; the learner keeps its state. Called in this order: start, then per step knobs, update.

    Example: `knobs` answers {"regularisers.bonus.coefficient": 0.003} to turn the entropy bonus called `bonus`.
    """

    def start(self) -> State: ...

    def knobs(self, state: State) -> Mapping[str, Any]:
        """Values by path from the objective, applied before the step."""

    def update(self, state: State, metrics: Mapping[str, float]) -> State:
        """The state after a step that reported `metrics`, which are equal on every rank."""


def turned(piece: Any, path: str, value: Any) -> Any:
    """A copy of a dataclass, or mapping of them, with the knob at `path` set. Raises ValueError if there is none."""
    name, _, rest = path.partition(".")
    fields = (
        piece if isinstance(piece, Mapping) else {f.name: getattr(piece, f.name) for f in dataclasses.fields(piece)}
    )
    if name not in fields:
        raise ValueError(f"there is no knob {name!r} in {type(piece).__name__}; it has {', '.join(fields)}")
    inner = turned(fields[name], rest, value) if rest else value
    return {**piece, name: inner} if isinstance(piece, Mapping) else dataclasses.replace(piece, **{name: inner})
