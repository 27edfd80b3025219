"""IntroLLM's head: its actions against independent references, the chain of temperatures, the gradients."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rollout.draw.learned import Learned, TemperatureHead, action_logprob, beta_shapes, chain, draw_actions, z_of

POLICY = Learned(tau_min=0.4, tau_max=1.6, tau_0=1.0)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_the_head_by_hand():
    """u = W2 relu(W1 h + b1) + b2 on numbers small enough to do on paper."""
    head = TemperatureHead(4)
    with torch.no_grad():
        head.inner.weight.copy_(torch.tensor([[1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0]]))
        head.inner.bias.copy_(torch.tensor([0.5, 0.0]))
        head.outer.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 2.0], [1.0, 1.0]]))
    u = head(torch.tensor([[1.0, -3.0, 9.0, 9.0]]))  # relu(1.5, -3) = (1.5, 0)
    assert u[0].tolist() == pytest.approx([1.5 - 2.0, 0.0, 1.5])


def test_a_new_head_rarely_changes_the_temperature():
    """Before training u = (-2, 0, 0) whatever the hidden state: a change at 12 % of the tokens."""
    u = TemperatureHead(64)(torch.randn(10, 64, generator=generator()))
    assert torch.allclose(u, torch.tensor([-2.0, 0.0, 0.0]).expand(10, 3))
    change, _ = draw_actions(u[:1].expand(100_000, 3), POLICY, generator())
    assert change.float().mean().item() == pytest.approx(1 / (1 + math.exp(2)), abs=5 * math.sqrt(0.105 / 100_000))


def test_bfloat16_hidden_states_are_read_in_the_heads_precision():
    """vLLM's hidden states may be half precision; the head is not."""
    assert TemperatureHead(8)(torch.ones(2, 8, dtype=torch.bfloat16)).dtype == torch.float32


def slow_chain(change: list[bool], z: list[float], previous: float) -> list[float]:
    taus = []
    for changes, value in zip(change, z, strict=True):
        previous = 0.4 + value * 1.2 if changes else previous
        taus.append(previous)
    return taus


@given(st.integers(0, 2**31), st.integers(1, 5), st.integers(1, 7))
def test_the_chain_takes_each_temperature_from_the_step_before(seed, requests, steps):
    """Against a loop over the rows of each request, each request from its own start."""
    g = generator(seed)
    change = torch.rand(requests, steps, generator=g) < 0.4
    z, previous = torch.rand(requests, steps, generator=g), 0.4 + torch.rand(requests, generator=g)
    found = chain(change, z, previous, POLICY)
    for row in range(requests):
        expected = slow_chain(change[row].tolist(), z[row].tolist(), previous[row].item())
        assert found[row].tolist() == pytest.approx(expected, rel=1e-6)


def test_a_head_that_never_changes_leaves_the_first_temperature():
    """P(c) = 0: every tau is tau_0 bit for bit, and the actions cost nothing."""
    u = torch.tensor([-math.inf, 0.3, -0.2]).expand(500, 8, 3)
    change, z = draw_actions(u, POLICY, generator())
    taus = chain(change, z, torch.full((500,), POLICY.tau_0), POLICY)
    assert (taus == POLICY.tau_0).all()
    assert (action_logprob(u, change, z, POLICY) == 0).all()


def test_the_recorded_temperature_is_the_action():
    """z_of(tau) is the z that was drawn, to float32 rounding, and within the margins even where that pushes it out."""
    z = torch.cat([torch.tensor([1e-4, 1 - 1e-4]), 1e-4 + (1 - 2e-4) * torch.rand(1000, generator=generator())])
    tau = chain(torch.ones(len(z), 1, dtype=torch.bool), z.unsqueeze(1), torch.ones(len(z)), POLICY).squeeze(1)
    found = z_of(tau, POLICY)
    assert (found - z).abs().max() < 2e-7
    assert ((found >= torch.tensor(1e-4)) & (found <= torch.tensor(1 - 1e-4))).all()


def numeric_log_beta(z: float, a: float, b: float) -> float:
    return (a - 1) * math.log(z) + (b - 1) * math.log(1 - z) - math.lgamma(a) - math.lgamma(b) + math.lgamma(a + b)


@pytest.mark.parametrize("u", [(0.3, 1.0, -1.0), (-2.0, 0.0, 0.0), (2.0, 4.0, 3.0), (0.0, -6.0, -6.0)])
@pytest.mark.parametrize("z", [1e-4, 0.2, 0.5, 0.9999])
def test_the_actions_logprob_by_formula(u, z):
    """ln P(c), plus ln Beta(z) where c = 1; softplus plus a small epsilon, so shapes below 1 are allowed."""
    z = torch.tensor(z).item()  # as float32 holds it: 1 - z is not the same
    a, b = (math.log1p(math.exp(value)) + 1e-3 for value in u[1:])
    tensor = torch.tensor([u, u])
    assert [shape[0].item() for shape in beta_shapes(tensor, 1e-3)] == pytest.approx([a, b], rel=1e-5)
    found = action_logprob(tensor, torch.tensor([True, False]), torch.tensor([z, z]), POLICY)
    log_change = -math.log1p(math.exp(-u[0]))
    expected = [log_change + numeric_log_beta(z, a, b), log_change - u[0]]
    assert found.tolist() == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_the_logprob_agrees_with_torchs_distributions_and_so_does_its_gradient():
    """Bernoulli and Beta of torch.distributions, value and gradient, over random actions."""
    g = generator(3)
    u = (1.5 * torch.randn(200, 3, generator=g)).requires_grad_()
    change, z = draw_actions(u.detach(), POLICY, g)
    a, b = (torch.nn.functional.softplus(u[:, i]) + POLICY.epsilon for i in (1, 2))
    reference = torch.distributions.Bernoulli(logits=u[:, 0]).log_prob(change.float())
    reference = reference + torch.where(change, torch.distributions.Beta(a, b).log_prob(z), 0.0)
    found = action_logprob(u, change, z, POLICY)
    assert torch.allclose(found, reference, rtol=1e-4, atol=1e-4)
    gradients = [torch.autograd.grad(value.sum(), u, retain_graph=True)[0] for value in (found, reference)]
    assert torch.allclose(*gradients, rtol=1e-3, atol=1e-3)


def regularised_beta(a: float, b: float, cuts: torch.Tensor) -> torch.Tensor:
    """Masses of Beta(a, b) between `cuts`, by the midpoint rule in t, z = sin(t)^2: no poles for shapes >= 1/2."""
    t = (torch.arange(2_000_000, dtype=torch.float64) + 0.5) * (math.pi / 2 / 2_000_000)
    density = t.sin() ** (2 * a - 1) * t.cos() ** (2 * b - 1)
    running = density.cumsum(0) / density.sum()
    return torch.cat([running[(t.sin() ** 2 < cut).sum() - 1].unsqueeze(0) for cut in cuts]).diff()


@pytest.mark.parametrize("u", [(0.0, 0.0, 0.0), (0.0, 2.0, -0.3), (0.0, 5.0, 4.0)])
def test_z_is_drawn_from_the_beta(u):
    """Chi-square of 100 000 draws over 20 cells; 1 % of the mass moved is 30 standard deviations or more."""
    _, z = draw_actions(torch.tensor(u).expand(100_000, 3), POLICY, generator(5))
    a, b = (math.log1p(math.exp(value)) + 1e-3 for value in u[1:])
    cuts = torch.linspace(0.05, 0.95, 19)
    edges = torch.cat([torch.tensor([1e-9]), cuts, torch.tensor([1 - 1e-9])]).double()
    mass = regularised_beta(a, b, edges)
    counts = torch.histc(z, 20, 0.0, 1.0).double()
    expected = mass / mass.sum() * len(z)
    large = expected > 10
    statistic = ((counts - expected).square() / expected)[large].sum().item()
    freedom = int(large.sum()) - 1
    assert abs(statistic - freedom) / math.sqrt(2 * freedom) < 4.5


def test_very_small_shapes_give_both_ends_and_no_nan():
    """Shapes of 0.001 and 0.003: Gamma draws underflow, yet z is at one end in 1 of 4 and at the other in 3 of 4."""
    small = math.log(math.expm1(0.002))  # softplus of it is 0.002
    u = torch.tensor([0.0, -40.0, small]).expand(40_000, 3)  # shapes 0.001 and 0.003
    _, z = draw_actions(u, POLICY, generator(6))
    assert torch.isfinite(z).all()
    assert (z >= 1e-4).all()
    assert (z <= 1 - 1e-4 + 1e-7).all()
    assert (z > 0.5).float().mean().item() == pytest.approx(0.25, abs=5 * math.sqrt(0.1875 / 40_000))


def test_the_heads_phase_does_not_reach_the_policy():
    """The hidden state is detached: the policy's gradient stays empty while every weight of the head gets one."""
    hidden = torch.randn(6, 8, generator=generator(), requires_grad=True)
    head = TemperatureHead(8)
    torch.nn.init.normal_(head.outer.weight, generator=generator(1))
    change, z = torch.tensor([True, False] * 3), torch.rand(6, generator=generator(2))
    action_logprob(head(hidden), change, z, POLICY).sum().backward()
    assert hidden.grad is None
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in head.parameters())


def test_extreme_actions_have_finite_gradients():
    """z at its margins, sure changes and sure keeps: no NaN through the branch that was not taken."""
    u = torch.tensor([[60.0, -30.0, 30.0], [-60.0, 30.0, -30.0], [0.0, 0.0, 0.0]], requires_grad=True)
    z = torch.tensor([1e-4, math.nan, 1.0])  # the second is not read, the third is clamped
    found = action_logprob(u, torch.tensor([True, False, True]), z, POLICY)
    found.sum().backward()
    assert torch.isfinite(found).all()
    assert torch.isfinite(u.grad).all()
    assert u.grad[1, 1:].tolist() == [0.0, 0.0]


def test_the_learned_policy_is_not_called_with_entropies():
    """`needs` says hidden; a sampler that forgets it hears so."""
    with pytest.raises(TypeError, match="acts on hidden states"):
        POLICY(torch.ones(2))
