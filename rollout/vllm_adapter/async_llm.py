"""Engine on vLLM's AsyncLLM: the engine core lives in a process of its own, as vLLM serves on GPUs.

    groups.py --draw--> AsyncLLM --> [core process: schedule, forward, draw] --> Rollout --> groups.py
    update_weights(): pause(keep) -> load from a file in shared memory -> resume; requests in flight go on

Slower to start than `in_process`, but decoding overlaps with everything else this process does. When the core process
dies, vLLM's watcher sees it at once and every call that waits ends with EngineLostError.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from vllm.distributed.weight_transfer.base import WeightTransferInitRequest
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.inputs.engine import tokens_input
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError

from rollout.config import RolloutConfig, SpeculativeConfig
from rollout.errors import EngineLostError, RequestError, RolloutError
from rollout.groups import Groups
from rollout.health import health_of
from rollout.messages import EngineHealth, EngineMetrics, GroupRequest, Rollout, WeightConfirmation, WeightUpdate
from rollout.vllm_adapter.hidden import hidden_state
from rollout.vllm_adapter.record import rollout_of
from rollout.vllm_adapter.requests import check_request, request_id, sampling_params
from rollout.vllm_adapter.start import SLEEP_LEVEL, engine_arguments
from rollout.vllm_adapter.stats import watch
from rollout.vllm_adapter.weights.payload import check_checksum, within_reach
from rollout.vllm_adapter.weights.swap import Swap, failed, refuse


class AsyncEngine:
    """See `rollout.engine.Engine`. Must be created inside a running event loop (`await AsyncEngine.start(...)`)."""

    @classmethod
    async def start(
        cls,
        config: RolloutConfig,
        drafting: SpeculativeConfig,
        model: Path,
        seed: int,
        stop_token_ids: Sequence[int],
        decode: Callable[[Sequence[int]], str],
        name: str = "rollout-0",
    ) -> "AsyncEngine":
        engine = cls()
        engine._config = config
        engine._name = name
        engine._stop_token_ids = stop_token_ids
        engine._decode = decode
        engine._vllm = AsyncLLM.from_engine_args(AsyncEngineArgs(**engine_arguments(config, drafting, model, seed)))
        await engine._vllm.init_weight_transfer_engine(WeightTransferInitRequest(init_info={}))
        await engine._vllm.update_weight_version("0")
        [engine._why_not_learned, *_] = await engine._vllm.collective_rpc("why_not_learned")
        await engine._vllm.get_supported_tasks()  # vLLM asks once; from here on a request enters without waiting
        engine._asleep = False
        engine._asked = 0  # calls to the workers that run: a weight update takes its time, and has its own deadline
        engine._lost = f"{name} lost its engine, whose process is gone: start a new worker"
        engine._groups = Groups(engine, config.max_num_seqs + config.max_queued_seqs, config.request_deadline_s, decode)
        engine._stats = watch(engine._vllm, engine._groups.admission)
        return engine

    def generate(self, request: GroupRequest) -> AsyncIterator[Rollout]:
        check_request(request, self._config.max_model_len, self._why_not_learned)
        return self._groups.generate(request)

    async def abort(self, group_id: str) -> int:
        return await self._groups.abort(group_id)

    async def draw(self, request: GroupRequest, index: int) -> Rollout:
        """See `rollout.groups.Core`. vLLM itself ends the response when this is cancelled."""
        try:
            async for output in self._vllm.generate(
                tokens_input(list(request.prompt_ids)),
                sampling_params(request, self._stop_token_ids),
                request_id=request_id(request.group_id, index),
                priority=request.priority,
            ):
                final = output
        except EngineDeadError as dead:
            raise EngineLostError(self._lost) from dead
        except ValueError as error:  # vLLM's word for a request it does not take
            raise RequestError(f"vLLM refuses group {request.group_id}: {error}") from error
        except EngineGenerateError as error:
            raise RolloutError(f"vLLM failed on group {request.group_id}: {error.__cause__!r}") from error
        kept = self._config.kv_on_update == "keep"
        return rollout_of(final.outputs[0], request, index, self._decode, 0.0, kept)

    async def stop(self, request: GroupRequest, index: int) -> None:
        """See `rollout.groups.Core`."""
        await self._vllm.abort(request_id(request.group_id, index))

    async def update_weights(self, update: WeightUpdate) -> WeightConfirmation:
        swap = Swap(self._name, update, self._config)
        await asyncio.to_thread(check_checksum, update)  # generation goes on meanwhile
        return await asyncio.shield(self._swap(swap))  # whoever stops waiting does not stop it halfway

    async def _swap(self, swap: Swap) -> WeightConfirmation:
        """Pause, update, prove, resume. What fails after the inspection ends the engine process: the engine is lost."""
        update, vllm = swap.update, self._vllm
        if self._asleep:
            await vllm.wake_up()
            self._asleep = False
        with within_reach(update.payload, update.version) as file:
            refuse(await self.ask_workers("inspect_update", update.version, update.checksum, file))
            swap.pauses()
            try:
                await vllm.pause_generation(mode="keep", clear_cache=swap.forgets)
                taken = await self.ask_workers("take_update")
                await vllm.update_weight_version(str(update.version))
                found = await self.ask_workers("probe_update", list(update.probe.prompt_ids))
                confirmation = swap.confirmed(taken, found)
                await vllm.resume_generation()
                self._stats.exchanged()
                return confirmation
            except Exception as error:
                vllm.output_processor.propagate_error(EngineDeadError())  # to every response that waits
                vllm.shutdown()
                raise failed(swap, error) from error

    async def sleep(self) -> None:
        self._groups.check_idle()
        await self._vllm.sleep(SLEEP_LEVEL)
        self._asleep = True

    async def hidden_state(self, prompt_ids: tuple[int, ...]) -> np.ndarray:
        return await hidden_state(self, prompt_ids, self._config.request_deadline_s)

    async def ask_workers(self, method: str, *arguments: Any) -> list[Any]:
        """Call a method of vLLM's worker class in every worker."""
        self._asked += 1
        try:
            return await self._vllm.collective_rpc(method, args=arguments)
        except EngineDeadError as dead:
            raise EngineLostError(self._lost) from dead
        finally:
            self._asked -= 1

    async def metrics(self) -> EngineMetrics:
        return self._stats.metrics(self._groups)

    async def health(self) -> EngineHealth:
        return health_of(
            self._name,
            dead=self._lost if self._vllm.errored else "",
            moved_at=time.perf_counter() if self._asked else self._stats.last_step_at,
            groups=self._groups,
            stuck_after_s=self._config.stuck_after_s,
        )

    async def close(self) -> None:
        self._vllm.shutdown()
