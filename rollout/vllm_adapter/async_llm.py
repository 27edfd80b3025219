"""Engine on vLLM's AsyncLLM: the engine core lives in a process of its own, as vLLM serves on GPUs.

    generate() --> AsyncLLM --> [core process: schedule, forward, draw] --> Rollout
    update_weights(): pause(keep) -> load from a file in shared memory -> resume; requests in flight go on

Slower to start than `in_process`, but decoding overlaps with everything else this process does.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from vllm.distributed.weight_transfer.base import WeightTransferInitRequest, WeightTransferUpdateRequest
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.v1.engine.async_llm import AsyncLLM

from rollout.config import RolloutConfig, SpeculativeConfig
from rollout.messages import EngineMetrics, GroupRequest, Rollout, WeightConfirmation, WeightUpdate
from rollout.vllm_adapter.probe import FIRST, check_checksum, check_probe, probe_request
from rollout.vllm_adapter.record import rollout_of
from rollout.vllm_adapter.requests import check_length, request_id, sampling_params
from rollout.vllm_adapter.start import engine_arguments
from rollout.vllm_adapter.weights import spooled, update_sessions

SHARED_MEMORY = Path("/dev/shm")


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
        engine._running = 0
        engine._generated_tokens = 0
        engine._busy_s = 0.0
        engine._busy_since = 0.0
        return engine

    async def generate(self, request: GroupRequest) -> list[Rollout]:
        check_length(request, self._config.max_model_len)
        return list(await asyncio.gather(*(self._sample(request, index) for index in range(request.n))))

    async def _sample(self, request: GroupRequest, index: int) -> Rollout:
        began = time.perf_counter()
        if self._running == 0:
            self._busy_since = began
        self._running += 1
        try:
            async for output in self._vllm.generate(
                {"prompt_token_ids": list(request.prompt_ids)},
                sampling_params(request, self._stop_token_ids),
                request_id=request_id(request.group_id, index),
                priority=request.priority,
            ):
                final = output
        finally:
            self._running -= 1
            if self._running == 0:
                self._busy_s += time.perf_counter() - self._busy_since
        seconds = time.perf_counter() - began
        rollout = rollout_of(final.outputs[0], request, index, self._decode, seconds)
        self._generated_tokens += len(rollout.response_ids)
        return rollout

    async def update_weights(self, update: WeightUpdate) -> WeightConfirmation:
        began = time.perf_counter()
        check_checksum(update)
        file = spooled(update.payload, SHARED_MEMORY, update.version)
        recompute = self._config.kv_on_update == "recompute"
        try:
            await self._vllm.pause_generation(mode="keep", clear_cache=recompute)
            for start in update_sessions(update.payload):
                await self._vllm.collective_rpc(start)
                await self._vllm.update_weights(WeightTransferUpdateRequest(update_info={"path": str(file)}))
                await self._vllm.finish_weight_update(weight_version=str(update.version))
            await self._vllm.resume_generation()
        finally:
            file.unlink()
        probe = (await self.generate(probe_request(update, priority=FIRST)))[0]
        return WeightConfirmation(
            worker=self._name,
            version=update.version,
            checksum=update.checksum,
            probe_error=check_probe(update, probe, self._config.probe_tolerance, self._name),
            seconds=time.perf_counter() - began,
        )

    async def metrics(self) -> EngineMetrics:
        busy_s = self._busy_s + (time.perf_counter() - self._busy_since if self._running else 0.0)
        return EngineMetrics(generated_tokens=self._generated_tokens, running=self._running, busy_s=busy_s)

    async def close(self) -> None:
        self._vllm.shutdown()
