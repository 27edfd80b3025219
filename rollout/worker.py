"""RolloutWorker: the Ray actor around one engine. Group requests come in, rollouts go out, weights change in flight.

The class is plain; orchestration turns it into an actor. One actor holds one engine and answers many groups at a time.
"""

import logging
from pathlib import Path

import numpy as np

from rollout.config import RolloutConfig, SpeculativeConfig
from rollout.engine import Engine
from rollout.messages import EngineMetrics, GroupRequest, Probe, Rollout, WeightConfirmation, WeightUpdate

log = logging.getLogger(__name__)


class RolloutWorker:
    """`await start()` first; it builds the engine and warms it up. `model` is a Hugging Face folder."""

    def __init__(self, name: str, config: RolloutConfig, drafting: SpeculativeConfig, model: Path, seed: int) -> None:
        self._name = name
        self._config = config
        self._drafting = drafting
        self._model = model
        self._seed = seed
        self._engine: Engine

    async def start(self) -> str:
        """Load the model; returns the worker's name when it can take requests."""
        from rollout.tokenizer import Tokenizer  # heavy imports happen here, in the actor's own process

        tokenizer = Tokenizer.load(self._model)
        arguments = (
            *(self._config, self._drafting, self._model, self._seed),
            *(tokenizer.stop_token_ids, tokenizer.decode, self._name),
        )
        if self._config.engine == "in_process":
            from rollout.vllm_adapter.in_process import InProcessEngine

            self._engine = InProcessEngine(*arguments)
        else:
            from rollout.vllm_adapter.async_llm import AsyncEngine

            self._engine = await AsyncEngine.start(*arguments)
        log.info("%s is ready with %s", self._name, self._model)
        return self._name

    async def generate(self, request: GroupRequest) -> list[Rollout]:
        """All rollouts of one group; many calls run at the same time."""
        return await self._engine.generate(request)

    async def update_weights(
        self, version: int, checksum: str, probe_ids: tuple[int, ...], probe_entropy: float, payload: np.ndarray
    ) -> WeightConfirmation:
        """Swap the weights under the running requests. `payload`: uint8[bytes], a safetensors file in shared memory."""
        update = WeightUpdate(
            version=version,
            checksum=checksum,
            payload=payload,
            probe=Probe(prompt_ids=probe_ids, entropy=probe_entropy),
        )
        confirmation = await self._engine.update_weights(update)
        log.info("%s draws with v%d (probe error %.1e nats)", self._name, version, confirmation.probe_error)
        return confirmation

    async def metrics(self) -> EngineMetrics:
        return await self._engine.metrics()

    async def close(self) -> None:
        await self._engine.close()
