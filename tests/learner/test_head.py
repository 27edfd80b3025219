import math

import pytest
import torch

from learner.head import Picks, TokenHead
from rollout.draw.truncation import KeptSets, kept_logprob

VOCABULARY, CHANNELS, NODES = 23, 5, 6
# What each of the four rows may draw: the whole vocabulary, one token, several, the border of the vocabulary.
KEPT = {"some": [[], [22], [0, 4, 9], [5, 11, 22]], "all": [[3, 7], [22], [0, 4, 9], [5, 11, 22]]}


def picks(tempered: bool, cut: str = "none") -> Picks:
    kept = None
    if cut != "none":
        listed = [token for row in KEPT[cut] for token in row]
        kept = KeptSets(ids=torch.tensor(listed, dtype=torch.int32), counts=torch.tensor(list(map(len, KEPT[cut]))))
    return Picks(
        row_nodes=torch.tensor([0, 1, 1, 4]),
        temperatures=torch.tensor([1.0, 0.5, 2.0, 1.3]) if tempered else None,
        rows=torch.tensor([0, 0, 0, 1, 2, 3, 3]),
        tokens=torch.tensor([3, 7, 3, 22, 0, 11, 5]),
        kept=kept,
    )


def slow(hidden, weight, bias, chosen: Picks, cut: str = "none"):
    """The definition, token by token, in float64."""
    logprobs, entropies = [], []
    for row, token in zip(chosen.rows.tolist(), chosen.tokens.tolist(), strict=True):
        logits = weight @ hidden[chosen.row_nodes[row]] + (0.0 if bias is None else bias)
        temperature = 1.0 if chosen.temperatures is None else chosen.temperatures[row].double()
        inside = KEPT[cut][row] if cut != "none" and KEPT[cut][row] else range(VOCABULARY)
        total = sum((logits[other] / temperature).exp() for other in inside)
        logprobs.append(logits[token] / temperature - total.log())
    for node in chosen.row_nodes.tolist():
        probabilities = torch.softmax(weight @ hidden[node] + (0.0 if bias is None else bias), 0)
        entropies.append(-(probabilities * probabilities.log()).sum())
    return torch.stack(logprobs), torch.stack(entropies)


@pytest.mark.parametrize("cut", ["none", *KEPT])
@pytest.mark.parametrize("tempered", [False, True])
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("chunk_rows", [1, 3, 100])
@pytest.mark.parametrize("entropy_weight", [0.0, 0.7])
def test_values_and_gradients_equal_a_slow_computation(cut, tempered, with_bias, chunk_rows, entropy_weight):
    """Chunked or not, at any temperature, cut or not, log-probabilities, entropies and all gradients are the slow ones.

    The entropy is that of the whole vocabulary, whatever was cut.
    """
    torch.manual_seed(0)
    linear = torch.nn.Linear(CHANNELS, VOCABULARY, bias=with_bias)
    head = TokenHead(linear, chunk_mib=1)
    head.chunk_rows = chunk_rows
    hidden = torch.randn(NODES, CHANNELS, requires_grad=True)
    chosen = picks(tempered, cut)
    upstream = torch.randn(len(chosen.tokens))

    logprobs, entropies = head(hidden, chosen)
    loss = (upstream * logprobs).sum()
    if entropy_weight:
        loss = loss + entropy_weight * (entropies**2).sum()
    loss.backward()

    exact = [t.detach().double().requires_grad_() for t in (hidden, linear.weight)]
    bias = linear.bias.detach().double().requires_grad_() if with_bias else None
    expected_logprobs, expected_entropies = slow(*exact, bias, chosen, cut)
    expected = (upstream.double() * expected_logprobs).sum() + entropy_weight * (expected_entropies**2).sum()
    expected.backward()

    torch.testing.assert_close(logprobs.double(), expected_logprobs, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(entropies.double(), expected_entropies, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(hidden.grad.double(), exact[0].grad, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(linear.weight.grad.double(), exact[1].grad, atol=1e-6, rtol=1e-5)
    if with_bias:
        torch.testing.assert_close(linear.bias.grad.double(), bias.grad, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("cut", ["none", "some"])
def test_chunked_equals_full(cut):
    """In float32, cut into chunks of any size or held at once: the same to 1e-6, values and gradients."""
    torch.manual_seed(0)
    linear = torch.nn.Linear(CHANNELS, VOCABULARY)
    hidden = torch.randn(NODES, CHANNELS, requires_grad=True)
    results = []
    for chunk_rows in (100, 3, 1):
        head = TokenHead(linear, chunk_mib=1)
        head.chunk_rows = chunk_rows
        logprobs, entropies = head(hidden, picks(True, cut))
        loss = (logprobs * torch.arange(len(logprobs))).sum() + entropies.square().sum()
        gradients = torch.autograd.grad(loss, (hidden, linear.weight, linear.bias))
        results.append((logprobs, entropies, *gradients))
    for chunked in results[1:]:
        for ours, full in zip(chunked, results[0], strict=True):
            torch.testing.assert_close(ours, full, atol=1e-6, rtol=1e-6)


def test_a_certain_token_has_entropy_zero_and_finite_gradients():
    """Probabilities that underflow to 0 leave no NaN behind."""
    linear = torch.nn.Linear(1, 3, bias=False)
    with torch.no_grad():
        linear.weight.copy_(torch.tensor([[500.0], [-500.0], [-500.0]]))
    hidden = torch.ones(1, 1, requires_grad=True)
    chosen = Picks(row_nodes=torch.tensor([0]), temperatures=None, rows=torch.tensor([0]), tokens=torch.tensor([0]))
    logprobs, entropies = TokenHead(linear, chunk_mib=1)(hidden, chosen)
    (logprobs.sum() + entropies.sum()).backward()
    assert logprobs.item() == 0.0
    assert entropies.item() == 0.0
    assert hidden.grad.isfinite().all()


@pytest.mark.parametrize("chunk_rows", [2, 100])
def test_inside_kept_tokens_the_learner_and_the_sampler_share_one_definition(chunk_rows):
    """The log-probabilities are those of `kept_logprob`, with which the sampler's record agrees."""
    torch.manual_seed(0)
    linear = torch.nn.Linear(CHANNELS, VOCABULARY)
    head = TokenHead(linear, chunk_mib=1)
    head.chunk_rows = chunk_rows
    hidden = torch.randn(NODES, CHANNELS)
    chosen = picks(True, "all")
    first_reads = torch.tensor([0, 3, 4, 5])  # one token a row is what kept_logprob takes
    expected = kept_logprob(
        linear(hidden)[chosen.row_nodes], chosen.tokens[first_reads], chosen.temperatures, chosen.kept
    )
    torch.testing.assert_close(head(hidden, chosen)[0][first_reads], expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("chunk_rows", [1, 100])
def test_a_token_that_was_the_only_one_left_is_certain_and_pulls_at_nothing(chunk_rows):
    """Log-probability exactly 0 and gradient exactly 0, however unlikely the whole vocabulary makes the token."""
    linear = torch.nn.Linear(1, 3, bias=False)
    with torch.no_grad():
        linear.weight.copy_(torch.tensor([[500.0], [-500.0], [-500.0]]))
    hidden = torch.ones(1, 1, requires_grad=True)
    chosen = Picks(
        row_nodes=torch.tensor([0, 0]),
        temperatures=None,
        rows=torch.tensor([0, 1]),
        tokens=torch.tensor([1, 2]),
        kept=KeptSets(ids=torch.tensor([1, 1, 2], dtype=torch.int32), counts=torch.tensor([1, 2])),
    )
    head = TokenHead(linear, chunk_mib=1)
    head.chunk_rows = chunk_rows
    logprobs, _ = head(hidden, chosen)
    assert logprobs.tolist() == pytest.approx([0.0, -math.log(2)])
    (gradient,) = torch.autograd.grad(logprobs[0], linear.weight)
    assert logprobs[0] == 0.0
    assert (gradient == 0.0).all()
