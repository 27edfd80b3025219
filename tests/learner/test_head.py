import pytest
import torch

from learner.head import Picks, TokenHead

VOCABULARY, CHANNELS, NODES = 23, 5, 6


def picks(tempered: bool) -> Picks:
    return Picks(
        row_nodes=torch.tensor([0, 1, 1, 4]),
        temperatures=torch.tensor([1.0, 0.5, 2.0, 1.3]) if tempered else None,
        rows=torch.tensor([0, 0, 0, 1, 2, 3, 3]),
        tokens=torch.tensor([3, 7, 3, 22, 0, 11, 5]),
    )


def slow(hidden, weight, bias, chosen: Picks):
    """The definition, token by token, in float64."""
    logprobs, entropies = [], []
    for row, token in zip(chosen.rows.tolist(), chosen.tokens.tolist(), strict=True):
        logits = weight @ hidden[chosen.row_nodes[row]] + (0.0 if bias is None else bias)
        temperature = 1.0 if chosen.temperatures is None else chosen.temperatures[row].double()
        logprobs.append((logits / temperature)[token] - (logits / temperature).exp().sum().log())
    for node in chosen.row_nodes.tolist():
        probabilities = torch.softmax(weight @ hidden[node] + (0.0 if bias is None else bias), 0)
        entropies.append(-(probabilities * probabilities.log()).sum())
    return torch.stack(logprobs), torch.stack(entropies)


@pytest.mark.parametrize("tempered", [False, True])
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("chunk_rows", [1, 3, 100])
@pytest.mark.parametrize("entropy_weight", [0.0, 0.7])
def test_values_and_gradients_equal_a_slow_computation(tempered, with_bias, chunk_rows, entropy_weight):
    """Chunked or not, at any temperature, log-probabilities, entropies and all gradients follow the definition."""
    torch.manual_seed(0)
    linear = torch.nn.Linear(CHANNELS, VOCABULARY, bias=with_bias)
    head = TokenHead(linear, chunk_mib=1)
    head.chunk_rows = chunk_rows
    hidden = torch.randn(NODES, CHANNELS, requires_grad=True)
    chosen = picks(tempered)
    upstream = torch.randn(len(chosen.tokens))

    logprobs, entropies = head(hidden, chosen)
    loss = (upstream * logprobs).sum()
    if entropy_weight:
        loss = loss + entropy_weight * (entropies**2).sum()
    loss.backward()

    exact = [t.detach().double().requires_grad_() for t in (hidden, linear.weight)]
    bias = linear.bias.detach().double().requires_grad_() if with_bias else None
    expected_logprobs, expected_entropies = slow(*exact, bias, chosen)
    expected = (upstream.double() * expected_logprobs).sum() + entropy_weight * (expected_entropies**2).sum()
    expected.backward()

    torch.testing.assert_close(logprobs.double(), expected_logprobs, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(entropies.double(), expected_entropies, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(hidden.grad.double(), exact[0].grad, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(linear.weight.grad.double(), exact[1].grad, atol=1e-6, rtol=1e-5)
    if with_bias:
        torch.testing.assert_close(linear.bias.grad.double(), bias.grad, atol=1e-6, rtol=1e-5)


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
