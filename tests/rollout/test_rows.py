"""What the runner's rows are drawn from, without a model: whose rule a row follows, and what outlives a step."""

from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from rollout.draw.learned import Learned, TemperatureHead
from rollout.draw.temperature import Fixed, TemperaturePolicy, to_wire
from rollout.errors import RequestError, RolloutError
from rollout.messages import GroupRequest
from rollout.vllm_adapter.head import HeadTap, check_learned, take_head
from rollout.vllm_adapter.kept import KeptRows
from rollout.vllm_adapter.rows import POLICY_KEY, RowRules

LEARNED = Learned(tau_0=0.9)
VOCAB, WIDTH = 11, 4


@dataclass
class State:
    """vLLM's of a request."""

    policy: TemperaturePolicy
    output_token_ids: list[int] = field(default_factory=list)

    @property
    def sampling_params(self) -> SimpleNamespace:
        return SimpleNamespace(extra_args={POLICY_KEY: to_wire(self.policy)})


def rules_of(**states: State) -> RowRules:
    runner = SimpleNamespace(requests=states, input_batch=SimpleNamespace(req_ids=list(states)))
    rules = RowRules(runner)
    head = TemperatureHead(WIDTH).requires_grad_(False)
    head.outer.bias[0] = 0.0  # changes at every second token
    rules.head = HeadTap(head)
    return rules


def temperatures(rules: RowRules, counts: list[int]) -> list[float]:
    """Of one step of `counts` rows a request."""
    rules.head.look(None, (None, torch.randn(sum(counts), WIDTH)), {})
    return rules.rows(torch.randn(sum(counts), VOCAB), counts).temperatures.tolist()


def test_an_id_that_is_used_again_gets_its_own_rule():
    """Aborted and sent again with another policy: the new request is drawn by the new policy, from its own start."""
    rules = rules_of(a=State(Fixed(temperature=0.5)), b=State(LEARNED, [7]))
    with pytest.raises(RuntimeError, match="lost a request's state"):
        temperatures(rules, [1, 1])
    rules = rules_of(a=State(Fixed(temperature=0.5)), b=State(LEARNED))
    assert temperatures(rules, [1, 1])[0] == 0.5
    rules._runner.requests.update(
        a=State(Fixed(temperature=1.5)), b=State(Learned(tau_min=2.0, tau_max=3.0, tau_0=2.5))
    )
    found = temperatures(rules, [1, 1])
    assert found[0] == 1.5
    assert 2.0 <= found[1] <= 3.0


def test_a_learned_temperature_goes_on_from_the_last_emitted_token():
    """Of a chain of 4 rows 2 are emitted; a prompt's unfinished chunk and a repeated step draw their position anew."""
    torch.manual_seed(0)
    state = State(LEARNED)
    rules = rules_of(other=State(Fixed()), mine=state)
    kept = 0
    for _ in range(200):  # nothing is emitted: each step starts from tau_0
        kept += temperatures(rules, [2, 1])[2] == pytest.approx(LEARNED.tau_0)
    assert 60 < kept < 140
    matches = 0
    for _ in range(200):
        chain = temperatures(rules, [1, 4])[1:]
        state.output_token_ids += [5, 5]
        matches += temperatures(rules, [1, 1])[1] == chain[1]
    assert 60 < matches < 140


def test_an_action_is_recorded_at_its_own_row():
    """A row keeps the temperature of the row before exactly where it records no change; others record nothing."""
    torch.manual_seed(1)
    rules = rules_of(other=State(Fixed()), mine=State(LEARNED))
    rules.head.look(None, (None, torch.randn(8, WIDTH)), {})
    rows = rules.rows(torch.randn(8, VOCAB), [3, 5])
    taus = [LEARNED.tau_0, *rows.temperatures[3:].tolist()]
    moved = [one != pytest.approx(before) for before, one in zip(taus, taus[1:], strict=False)]
    assert rows.actions.changes.tolist() == [False] * 3 + moved
    assert (rows.actions.logprobs[:3] == 0.0).all()
    assert (rows.actions.logprobs[3:] != 0.0).all()


def test_kept_sets_are_cut_into_requests_and_tokens():
    """Rows of emitted tokens only, request after request; none listed where nothing was cut, or nobody asked."""
    truncated = torch.zeros(6, 4)
    truncated[0, 1:] = truncated[1, [0, 3]] = truncated[4, :2] = -torch.inf
    emitted = torch.tensor([[0, 1, 1], [3, 3, 3], [4, 5, 5], [1, 1, 1]])
    found = KeptRows.of(truncated, emitted, torch.tensor([2, 1, 2, 1]), cut=[True, True, True, False])
    assert found.ids.dtype == np.int32
    assert found.ids.tolist() == [0, 1, 2, 2, 3]
    assert found.offsets.tolist() == [0, 1, 3, 3, 5, 5, 5]
    assert found.starts == [0, 2, 3, 5, 6]
    alone = KeptRows.of(truncated, torch.tensor([[1], [4]]), None, cut=[True, True])
    assert (alone.ids.tolist(), alone.offsets.tolist(), alone.starts) == ([1, 2, 2, 3], [0, 2, 4], [0, 1, 2])


def test_weights_of_the_head_go_to_the_head_alone():
    """A model without one is spared them; a head of another width is refused in one sentence."""
    sent = {"temperature_head.outer.bias": torch.ones(3), "lm_head.weight": torch.ones(2)}
    assert list(take_head(torch.nn.Linear(1, 1), sent)) == ["lm_head.weight"]
    model = torch.nn.Linear(1, 1)
    model.temperature_tap = HeadTap(TemperatureHead(WIDTH).requires_grad_(False))
    with pytest.raises(RolloutError, match="a model of another width, or a tensor is missing"):
        take_head(model, sent)
    whole = {f"temperature_head.{name}": one + 1.0 for name, one in model.temperature_tap.head.state_dict().items()}
    assert take_head(model, whole) == {}
    assert model.temperature_tap.head.outer.bias.tolist() == [-1.0, 1.0, 1.0]


def test_an_engine_that_has_no_head_says_so_before_anything_is_drawn():
    """RequestError with the engine's reason and what to do; other policies are not concerned."""
    why = "its model, Odd, has no output layer that a head could look into"
    request = {"group_id": "g", "prompt_ids": (1,), "n": 1, "max_tokens": 1}
    check_learned(GroupRequest(**request, temperature=Fixed()), why)
    check_learned(GroupRequest(**request, temperature=LEARNED), "")
    with pytest.raises(RequestError, match="learned temperature, which this engine cannot draw, as its model, Odd"):
        check_learned(GroupRequest(**request, temperature=LEARNED), why)
