"""Training of the difficulty probe: a few seconds of plain classification, in memory."""

import copy
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from rollout.strategies.diff_adapt.labels import Difficulty
from rollout.strategies.diff_adapt.probe import WIDTH, DifficultyProbe


@dataclass(frozen=True, kw_only=True)
class ProbeTraining:
    """How a probe is trained.

    Rule    cross-entropy, AdamW, learning rate along a cosine to 1 %, the epoch with the best macro-F1 on held-out
            prompts is kept.
    Source  DiffAdapt, arXiv:2510.19669, grade A-code, pre-release tree (Dominic789654/Probe_new
            train_budget_probe.py), with its constants.
    Traps   the release offers Muon and builds AdamW all the same, so AdamW it is.
    """

    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    epochs: int = 100
    batch: int = 32  # prompts
    held_out: float = 0.2  # fraction of the prompts
    width: int = WIDTH
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Trained:
    """The probe of the best epoch; `macro_f1` and `accuracy` of it on the held-out prompts."""

    probe: DifficultyProbe
    macro_f1: float
    accuracy: float
    epoch: int


def train_probe(hidden: Tensor, labels: Tensor, announcement: str, how: ProbeTraining) -> Trained:
    """hidden [prompts, hidden size], labels int64 [prompts] of Difficulty. Raises ValueError for too few prompts."""
    held_out = round(how.held_out * len(labels))
    if held_out < 1 or len(labels) - held_out < 1:
        raise ValueError(f"a difficulty probe wants prompts to train and to hold out, got {len(labels)}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(how.seed)
        order = torch.randperm(len(labels))
        probe = DifficultyProbe(hidden.shape[1], announcement, how.width)
        return _trained(probe, hidden.float(), labels, order[held_out:], order[:held_out], how)


def _trained(
    probe: DifficultyProbe, hidden: Tensor, labels: Tensor, shown: Tensor, held_out: Tensor, how: ProbeTraining
) -> Trained:
    optimizer = torch.optim.AdamW(probe.parameters(), lr=how.learning_rate, weight_decay=how.weight_decay)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, how.epochs, 0.01 * how.learning_rate)
    best: Trained | None = None
    for epoch in range(how.epochs):
        for some in shown[torch.randperm(len(shown))].split(how.batch):
            optimizer.zero_grad()
            cross_entropy(probe(hidden[some]), labels[some]).backward()
            optimizer.step()
        cosine.step()
        with torch.no_grad():
            said = probe(hidden[held_out]).argmax(-1)
        score = macro_f1(said, labels[held_out])
        if best is None or score > best.macro_f1:
            accuracy = (said == labels[held_out]).double().mean().item()
            best = Trained(probe=copy.deepcopy(probe).eval(), macro_f1=score, accuracy=accuracy, epoch=epoch)
    return best


def macro_f1(said: Tensor, true: Tensor) -> float:
    """Mean over the classes that occur in either of 2 TP / (2 TP + FP + FN)."""
    scores = []
    for difficulty in Difficulty:
        mine, theirs = said == difficulty, true == difficulty
        if (wrong_or_right := (mine.sum() + theirs.sum()).item()) > 0:
            scores.append(2.0 * (mine & theirs).sum().item() / wrong_or_right)
    return sum(scores) / len(scores)
