"""What the learner says of drawn responses is what transformers' own logits say, in every layout and truncation."""

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from learner.forward import Policy
from learner.model import load_model
from learner.score import score
from rollout.draw.fit import Drawn, recompute
from rollout.draw.truncation import Geometry, TopW, Truncation

TRUNCATIONS = {"none": Truncation(), "top-p": Truncation(top_p=0.9), "top-w": TopW()}


def responses_of(model, truncation, seed: int) -> list[Drawn]:
    """Six greedy responses of two prompts, which share beginnings, at temperatures that differ from token to token."""
    rng = np.random.default_rng(seed)
    found = []
    for index in range(6):
        prompt = (5, 9, 11) if index % 2 else (7,)
        ids = [*prompt]
        for _ in range(3 + index):
            ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
        count = len(ids) - len(prompt)
        found.append(
            Drawn(
                prompt_ids=prompt,
                response_ids=np.array(ids[len(prompt) :], np.int32),
                temperatures=rng.choice(np.array([0.6, 1.0, 1.7], np.float32), count),
                truncation=truncation,
            )
        )
    return found


@pytest.mark.parametrize("layout", ["forest", "padded"])
@pytest.mark.parametrize("truncation", TRUNCATIONS)
@torch.no_grad()
def test_scores_are_those_of_the_models_own_logits(model_path, layout, truncation):
    """Entropy and both log-probabilities agree to 1e-5, though micro-batches share prefixes and hold few tokens."""
    plain = AutoModelForCausalLM.from_pretrained(model_path).eval()
    drawn = responses_of(plain, TRUNCATIONS[truncation], seed=1)
    policy = Policy(load_model(model_path, torch.float32, torch.device("cpu")), layout=layout, head_chunk_mib=1)
    found = score(policy, drawn, micro_batch_tokens=16, seed=0)
    geometry = Geometry.of(plain.get_input_embeddings().weight)
    for one, ours in zip(drawn, found, strict=True):
        ids = torch.tensor([[*one.prompt_ids, *one.response_ids]])
        logits = plain(ids).logits[0, len(one.prompt_ids) - 1 : -1].float()
        theirs = recompute(logits, one, geometry)
        for name in ("entropies", "logprobs", "untempered"):
            np.testing.assert_allclose(getattr(ours, name), getattr(theirs, name), atol=1e-5)
        assert (np.abs(ours.places - theirs.places) <= np.exp(theirs.logprobs) + 1e-5).all()
