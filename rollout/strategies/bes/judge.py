"""How good a partial solution is: marks in [0, 1], one for each thing it should achieve."""

import re
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from rollout.strategies.passage import Passage


@runtime_checkable
class Judge(Protocol):
    def __call__(self, text: str, passage: Passage) -> tuple[float, ...]:
        """Marks of a solution, always the same number. Their mean is its score."""


@dataclass(frozen=True, kw_only=True)
class Landmarks:
    """One mark for each regular expression that is found in the text.

    Rule    mark_i = 1 if pattern_i is found, else 0.
    Source  in place of BES's tree of sub-goals, which its release makes from the known solution of each task; a flat
            list for the whole run is ours (grade B-recon).
    Traps   marks that a wrong solution can earn lead the search there: the reward stays the verifier's.
    """

    patterns: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.patterns:
            raise ValueError("Landmarks.patterns names at least one regular expression")
        for pattern in self.patterns:
            try:
                re.compile(pattern)
            except re.error as wrong:
                raise ValueError(f"Landmarks.patterns: {pattern!r} is no regular expression: {wrong}") from wrong

    def __call__(self, text: str, passage: Passage) -> tuple[float, ...]:
        return tuple(float(re.search(pattern, text) is not None) for pattern in self.patterns)


@dataclass(frozen=True, kw_only=True)
class Certainty:
    """One mark: how likely the policy found its own tokens, by geometric mean.

    Rule    mark = exp(mean sampler logprob of the tokens it drew behind this very prefix); 0 without any.
    Source  ours: for tasks of which nothing is known but the prompt.
    Traps   it prefers what the policy says anyway, so it exploits rather than explores.
    """

    def __call__(self, text: str, passage: Passage) -> tuple[float, ...]:
        logprobs = passage.logprobs[passage.drawn]
        return (float(np.exp(logprobs.mean(dtype=np.float64))) if len(logprobs) else 0.0,)
