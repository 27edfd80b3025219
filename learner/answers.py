"""Where the answer of a response begins, and what the policy's state before it is, for all samples of a step.

samples --Answers--> Trained.answers --micro-batches--> states, without gradient --all ranks--> Peers
"""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from learner.batch import MicroBatch, Trained
from learner.errors import ModelError
from learner.messages import TrainSample
from learner.objective.observations import AnswerState
from learner.objective.stats import Peers, TokenStats


class Answers:
    """Finds the token with which the answer of a sample begins. Raises ModelError where the model has no tokenizer."""

    def __init__(self, state: AnswerState, model_path: str | Path) -> None:
        self.marker = state.marker
        self._tokenizer = None
        if self.marker is not None:
            from transformers import AutoTokenizer

            try:
                self._tokenizer = AutoTokenizer.from_pretrained(model_path)
            except Exception as error:  # whatever a tokenizer file can raise
                raise ModelError(
                    f"the tokenizer in {model_path}, which has to find {self.marker!r} in responses, cannot be loaded:"
                    f" {' '.join(str(error).split())}"
                ) from error

    def find(self, trained: Trained) -> Trained:
        """The samples with their `answers`, and in the metrics the fraction in which the marker stands."""
        if not trained.samples:
            return trained
        found = [self._place(sample) for sample in trained.samples]
        last = [sample.trained_places[-1] for sample in trained.samples]
        answers = np.array([end if place is None else place for place, end in zip(found, last, strict=True)])
        marked = {"align/marked_fraction": float(np.mean([place is not None for place in found]))}
        return dataclasses.replace(trained, answers=answers, metrics=trained.metrics | marked)

    def _place(self, sample: TrainSample) -> int | None:
        """The last response token in which a marker begins, up to the last trained one; None without a marker."""
        if self._tokenizer is None:
            return None
        ids = sample.response_ids[: sample.trained_places[-1] + 1].tolist()
        begins = self._text(ids).rfind(self.marker)
        if begins < 0:
            return None
        low, high = 0, len(ids) - 1  # the first token with which the text reaches beyond `begins`
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if len(self._text(ids[: middle + 1])) > begins else (middle + 1, high)
        return low

    def _text(self, ids: Sequence[int]) -> str:
        return self._tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)


@torch.no_grad()
def peers_of(
    engine: Callable[..., tuple[Tensor, ...]], micros: Sequence[MicroBatch], part: Trained, ranks: int
) -> Peers | None:
    """The states of all samples of `part`, of which this rank has some: one more forward pass, without the head.

    None where one micro-batch holds them all, so that its own forward pass will tell, see `own_peers`.
    """
    if ranks == 1 and len(micros) == 1:
        return None
    states = None
    for micro in micros:
        (found,) = engine(micro, answers="alone")
        if states is None:
            states = found.new_zeros(len(part.samples), found.shape[1])
        live = micro.mask.any(1)
        states[micro.members[live]] = found[live]
    if ranks > 1:
        dist.all_reduce(states)  # every sample is one rank's; the others add 0
    return Peers(
        states=states,
        group=torch.tensor([sample.group for sample in part.samples], device=states.device),
        marks={
            name: torch.from_numpy(values.astype(np.float32)).to(states.device) for name, values in part.marks.items()
        },
    )


def own_peers(stats: TokenStats) -> Peers:
    """The states of the samples of a micro-batch, where there are no others."""
    return Peers(states=stats.answers.detach(), group=stats.group, marks=stats.marks)
