"""On the side of vLLM's worker: the hidden states behind prompts that were asked for, until they are taken.

Seam of vLLM 0.32 (V1 runner): the rows that `compute_logits` reads (head.py holds on to them), in the order of the
runner's batch. Of a prompt that is read in chunks every step has a row, and the last one, which counts, is the last
kept. With cached prefixes the last prompt token is computed all the same.
"""

from collections.abc import Sequence

from torch import Tensor

MOST = 4096  # asked for at a time; beyond that the oldest are those of requests that were cancelled


class PromptStates:
    """What was asked for, and what of it has been computed."""

    def __init__(self) -> None:
        self._kept: dict[str, Tensor | None] = {}  # by the request's name outside of vLLM, which adds to it

    @property
    def expected(self) -> bool:
        return bool(self._kept)

    def expect(self, name: str) -> None:
        while len(self._kept) >= MOST:
            del self._kept[next(iter(self._kept))]
        self._kept[name] = None

    def keep(self, requests: Sequence[str], counts: Sequence[int] | None, hidden: Tensor) -> None:
        """`hidden` [rows, hidden size] of this step, `counts` rows of each of `requests` in turn (None: one each)."""
        end = 0
        for request, count in zip(requests, counts or [1] * len(requests), strict=True):
            end += count
            name = request.rpartition("-")[0]
            if name in self._kept:
                self._kept[name] = hidden[end - 1].detach().float().cpu()

    def take(self, name: str) -> list[float]:
        """Plain numbers, as they may have to leave the process. Raises RuntimeError where there are none."""
        state = self._kept.pop(name, None)
        if state is None:
            raise RuntimeError(f"the runner has no hidden state of request {name}: it never computed its prompt")
        return state.tolist()
