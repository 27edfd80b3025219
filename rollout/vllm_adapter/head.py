"""IntroLLM's temperature head inside vLLM, for any architecture: it reads what the output layer reads.

    hidden states of the rows that are sampled from --output layer--> logits
                 '--TemperatureHead--> u --> change, z of each row --chain within its request--> temperature

Seam of vLLM 0.32 (V1 runner): every architecture ends in a `LogitsProcessor`, called once a step with the output layer
and the hidden states of exactly the rows of the draw, after the last norm (which some models apply inside
`compute_logits`). A hook on it looks at them; the model's class is left alone. Check:
tests/rollout/test_exactness_in_vllm.py.

The temperature of the token before is the state of a request. It is kept by response position, and each step looks up
the position it draws: rows after a rejected draft, of a prompt's unfinished chunk, or of a step that is repeated are
overwritten, and what was emitted is never drawn again.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from rollout.draw.learned import (
    HEAD_FILE,
    HEAD_PREFIX,
    Learned,
    TemperatureHead,
    action_logprob,
    chain,
    draw_actions,
    z_of,
)
from rollout.draw.verify import DraftLayout
from rollout.errors import RequestError, RolloutError
from rollout.messages import GroupRequest

TAP = "temperature_tap"  # attribute of a model that has a head

Tensors = dict[str, Tensor]


@dataclass(frozen=True, slots=True)
class Actions:
    """What the head did at each row [rows]; where it was not asked, no change and a logprob of 0."""

    changes: Tensor  # bool
    logprobs: Tensor  # float32 nats


class Taus:
    """The temperatures of one request's response so far. `state`: vLLM's of the request, which knows its tokens."""

    def __init__(self, policy: Learned, state: Any) -> None:
        self.policy = policy
        self._state = state
        self._by_position: list[float] = []

    def before(self) -> float:
        """Of the token before the one that is drawn next."""
        position = len(self._state.output_token_ids)
        if position > len(self._by_position):
            raise RuntimeError(
                f"token {position} of a response is drawn by the temperature head, but only {len(self._by_position)}"
                " temperatures are known: the runner lost a request's state"
            )
        return self._by_position[position - 1] if position else self.policy.tau_0

    def write(self, taus: Sequence[float]) -> None:
        """Of the rows of this step, emitted or not: the next step begins behind the last one that was."""
        self._by_position[len(self._state.output_token_ids) :] = taus


class HeadTap:
    """A head, and the hidden states that a hook on the model's logits processor last saw."""

    def __init__(self, head: TemperatureHead) -> None:
        self.head = head
        self.hidden: Tensor | None = None  # [rows, hidden size]

    def look(self, processor: nn.Module, arguments: tuple, named: dict[str, Any]) -> None:
        """Forward pre-hook of LogitsProcessor(lm_head, hidden_states, ...)."""
        self.hidden = named["hidden_states"] if "hidden_states" in named else arguments[1]

    def act(self, requests: Sequence[Taus | None], counts: Sequence[int] | None, temperatures: Tensor) -> Actions:
        """Draw the temperatures of the rows of `requests` that have `Taus`, and write them into `temperatures` [rows].

        `counts` rows of each request in turn (None: one each).
        """
        if self.hidden is None or len(self.hidden) != len(temperatures):
            found = None if self.hidden is None else len(self.hidden)
            raise RuntimeError(f"the temperature head has {found} hidden states for {len(temperatures)} rows of logits")
        counts = counts or [1] * len(requests)
        changes = torch.zeros_like(temperatures, dtype=torch.bool)
        logprobs = torch.zeros_like(temperatures)
        for policy in {taus.policy for taus in requests if taus is not None}:
            mine, rows, start = [], [], 0
            for taus, count in zip(requests, counts, strict=True):
                if taus is not None and taus.policy == policy:
                    mine.append((taus, count))
                    rows.extend(range(start, start + count))
                start += count
            index = torch.tensor(rows, device=temperatures.device)
            u = self.head(self.hidden[index])
            change, z = draw_actions(u, policy)
            tau = _chained(change, z, mine, policy)
            temperatures[index] = tau
            changes[index] = change
            logprobs[index] = action_logprob(u, change, z_of(tau, policy), policy)
        return Actions(changes, logprobs)

    def load(self, tensors: Tensors) -> None:
        """`tensors` by name without the prefix. Raises RolloutError where they are not this head's."""
        expected = {name: tuple(one.shape) for name, one in self.head.state_dict().items()}
        found = {name: tuple(one.shape) for name, one in tensors.items()}
        if found != expected:
            raise RolloutError(
                f"the temperature head should have {expected}, got {found}: it belongs to a model of another width,"
                " or a tensor is missing"
            )
        self.head.load_state_dict(tensors)


def _chained(change: Tensor, z: Tensor, mine: Sequence[tuple[Taus, int]], policy: Learned) -> Tensor:
    """tau [rows] of the rows of `mine`, request after request; each request's state is written.

    Requests have different numbers of rows: the last row of a short one is repeated, which repeats its tau.
    """
    table = DraftLayout.of([count - 1 for _, count in mine], change.device).rows
    previous = torch.tensor([taus.before() for taus, _ in mine], device=change.device)
    chained = chain(change[table], z[table], previous, policy)
    for (taus, count), values in zip(mine, chained.tolist(), strict=True):
        taus.write(values[:count])
    tau = torch.empty_like(z)
    tau[table.flatten()] = chained.flatten()
    return tau


def install(runner: Any) -> HeadTap | None:
    """Tap the loaded model of a V1 runner, or None for one without an output layer as vLLM's are.

    The head is the model folder's, or one that was never trained.
    """
    from vllm.lora.layers import LogitsProcessorWithLoRA
    from vllm.model_executor.layers.logits_processor import LogitsProcessor

    model, config = runner.get_model(), runner.model_config
    processors = [one for one in model.modules() if isinstance(one, (LogitsProcessor, LogitsProcessorWithLoRA))]
    if not processors:
        return None
    with torch.random.fork_rng(devices=[]):  # the engine draws the same with and without a head
        head = TemperatureHead(config.get_hidden_size()).to(runner.device).requires_grad_(False)
    tap = HeadTap(head)
    for processor in processors:
        processor.register_forward_pre_hook(tap.look, with_kwargs=True)
    setattr(model, TAP, tap)
    file = Path(config.model) / HEAD_FILE
    if file.is_file():
        take_head(model, safetensors.torch.load_file(file))
    return tap


def check_learned(request: GroupRequest, why_not: str) -> None:
    """Raise RequestError for a learned temperature on an engine that has a reason not to draw it; empty is none."""
    if why_not and "hidden" in request.temperature.needs:
        raise RequestError(
            f"group {request.group_id} asks for a learned temperature, which this engine cannot draw, as {why_not}:"
            " choose another temperature policy"
        )


def tap_of(model: nn.Module) -> HeadTap | None:
    """None for a model without a head, such as a drafter."""
    return getattr(model, TAP, None)


def take_head(model: nn.Module, tensors: Tensors) -> Tensors:
    """Weights on their way into `model` -> the same without the head's, which the head takes, if the model has one.

    Every weight update passes here, before `model.load_weights`: no architecture knows the head's names. For a drafter,
    which has no head, they are only left out.
    """
    mine = {name.removeprefix(HEAD_PREFIX): one for name, one in tensors.items() if name.startswith(HEAD_PREFIX)}
    tap = tap_of(model)
    if mine and tap is not None:
        tap.load(mine)
    return without_head(tensors)


def without_head(tensors: Tensors) -> Tensors:
    """The tensors that a model's own `load_weights` knows."""
    return {name: one for name, one in tensors.items() if not name.startswith(HEAD_PREFIX)}
