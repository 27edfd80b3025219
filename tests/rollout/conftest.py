"""One engine of each kind of drafting, shared by the tests that look at how tokens are drawn.

A test names the kinds it wants: `pytest.mark.parametrize("running", [...], indirect=True, scope="session")`. pytest
orders tests so that one engine is up at a time. Whoever changes an engine's weights sets `running.policy`.
"""

from collections.abc import Iterator

import pytest
import torch
from safetensors.torch import load_file, save_file

from rollout.config import RolloutConfig, SpeculativeConfig
from tests.models import random_head, random_mtp_policy, random_policy
from tests.rollout.engines import Running, started

BLUR = 0.02  # noise on the policy's weights that makes its draft model: a third of the drafts pass


@pytest.fixture(scope="session")
def running(request, ray_cluster, tmp_path_factory) -> Iterator[Running]:
    """`request.param`: "none", or method-drafts as in "mtp-greedy"; "async_llm" is "none" on the other engine."""
    method, _, drafts = request.param.partition("-")
    folder = tmp_path_factory.mktemp("policy")
    policy = (
        random_mtp_policy(folder) if method == "mtp" else random_policy(folder, tied=method in ("none", "async_llm"))
    )
    random_head(folder, policy.config.hidden_size)
    draft = folder / "draft"
    if method == "draft_model":
        random_policy(draft)
        generator = torch.Generator().manual_seed(5)
        weights = load_file(draft / "model.safetensors")
        blurred = {name: one + BLUR * torch.randn(one.shape, generator=generator) for name, one in weights.items()}
        save_file(blurred, draft / "model.safetensors", {"format": "pt"})
    config = RolloutConfig(
        engine="async_llm" if method == "async_llm" else "in_process",
        max_model_len=512,
        max_num_seqs=128,
        kv_cache_gib=0.1,
    )
    drafting = SpeculativeConfig(
        method="none" if method == "async_llm" else method,
        drafts=drafts or "probabilistic",
        model=str(draft) if method == "draft_model" else None,
        ngram_min=1,
    )
    with started(folder, policy, config, drafting, f"rollout-{request.param}") as worker:
        yield worker
