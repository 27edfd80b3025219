"""One exchange of weights as both engines go through it: what it does with keys and values, its verdicts, its clock."""

import time
from collections.abc import Sequence

from rollout.config import RolloutConfig
from rollout.errors import WeightUpdateError
from rollout.messages import Taken, WeightConfirmation, WeightUpdate
from rollout.vllm_adapter.probe import check_probe


class Swap:
    """From the arrival of an update, when it is made, to its confirmation."""

    def __init__(self, worker: str, update: WeightUpdate, config: RolloutConfig) -> None:
        self.worker = worker
        self.update = update
        self._tolerance = config.probe_tolerance
        # Running requests compute their keys and values anew; otherwise they go on with those of the old weights.
        self.recomputes = config.kv_on_update == "recompute"
        # New requests must never find a prefix that the old weights computed.
        self.forgets = self.recomputes or config.prefix_caching
        self._began = self._paused = time.perf_counter()

    def pauses(self) -> None:
        """From now on generation stands still."""
        self._paused = time.perf_counter()

    def confirmed(self, taken: Sequence[Sequence[Sequence[int] | None]], found: Sequence[float]) -> WeightConfirmation:
        """From what each rank took and found in the probe. Raises WeightUpdateError where the probe disagrees."""
        policy, drafter = (one and Taken(parameters=one[0], bytes=one[1]) for one in taken[0])
        error = check_probe(self.update, found[0], self._tolerance, self.worker)
        now = time.perf_counter()
        return WeightConfirmation(
            worker=self.worker,
            version=self.update.version,
            checksum=self.update.checksum,
            policy=policy,
            drafter=drafter,
            probe_error=error,
            seconds=now - self._began,
            paused_s=now - self._paused,
        )


def refuse(sentences: Sequence[str]) -> None:
    """Raise WeightUpdateError with the first of the ranks' sentences, where there is one."""
    for sentence in filter(None, sentences):
        raise WeightUpdateError(sentence)


def failed(swap: Swap, error: Exception) -> WeightUpdateError:
    """The error of an update that broke off, or was disproved, when the engine's weights had been touched."""
    return WeightUpdateError(
        f"{swap.worker} failed in the middle of weights v{swap.update.version} and is unusable, because nobody knows"
        f" what it would draw with: {' '.join(str(error).split())}; start a new worker"
    )
