"""Controllers that hold the policy's entropy: they look at what a step measured and turn knobs of the objective."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from learner.objective.controllers import State


@dataclass(frozen=True, kw_only=True)
class EntropyBand:
    """Above the band only what was good is trained, below it only what was bad, inside it both.

    Rule    H > high(s): knob "positive"; H < low(s): "negative"; else "both". low and high go linearly from start to
            end over `steps` steps. H is the last step's mean; the first step is "both".
    Source  Entrocraft, arXiv:2604.26326, grade A-code (lblaoke/entrocraft, core_algos.py); band .6-.7 to .4-.5.
    Units   nats at T = 1.
    """

    steps: int
    low_start: float = 0.6
    high_start: float = 0.7
    low_end: float = 0.4
    high_end: float = 0.5
    knob: str = "advantage.mode"

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"EntropyBand.steps is at least 1, got {self.steps}")
        if not (self.low_start < self.high_start and self.low_end < self.high_end):
            raise ValueError("EntropyBand needs low < high at its start and end")

    def start(self) -> State:
        return {"step": 0.0, "entropy": -1.0}

    def knobs(self, state: State) -> Mapping[str, Any]:
        part = min(1.0, state["step"] / self.steps)
        low = self.low_start + part * (self.low_end - self.low_start)
        high = self.high_start + part * (self.high_end - self.high_start)
        if state["entropy"] < 0.0:  # nothing is measured yet
            return {self.knob: "both"}
        return {self.knob: "positive" if state["entropy"] > high else "negative" if state["entropy"] < low else "both"}

    def update(self, state: State, metrics: Mapping[str, float]) -> State:
        return {"step": state["step"] + 1.0, "entropy": metrics["entropy/mean"]}


@dataclass(frozen=True, kw_only=True)
class EntropyIntegrator:
    """A proportional-integral controller: above the target, good tokens count more and bad ones less.

    Rule    lean = I + proportional * (H - target); then I += integral * (H - target)
    Source  EntroPIC as in lblaoke/entrocraft ("entropic"), grade A-code: proportional 1, integral 0.01, target 0.5.
    Units   target: nats at T = 1; H is the last step's mean.
    """

    target: float = 0.5
    proportional: float = 1.0
    integral: float = 0.01
    knob: str = "weights.lean.lean"

    def start(self) -> State:
        return {"integral": 0.0, "error": 0.0}

    def knobs(self, state: State) -> Mapping[str, Any]:
        return {self.knob: state["integral"] + self.proportional * state["error"]}

    def update(self, state: State, metrics: Mapping[str, float]) -> State:
        return {
            "integral": state["integral"] + self.integral * state["error"],
            "error": metrics["entropy/mean"] - self.target,
        }


@dataclass(frozen=True, kw_only=True)
class TemperatureContrast:
    """Below the target entropy contrast with a hotter temperature, above it with a cooler one, more the further away.

    Rule    H <= target: temperature = high, else low; strength = min(|target - H|, cap); strength 0 before anything is
            measured. H is the last step's mean.
    Source  DCPO, in the code of AEPO, grade A-code (597358816/AEPO, ray_trainer.py); arXiv:2510.08141: target 0.5,
            temperatures 1.2 and 0.8, cap 0.1.
    Units   target, cap: nats at T = 1.  high, low: temperatures.
    """

    target: float = 0.5
    high: float = 1.2
    low: float = 0.8
    cap: float = 0.1
    knob: str = "credit.contrast"

    def __post_init__(self) -> None:
        if not (0.0 < self.low < self.high and self.cap >= 0.0):
            raise ValueError(
                f"TemperatureContrast needs 0 < low < high and cap >= 0, got {self.low}, {self.high} and {self.cap}"
            )

    def start(self) -> State:
        return {}

    def knobs(self, state: State) -> Mapping[str, Any]:
        entropy = state.get("entropy", self.target)
        return {
            f"{self.knob}.temperature": self.high if entropy <= self.target else self.low,
            f"{self.knob}.strength": min(abs(self.target - entropy), self.cap),
        }

    def update(self, state: State, metrics: Mapping[str, float]) -> State:
        return {"entropy": metrics["entropy/mean"]}


@dataclass(frozen=True, kw_only=True)
class FirstMeasurement:
    """A knob that keeps the first positive value of a metric for the rest of the run; until then it is None.

    Source  SIREN's self-anchor, arXiv:2509.25133, grade A-code (Linn3a/siren, ray_trainer.py).
    Traps   the metric is a mean over the minibatches of the first batch, during which the policy may move already.
    """

    metric: str = "entropy/peaks"
    knob: str = "regularisers.peaks.anchor"

    def start(self) -> State:
        return {}

    def knobs(self, state: State) -> Mapping[str, Any]:
        return {self.knob: state.get("value")}

    def update(self, state: State, metrics: Mapping[str, float]) -> State:
        if state or not metrics.get(self.metric, 0.0) > 0.0:
            return state
        return {"value": metrics[self.metric]}


@dataclass(frozen=True, kw_only=True)
class LinearKnobs:
    """Knobs that move along a line over the run, whatever is measured.

    Rule    value = (1 - p) start + p end, p = min(1, step / steps)
    Source  D3S's schedule from tight to relaxed, arXiv:2509.22115, grade A'-third.
    """

    steps: int
    start_at: Mapping[str, float]  # knob -> value
    end_at: Mapping[str, float]

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"LinearKnobs.steps is at least 1, got {self.steps}")
        if set(self.start_at) != set(self.end_at):
            raise ValueError(f"LinearKnobs.start_at has {sorted(self.start_at)}, end_at has {sorted(self.end_at)}")

    def start(self) -> State:
        return {"step": 0.0}

    def knobs(self, state: State) -> Mapping[str, Any]:
        part = min(1.0, state["step"] / self.steps)
        return {name: (1.0 - part) * value + part * self.end_at[name] for name, value in self.start_at.items()}

    def update(self, state: State, metrics: Mapping[str, float]) -> State:
        return {"step": state["step"] + 1.0}
