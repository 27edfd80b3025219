"""The pure maths of a draw, against slow float64 arithmetic."""

import math

import pytest
import torch

from rollout.draw.distribution import entropy, tempered_logprob
from rollout.draw.temperature import EntropyLinear, Fixed, from_wire, to_wire


def slow_softmax(logits: list[float], temperature: float) -> list[float]:
    weights = [math.exp(z / temperature) for z in logits]
    return [weight / sum(weights) for weight in weights]


LOGITS = [[2.0, -1.0, 0.5, 0.0], [0.0, 0.0, 0.0, 0.0], [9.0, -3.0, 1.0, 8.0]]


def test_entropy_is_minus_sum_p_log_p():
    """Entropy agrees with -sum p ln p computed term by term."""
    expected = [-sum(p * math.log(p) for p in slow_softmax(row, 1.0)) for row in LOGITS]
    assert entropy(torch.tensor(LOGITS)).tolist() == pytest.approx(expected, abs=1e-6)


def test_masked_tokens_add_nothing_to_the_entropy():
    """A token of logit -inf is as if it were not there, and gives no NaN."""
    masked = torch.tensor([[1.0, 2.0, -torch.inf]])
    assert entropy(masked).item() == pytest.approx(entropy(torch.tensor([[1.0, 2.0]])).item(), abs=1e-6)


def test_tempered_logprob_divides_the_logits():
    """The logprob of a token at temperature T is that of softmax(logits / T), each row at its own T."""
    temperatures, tokens = [0.5, 1.0, 1.7], [2, 3, 0]
    expected = [
        math.log(slow_softmax(row, t)[token]) for row, t, token in zip(LOGITS, temperatures, tokens, strict=True)
    ]
    found = tempered_logprob(torch.tensor(LOGITS), torch.tensor(tokens), torch.tensor(temperatures))
    assert found.tolist() == pytest.approx(expected, abs=1e-6)


def test_entropy_linear_by_hand():
    """T rises linearly between the two entropies and is flat outside."""
    policy = EntropyLinear(low=0.5, high=1.5, entropy_low=1.0, entropy_high=3.0)
    assert policy(torch.tensor([0.0, 1.0, 1.5, 2.0, 3.0, 7.0])).tolist() == pytest.approx(
        [0.5, 0.5, 0.75, 1.0, 1.5, 1.5]
    )


@pytest.mark.parametrize("policy", [Fixed(temperature=0.7), EntropyLinear(low=1.3, high=0.9)])
def test_a_policy_survives_the_wire(policy):
    """The plain values of a policy give the same policy back."""
    assert from_wire(to_wire(policy)) == policy


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: Fixed(temperature=math.nan), "finite number >= 0, got nan"),
        (lambda: Fixed(temperature=-1.0), "finite number >= 0, got -1.0"),
        (lambda: EntropyLinear(low=0.0), "EntropyLinear.low is a finite number > 0"),
        (lambda: EntropyLinear(entropy_low=2.0, entropy_high=2.0), "must lie below"),
        (lambda: from_wire({"name": "hot"}), "unknown temperature policy 'hot'; known are entropy_linear, fixed"),
    ],
)
def test_a_temperature_that_cannot_be_is_refused(make, sentence):
    """Bad parameters raise one sentence that names field, rule and value."""
    with pytest.raises(ValueError, match=sentence):
        make()
