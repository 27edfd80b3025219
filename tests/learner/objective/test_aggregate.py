import pytest
import torch

from learner.objective import Counts
from learner.objective.aggregate import SequenceMean, SequenceSum, TokenMean

MASK = [[1, 1, 1], [1, 0, 0]]
VALUES = torch.tensor([[1.0, 2.0, 3.0], [10.0, 0.0, 0.0]], dtype=torch.float64)
COUNTS = Counts(tokens=4, sequences=2, groups=1)


@pytest.mark.parametrize(
    ("piece", "expected"),
    [(TokenMean(), 16 / 4), (SequenceMean(), (6 / 3 + 10) / 2), (SequenceSum(max_tokens=5), 16 / (2 * 5))],
)
def test_denominators_by_hand(piece, expected, token_stats):
    assert piece(VALUES, token_stats(MASK), COUNTS).item() == pytest.approx(expected)


@pytest.mark.parametrize("piece", [TokenMean(), SequenceMean(), SequenceSum(max_tokens=5)])
def test_shares_add_up(piece, token_stats):
    """Cut into micro-batches, the shares of the loss add up to the loss."""
    whole = piece(VALUES, token_stats(MASK), COUNTS)
    shares = [piece(VALUES[i : i + 1], token_stats(MASK[i : i + 1]), COUNTS) for i in range(2)]
    assert sum(shares).item() == pytest.approx(whole.item())


@pytest.mark.parametrize("piece", [TokenMean(), SequenceMean(), SequenceSum(max_tokens=5)])
def test_an_empty_micro_batch_adds_nothing(piece, token_stats):
    assert piece(torch.zeros(1, 2), token_stats([[0, 0]]), COUNTS).item() == 0.0
