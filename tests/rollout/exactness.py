"""What transformers and formulas written out here say about drawn tokens: float64, nothing of rollout/draw.

policy (transformers) --said--> logits, hidden states of every response token
rollout, request --examine--> errors of the record; places of the tokens, uniform iff drawn as claimed
p-values --all_fit--> one verdict (Holm), with `power` stating what a sample can see
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch.nn.functional import softplus
from transformers import Qwen2ForCausalLM

from rollout.draw.learned import Learned, TemperatureHead
from rollout.draw.temperature import EntropyLinear, Fixed, LogPivot, TemperaturePolicy
from rollout.messages import GroupRequest, Rollout

CELLS = 5  # of the places: the fewer, the smaller the shift that a sample can see
BATCH = 32  # responses in one forward pass
QUADRATURE = 1000  # points


@dataclass(frozen=True)
class Said:
    """About one response; float64 but for the hidden states."""

    logits: torch.Tensor  # [tokens, vocab]
    hidden: torch.Tensor  # [tokens, hidden size], what the output layer reads
    entropies: torch.Tensor  # [tokens] nats, at T = 1


@torch.no_grad()
def said(policy: Qwen2ForCausalLM, rollouts: Sequence[Rollout]) -> list[Said]:
    """Padded on the right, which a causal model does not see."""
    found = []
    for first in range(0, len(rollouts), BATCH):
        part = rollouts[first : first + BATCH]
        rows = [torch.tensor([*one.prompt_ids, *one.response_ids.tolist()]) for one in part]
        output = policy(torch.nn.utils.rnn.pad_sequence(rows, batch_first=True), output_hidden_states=True)
        for index, (one, row) in enumerate(zip(part, rows, strict=True)):
            drawn = slice(len(one.prompt_ids) - 1, len(row) - 1)
            logits = output.logits[index, drawn].double()
            logprobs = logits - logits.logsumexp(-1, keepdim=True)
            entropies = -(logprobs.exp() * logprobs).sum(-1)
            found.append(Said(logits, output.hidden_states[-1][index, drawn], entropies))
    return found


def temperatures_of(policy: TemperaturePolicy, entropies: torch.Tensor) -> torch.Tensor:
    """By the formulas of the papers."""
    if isinstance(policy, Fixed):
        return torch.full_like(entropies, policy.temperature)
    if isinstance(policy, EntropyLinear):
        ends, values = (policy.entropy_low, policy.entropy_high), (policy.low, policy.high)
        return torch.from_numpy(np.interp(entropies.numpy(), ends, values))
    assert isinstance(policy, LogPivot)
    h = (entropies.log() - policy.pivot) / policy.rms
    h_hat = torch.where(h > 0, h / policy.scale_positive, h / policy.scale_negative).clamp(-1.0, 1.0)
    return policy.base * (1.0 + policy.swing * h_hat)


def mass_before(tempered: torch.Tensor) -> torch.Tensor:
    """[tokens, vocab]: the probability of all that is likelier. top_p keeps where it is less than top_p."""
    probabilities = tempered.softmax(-1)
    ordered, order = probabilities.sort(dim=-1, descending=True)
    return torch.empty_like(ordered).scatter_(-1, order, ordered.cumsum(-1) - ordered)


@dataclass
class Examined:
    """Largest |recorded - recomputed| by name, and what the goodness-of-fit tests need, over all tokens given."""

    errors: dict[str, float] = field(default_factory=dict)
    places: list[np.ndarray] = field(default_factory=list)
    surprises: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)  # of changes: c - P(c), and P(c)
    new: list[tuple[torch.Tensor, ...]] = field(default_factory=list)  # z, and the shapes of the Beta it was drawn from

    def worse(self, name: str, recorded: np.ndarray, computed: torch.Tensor) -> None:
        error = float(np.abs(recorded - computed.numpy()).max(initial=0.0))
        self.errors[name] = max(self.errors.get(name, 0.0), error)

    def p_values(self) -> dict[str, float]:
        found = {"tokens": unevenness(np.concatenate(self.places))}
        if self.surprises:
            excess, chance = (np.concatenate(part) for part in zip(*self.surprises, strict=True))
            spread = chance * (1.0 - chance)
            for name, weight in (("changes", np.ones_like(chance)), ("when", chance - chance.mean())):
                z = (weight * excess).sum() / math.sqrt((weight**2 * spread).sum())
                found[name] = math.erfc(abs(z) / math.sqrt(2.0))
            z, a, b = (torch.cat(part) for part in zip(*self.new, strict=True))
            found["new temperatures"] = unevenness(beta_cdf(z, a, b).numpy())
        return found


def examine(
    policy: Qwen2ForCausalLM,
    head_of: Callable[[int], TemperatureHead],
    rollouts: Sequence[Rollout],
    request: GroupRequest,
) -> Examined:
    """Everything a record claims. `head_of` a version of the weights.

    "kept" among the errors is how far a token that was wrongly kept or cut lies from the border: in probability, or in
    logits from the last token that is kept (two that are equal but for rounding may change places).
    """
    examined = Examined()
    fractions = torch.Generator().manual_seed(0)
    for rollout, one in zip(rollouts, said(policy, rollouts), strict=True):
        if isinstance(request.temperature, Learned):
            temperatures = torch.tensor(rollout.temperatures).double()
            _examine_actions(examined, head_of, rollout, one, request.temperature)
        else:
            temperatures = temperatures_of(request.temperature, one.entropies)
            assert rollout.head is None
        examined.worse("entropy", rollout.entropies, one.entropies)
        examined.worse("temperature", rollout.temperatures, temperatures)
        tempered = one.logits / temperatures.unsqueeze(-1)
        if request.truncation.active:
            before = mass_before(tempered)
            inside, expected = kept_mask(rollout, tempered.shape[1]), before < request.truncation.top_p
            last = tempered.masked_fill(~expected, torch.inf).amin(1, keepdim=True)
            apart = torch.minimum((before - request.truncation.top_p).abs(), (tempered - last).abs())
            wrong = apart[inside != expected]
            examined.worse("kept", np.zeros(len(wrong)), wrong)
            tempered = tempered.masked_fill(~inside, -torch.inf)
        else:
            assert rollout.kept is None
        tokens = torch.tensor(rollout.response_ids).long().unsqueeze(1)
        probabilities = tempered.softmax(-1)
        mine = probabilities.gather(1, tokens)
        examined.worse("logprob", rollout.sampler_logprobs, mine.squeeze(1).log())
        likelier = probabilities.masked_fill(probabilities <= mine, 0.0).sum(1)
        equal = probabilities.masked_fill(probabilities != mine, 0.0).sum(1)
        fraction = torch.rand(len(tokens), generator=fractions, dtype=torch.float64)
        examined.places.append((likelier + equal * fraction).numpy())
    return examined


def kept_mask(rollout: Rollout, vocab: int) -> torch.Tensor:
    """bool [tokens, vocab] of the recorded kept sets; a token that lists none keeps all."""
    counts = torch.tensor(rollout.kept.counts).long()
    inside = (counts == 0).unsqueeze(1).expand(-1, vocab).clone()
    inside[torch.arange(len(counts)).repeat_interleave(counts), torch.tensor(rollout.kept.ids).long()] = True
    return inside


@torch.no_grad()
def _examine_actions(
    examined: Examined, head_of: Callable[[int], TemperatureHead], rollout: Rollout, one: Said, policy: Learned
) -> None:
    """The chain of temperatures, the logprob of each action, and whether they were drawn as often as they claim."""
    taus, change = torch.tensor(rollout.temperatures), torch.tensor(rollout.head.changes)
    previous = torch.cat([torch.tensor([policy.tau_0]), taus[:-1]])
    assert torch.equal(taus[~change], previous[~change]), "a temperature moved without an action"
    u = torch.stack([head_of(version)(hidden) for version, hidden in zip(rollout.versions, one.hidden, strict=True)])
    u = u.double()
    p = u[:, 0].sigmoid()
    a, b = (softplus(u[:, column]) + policy.epsilon for column in (1, 2))
    z = ((taus.double() - policy.tau_min) / (policy.tau_max - policy.tau_min)).clamp(1e-4, 1 - 1e-4)
    density = torch.distributions.Beta(a, b).log_prob(torch.where(change, z, 0.5))
    action = torch.where(change, p.log() + density, (-u[:, 0]).sigmoid().log())
    examined.worse("action logprob", rollout.head.logprobs, action)
    examined.surprises.append(((change.double() - p).numpy(), p.numpy()))
    examined.new.append((z[change], a[change], b[change]))


def beta_cdf(z: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """[n], by the midpoint rule in t, z = sin(t)^2, which has no poles for shapes of 1/2 or more."""
    assert float(torch.cat([a, b]).amin()) > 0.5, "the head of the test draws from a Beta with poles"
    t = z.sqrt().asin().unsqueeze(1) * (torch.arange(QUADRATURE).double() + 0.5) / QUADRATURE
    log_beta = a.lgamma() + b.lgamma() - (a + b).lgamma()
    inner = t.sin().log() * (2 * a - 1).unsqueeze(1) + t.cos().log() * (2 * b - 1).unsqueeze(1)
    return 2.0 * inner.exp().mean(1) * z.sqrt().asin() / log_beta.exp()


def chi_square_tail(statistic: float, freedom: int) -> float:
    return torch.special.gammaincc(torch.tensor(freedom / 2).double(), torch.tensor(statistic / 2).double()).item()


def unevenness(places: np.ndarray) -> float:
    """p-value of the chi-square test that `places` are uniform over the cells."""
    counts = np.histogram(places, CELLS, (0.0, 1.0 + 1e-9))[0]
    expected = len(places) / CELLS
    return chi_square_tail(((counts - expected) ** 2 / expected).sum(), CELLS - 1)


def power(count: int, level: float, shift: float) -> float:
    """The probability that `unevenness` of `count` places falls below `level` when `shift` of the mass is elsewhere.

    Of all ways to move that mass between the cells, the least visible one moves it evenly: each cell is off by
    2 shift / CELLS of its own. The statistic is then chi-square with noncentrality count * (2 shift)^2, a Poisson
    mixture of central ones.
    """
    low, high = 0.0, 1e4
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if chi_square_tail(middle, CELLS - 1) > level else (low, middle)
    half = count * (2 * shift) ** 2 / 2
    weight, total = math.exp(-half), 0.0
    for extra in range(int(half + 20 * math.sqrt(half) + 50)):
        total += weight * chi_square_tail(high, CELLS - 1 + 2 * extra)
        weight *= half / (extra + 1)
    return total


def all_fit(p_values: dict[str, float], level: float) -> bool:
    """Holm: whether no p-value is too small, at a probability of at most `level` to say so of draws that all fit."""
    ordered = sorted(p_values.values())
    return all(p > level / (len(ordered) - rank) for rank, p in enumerate(ordered))
