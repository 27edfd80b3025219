"""What truncation left to draw from, token by token: from the runner's rows to the finished response.

    Rows of emitted tokens --KeptRows--> runner's output --scheduler, output processor (vLLM)-->
    CompletionOutput.sampling_mask --kept_tokens--> KeptTokens

How they travel: scheduler.py. Check: tests/rollout/test_exactness_in_vllm.py.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rollout.draw.temperature import Fixed, TemperaturePolicy
from rollout.draw.truncation import TopW, Truncation
from rollout.errors import RolloutError
from rollout.messages import KeptTokens


def truncates(temperature: TemperaturePolicy, truncation: Truncation | TopW) -> bool:
    """Whether a request's kept sets are recorded. Greedy decoding keeps one token, whatever else is cut."""
    return truncation.active and temperature != Fixed(temperature=0.0)


@dataclass(frozen=True)
class KeptRows:
    """The kept sets of one step's tokens, request after request.

    ids      int32 [kept tokens of all tokens], rising within one
    offsets  int64 [tokens + 1] into ids; a token that lists none could be drawn from the whole vocabulary
    starts   [requests + 1], the number of tokens before each request
    """

    ids: np.ndarray
    offsets: np.ndarray
    starts: list[int]

    @classmethod
    def of(cls, truncated: Tensor, emitted: Tensor, lengths: Tensor | None, cut: Sequence[bool]) -> "KeptRows":
        """Of truncated logits [rows, vocab], -inf outside the kept set.

        emitted  int64 [requests, most], the row of each emitted token
        lengths  int64 [requests], tokens of each request; None: one each
        cut      per request, whether its kept sets are recorded
        """
        lengths = torch.ones(len(emitted), dtype=torch.int64) if lengths is None else lengths.cpu()
        valid = torch.arange(emitted.shape[1]) < lengths.unsqueeze(1)
        listed = valid & torch.tensor(cut).unsqueeze(1)
        inside = (truncated[emitted[listed.to(emitted.device)]] > -torch.inf).cpu().numpy()
        inside[inside.all(1)] = False
        counts = np.zeros(int(valid.sum()), np.int64)
        counts[listed[valid].numpy()] = inside.sum(1)
        return cls(
            ids=(np.flatnonzero(inside) % inside.shape[1]).astype(np.int32),
            offsets=np.concatenate(([0], counts.cumsum())),
            starts=[0, *lengths.cumsum(0).tolist()],
        )


def kept_tokens(output: Any) -> KeptTokens:
    """Of vLLM's CompletionOutput of a request that truncates. Raises RolloutError where a kept set is missing."""
    listed = output.sampling_mask.token_ids if output.sampling_mask is not None else []
    if len(listed) != len(output.token_ids):
        raise RolloutError(
            f"vLLM returned {len(listed)} kept sets for {len(output.token_ids)} tokens of a truncated response: the"
            " scheduler of this engine does not pass them on"
        )
    return KeptTokens(
        ids=np.fromiter(chain.from_iterable(listed), np.int32), counts=np.array([len(ids) for ids in listed], np.int32)
    )
