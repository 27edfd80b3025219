"""How hard a prompt is for a policy, told from some responses to it: what the probe learns to foresee."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np


class Difficulty(IntEnum):
    """The classes of the probe, in the order of its outputs."""

    EASY = 0
    NORMAL = 1
    HARD = 2


@dataclass(frozen=True, kw_only=True)
class Thresholds:
    """Where the classes border on each other.

    Rule    Normal if accuracy > accurate and entropy < calm; else Hard if accuracy < failing; else Easy.
    Source  DiffAdapt, arXiv:2510.19669, grade A-code, pre-release tree (Dominic789654/Probe_new calculate_metrics.py).
            Its U: entropy is high where a model fails, and again where it overthinks what it can do.
    Units   accuracy: fraction of right responses, of 10 in the release.  entropy: nats, mean over all their tokens.
    Traps   0.35 nats belong to the release's estimator: the top 10 of each distribution at T = 0.6 and top-p 0.95,
            made to sum to 1. `Rollout.entropies` is the entropy of everything at T = 1 and larger: take `calm` from
            the data (`calibrated`).
    """

    accurate: float = 0.85
    calm: float = 0.35
    failing: float = 0.60

    def difficulty(self, accuracy: float, entropy: float) -> Difficulty:
        if accuracy > self.accurate and entropy < self.calm:
            return Difficulty.NORMAL
        return Difficulty.HARD if accuracy < self.failing else Difficulty.EASY


NORMAL_SHARE = 0.41  # of the release's 2 245 labelled prompts


def calibrated(accuracies: np.ndarray, entropies: np.ndarray, normal: float = NORMAL_SHARE) -> Thresholds:
    """The release's thresholds, with `calm` (nats) where the share `normal` of all prompts [prompts] is Normal.

    All accurate prompts are, where there are not so many of them. Source: ours.
    """
    usual = Thresholds()
    accurate = entropies[accuracies > usual.accurate]
    share = min(normal * len(entropies) / max(len(accurate), 1), 1.0)
    calm = np.quantile(accurate, share) if len(accurate) else usual.calm
    return Thresholds(calm=float(np.nextafter(calm, np.inf)))


def cheapest(right: Sequence[bool], tokens: Sequence[int]) -> Difficulty:
    """The other labeller of the release: every way tried once, the shortest right one is the label.

    right, tokens  one entry per Difficulty: whether its response was right, and its length. The shortest of all where
                   none is right; the easier one on ties, which is ours.
    """
    pool = [difficulty for difficulty in Difficulty if right[difficulty]] or list(Difficulty)
    return min(pool, key=lambda difficulty: tokens[difficulty])
