"""The drafter beside a policy that learns: one step a train batch, on the batch's own rollouts.

    rollouts --policy, after its step, no gradient--> hidden, p at the recorded temperatures --unroll--> q --loss-->
    the drafter's own AdamW; the layer is published, saved and exported with the policy

Every rank holds the whole layer, reads a part of the rollouts and adds up the gradients of all. The policy gets no
gradient and the engines' draws stay exact: a better drafter changes how fast they draw and nothing else.
"""

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from learner.checkpoint import write_state
from learner.drafter.chains import Ends, Reading, Sums, Unrolled, batches_by_size, counted_drafts, descend
from learner.drafter.files import DRAFTER_FILE, add_drafter, check_draftable, load_layer, tensors_of
from learner.drafter.layer import MtpLayer
from learner.drafter.losses import LOSSES
from learner.drafter.rule import DraftRule
from learner.errors import CheckpointError, DivergedError
from learner.forward import Policy
from learner.messages import TrainSample
from learner.writing import Writing
from rollout.draw.temperature import Fixed
from rollout.draw.truncation import Truncation

CHECKPOINT = "drafter.pt"


@dataclass(frozen=True, kw_only=True)
class OnlineDrafter:
    """How the drafter follows the policy. `temperature` and `truncation` are the run's: drafts are drawn with them.

    Source  Bebop, arXiv:2606.12370, grade A-paper, for the losses; it freezes the drafter in RL: training it is ours.
    Traps   the drafter is trained against the weights that will be published, on rollouts of those before.
    """

    drafts: int = 8  # of a chain: the engine's speculative.tokens
    loss: Literal["cross_entropy", "soft_cross_entropy", "kl", "total_variation", "end_to_end"] = "end_to_end"
    lr: float = 1e-3  # of AdamW without decay, for the tiny policy; Bebop trains a large one's drafter at 3.5e-5
    warmup_steps: int = 10  # train batches over which lr rises: AdamW's first steps would undo what training gave
    max_grad_norm: float = 1.0
    every: int = 1  # train batches
    samples: int = 32  # of a batch's rollouts, at most: drawn anew at each step
    temperature: Any = field(default_factory=Fixed)
    truncation: Any = field(default_factory=Truncation)

    def __post_init__(self) -> None:
        for name in ("drafts", "every", "samples"):
            if getattr(self, name) < 1:
                raise ValueError(f"learner.drafter.{name} is at least 1, got {getattr(self, name)}")
        for name in ("lr", "max_grad_norm"):
            if not getattr(self, name) > 0.0:
                raise ValueError(f"learner.drafter.{name} is positive, got {getattr(self, name)}")
        if self.warmup_steps < 0:
            raise ValueError(f"learner.drafter.warmup_steps is at least 0, got {self.warmup_steps}")

    def lr_at(self, step: int) -> float:
        return self.lr * min(1.0, (step + 1) / max(1, self.warmup_steps))

    @property
    def rule(self) -> DraftRule:
        return DraftRule(temperature=self.temperature, truncation=self.truncation)


class DrafterLearner:
    """A drafter, its optimizer and one step at a time. Starts from the model folder's drafter.

    Raises ModelError for a policy without one, or of a kind that has none.
    """

    def __init__(
        self, training: OnlineDrafter, policy: Policy, model_path: str | Path, rank: int, ranks: int, batch_tokens: int
    ) -> None:
        check_draftable(Path(model_path))
        self.training = training
        self.rank, self.ranks, self.batch_tokens = rank, ranks, batch_tokens
        self.layer = MtpLayer(policy.model)
        load_layer(self.layer, Path(model_path))
        self.dtype = policy.model.dtype  # of what the engines get
        self.chunk = max(1, policy.head.chunk_rows // training.drafts)  # chains
        self.optimizer = torch.optim.AdamW(self.layer.parameters(), lr=training.lr, betas=(0.9, 0.98), weight_decay=0.0)

    def step(
        self,
        policy: Policy,
        samples: Sequence[TrainSample],
        gathered: Callable[[], AbstractContextManager],
        step: int,
    ) -> dict[str, float]:
        """One optimizer step; its metrics, named `drafter/...`, none where it is not the drafter's turn.

        Inside `gathered()` the policy's parameters are whole on every rank. Raises DivergedError before the drafter
        moves.
        """
        if step % self.training.every:
            return {}
        chosen = self._chosen(samples, step)
        if not chosen:
            return {}
        drafts, loss = self.training.drafts, LOSSES[self.training.loss]
        total = sum(counted_drafts(sample, drafts) for sample in chosen)
        parts, idle = self._parts(chosen)
        readings = [Reading.of(policy.model, part) for part in parts + idle][: len(parts)]
        sums = Sums.none(drafts)
        for parameter in self.layer.parameters():
            parameter.grad = torch.zeros_like(parameter)
        with gathered():
            ends = Ends.of(policy.model)
            for reading in readings:
                descend(Unrolled(reading, self.layer, ends, self.training.rule, drafts), loss, total, self.chunk, sums)
        if self.ranks > 1:
            self._add_up(sums, policy.device)
        norm = float(nn.utils.clip_grad_norm_(self.layer.parameters(), self.training.max_grad_norm))
        found = {"drafter/loss": float(sums.loss) / total, "drafter/grad_norm": norm}
        for name, value in found.items():
            if not math.isfinite(value):
                raise DivergedError(
                    f"step {step}: {name} is {value}; lower learner.drafter.lr or resume from the last checkpoint"
                )
        for group in self.optimizer.param_groups:
            group["lr"] = self.training.lr_at(step)
        self.optimizer.step()
        acceptance = [value for value in sums.acceptance if not math.isnan(value)]
        return found | {
            "drafter/acceptance_first": acceptance[0],
            "drafter/acceptance_last": acceptance[-1],
            "drafter/kept_fraction": float(sums.kept.sum())
            / total,  # of the drafts, as a chain ends with its first loss
        }

    def tensors(self) -> dict[str, Tensor]:
        """The layer as the engines want it, beside the policy's weights."""
        return tensors_of(self.layer, self.dtype)

    def export(self, folder: Path, writing: Writing) -> None:
        """Write the drafter into the folder of an exported policy."""
        tensors = writing.hold({name: one.cpu() for name, one in self.tensors().items()})
        writing.add(folder / DRAFTER_FILE, lambda path: add_drafter(tensors, path.parent))

    def save(self, folder: Path, writing: Writing) -> None:
        state = writing.hold({"layer": self.layer.state_dict(), "optimizer": self.optimizer.state_dict()})
        writing.add(folder / CHECKPOINT, lambda path: write_state(path, state))

    def load(self, folder: Path) -> None:
        """Raises CheckpointError where the checkpoint has no drafter."""
        if not (folder / CHECKPOINT).is_file():
            raise CheckpointError(
                f"{folder} has no {CHECKPOINT}: its run did not train a drafter, so set drafter=frozen"
            )
        state = torch.load(folder / CHECKPOINT, map_location=self.layer.input_proj.weight.device, weights_only=True)
        self.layer.load_state_dict(state["layer"])
        self.optimizer.load_state_dict(state["optimizer"])

    def _chosen(self, samples: Sequence[TrainSample], step: int) -> list[TrainSample]:
        """At most `samples` of those in which a draft counts; the same on every rank and after a resumption."""
        usable = [sample for sample in samples if counted_drafts(sample, 1)]
        drawn = np.random.default_rng(step).permutation(len(usable))[: self.training.samples]
        return [usable[index] for index in sorted(drawn)]

    def _parts(self, chosen: list[TrainSample]) -> tuple[list[list[TrainSample]], list[list[TrainSample]]]:
        """What this rank reads at a time; and what it reads besides, for nothing, as all ranks read equally often.

        With ZeRO-3 every reading is a collective call.
        """
        shares = [chosen[rank :: self.ranks] for rank in range(self.ranks)]
        plans = [batches_by_size(share, self.batch_tokens) for share in shares]
        mine = [[shares[self.rank][index] for index in part] for part in plans[self.rank]]
        missing = max(map(len, plans)) - len(mine)
        return mine, [[min(chosen, key=lambda one: len(one.prompt_ids) + len(one.response_ids))]] * missing

    def _add_up(self, sums: Sums, device: torch.device) -> None:
        """Gradients and sums of all ranks."""
        for parameter in self.layer.parameters():
            dist.all_reduce(parameter.grad)
        packed = torch.cat([sums.loss[None], sums.counted, sums.accepted, sums.kept]).to(device)
        dist.all_reduce(packed)
        packed = packed.cpu()
        sums.loss, (sums.counted, sums.accepted, sums.kept) = packed[0], packed[1:].view(3, -1)
