from collections.abc import Mapping

import pytest
import torch

from learner.objective import TokenStats


def _token_stats(mask, **given) -> TokenStats:
    """Statistics with the given members; the others are 0 (1 for the temperature)."""
    mask = torch.as_tensor(mask, dtype=torch.bool)
    zeros = torch.zeros(mask.shape, dtype=torch.float64)
    members = {name: zeros.clone() for name in ("advantage", "lp", "lp_old", "lp_sampler", "entropy")} | {
        "temperature": zeros + 1.0,
        "group": torch.zeros(len(mask), dtype=torch.int64),
    }
    for name, value in given.items():
        plain = not (torch.is_tensor(value) or isinstance(value, Mapping))
        members[name] = torch.as_tensor(value, dtype=torch.float64) if plain else value
    return TokenStats(mask=mask, **members)


@pytest.fixture(scope="session")
def token_stats():
    return _token_stats
