"""RolloutWorker: the Ray actor around one engine. Group requests come in, rollouts go out one by one, weights change in
flight.

The class is plain; orchestration turns it into an actor. One actor holds one engine and answers many groups at a time.
"""

import logging
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from rollout.config import RolloutConfig, SpeculativeConfig
from rollout.engine import Engine
from rollout.errors import RolloutError
from rollout.messages import (
    EngineHealth,
    EngineMetrics,
    GroupRequest,
    Probe,
    Rollout,
    WeightConfirmation,
    WeightUpdate,
)
from rollout.strategies import OTHER_MODEL, Plain, Resources, RolloutSource, RolloutStrategy

if TYPE_CHECKING:
    from rollout.tokenizer import Tokenizer

log = logging.getLogger(__name__)

PLAIN = Plain()


class RolloutWorker:
    """`await start()` first; it builds the engine and warms it up. `model` is a Hugging Face folder."""

    def __init__(
        self,
        name: str,
        config: RolloutConfig,
        drafting: SpeculativeConfig,
        model: Path,
        seed: int,
        strategy: RolloutStrategy = PLAIN,
    ) -> None:
        self._name = name
        self._config = config
        self._drafting = drafting
        self._model = model
        self._seed = seed
        self._strategy = strategy
        self._version = 0
        self._engine: Engine
        self._other: Engine | None = None  # of a strategy with a second model
        self._resources: Resources
        self._source: RolloutSource  # the strategy at work

    async def start(self) -> str:
        """Load the model; returns the worker's name when it can take requests."""
        from transformers import AutoConfig  # heavy imports happen here, in the actor's own process

        from rollout.tokenizer import Tokenizer

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
        if OTHER_MODEL in self._strategy.needs:
            self._other = await self._start_other(tokenizer)
        self._resources = Resources(
            policy=self._engine,
            other=self._other,
            encode=tokenizer.encode,
            decode=tokenizer.decode,
            vocab_size=AutoConfig.from_pretrained(self._model).get_text_config().vocab_size,
            version=lambda: self._version,
            deadline_s=self._config.request_deadline_s,
            hidden=self._engine.hidden_state,
        )
        self._source = self._strategy.over(self._resources)
        log.info("%s is ready with %s", self._name, self._model)
        return self._name

    async def generate(self, request: GroupRequest) -> AsyncIterator[Rollout]:
        """Each rollout of a group as it finishes; many calls run at the same time. What is trained, by the strategy."""
        async with aclosing(self._source_of(request.trained).generate(request)) as rollouts:
            async for rollout in rollouts:
                yield rollout

    async def abort(self, group_id: str) -> int:
        """End a group early: its `generate` yields what there is, and can go on later as GroupRequest.partial."""
        return await self._source.abort(group_id) or await self._engine.abort(group_id)

    async def update_weights(
        self,
        version: int,
        checksum: str,
        probe_ids: tuple[int, ...],
        probe_entropy: float,
        payload: np.ndarray | str | bytes,
    ) -> WeightConfirmation:
        """Swap the weights under the running requests. `payload`: see WeightUpdate."""
        update = WeightUpdate(
            version=version,
            checksum=checksum,
            payload=payload,
            probe=Probe(prompt_ids=probe_ids, entropy=probe_entropy),
        )
        confirmation = await self._engine.update_weights(update)
        self._version = version
        log.info("%s draws with v%d (probe error %.1e nats)", self._name, version, confirmation.probe_error)
        return confirmation

    async def sleep(self) -> None:
        """See `rollout.engine.Engine`."""
        await self._engine.sleep()

    async def hidden_state(self, prompt_ids: tuple[int, ...]) -> np.ndarray:
        """float32 [hidden size] of the policy behind a prompt, for whoever trains a probe on them."""
        return await self._engine.hidden_state(prompt_ids)

    async def metrics(self) -> EngineMetrics:
        return await self._engine.metrics()

    async def health(self) -> EngineHealth:
        """Answers at once: whoever gets no answer may take the worker for lost."""
        health = await self._engine.health()
        return health if self._other is None or not health.well else await self._other.health()

    async def close(self) -> None:
        await self._engine.close()
        if self._other is not None:
            await self._other.close()

    def _source_of(self, trained: bool) -> RolloutSource:
        """Evaluation and self-check look at the policy itself."""
        return self._source if trained else self._engine

    async def _start_other(self, tokenizer: "Tokenizer") -> Engine:
        """The strategy's second model, in a process of its own: two engine cores in one process corrupt its memory."""
        from rollout.vllm_adapter.async_llm import AsyncEngine

        folder = Path(self._strategy.other_model)
        if tokenizer.load(folder).vocabulary != tokenizer.vocabulary:
            raise RolloutError(
                f"strategy.other_model={folder} has another vocabulary than the policy in {self._model}, so neither can"
                " go on with the other's tokens: choose two models of one family"
            )
        config = replace(self._config, engine="async_llm")
        name = f"{self._name}-other"
        return await AsyncEngine.start(
            *(config, SpeculativeConfig(), folder, self._seed, tokenizer.stop_token_ids, tokenizer.decode, name)
        )
