"""What an update does inside vLLM's worker processes; mixed into the worker class, called by `collective_rpc`.

inspect_update   open, read and rehearse, on every rank; nothing is touched, so a refusal leaves the old version
take_update      the policy, then its drafting layers; what fails here leaves a mix: the engine is unusable then
probe_update     a forward pass with the new weights outside of the schedule, while generation stands still
"""

from collections.abc import Collection, Iterator
from math import ceil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from vllm import SamplingParams
from vllm.v1.core.sched.output import NewRequestData, SchedulerOutput

from rollout.draw.distribution import entropy
from rollout.errors import WeightUpdateError
from rollout.vllm_adapter.head import HEAD_PREFIX, HeadTap, take_head, tap_of
from rollout.vllm_adapter.weights.adapter import merged
from rollout.vllm_adapter.weights.backend import register
from rollout.vllm_adapter.weights.broadcast import Subscriber, is_offer
from rollout.vllm_adapter.weights.gpu_memory import borrowed
from rollout.vllm_adapter.weights.payload import Payload, opened, read
from rollout.vllm_adapter.weights.rehearsal import Rehearsal, rehearse

PROBE = "temper-probe"
SPARE_BLOCK = 0  # vLLM gives it to no request: what the probe writes there, nobody reads
DRAFTS_WITH_POLICY = "mtp"  # the speculative method whose drafter is trained and published with the policy
DRAFTING_LAYERS = "mtp"  # in the names of its layers
SHOWN = 4  # names in a message
LONGEST_REASON = 200  # characters; vLLM lists every parameter of a layer


class WeightReceiver:
    """For vLLM's worker classes. What goes in and out are plain values, as they may cross to another process."""

    _subscriber: Subscriber
    _incoming: dict[str, Tensor]
    _policy_takes: Rehearsal
    _drafter_takes: Rehearsal | None

    def load_model(self, *arguments: Any, **named: Any) -> None:
        register()
        super().load_model(*arguments, **named)
        engine = f"{self.vllm_config.instance_id} {self.distributed_init_method}"
        self._subscriber = Subscriber(engine, self.rank, self.parallel_config.world_size, self.device)

    def inspect_update(self, version: int, checksum: str, payload: Any) -> str:
        """Empty, or the sentence that says why this update must not be taken. `payload`: see WeightUpdate."""
        try:
            if isinstance(payload, bytes) and is_offer(payload):
                self._incoming = self._whole(self._subscriber.fetch(payload, checksum, version), version)
            elif isinstance(payload, bytes):
                self._incoming = borrowed(payload, checksum, version, self.device)
            else:
                self._incoming = self._whole(read(opened(payload, version), version), version)
            self._policy_takes = self._inspect_policy(version)
            self._drafter_takes = self._inspect_drafter(version)
        except WeightUpdateError as refusal:
            return f"{refusal}; the engine keeps the version it has"
        return ""

    def take_update(self) -> list[list[int] | None]:
        """Load what was inspected; [parameters, bytes] of the policy and, if they are new, of its drafting layers."""
        self.start_weight_update()
        self._take(self.get_model())
        if self._drafter_takes is not None:
            self.start_draft_weight_update()
            self._take(self.get_draft_model())
        del self._incoming
        return [
            [one.parameters, one.bytes] if one is not None else None
            for one in (self._policy_takes, self._drafter_takes)
        ]

    def _whole(self, payload: Payload, version: int) -> dict[str, Tensor]:
        if not payload.is_adapter:
            return payload.tensors
        config = self.model_config
        adapter = {name: one.cpu() for name, one in payload.tensors.items()}  # the base is read there
        return merged(Path(config.model), adapter, version, tied=config.hf_text_config.tie_word_embeddings)

    def _take(self, model: nn.Module) -> None:
        self.update_weights({"tensors": take_head(model, self._incoming)})
        self.finish_weight_update()

    @torch.inference_mode()
    def probe_update(self, prompt_ids: list[int]) -> float:
        """Entropy in nats, at T = 1, of what the engine draws after `prompt_ids`.

        The runner is stepped by hand with one request of its own. Those of the engine leave the batch and come back
        with the next real step, as after any step that did not schedule them.
        """
        runner = self.model_runner
        step = SchedulerOutput.make_empty()
        step.scheduled_new_reqs.append(
            NewRequestData(
                req_id=PROBE,
                prompt_token_ids=prompt_ids,
                mm_features=[],
                sampling_params=SamplingParams(max_tokens=1),
                pooling_params=None,
                block_ids=tuple(
                    [SPARE_BLOCK] * ceil(len(prompt_ids) / group.kv_cache_spec.block_size)
                    for group in runner.kv_cache_config.kv_cache_groups
                ),
                num_computed_tokens=0,
                lora_request=None,
                prefill_token_ids=prompt_ids,
            )
        )
        step.num_scheduled_tokens[PROBE] = step.total_num_scheduled_tokens = len(prompt_ids)
        runner.execute_model(step)
        found = float(entropy(_logits(runner)[-1].float()))
        runner.execute_model_state = None  # nothing is drawn
        over = SchedulerOutput.make_empty()
        over.finished_req_ids.add(PROBE)
        runner.execute_model(over)
        return found

    def _inspect_policy(self, version: int) -> Rehearsal:
        model = self.get_model()
        tensors = self._incoming
        self._inspect_head(tap_of(model), version)
        found = _rehearsed(model, tensors, version, "policy")
        if found.missing:
            raise WeightUpdateError(
                f"weights v{version} would leave {_listed(found.missing)} of the policy at an old version: the learner"
                " must publish every tensor, a head tied to the embedding under its own name as well"
            )
        return found

    def _inspect_head(self, tap: HeadTap | None, version: int) -> None:
        brought = {
            name.removeprefix(HEAD_PREFIX): tuple(one.shape)
            for name, one in self._incoming.items()
            if name.startswith(HEAD_PREFIX)
        }
        if not brought:
            return
        expected = {name: tuple(one.shape) for name, one in tap.head.state_dict().items()} if tap is not None else {}
        if brought != expected:
            raise WeightUpdateError(
                f"weights v{version} bring a temperature head of shapes {brought}, the engine's has {expected}"
            )

    def _inspect_drafter(self, version: int) -> Rehearsal | None:
        """None where there is no drafter, or the update has nothing for the layers that are its own."""
        speculation = self.model_runner.speculative_config
        if speculation is None or speculation.method != DRAFTS_WITH_POLICY:
            return None
        tensors = self._incoming
        found = _rehearsed(self.get_draft_model(), tensors, version, "drafter", set(self.get_model().modules()))
        if not found.bytes and not any(DRAFTING_LAYERS in name for name in tensors):
            return None
        if found.missing:
            raise WeightUpdateError(
                f"weights v{version} bring drafting layers but would leave {_listed(found.missing)} of the drafter at"
                " an old version: the learner must publish all of them, by the names of the checkpoint, or none"
            )
        return found


def _logits(runner: Any) -> Tensor:
    """Of the step that has just been executed; Model Runner V2 computes them only when it samples (not run)."""
    state = runner.execute_model_state
    if hasattr(state, "logits"):
        return state.logits
    return runner.model.compute_logits(state.hidden_states[state.input_batch.logits_indices])


def _rehearsed(
    model: nn.Module, tensors: dict[str, Tensor], version: int, role: str, shared: Collection[nn.Module] = ()
) -> Rehearsal:
    """Raises WeightUpdateError where a name or shape is not one of the model's."""
    at = ""

    def one_by_one() -> Iterator[tuple[str, Tensor]]:
        nonlocal at
        for name, tensor in tensors.items():
            if not name.startswith(HEAD_PREFIX):
                at = f"{name} {list(tensor.shape)}"
                yield name, tensor

    try:
        return rehearse(model, one_by_one(), shared)
    except (ValueError, KeyError, RuntimeError, AssertionError) as error:  # as the loaders of vLLM's models raise them
        reason = " ".join(str(error).split())[:LONGEST_REASON] or "not the shape it has"
        raise WeightUpdateError(f"weights v{version} do not fit the engine's {role} at {at}: {reason}") from error


def _listed(names: tuple[str, ...]) -> str:
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
