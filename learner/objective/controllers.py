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
    inner = turned(_part(piece, name), rest, value) if rest else value
    return {**piece, name: inner} if isinstance(piece, Mapping) else dataclasses.replace(piece, **{name: inner})


def check_knob(piece: Any, path: str) -> None:
    """Raises ValueError if there is no knob at `path`."""
    for name in path.split("."):
        try:
            piece = _part(piece, name)
        except ValueError as error:
            raise ValueError(
                f"a controller turns {path}, but {error}: add the piece or leave out the controller"
            ) from None


def _part(piece: Any, name: str) -> Any:
    fields = piece
    if not isinstance(piece, Mapping):
        names = [field.name for field in dataclasses.fields(piece)] if dataclasses.is_dataclass(piece) else []
        fields = {field: getattr(piece, field) for field in names}
    if name not in fields:
        raise ValueError(f"there is no knob {name!r} in {type(piece).__name__}; it has {', '.join(fields) or 'none'}")
    return fields[name]
