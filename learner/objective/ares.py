"""ARES: how much uncertain reasoning a prompt deserves follows its difficulty, and so does the pull to the reference.

    recorded entropies --EntropyTriggers--> triggers n, cost   (per response)
    verdicts --difficulty--> easy / medium / hard              (per group, by its pass rate)
    both --EntropyReward--> reward + e(n - n*) --> A
         --SecondChance, Difficulty--> marks --DifficultyKl--> beta of the bucket * k3
    step --DifficultySchedule--> threshold, alpha and beta per bucket of the next step

Source of everything here: ARES, arXiv:2510.08457, grade A-code (shawn0728/ARES: examples/reward_function/aepo.py,
verl/trainer/ray_trainer.py, verl/workers/actor/dp_actor.py).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from learner.measures import Measures, mean_of
from learner.objective.advantage import GroupMean
from learner.objective.controllers import State
from learner.objective.regularisers import ReferenceKl
from learner.objective.stats import Outcomes, TokenStats

BUCKETS = ("easy", "medium", "hard")
EASY, MEDIUM, HARD = range(3)
# Of each bucket, as released: tolerance around the target (fraction of it), where the penalty turns linear, softness
# of the saturating bonus, its cap in units of alpha, and the part of it that a wrong answer can get.
MARGIN = (0.15, 0.25, 0.35)
KAPPA = (2.0, 3.0, 4.0)
SOFTNESS = (2.0, 2.5, 3.0)
CAP = (1.0, 1.0, 1.2)
WRONG = (0.6, 0.8, 1.0)


def difficulty(outcomes: Outcomes) -> Tensor:
    """int64 [seq]: 0 easy (pass rate of the group at least 2/3), 1 medium (at least 1/3), 2 hard."""
    _, group = outcomes.groups.unique(return_inverse=True)
    rate = _group_mean(_right(outcomes).double(), group)[group]
    return torch.where(rate >= 2 / 3, EASY, torch.where(rate >= 1 / 3, MEDIUM, HARD))


@dataclass(frozen=True, kw_only=True)
class EntropyTriggers:
    """Where a response becomes uncertain: tokens before a window of high mean entropy.

    Rule    token t is a trigger iff the mean entropy of the `window` tokens after it is >= threshold; its cost is what
            the window has above the threshold. Threshold None: the median over responses of the `quantile` of their
            windows.
    Units   nats at T = 1, as recorded when the tokens were drawn.
    Traps   the release counts a trigger only where the likeliest token is one of a list of words ("wait", "but"), and
            estimates entropies from ten log-probabilities; here every token counts (ours).
    """

    window: int = 4
    quantile: float = 0.95
    threshold: float | None = None

    def __post_init__(self) -> None:
        if self.window < 1 or not 0.0 <= self.quantile <= 1.0:
            raise ValueError(
                f"EntropyTriggers needs a window of 1 token or more and a quantile, got {self.window}, {self.quantile}"
            )

    def __call__(self, outcomes: Outcomes) -> tuple[Tensor, Tensor]:
        """float64 [seq]: number of triggers, and their cost in nats."""
        threshold = self.of_batch(outcomes) if self.threshold is None else self.threshold
        above = [windows - threshold for windows in self._windows(outcomes)]
        counts = torch.tensor([int((one >= 0.0).sum()) for one in above], dtype=torch.float64)
        return counts, torch.stack([one.clamp_min(0.0).sum() for one in above])

    def of_batch(self, outcomes: Outcomes) -> float:
        """The threshold this batch suggests; infinite where no response is longer than a window."""
        found = [windows.quantile(self.quantile) for windows in self._windows(outcomes) if len(windows)]
        return torch.stack(found).quantile(0.5).item() if found else torch.inf

    def _windows(self, outcomes: Outcomes) -> list[Tensor]:
        """Per response the mean entropy of each whole window that begins after a token."""
        nothing = torch.empty(0, dtype=torch.float64)
        return [
            entropy[1:].unfold(0, self.window, 1).mean(1) if len(entropy) > self.window else nothing
            for entropy in outcomes.entropies
        ]


@dataclass(frozen=True, kw_only=True)
class EntropyReward:
    """GRPO with a reward for being uncertain as often as the difficulty asks for.

    Rule    d = n - n*, n* = round(mean over the groups of the bucket of their mean n); margin = max(1, f max(n*, 1));
            cap = alpha * (1, 1, 1.2); H(x) = x^2 / 2 kappa up to kappa, then x - kappa / 2; R + e with
            easy and right    e = -min(cap, H((d - margin)+) / (margin + kappa) cap)
            medium and right  the same of (|d| - margin)+
            hard and right    e = sigmoid((d + margin) / softness) cap if d >= -margin, else half the penalty of -d
            wrong             e = sigmoid((d - margin)+ / softness) cap * (0.6, 0.8, 1)
    Units   right: the verifier gives 1.  alpha: of the reward, set by DifficultySchedule.
    Traps   sigmoid(0) is a half: a wrong answer without triggers gets a third of alpha and more, as released.
    """

    triggers: EntropyTriggers = field(default_factory=EntropyTriggers)
    alpha_easy: float = 0.5
    alpha_medium: float = 0.5
    alpha_hard: float = 0.5
    estimator: Any = field(default_factory=GroupMean)

    def __call__(self, outcomes: Outcomes) -> Tensor:
        """float64 [seq]."""
        return self.estimator(replace(outcomes, rewards=outcomes.rewards + self.bonus(outcomes)))

    def bonus(self, outcomes: Outcomes) -> Tensor:
        """float64 [seq]: e."""
        bucket, (counts, _) = difficulty(outcomes), self.triggers(outcomes)
        target = counts.new_zeros(len(BUCKETS))
        for number, mean in self._means(outcomes).items():
            target[number] = round(mean)
        target = target[bucket]
        alpha = counts.new_tensor([self.alpha_easy, self.alpha_medium, self.alpha_hard])
        cap, kappa, softness, wrong, margin = (
            counts.new_tensor(values)[bucket] for values in (CAP, KAPPA, SOFTNESS, WRONG, MARGIN)
        )
        cap = cap * alpha[bucket]
        margin = (margin * target.clamp_min(1.0)).clamp_min(1.0)
        d = counts - target

        def penalty(excess: Tensor) -> Tensor:
            excess = excess.clamp_min(0.0)
            huber = torch.where(excess <= kappa, 0.5 * excess.square() / kappa, excess - 0.5 * kappa)
            return huber / (margin + kappa) * cap

        hard = torch.where(
            d >= -margin,
            ((d + margin) / softness).sigmoid() * cap,
            -torch.minimum(cap, 0.5 * penalty(-d - margin)),
        )
        easy = -torch.minimum(cap, penalty(d - margin))
        medium = -torch.minimum(cap, penalty(d.abs() - margin))
        right = torch.where(bucket == EASY, easy, torch.where(bucket == MEDIUM, medium, hard))
        consolation = ((d - margin).clamp_min(0.0) / softness).sigmoid() * cap * wrong
        return torch.where(_right(outcomes), right, consolation)

    def measured(self, outcomes: Outcomes) -> dict[str, float]:
        """For DifficultySchedule; of a bucket without groups nothing is reported."""
        threshold = self.triggers.of_batch(outcomes)
        means = {f"ares/triggers_{BUCKETS[number]}": mean for number, mean in self._means(outcomes).items()}
        return means | {"ares/bonus": self.bonus(outcomes).mean().item(), "ares/threshold": min(threshold, 1e9)}

    def _means(self, outcomes: Outcomes) -> dict[int, float]:
        """By bucket: mean over its groups of the mean number of triggers."""
        _, group = outcomes.groups.unique(return_inverse=True)
        mean = _group_mean(self.triggers(outcomes)[0], group)
        bucket = torch.zeros(len(mean), dtype=torch.int64).index_put((group,), difficulty(outcomes))
        return {number: mean[bucket == number].mean().item() for number in bucket.unique().tolist()}


@dataclass(frozen=True, kw_only=True)
class Difficulty:
    """Mark: the bucket of the sample's group, 0 easy, 1 medium, 2 hard."""

    def __call__(self, outcomes: Outcomes) -> Tensor:
        """float64 [seq]."""
        return difficulty(outcomes).double()


@dataclass(frozen=True, kw_only=True)
class SecondChance:
    """Mark: what the pull to the reference is multiplied by; less where an easy prompt was answered wrongly at length.

    Rule    `scale` where the bucket is easy, the answer wrong and the cost of its triggers >= least_cost; else 1
    """

    triggers: EntropyTriggers = field(default_factory=EntropyTriggers)
    scale: float = 0.67
    least_cost: float = 0.5

    def __call__(self, outcomes: Outcomes) -> Tensor:
        """float64 [seq]."""
        cost = self.triggers(outcomes)[1]
        chosen = (difficulty(outcomes) == EASY) & ~_right(outcomes) & (cost >= self.least_cost)
        return torch.ones_like(cost).masked_fill(chosen, self.scale)


@dataclass(frozen=True, kw_only=True)
class DifficultyKl:
    """The KL to the reference, held for each difficulty by a strength of its own.

    Rule    X = coefficient * beta of the sample's bucket * its second chance * k3
    Units   nats per token; marks `difficulty` and `second_chance`.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"lp_ref"})
    reads_marks: ClassVar[frozenset[str]] = frozenset({"difficulty", "second_chance"})
    coefficient: float = 0.01
    beta_easy: float = 1.0
    beta_medium: float = 1.0
    beta_hard: float = 1.0

    def __call__(self, stats: TokenStats) -> tuple[Tensor, Measures]:
        """float32 [seq, tok]."""
        kl, measures = ReferenceKl(estimator="k3", coefficient=1.0)(stats)
        bucket = stats.marks["difficulty"].long()
        beta = kl.new_tensor([self.beta_easy, self.beta_medium, self.beta_hard])[bucket]
        mean = (kl.detach() * stats.mask).sum(1) / stats.mask.sum(1).clamp_min(1)
        of_bucket = {
            f"ares/kl_{name}": mean_of(mean, stats.mask.any(1) & (bucket == number))
            for number, name in enumerate(BUCKETS)
        }
        return self.coefficient * (beta * stats.marks["second_chance"])[:, None] * kl, dict(measures) | of_bucket


@dataclass(frozen=True, kw_only=True)
class DifficultySchedule:
    """Between steps: the threshold of triggers, the weight of the entropy reward and the strength of the KL per bucket.

    Rule    threshold <- the first batch's, then 0.99 threshold + 0.01 the batch's;
            alpha_b <- clip(alpha_b + 0.05 (n - round(n)), 0, 2), n the bucket's mean triggers, sign flipped for hard;
            K <- 0.97 K + 0.03 KL_b, e = K / target - 1; unless |e| < 0.02: E <- 0.97 E + 0.03 e and
            beta_b <- clip(beta_b exp(0.05 clip(E, -0.2, 0.2)), 1e-4, 100)
    Units   kl_target: nats per token.  State: one number per bucket and quantity.
    Traps   the target n* is the bucket's own mean, so alpha moves by a rounding residue alone, as released. beta moves
            once a step; the release does it every 100 micro-batches. A KL of 0 is taken for a bucket without samples.
    """

    kl_target: float = 0.01
    alpha_rate: float = 0.05
    beta_rate: float = 0.05
    memory: float = 0.97
    threshold_memory: float = 0.99
    deadzone: float = 0.02
    clip: float = 0.2

    def __post_init__(self) -> None:
        if not (self.kl_target > 0.0 and 0.0 <= self.memory < 1.0 and 0.0 <= self.threshold_memory < 1.0):
            raise ValueError(
                "DifficultySchedule needs kl_target > 0 and memories in [0, 1), got"
                f" {self.kl_target}, {self.memory} and {self.threshold_memory}"
            )

    def start(self) -> State:
        return {f"alpha_{name}": 0.5 for name in BUCKETS} | {f"beta_{name}": 1.0 for name in BUCKETS}

    def knobs(self, state: State) -> Mapping[str, Any]:
        found: dict[str, Any] = {}
        for name in BUCKETS:
            found[f"advantage.alpha_{name}"] = state[f"alpha_{name}"]
            found[f"regularisers.kl.beta_{name}"] = state[f"beta_{name}"]
        if "threshold" in state:
            found["advantage.triggers.threshold"] = state["threshold"]
            found["marks.second_chance.triggers.threshold"] = state["threshold"]
        return found

    def update(self, state: State, metrics: Mapping[str, float]) -> State:
        after = dict(state)
        if "ares/threshold" in metrics:
            new = metrics["ares/threshold"]
            old = state.get("threshold", new)
            after["threshold"] = self.threshold_memory * old + (1.0 - self.threshold_memory) * new
        for name in BUCKETS:
            mean = metrics.get(f"ares/triggers_{name}")
            if mean is not None:
                residue = (mean - round(mean)) * (-1.0 if name == "hard" else 1.0)
                after[f"alpha_{name}"] = min(2.0, max(0.0, state[f"alpha_{name}"] + self.alpha_rate * residue))
            after |= self._beta(name, state, metrics.get(f"ares/kl_{name}", 0.0))
        return after

    def _beta(self, name: str, state: State, kl: float) -> dict[str, float]:
        if kl == 0.0:
            return {}
        smooth = self.memory * state.get(f"kl_{name}", kl) + (1.0 - self.memory) * kl
        error = smooth / self.kl_target - 1.0
        if abs(error) < self.deadzone:
            return {f"kl_{name}": smooth}
        errors = self.memory * state.get(f"error_{name}", 0.0) + (1.0 - self.memory) * error
        step = self.beta_rate * min(self.clip, max(-self.clip, errors))
        beta = state[f"beta_{name}"] * torch.tensor(step, dtype=torch.float64).exp().item()
        return {f"kl_{name}": smooth, f"error_{name}": errors, f"beta_{name}": min(100.0, max(1e-4, beta))}


def _right(outcomes: Outcomes) -> Tensor:
    return outcomes.unshaped >= 1.0


def _group_mean(values: Tensor, group: Tensor) -> Tensor:
    """float64 [group]."""
    size = torch.bincount(group).double()
    return torch.zeros_like(size).index_add(0, group, values) / size
