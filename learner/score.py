"""What the learner's own forward says of drawn responses, before anything is trained: for the start-up check.

drawn responses --the training forward (micro-batches, shared prefixes)--> hidden states --head, in chunks--> Recomputed
"""

from collections.abc import Sequence

import numpy as np
import torch

from learner.batch import Trained, shares
from learner.forward import Policy
from learner.messages import TrainSample
from rollout.draw.fit import Drawn, Recomputed, recompute
from rollout.draw.truncation import Geometry, TopW


@torch.no_grad()
def score(policy: Policy, responses: Sequence[Drawn], micro_batch_tokens: int, seed: int) -> list[Recomputed]:
    """One Recomputed per response; `seed` is that of the random fractions in their places."""
    samples = Trained(samples=tuple(map(_sample, responses)), advantages=np.zeros(len(responses)))
    generator = torch.Generator().manual_seed(seed)
    geometry = None
    if any(isinstance(one.truncation, TopW) for one in responses):
        geometry = Geometry.of(policy.model.get_input_embeddings().weight)
    head = policy.model.get_output_embeddings()  # called as a module, by which ZeRO-3 notices that it needs weights
    found: dict[int, Recomputed] = {}
    for share in shares(samples.samples, 1, micro_batch_tokens)[0]:
        micro = policy.micro_batch(samples, share)
        hidden = policy.hidden_states(micro)
        node_of = torch.empty(micro.mask.numel(), dtype=torch.int64, device=hidden.device)  # by place in [seq, tok]
        node_of[micro.places] = micro.picks.row_nodes[micro.picks.rows]
        for row, index in enumerate(share.indices):
            nodes = node_of.view(micro.mask.shape)[row, : len(responses[index].response_ids)]
            logits = head(hidden[nodes]).float()
            found[index] = recompute(logits, responses[index], geometry, generator)
    return [found[index] for index in range(len(responses))]


def _sample(drawn: Drawn) -> TrainSample:
    ones = np.ones(len(drawn.response_ids), np.float32)
    return TrainSample(
        group=0,
        prompt_ids=np.asarray(drawn.prompt_ids, np.int32),
        response_ids=drawn.response_ids,
        sampler_logprobs=ones,
        temperatures=ones,
        entropies=ones,
        versions=np.zeros(len(ones), np.int32),
        reward=0.0,
        unshaped=0.0,
    )
