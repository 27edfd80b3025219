"""The check before the first group of a run: is what the engine draws and records what the learner computes?

    requests(turn) --engine--> rollouts --learner--> Recomputed (rollout/draw/fit.py) --add--> report or SelfCheckError

Two settings in one batch, the run's own and a hot one, so that a temperature applied to the wrong row is one that
differs. Compared are, in this order, because each only means something after the one before:

    entropy         the same weights and the same model code?
    temperature     does the run's policy, applied to the learner's entropy, give what was recorded?
    logprob         is the record that of the distribution after temperature and truncation?
    the draws       were tokens really drawn from that distribution?
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from rollout.draw.fit import Recomputed, unevenness
from rollout.draw.temperature import Fixed, TemperaturePolicy
from rollout.draw.truncation import TopW, Truncation
from rollout.errors import SelfCheckError
from rollout.messages import GroupRequest, Rollout

RESPONSES, TOKENS = 16, 8  # of each setting and turn
LEAST_TURNS = 2  # both settings have then seen both prompts
MOST_TURNS = 12
BUDGET_S = 1.5  # no turn begins later, except the first two
# Of the whole check, if nothing is wrong. A fault that moves 17 % of the mass from the likelier half of every row to
# the other is then seen with probability 0.999 at 1 024 tokens a setting; at 256, the usual least, it is 36 %.
FALSE_ALARM = 1e-6
HOT = Fixed(temperature=1.7)
# Nats, root mean square over the tokens of a setting. Float32 engines and learners agree to 2e-6; in bfloat16 rounding
# alone gives 0.03 (tiny random policy); a lost temperature or weights that did not arrive give ten times the limit.
TOLERANCE = {"float32": 1e-3, "bfloat16": 0.1}
# Tokens of a truncated setting, those of the largest errors, whose logprobs are not counted: a token at the edge of
# the set is kept by one side alone when rounding decides, and the others then differ by its whole mass.
AT_THE_EDGE = 2


@dataclass(frozen=True, kw_only=True)
class SelfCheckReport:
    """What was found: the worst root mean square of each comparison, and the smallest p-value of the draws."""

    tokens: int
    entropy_error: float  # nats
    temperature_error: float
    logprob_error: float  # nats
    p_value: float


class SelfCheck:
    """One worker's check. `prompts`: two, e.g. a task's and an odd one, on which the policy is less sure."""

    def __init__(
        self,
        worker: str,
        prompts: Sequence[tuple[int, ...]],
        temperature: TemperaturePolicy,
        truncation: Truncation | TopW,
        dtype: str,
        max_model_len: int,
    ) -> None:
        self._worker = worker
        self._prompts = [tuple(prompt[: max_model_len - TOKENS]) for prompt in prompts]
        self._settings = {
            "the run's own setting": (temperature, truncation),
            f"T={HOT.temperature}": (HOT, Truncation()),
        }
        self._tolerance = TOLERANCE[dtype]
        self._found: dict[str, list[tuple[Rollout, Recomputed]]] = {name: [] for name in self._settings}

    def requests(self, turn: int) -> dict[str, GroupRequest]:
        """What to draw in this turn, by setting; all at the same time, so that they share engine steps."""
        return {
            name: GroupRequest(
                group_id=f"self-check-{turn}.{place}",
                prompt_ids=self._prompts[(turn + place) % len(self._prompts)],
                n=RESPONSES,
                max_tokens=TOKENS,
                temperature=temperature,
                truncation=truncation,
            )
            for place, (name, (temperature, truncation)) in enumerate(self._settings.items())
        }

    def add(self, setting: str, rollouts: Sequence[Rollout], recomputed: Sequence[Recomputed]) -> None:
        """The rollouts of a setting's request, and what the learner says of each."""
        self._found[setting].extend(zip(rollouts, recomputed, strict=True))

    def verdict(self) -> SelfCheckReport:
        """Raises SelfCheckError, one sentence: what disagrees, by how much, and what that usually means."""
        reports = [self._judge(name, *self._settings[name]) for name in self._settings]
        return SelfCheckReport(
            tokens=sum(report.tokens for report in reports),
            entropy_error=max(report.entropy_error for report in reports),
            temperature_error=max(report.temperature_error for report in reports),
            logprob_error=max(report.logprob_error for report in reports),
            p_value=min(report.p_value for report in reports),
        )

    def _judge(self, name: str, policy: TemperaturePolicy, truncation: Truncation | TopW) -> SelfCheckReport:
        rollouts, recomputed = zip(*self._found[name], strict=True)
        entropies, temperatures, logprobs = (
            np.concatenate([getattr(rollout, field) for rollout in rollouts])
            for field in ("entropies", "temperatures", "sampler_logprobs")
        )
        theirs = np.concatenate([one.entropies for one in recomputed])
        entropy_error = _rms(entropies - theirs)
        self._demand(
            entropy_error,
            f"records entropies at T=1 that are {entropy_error:.2g} nats (rms) off the learner's at {name}",
            "engine and learner hold different weights, or compute the model differently (dtype, a tied head)",
        )
        # A learned policy acts on hidden states; its temperatures are what its head drew, and are taken as recorded.
        wanted = temperatures if "hidden" in policy.needs else policy(torch.from_numpy(theirs)).numpy()
        temperature_error = _rms(temperatures - wanted)
        self._demand(
            temperature_error,
            f"records temperatures that are {temperature_error:.2g} (rms) off what {policy.name} gives at {name}",
            "a row of logits was given another request's policy or another token's entropy",
        )
        expected = np.concatenate([one.logprobs for one in recomputed])
        logprob_error = _rms(logprobs - expected, without=AT_THE_EDGE if truncation.active else 0)
        untempered = _rms(logprobs - np.concatenate([one.untempered for one in recomputed]))
        self._demand(
            logprob_error,
            f"records logprobs that are {logprob_error:.2g} nats (rms) off the learner's at {name}",
            "they are those at T=1, recorded before temperature and truncation"
            if untempered <= self._tolerance
            else "the record is of another row, or of logits before truncation",
        )
        p_value = self._fit(name, np.concatenate([one.places for one in recomputed], 1))
        return SelfCheckReport(
            tokens=len(logprobs),
            entropy_error=entropy_error,
            temperature_error=temperature_error,
            logprob_error=logprob_error,
            p_value=p_value,
        )

    def _demand(self, error: float, what: str, cause: str) -> None:
        if not error <= self._tolerance:
            raise SelfCheckError(
                f"self-check: {self._worker} {what}, where {self._tolerance:g} is allowed; most likely {cause}"
                " (run.self_check=false starts all the same)"
            )

    def _fit(self, name: str, places: np.ndarray) -> float:
        """The smaller p-value of the two orders. `places` [2, tokens]."""
        tests = places.shape[0] * len(self._settings)
        p_values = [unevenness(one) for one in places]
        order = int(np.argmin(p_values))
        if p_values[order] < FALSE_ALARM / tests:
            by_likelihood = f"{'unlikely' if places[0].mean() > 0.5 else 'likely'} tokens come too often"
            raise SelfCheckError(
                f"self-check: {self._worker} draws tokens that do not follow its own recorded logprobs at {name}"
                f" (p < {p_values[order]:.1g} over {places.shape[1]} tokens); most likely"
                f" {(by_likelihood + ', another temperature or truncation is drawn from', 'the draw is biased')[order]}"
                " (run.self_check=false starts all the same)"
            )
        return p_values[order]


def _rms(errors: np.ndarray, without: int = 0) -> float:
    """Root mean square of all but the largest few."""
    squares = np.sort(np.square(errors.astype(np.float64)))
    return float(np.sqrt(np.mean(squares[: max(len(squares) - without, 1)])))
