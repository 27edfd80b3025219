"""Engine on vLLM's LLMEngine with its core in this process: a thread steps it, coroutines wait for their groups.

    generate() --inbox--> [engine thread: inbox, step, inbox, step ...] --future--> generate() returns
    update_weights() --inbox--^   (a weight update runs between two steps, so no step ever sees half of it)

Starts in seconds where AsyncLLM needs half a minute, and a weight update hands over tensors without copying them to
another process. The engine thread alone touches vLLM after start-up.
"""

import asyncio
import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vllm.engine.arg_utils import EngineArgs
from vllm.outputs import RequestOutput
from vllm.v1.engine.llm_engine import LLMEngine

from rollout.config import RolloutConfig, SpeculativeConfig
from rollout.errors import RolloutError, WeightUpdateError
from rollout.messages import EngineMetrics, GroupRequest, Rollout, WeightConfirmation, WeightUpdate
from rollout.vllm_adapter.probe import FIRST, check_checksum, check_probe, probe_request
from rollout.vllm_adapter.record import rollout_of
from rollout.vllm_adapter.requests import check_length, request_id, sampling_params
from rollout.vllm_adapter.start import engine_arguments
from rollout.vllm_adapter.weights import tensors_of, update_sessions

log = logging.getLogger(__name__)


@dataclass
class _Pending:
    """A group in the engine: who waits for it and what has finished."""

    request: GroupRequest
    done: Callable[[list[Rollout]], None]
    fail: Callable[[BaseException], None]
    started: float = field(default_factory=time.perf_counter)
    finished: dict[int, Rollout] = field(default_factory=dict)


class InProcessEngine:
    """See `rollout.engine.Engine`. `stop_token_ids` end a response; `decode` turns token ids into text."""

    def __init__(
        self,
        config: RolloutConfig,
        drafting: SpeculativeConfig,
        model: Path,
        seed: int,
        stop_token_ids: Sequence[int],
        decode: Callable[[Sequence[int]], str],
        name: str = "rollout-0",
    ) -> None:
        self._config = config
        self._name = name
        self._stop_token_ids = stop_token_ids
        self._decode = decode
        self._vllm = LLMEngine.from_engine_args(EngineArgs(**engine_arguments(config, drafting, model, seed)))
        self._vllm.collective_rpc("init_weight_transfer_engine", args=({},))
        self._vllm.set_weight_version("0")
        self._pending: dict[str, _Pending] = {}
        self._owner: dict[str, tuple[str, int]] = {}  # vLLM request id -> (group id, index)
        self._inbox: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._closed = False
        self._failure: BaseException | None = None
        self._generated_tokens = 0
        self._busy_s = 0.0
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    async def generate(self, request: GroupRequest) -> list[Rollout]:
        check_length(request, self._config.max_model_len)
        return await self._ask(lambda done, fail: self._submit(_Pending(request, done, fail)))

    async def update_weights(self, update: WeightUpdate) -> WeightConfirmation:
        check_checksum(update)
        return await self._ask(lambda done, fail: self._update(update, done, fail))

    async def metrics(self) -> EngineMetrics:
        return EngineMetrics(
            generated_tokens=self._generated_tokens,
            running=len(self._owner),
            busy_s=self._busy_s,
        )

    async def close(self) -> None:
        self._closed = True
        self._inbox.put(lambda: None)
        await asyncio.to_thread(self._thread.join)

    async def _ask(self, start: Callable):
        """Run `start(done, fail)` on the engine thread and wait for one of its two callbacks."""
        if self._failure is not None:
            raise RolloutError(f"the engine stopped earlier: {self._failure!r}")
        loop = asyncio.get_running_loop()
        future: asyncio.Future = loop.create_future()

        def settle(setter: Callable, value: object) -> None:
            loop.call_soon_threadsafe(lambda: future.done() or setter(value))

        def done(value: object) -> None:
            settle(future.set_result, value)

        def fail(error: BaseException) -> None:
            settle(future.set_exception, error)

        def guarded() -> None:
            try:
                start(done, fail)
            except BaseException as error:
                fail(error)
                raise

        self._inbox.put(guarded)
        return await future

    # -- below: the engine thread
    # ---------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while not self._closed:
                self._read_inbox(wait=not self._vllm.has_unfinished_requests())
                if self._vllm.has_unfinished_requests():
                    self._step()
        except BaseException as error:
            log.exception("the engine thread stopped")
            self._failure = error
            for pending in self._pending.values():
                pending.fail(RolloutError(f"the engine stopped: {error!r}"))

    def _read_inbox(self, wait: bool) -> None:
        if wait:
            self._inbox.get()()
        while True:
            try:
                message = self._inbox.get_nowait()
            except queue.Empty:
                return
            message()

    def _submit(self, pending: _Pending) -> None:
        request = pending.request
        params = sampling_params(request, self._stop_token_ids)
        self._pending[request.group_id] = pending
        for index in range(request.n):
            vllm_id = request_id(request.group_id, index)
            self._owner[vllm_id] = (request.group_id, index)
            self._vllm.add_request(
                vllm_id, {"prompt_token_ids": list(request.prompt_ids)}, params, priority=request.priority
            )

    def _step(self) -> None:
        began = time.perf_counter()
        outputs = self._vllm.step()
        self._busy_s += time.perf_counter() - began
        for output in outputs:
            if output.finished:
                self._finish(output)

    def _finish(self, output: RequestOutput) -> None:
        group_id, index = self._owner.pop(output.request_id)
        pending = self._pending[group_id]
        seconds = time.perf_counter() - pending.started
        rollout = rollout_of(output.outputs[0], pending.request, index, self._decode, seconds)
        self._generated_tokens += len(rollout.response_ids)
        pending.finished[index] = rollout
        if len(pending.finished) == pending.request.n:
            del self._pending[group_id]
            pending.done([pending.finished[i] for i in range(pending.request.n)])

    def _update(self, update: WeightUpdate, done: Callable, fail: Callable) -> None:
        """Load, forget what the old weights computed, then prove by a forward pass that the new ones are in use."""
        began = time.perf_counter()
        tensors = tensors_of(update.payload)
        for start in update_sessions(update.payload):
            self._vllm.collective_rpc(start)
            self._vllm.collective_rpc("update_weights", args=({"tensors": tensors},))
            self._vllm.collective_rpc("finish_weight_update")
        self._vllm.set_weight_version(str(update.version))
        recompute = self._config.kv_on_update == "recompute"
        if (recompute or self._config.prefix_caching) and not self._vllm.reset_prefix_cache(
            reset_running_requests=recompute
        ):
            raise WeightUpdateError(
                f"{self._name} could not drop keys and values of the weights before v{update.version}"
            )

        def confirmed(rollouts: list[Rollout]) -> None:
            try:
                error = check_probe(update, rollouts[0], self._config.probe_tolerance, self._name)
            except WeightUpdateError as wrong:
                fail(wrong)
                return
            done(
                WeightConfirmation(
                    worker=self._name,
                    version=update.version,
                    checksum=update.checksum,
                    probe_error=error,
                    seconds=time.perf_counter() - began,
                )
            )

        self._submit(_Pending(probe_request(update, priority=FIRST), confirmed, fail))
