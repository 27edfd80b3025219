"""The learned temperature head in the learner: recorded actions in, a trained head out. The policy is fixed here.

    micro-batch --policy, no gradient--> hidden states --TemperatureHead--> u --action_logprob--> lp of the actions
                --objective of the head's phase--> loss --> the head's own AdamW

One step a batch, before the policy moves: the hidden states are those the head acted on, so with synchronous training
the ratio is exactly 1. Every rank holds the whole head (a thousandth of the policy) and adds up the gradients of all.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
import torch.distributed as dist
from torch import Tensor, nn

from learner.batch import MicroBatch
from learner.checkpoint import write_state
from learner.errors import BatchError, CheckpointError, DivergedError
from learner.forward import Policy
from learner.measures import Measures, combine, mean_of, reduce
from learner.objective import Counts, Objective, TokenStats
from learner.objective.head import HeadTraining
from learner.writing import Writing
from rollout.draw.learned import HEAD_FILE, HEAD_PREFIX, TemperatureHead, action_logprob, z_of

CHECKPOINT = "temperature_head.pt"


class HeadLearner:
    """A head, its optimizer and one step at a time. Starts from the model folder's head, or from an untrained one."""

    def __init__(self, training: HeadTraining, policy: Policy, model_path: str | Path, ranks: int) -> None:
        self.training = training
        self.ranks = ranks
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # the same on every rank
            head = TemperatureHead(policy.model.config.get_text_config().hidden_size)
        file = Path(model_path) / HEAD_FILE
        if file.is_file():
            head.load_state_dict(safetensors.torch.load_file(file))
        self.head = head.to(policy.device)
        self.optimizer = torch.optim.AdamW(self.head.parameters(), lr=training.lr, weight_decay=0.0)

    def step(
        self, policy: Policy, micros: Sequence[MicroBatch], objective: Objective, counts: Counts, step: int
    ) -> dict[str, float]:
        """One optimizer step on the actions of a batch; its metrics, named `head/...`.

        Raises BatchError for samples without recorded actions, DivergedError before the head moves.
        """
        objective = self.training.objective(objective)
        measured: list[Measures] = []
        self.optimizer.zero_grad()
        for micro in micros:
            stats = self._stats(policy, micro)
            loss, measures = objective(stats, counts)
            loss.backward()
            measured.append(_named(measures) | _agreement(stats, micro))
        if self.ranks > 1:
            for parameter in self.head.parameters():
                dist.all_reduce(parameter.grad)
        norm = nn.utils.clip_grad_norm_(self.head.parameters(), self.training.max_grad_norm)
        metrics = reduce(combine(measured), self.ranks) | {"head/grad_norm": float(norm)}
        for name in ("head/loss", "head/grad_norm"):
            if not math.isfinite(metrics[name]):
                raise DivergedError(
                    f"step {step}: {name} is {metrics[name]}; lower algorithm.head.lr or resume from the last"
                    " checkpoint"
                )
        self.optimizer.step()
        return metrics

    def _stats(self, policy: Policy, micro: MicroBatch) -> TokenStats:
        """The actions of a micro-batch in the place of its tokens; their entropy is not needed and 0."""
        if micro.actions is None:
            raise BatchError(
                "the algorithm trains a temperature head, but a sample carries no actions of one: draw with"
                " temperature=learned"
            )
        with torch.no_grad():
            hidden = policy.hidden_states(micro)
        nodes = torch.zeros(micro.mask.numel(), dtype=torch.int64, device=hidden.device)
        nodes[micro.places] = micro.picks.row_nodes[micro.picks.rows]
        u = self.head(hidden)[nodes.view(micro.mask.shape)]  # [seq, tok, 3]
        z = z_of(micro.temperature, self.training.policy)
        lp = action_logprob(u, micro.actions.changes, z, self.training.policy)
        return TokenStats(
            mask=micro.mask,
            group=micro.group,
            advantage=micro.advantage,
            lp=lp,
            lp_old=lp.detach(),
            lp_sampler=micro.actions.lp_sampler,
            temperature=micro.temperature,
            entropy=torch.zeros_like(lp),
        )

    def tensors(self) -> dict[str, Tensor]:
        """The head's weights as the engine wants them beside the policy's, on the CPU."""
        return {HEAD_PREFIX + name: tensor.detach().cpu() for name, tensor in self.head.state_dict().items()}

    def export(self, folder: Path, writing: Writing) -> None:
        """Write the head into a model folder, where learner and engine look for it."""
        weights = writing.hold({name: one.cpu() for name, one in self.head.state_dict().items()})
        writing.add(folder / HEAD_FILE, lambda path: safetensors.torch.save_file(weights, path))

    def save(self, folder: Path, writing: Writing) -> None:
        state = writing.hold({"head": self.head.state_dict(), "optimizer": self.optimizer.state_dict()})
        writing.add(folder / CHECKPOINT, lambda path: write_state(path, state))

    def load(self, folder: Path) -> None:
        """Raises CheckpointError where the checkpoint has no head."""
        if not (folder / CHECKPOINT).is_file():
            raise CheckpointError(f"{folder} has no {CHECKPOINT}: its run did not train a temperature head")
        state = torch.load(folder / CHECKPOINT, map_location=next(self.head.parameters()).device, weights_only=True)
        self.head.load_state_dict(state["head"])
        self.optimizer.load_state_dict(state["optimizer"])


def _named(measures: Measures) -> dict[str, Any]:
    return {f"head/{name.partition('/')[2]}": measure for name, measure in measures.items()}


def _agreement(stats: TokenStats, micro: MicroBatch) -> dict[str, Any]:
    u = stats.lp_old.double() - stats.lp_sampler.double()
    return {
        "head/mismatch_kl": mean_of(torch.expm1(u) - u, stats.mask),
        "head/change_fraction": mean_of(micro.actions.changes, stats.mask),
    }
