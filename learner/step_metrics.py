"""What every learner step reports besides its objective: staleness, tokens, entropy, agreement with the engine."""

from typing import Any

import numpy as np
import torch

from learner.batch import Trained
from learner.measures import max_of, mean_of
from learner.messages import TrainBatch
from learner.objective import TokenStats

# Metrics that every step reports, as they are when nothing is trained.
IDLE = {
    "train/loss": 0.0,
    "train/grad_norm": 0.0,
    "entropy/mean": 0.0,
    "mismatch/kl": 0.0,
    "mismatch/max_abs": 0.0,
    "tis/clipped_fraction": 0.0,
    "train/clip_fraction": 0.0,
    "learner/forward_tokens": 0.0,
}


def agreement(stats: TokenStats) -> dict[str, Any]:
    """How far the learner's probabilities are from the recorded ones, and how unsure the policy is."""
    u = stats.lp_old.detach().double() - stats.lp_sampler.double()
    return {
        "mismatch/kl": mean_of(torch.expm1(u) - u, stats.mask),
        "mismatch/max_abs": max_of(u.abs(), stats.mask),
        "entropy/mean": mean_of(stats.entropy, stats.mask),
    }


def batch_metrics(batch: TrainBatch, trained: Trained) -> dict[str, float]:
    groups = {sample.group for sample in batch.samples if len(sample.trained_places)}
    kept = {sample.group for sample in trained.samples}
    versions = np.concatenate([[], *(sample.versions[sample.trained_places] for sample in batch.samples)])
    staleness = batch.step - (versions if len(versions) else np.array([batch.step]))
    return {
        "staleness/max": float(staleness.max()),
        "staleness/mean": float(staleness.mean()),
        "train/kept_groups_fraction": len(kept) / max(1, len(groups)),
        "learner/tokens": float(sum(len(sample.trained_places) for sample in trained.samples)),
    }


def entropy_with_untrained(entropy: float, batch: TrainBatch, trained: Trained) -> float:
    """Mean over all tokens the policy drew: the learner's where trained, the recorded one where filtered out.

    The filter drops groups the policy is sure about, so a mean over the trained ones alone would be too high.
    """
    chosen = {id(sample) for sample in trained.samples}
    others = [sample.entropies[sample.trained_places] for sample in batch.samples if id(sample) not in chosen]
    tokens = sum(len(sample.trained_places) for sample in trained.samples)
    recorded = np.concatenate([[], *others])
    return float((entropy * tokens + recorded.sum()) / max(1, tokens + len(recorded)))
