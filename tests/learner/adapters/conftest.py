"""Adapted models whose additions are far from 0, so that a mistake shows, and learners that train them."""

import copy
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from learner.adapters import Adapter, attach
from learner.config import LearnerConfig
from learner.objective import Objective
from learner.objective.advantage import GroupMean
from learner.objective.aggregate import TokenMean
from learner.objective.filters import MixedGroupsOnly
from learner.objective.surrogate import Clipped
from learner.worker import LearnerWorker

OBJECTIVE = Objective(
    advantage=GroupMean(),
    surrogate=Clipped(eps_hi=0.28),
    aggregate=TokenMean(),
    filters={"mixed": MixedGroupsOnly()},
)


@pytest.fixture(scope="session")
def base(model_path):
    """The model without adapters, as transformers loads it."""
    return AutoModelForCausalLM.from_pretrained(model_path, attn_implementation="sdpa").eval()


def shaken(model, scale=0.3):
    """Every trainable parameter far from where it starts."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.normal_(0, scale, generator=generator)
    return model


@pytest.fixture(scope="session")
def adapted(base):
    """(adapter, scale) -> a copy of the model with the adapter on it; at scale 0 as the adapter starts."""

    def adapted(adapter: Adapter, scale: float = 0.3):
        model = copy.deepcopy(base)
        attach(model, adapter, seed=0)
        return shaken(model, scale) if scale else model

    return adapted


@pytest.fixture
def start(model_path, free_port):
    """(adapter, **changes of the configuration) -> a learner of one rank."""

    def start(adapter: Adapter | None, objective=OBJECTIVE, path: Path = model_path, **changes) -> LearnerWorker:
        settings = {"lr": 1e-2, "mismatch_kl_limit": 1e9, "adapter": adapter} | changes
        return LearnerWorker(path, LearnerConfig(**settings), objective, 0, 1, "127.0.0.1", free_port, 0, 100)

    return start


@pytest.fixture(scope="session")
def tokens():
    return torch.randint(0, 61, (3, 9), generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="session")
def logits():
    """(model, tokens) -> float32 logits."""

    @torch.no_grad()
    def logits(model, tokens):
        return model(input_ids=tokens, use_cache=False).logits.float()

    return logits


@pytest.fixture(scope="session")
def linear():
    """A frozen layer and inputs of some tokens, in float64: (layer [5, 7], x [11, 7])."""
    generator = torch.Generator().manual_seed(3)
    layer = torch.nn.Linear(7, 5, dtype=torch.float64)
    with torch.no_grad():
        layer.weight.normal_(generator=generator)
        layer.bias.normal_(generator=generator)
    return layer.requires_grad_(False), torch.randn(11, 7, dtype=torch.float64, generator=generator)


@pytest.fixture(scope="session")
def shake():
    return shaken
