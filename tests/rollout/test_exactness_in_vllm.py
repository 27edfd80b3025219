"""Real vLLM engines draw exactly what they record, whatever drafts, for every temperature policy, cut or not.

The grid: {fixed, entropy-linear, log-pivot, learned} x {no speculation, draft model, MTP greedy, MTP probabilistic} x
{everything, top-p}. Records are checked over all of it. Draws are checked, by default, over one cell of every row and
column; the rest is slow. Cells share a batch, so that their rows lie between each other's.
"""

import asyncio
from collections.abc import Iterable, Sequence

import numpy as np
import pytest
import torch

from rollout.draw.learned import Learned, TemperatureHead
from rollout.draw.temperature import EntropyLinear, Fixed, LogPivot
from rollout.draw.truncation import Geometry, TopW, Truncation, TruncationRows, truncate
from rollout.messages import Rollout
from tests.models import random_head, read_head, tensors_of_head
from tests.rollout.engines import Running, ask, update, update_of
from tests.rollout.exactness import all_fit, examine, kept_mask, power, said

FIXED = Fixed(temperature=1.3)
LINEAR = EntropyLinear(low=0.5, high=1.6, entropy_low=2.5, entropy_high=5.0)
PIVOT = LogPivot(pivot=1.43, rms=0.2, scale_positive=1.0, scale_negative=2.0, swing=0.7)
LEARNED = Learned(tau_min=0.5, tau_max=1.6, tau_0=1.2)
EVERYTHING, TOP_P = Truncation(), Truncation(top_p=0.8)
GRID = {
    f"{policy.name}{', top-p' if cut.active else ''}": (policy, cut)
    for policy in (FIXED, LINEAR, PIVOT, LEARNED)
    for cut in (EVERYTHING, TOP_P)
}
REPRESENTATIVE = {
    "none": "log_pivot, top-p",
    "draft_model-probabilistic": "fixed",
    "mtp-greedy": "entropy_linear, top-p",
    "mtp-probabilistic": "learned",
}
TOLERANCE = 1e-4  # of every number in a record; float32
FALSE_ALARM = 1e-3  # of the whole grid, when every draw is right
RESPONSES, TOGETHER = 160, 2  # of a cell; cells that are drawn at the same time
SHIFT, POWER = 0.02, 0.95  # a cell is so sure to notice that this share of the probability mass is elsewhere

SLOW = pytest.mark.slow
EVERY_KIND = pytest.mark.parametrize(
    "running",
    [*REPRESENTATIVE, pytest.param("ngram-greedy", marks=SLOW), pytest.param("async_llm", marks=SLOW)],
    indirect=True,
    scope="session",
)


@pytest.fixture(scope="session")
def head(running) -> TemperatureHead:
    """The one in the folder that the engine was started with."""
    return read_head(running.folder, running.policy.config.hidden_size)


def examined(running: Running, head: TemperatureHead, names: Iterable[str], n: int, max_tokens: int) -> dict:
    """The cells of GRID drawn in one batch, as transformers sees them."""
    requests = [ask(name, GRID[name][0], n, max_tokens, GRID[name][1]) for name in names]
    groups = running.generate(*requests)
    return {
        request.group_id: examine(running.policy, lambda version: head, group, request)
        for group, request in zip(groups, requests, strict=True)
    }


@EVERY_KIND
def test_the_record_is_what_transformers_computes(running, head):
    """Logprob, entropy, temperature, action and its logprob agree to 1e-4, and what was kept, over the whole grid."""
    for name, found in examined(running, head, GRID, n=6, max_tokens=40).items():
        assert max(found.errors.values()) < TOLERANCE, (name, found.errors)


@EVERY_KIND
def test_top_w_is_recorded_as_it_cuts(running):
    """Top-W over the engine's own embeddings keeps what it keeps over transformers', but for rounding at few tokens."""
    request = ask("top-w", FIXED, n=4, max_tokens=30, truncation=TopW())
    [rollouts] = running.generate(request)
    geometry = Geometry.of(running.policy.get_input_embeddings().weight)
    same = []
    for rollout, one in zip(rollouts, said(running.policy, rollouts), strict=True):
        tempered = (one.logits / FIXED.temperature).float()
        inside = kept_mask(rollout, tempered.shape[1])
        cuts = TruncationRows.of([request.truncation] * len(tempered))
        same += (inside == (truncate(tempered, cuts, geometry).logits > -torch.inf)).all(1).tolist()
        logprobs = tempered.masked_fill(~inside, -torch.inf).log_softmax(-1)
        drawn = logprobs[torch.arange(len(tempered)), torch.tensor(rollout.response_ids).long()]
        assert np.abs(drawn.numpy() - rollout.sampler_logprobs).max() < TOLERANCE
    assert np.mean(same) > 0.9


@EVERY_KIND
def test_greedy_is_the_most_likely_token_and_a_point_mass(running):
    """At temperature 0 the token is the argmax, the record says T = 0 and logprob 0, and lists no kept sets."""
    [[rollout]] = running.generate(ask("greedy", Fixed(temperature=0.0), n=1, truncation=TOP_P))
    assert rollout.response_ids.tolist() == said(running.policy, [rollout])[0].logits.argmax(-1).tolist()
    assert not rollout.temperatures.any()
    assert not rollout.sampler_logprobs.any()
    assert rollout.kept is None


@EVERY_KIND
def test_tokens_are_drawn_from_the_recorded_distribution(running, head, request):
    """Places of about 33 000 tokens a cell are uniform: chi-square over 5 cells, Holm at 2.5e-4 over an engine's tests.

    Whatever cell of the grid it is in, a shift of 2 % of the probability mass is seen with probability 0.95 or more,
    which is computed here from the number of tokens and the sharpest level that Holm may ask for. If every draw of the
    whole grid is right, it is called wrong once in a thousand times.
    """
    names = [REPRESENTATIVE.get(request.node.callspec.params["running"], "fixed, top-p")]
    check_fit(running, head, names)


@SLOW
@pytest.mark.timeout(1200)
@EVERY_KIND
def test_tokens_are_drawn_from_the_recorded_distribution_everywhere(running, head):
    """The same for every cell of the grid."""
    check_fit(running, head, list(GRID))


def check_fit(running: Running, head: TemperatureHead, names: Sequence[str]) -> None:
    found = {}
    for first in range(0, len(names), TOGETHER):
        found |= examined(running, head, names[first : first + TOGETHER], RESPONSES, 320)
    p_values = {f"{name}: {what}": p for name, one in found.items() for what, p in one.p_values().items()}
    level = FALSE_ALARM / len(REPRESENTATIVE)
    for name, one in found.items():
        count = sum(map(len, one.places))
        assert power(count, level / len(p_values), SHIFT) > POWER, f"{name}: {count} tokens are too few"
    assert all_fit(p_values, level), p_values


@pytest.mark.parametrize("running", ["none"], indirect=True, scope="session")
def test_a_learned_temperature_goes_on_through_updates_and_preemption(running, head):
    """An update that recomputes every key and value while responses are drawn: no action is drawn twice or lost.

    The update brings the same policy and another head; each action is recorded as the head of its own version takes it.
    """
    other = random_head(running.folder / "other", running.policy.config.hidden_size, seed=1)
    first = running.version
    request = ask("in flight", LEARNED, 32, 300)

    async def update_under_load() -> list[Rollout]:
        drawing = asyncio.create_task(running.group(request))
        await asyncio.sleep(0.2)
        await update(running, update_of(running.policy, first + 1, tensors_of_head(other)))
        return await drawing

    rollouts = running.wait(update_under_load())
    assert {span.version for rollout in rollouts for span in rollout.spans} == {first, first + 1}
    found = examine(running.policy, lambda version: other if version > first else head, rollouts, request)
    assert max(found.errors.values()) < TOLERANCE, found.errors
    running.wait(update(running, update_of(running.policy, first + 2, tensors_of_head(head))))
