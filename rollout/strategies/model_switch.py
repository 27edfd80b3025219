"""Entropy-adaptive decoding: a small and a large model write one response, and the rolling entropy says who goes on.

    response so far --> active engine --segment--> Rolling.read --token by token--> stay | switch: the rest is dropped
         ^-------------------------- what was read, the prompt of the next segment ---------------'

A segment is drawn before it is looked at, and what lies behind a switch is thrown away, so who draws which token is
decided exactly as if the entropy were looked at after every single one.
"""

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np

from rollout.errors import RolloutError
from rollout.messages import FinishReason, Rollout
from rollout.strategies.passage import NOTHING, Passage
from rollout.strategies.samples import Draws, SampleBySample, no_plan
from rollout.strategies.strategy import OTHER_MODEL, Circumstances, Resources, RolloutSource

BITS = 1.0 / math.log(2.0)  # per nat
FINAL = (FinishReason.STOP, FinishReason.ABORT)


@dataclass(frozen=True, kw_only=True)
class ModelSwitch:
    """The large model takes over where the active model has been unsure for a while, and hands back where it is not.

    Rule    Hbar_t = mean of the last `window` H_t of whichever model was active; at least `dwell` tokens after the last
            switch the next token is drawn by the large model if Hbar_t >= threshold, by the small one if Hbar_t <=
            threshold_down, by the same as before between the two.
    Source  EAD, arXiv:2502.06833, grade A-paper for the idea (abstract), A'-third for formula, window 5 and dwell 10;
            the threshold was not found (see `calibrated_threshold`). Reconstructed by us: two thresholds (the paper has
            one), starting with the small model, deciding after a token about the next, segments.
    Units   threshold, threshold_down: BITS, of the distribution at T = 1.  window, dwell, segment: tokens.
    Traps   only the policy's own tokens are `policy_drawn`; the other model's are context with that model's logprobs,
            temperatures and entropies. The policy's tokens are still its own draws, each behind the prefix it has.
            Both models must share a vocabulary. What is thrown away costs up to a segment a switch, and each switch
            makes the other engine read the tokens it missed.
    """

    needs: ClassVar[frozenset[str]] = frozenset({OTHER_MODEL})
    other_model: str  # Hugging Face folder
    policy: Literal["small", "large"]  # which of the two is trained; the other one never changes
    threshold: float
    threshold_down: float | None = None  # None: the same
    window: int = 5
    dwell: int = 10
    segment: int = 16

    def __post_init__(self) -> None:
        if math.isnan(self.threshold) or not self.down <= self.threshold:
            raise ValueError(
                "ModelSwitch wants bits with threshold_down <= threshold, got"
                f" {self.threshold_down} and {self.threshold}"
            )
        for name in ("window", "dwell", "segment"):
            if getattr(self, name) < 1:
                raise ValueError(f"ModelSwitch.{name} is at least 1 token, got {getattr(self, name)}")

    @property
    def down(self) -> float:
        return self.threshold if self.threshold_down is None else self.threshold_down

    def check(self, run: Circumstances) -> None:
        run.refuse_learned_temperature("model_switch")

    def check_files(self) -> None:
        if not (Path(self.other_model) / "config.json").is_file():
            raise RolloutError(
                f"strategy.other_model should be the Hugging Face folder of the second model, but {self.other_model}"
                " has no config.json: name a model of the policy's own family"
            )

    def over(self, resources: Resources) -> RolloutSource:
        async def sample(draws: Draws, plan: None) -> Rollout:
            request, response, rolling = draws.request, NOTHING, Rolling(self)
            finish = FinishReason.LENGTH
            while len(response) < request.max_tokens and finish not in FINAL:
                mine = rolling.large == (self.policy == "large")
                drawn = await draws.one(
                    resources.policy if mine else resources.other,
                    prompt_ids=(*request.prompt_ids, *response.ids.tolist()),
                    max_tokens=min(max(self.segment, rolling.until_free), request.max_tokens - len(response)),
                )
                passage = Passage.of(drawn) if mine else _known(drawn, resources.vocab_size).as_context()
                read = rolling.read(passage.entropies)
                finish = drawn.finish_reason if read == len(passage) else FinishReason.LENGTH
                response = Passage.join(response, passage[:read])
            return draws.response(response, finish, resources)

        return SampleBySample(sample, no_plan, resources.deadline_s)


def _known(drawn: Rollout, vocab_size: int) -> Passage:
    """Raises RolloutError for ids beyond the policy's vocabulary, which a wider output layer may draw."""
    if (drawn.response_ids >= vocab_size).any():
        raise RolloutError(
            f"group {drawn.group_id}: the model of strategy.other_model drew token {drawn.response_ids.max()}, but the"
            f" policy has embeddings for {vocab_size}: choose a second model whose output layer is not wider"
        )
    return Passage.of(drawn)


class Rolling:
    """Who draws the next token of one response."""

    def __init__(self, rule: ModelSwitch) -> None:
        self.large = False
        self._rule = rule
        self._window: deque[float] = deque(maxlen=rule.window)
        self._since = 0  # tokens since the last switch

    @property
    def until_free(self) -> int:
        """Tokens that the active model draws in any case."""
        return max(self._rule.dwell - self._since, 0)

    def read(self, entropies: Sequence[float] | np.ndarray) -> int:
        """Take in the entropies (nats) of drawn tokens up to the first switch, and say how many were taken in."""
        for taken, entropy in enumerate(entropies, start=1):
            self._window.append(float(entropy) * BITS)
            self._since += 1
            if self._since >= self._rule.dwell and self._next_is_large() != self.large:
                self.large = not self.large
                self._since = 0
                return taken
        return len(entropies)

    def _next_is_large(self) -> bool:
        mean = sum(self._window) / len(self._window)
        if mean >= self._rule.threshold:
            return True
        return self.large and mean > self._rule.down


def calibrated_threshold(entropies: Sequence[np.ndarray], share: float, window: int = 5) -> float:
    """The threshold (bits) at which about `share` of the small model's tokens would call the large one.

    entropies  nats, one array per response of the small model alone.  share: 0 < share < 1; the paper's runs have 0.25
               to 0.43.  It is the (1 - share) quantile of Hbar; the large model's own entropy drives the way back, so
               measure the share once more with the threshold and correct it.
    Source     ours, as the paper's threshold was not found (grade B-recon).
    """
    if not 0.0 < share < 1.0:
        raise ValueError(f"share is a fraction of tokens strictly between 0 and 1, got {share}")
    means = [np.convolve(row, np.full(window, BITS / window), "valid") for row in entropies if len(row) >= window]
    if not means:
        raise ValueError(f"calibration wants responses of at least {window} tokens, got none")
    return float(np.quantile(np.concatenate(means), 1.0 - share))
