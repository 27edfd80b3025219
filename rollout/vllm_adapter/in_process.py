"""Engine on vLLM's LLMEngine with its core in this process: a thread steps it, coroutines wait for their responses.

    groups.py --draw--> inbox --> [engine thread: inbox, step, inbox, step ...] --future--> groups.py
    update_weights() --> inbox --^   (a weight update runs between two steps, so no step ever sees half of it)

Starts in seconds where AsyncLLM needs half a minute, and a weight update hands over tensors without copying them to
another process. The engine thread alone touches vLLM after start-up.
"""

import asyncio
import logging
import queue
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from vllm.engine.arg_utils import EngineArgs
from vllm.inputs.engine import tokens_input
from vllm.outputs import RequestOutput
from vllm.v1.engine import FinishReason as VllmFinishReason
from vllm.v1.engine.llm_engine import LLMEngine

from rollout.config import RolloutConfig, SpeculativeConfig
from rollout.errors import EngineLostError, RequestError, WeightUpdateError
from rollout.groups import Groups
from rollout.health import health_of
from rollout.messages import (
    EngineHealth,
    EngineMetrics,
    GroupRequest,
    Rollout,
    WeightConfirmation,
    WeightUpdate,
)
from rollout.vllm_adapter.hidden import hidden_state
from rollout.vllm_adapter.record import rollout_of
from rollout.vllm_adapter.requests import check_request, request_id, sampling_params
from rollout.vllm_adapter.start import SLEEP_LEVEL, engine_arguments
from rollout.vllm_adapter.stats import watch
from rollout.vllm_adapter.weights.payload import check_checksum
from rollout.vllm_adapter.weights.swap import Swap, failed, refuse

log = logging.getLogger(__name__)


@dataclass
class _Drawing:
    """A response in the engine, and the two ways its wait can end."""

    request: GroupRequest
    index: int
    done: Callable[[Rollout], None]
    fail: Callable[[BaseException], None]
    internal_id: str = ""  # vLLM's own, unique for ever


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
        [self._why_not_learned, *_] = self._vllm.collective_rpc("why_not_learned")
        self._groups = Groups(self, config.max_num_seqs + config.max_queued_seqs, config.request_deadline_s, decode)
        self._stats = watch(self._vllm, self._groups.admission)
        self._drawings: dict[str, _Drawing] = {}  # by request_id
        self._inbox: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._in_message = False  # a weight update takes its time, which is no reason to call the engine stuck
        self._asleep = False
        self._closed = False
        self._lost: EngineLostError | None = None
        self._answers: list[Callable[[], object]] = []  # of this turn of the thread
        self._loop: asyncio.AbstractEventLoop  # of whoever asks
        self._waits: set[Callable[[BaseException], None]] = set()  # `fail` of every call that waits for the thread
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    def generate(self, request: GroupRequest) -> AsyncIterator[Rollout]:
        check_request(request, self._config.max_model_len, self._why_not_learned)
        return self._groups.generate(request)

    async def abort(self, group_id: str) -> int:
        return await self._groups.abort(group_id)

    async def draw(self, request: GroupRequest, index: int) -> Rollout:
        """See `rollout.groups.Core`."""
        try:
            return await self._ask(lambda done, fail: self._submit(request, index, done, fail))
        except asyncio.CancelledError:
            self._inbox.put(lambda: self._end(request, index))
            raise

    async def stop(self, request: GroupRequest, index: int) -> None:
        """See `rollout.groups.Core`."""
        self._inbox.put(lambda: self._end(request, index))

    async def update_weights(self, update: WeightUpdate) -> WeightConfirmation:
        swap = Swap(self._name, update, self._config)
        await asyncio.to_thread(check_checksum, update)  # generation goes on meanwhile
        return await self._ask(lambda done, fail: self._update(swap, done, fail))

    async def sleep(self) -> None:
        self._groups.check_idle()
        await self._ask(lambda done, fail: done(self._vllm.sleep(SLEEP_LEVEL)))
        self._asleep = True

    async def hidden_state(self, prompt_ids: tuple[int, ...]) -> np.ndarray:
        return await hidden_state(self, prompt_ids, self._config.request_deadline_s)

    async def ask_workers(self, method: str, *arguments: Any) -> list[Any]:
        """Call a method of vLLM's worker class in every worker, between two steps."""
        return await self._ask(lambda done, fail: done(self._vllm.collective_rpc(method, args=arguments)))

    async def metrics(self) -> EngineMetrics:
        return self._stats.metrics(self._groups)

    async def health(self) -> EngineHealth:
        return health_of(
            self._name,
            dead="" if self._lost is None else str(self._lost),
            moved_at=time.perf_counter() if self._in_message else self._stats.last_step_at,
            groups=self._groups,
            stuck_after_s=self._config.stuck_after_s,
        )

    async def close(self) -> None:
        self._closed = True
        self._inbox.put(lambda: None)
        await asyncio.to_thread(self._thread.join)

    async def _ask(self, start: Callable):
        """Run `start(done, fail)` on the engine thread and wait for one of its two callbacks."""
        self._loop = asyncio.get_running_loop()
        future: asyncio.Future = self._loop.create_future()

        def done(value: object) -> None:
            self._answers.append(lambda: future.done() or future.set_result(value))

        def fail(error: BaseException) -> None:
            self._answers.append(lambda: future.done() or future.set_exception(error))

        def guarded() -> None:
            try:
                start(done, fail)
            except BaseException as error:
                fail(error)
                raise

        self._waits.add(fail)
        try:
            if self._lost is not None:  # looked at after `add`: the thread fails all waits after it sets this
                raise self._lost
            self._inbox.put(guarded)
            return await future
        finally:
            self._waits.discard(fail)

    # -- below: the engine thread
    # ---------------------------------------------------------------------------------------

    def _run(self) -> None:
        reason = "it was closed"
        try:
            while not self._closed:
                self._read_inbox(wait=not self._vllm.has_unfinished_requests())
                if self._vllm.has_unfinished_requests():
                    self._step()
                self._answer()
        except BaseException as error:
            log.exception("the engine thread stopped")
            reason = f"its thread stopped on {error!r}"
        self._lost = EngineLostError(f"{self._name} lost its engine, {reason}: start a new worker")
        for fail in list(self._waits):
            fail(self._lost)
        self._answer()

    def _answer(self) -> None:
        """Tell those who wait, all at once: every wake-up of the event loop takes the interpreter from this thread."""
        if self._answers:
            answers, self._answers = self._answers, []
            self._loop.call_soon_threadsafe(_call_all, answers)

    def _read_inbox(self, wait: bool) -> None:
        if wait:
            self._work(self._inbox.get())
        while True:
            try:
                message = self._inbox.get_nowait()
            except queue.Empty:
                return
            self._work(message)

    def _work(self, message: Callable[[], None]) -> None:
        self._in_message = True
        message()
        self._in_message = False

    def _submit(self, request: GroupRequest, index: int, done: Callable, fail: Callable) -> None:
        name = request_id(request.group_id, index)
        drawing = _Drawing(request, index, done, fail)
        try:
            drawing.internal_id = self._vllm.add_request(
                name,
                tokens_input(list(request.prompt_ids)),
                sampling_params(request, self._stop_token_ids),
                priority=request.priority,
            )
        except ValueError as error:  # vLLM's word for a request it does not take; the engine goes on
            fail(RequestError(f"vLLM refuses group {request.group_id}: {error}"))
            return
        self._drawings[name] = drawing

    def _end(self, request: GroupRequest, index: int) -> None:
        """Take a response out of the engine and hand over what it has; nothing where it is finished already."""
        drawing = self._drawings.pop(request_id(request.group_id, index), None)
        if drawing is None:
            return
        state = self._vllm.output_processor.request_states[drawing.internal_id]
        output = state.make_request_output([], None, VllmFinishReason.ABORT, None)
        self._vllm.abort_request([drawing.internal_id], internal=True)
        self._hand_over(drawing, output)

    def _step(self) -> None:
        for output in self._vllm.step():
            if output.finished:
                self._hand_over(self._drawings.pop(output.request_id), output)

    def _hand_over(self, drawing: _Drawing, output: RequestOutput) -> None:
        try:
            kept = self._config.kv_on_update == "keep"
            drawing.done(rollout_of(output.outputs[0], drawing.request, drawing.index, self._decode, 0.0, kept))
        except Exception as error:  # a record that does not add up fails its own group, with these words
            drawing.fail(error)

    def _update(self, swap: Swap, done: Callable, fail: Callable) -> None:
        """The whole swap between two steps. What fails after the inspection ends this thread: the engine is lost."""
        update = swap.update
        if self._asleep:
            self._vllm.wake_up()
            self._asleep = False
        try:
            refuse(self._vllm.collective_rpc("inspect_update", args=(update.version, update.checksum, update.payload)))
        except WeightUpdateError as refused:  # nothing was touched
            fail(refused)
            return
        swap.pauses()
        try:
            taken = self._vllm.collective_rpc("take_update")
            self._vllm.set_weight_version(str(update.version))
            if swap.forgets and not self._vllm.reset_prefix_cache(reset_running_requests=swap.recomputes):
                raise WeightUpdateError("the keys and values of the old weights could not be dropped")
            found = self._vllm.collective_rpc("probe_update", args=(list(update.probe.prompt_ids),))
            done(swap.confirmed(taken, found))
            self._stats.exchanged()
        except Exception as error:
            raise failed(swap, error) from error


def _call_all(callbacks: Sequence[Callable[[], object]]) -> None:
    for callback in callbacks:
        callback()
