"""New weights on their way to the engines: one safetensors payload, its checksum, and a probe of what they compute."""

import numpy as np
import safetensors.torch
import xxhash
from torch import Tensor

from learner.forward import Policy
from learner.messages import Publication
from rollout.draw.distribution import entropy

PROBE_TOKENS = 8


def weights_by_name(policy: Policy) -> dict[str, Tensor]:
    """The weights under their Hugging Face names, on the CPU.

    A tied head appears under its own name as well: vLLM on CPU keeps it as a separate packed layer, and an update that
    names only the embedding leaves the old head in place without a word.
    """
    model = policy.model
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    head, embedding = model.get_output_embeddings().weight, model.get_input_embeddings().weight
    if head is embedding:  # safetensors refuses tensors that share memory
        tied = next(name for name, parameter in model.named_parameters(remove_duplicate=False) if parameter is head)
        shared = [name for name, parameter in model.named_parameters(remove_duplicate=False) if parameter is head]
        tensors.update({name: tensors[tied].clone() for name in shared if name != tied})
    return tensors


def probe_of(policy: Policy) -> tuple[tuple[int, ...], float]:
    """A fixed prompt, and the entropy in nats of what the policy says comes after it."""
    vocabulary = policy.model.config.get_text_config().vocab_size
    probe_ids = tuple((i + 1) * vocabulary // (PROBE_TOKENS + 1) for i in range(PROBE_TOKENS))
    return probe_ids, float(entropy(policy.next_token_logits(probe_ids)))


def publication(policy: Policy, version: int, probe: tuple[tuple[int, ...], float]) -> tuple[Publication, np.ndarray]:
    """The record and its payload, uint8 [bytes]: a safetensors file."""
    payload = np.frombuffer(safetensors.torch.save(weights_by_name(policy)), np.uint8)
    probe_ids, probe_entropy = probe
    return Publication(
        version=version,
        checksum=xxhash.xxh3_128_hexdigest(payload),
        probe_ids=probe_ids,
        probe_entropy=probe_entropy,
    ), payload
