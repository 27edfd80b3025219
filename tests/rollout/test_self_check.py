"""The start-up check passes healthy samplers and stops on broken ones with a sentence that says what is wrong."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch

from rollout.draw.categorical import draw, uniforms
from rollout.draw.distribution import softmax_with_entropy, temper
from rollout.draw.fit import Drawn, recompute
from rollout.draw.temperature import EntropyLinear, Fixed
from rollout.draw.truncation import Truncation, TruncationRows, truncate
from rollout.errors import SelfCheckError
from rollout.messages import FinishReason, GroupRequest, Rollout, VersionSpan
from rollout.self_check import HOT, MOST_TURNS, SelfCheck

VOCABULARY = 64
ADAPTIVE = EntropyLinear(low=0.6, high=1.3, entropy_low=1.0, entropy_high=4.0)
NONE = Truncation()
PROMPTS = ((1, 2, 3), (30, 50))
OTHER_WEIGHTS = torch.randn(VOCABULARY, VOCABULARY, generator=torch.Generator().manual_seed(9))


@dataclass
class Sampler:
    """A model of one token's memory and its sampler. Each field is a step that a test may break."""

    weights: torch.Tensor = field(
        default_factory=lambda: 2.5 * torch.randn(VOCABULARY, VOCABULARY, generator=torch.Generator().manual_seed(0))
    )
    temperature: Callable = lambda request, entropies: request.temperature(entropies)
    drawn_at: Callable = lambda request, temperatures: temperatures
    recorded_at: Callable = lambda request, temperatures: temperatures
    draw: Callable = draw
    truncates: bool = True
    generator: torch.Generator = field(default_factory=lambda: torch.Generator().manual_seed(3))

    def generate(self, request: GroupRequest) -> list[Rollout]:
        last = torch.full((request.n,), request.prompt_ids[-1])
        columns = []
        for _ in range(request.max_tokens):
            logits = self.weights[last]
            entropies = softmax_with_entropy(logits)[1]
            temperatures = self.temperature(request, entropies)
            rule = request.truncation if self.truncates else Truncation()
            rows = TruncationRows.of([rule] * request.n)
            of = [
                truncate(temper(logits, at(request, temperatures)), rows).logits.softmax(-1)
                for at in (self.drawn_at, self.recorded_at)
            ]
            last = self.draw(of[0], uniforms(request.n, device=logits.device, generator=self.generator))
            logprobs = of[1].gather(1, last.unsqueeze(1)).squeeze(1).log()
            columns.append(torch.stack((last.float(), logprobs, temperatures, entropies)))
        table = torch.stack(columns, 2).numpy()  # [4, rollout, token]
        return [
            Rollout(
                group_id=request.group_id,
                index=index,
                prompt_ids=request.prompt_ids,
                response_ids=table[0, index].astype(np.int32),
                sampler_logprobs=table[1, index],
                temperatures=table[2, index],
                entropies=table[3, index],
                spans=(VersionSpan(version=0, start=0, end=request.max_tokens),),
                text="",
                finish_reason=FinishReason.LENGTH,
                drafted_tokens=0,
                accepted_histogram=(),
                seconds=0.0,
            )
            for index in range(request.n)
        ]


def check(sampler: Sampler, temperature=ADAPTIVE, truncation=NONE, weights=None, turns=MOST_TURNS, dtype="float32"):
    """The whole check, the learner being the same table of logits (or `weights`)."""
    self_check = SelfCheck("rollout-0", PROMPTS, temperature, truncation, dtype, max_model_len=64)
    table = sampler.weights if weights is None else weights
    generator = torch.Generator().manual_seed(4)
    for turn in range(turns):
        for setting, request in self_check.requests(turn).items():
            rollouts = sampler.generate(request)
            recomputed = []
            for one in rollouts:
                before = torch.tensor([one.prompt_ids[-1], *one.response_ids[:-1]])
                drawn = Drawn(
                    prompt_ids=one.prompt_ids,
                    response_ids=one.response_ids,
                    temperatures=one.temperatures,
                    truncation=request.truncation,
                )
                recomputed.append(recompute(table[before], drawn, generator=generator))
            self_check.add(setting, rollouts, recomputed)
    return self_check.verdict()


@pytest.mark.parametrize("truncation", [Truncation(), Truncation(top_p=0.8), Truncation(top_k=5, min_p=0.02)])
@pytest.mark.parametrize("temperature", [ADAPTIVE, Fixed(), Fixed(temperature=0.7)])
def test_a_healthy_sampler_passes(temperature, truncation):
    """Whatever the run's own setting is; the errors are those of rounding."""
    report = check(Sampler(), temperature, truncation)
    assert report.tokens == 2 * 16 * 8 * MOST_TURNS
    assert max(report.entropy_error, report.temperature_error, report.logprob_error) < 1e-5


def other(request: GroupRequest):
    """The policy of the other request in the batch."""
    return ADAPTIVE if request.temperature == HOT else HOT


BROKEN = {
    "the temperature of another row": (
        {"temperature": lambda request, entropies: other(request)(entropies)},
        r"records temperatures that are .* another request's policy",
    ),
    "the entropy of another row": (
        {"temperature": lambda request, entropies: request.temperature(entropies.roll(1))},
        r"records temperatures that are .* another token's entropy",
    ),
    "raw logprobs": (
        {"recorded_at": lambda request, temperatures: torch.ones_like(temperatures)},
        r"records logprobs that are .* nats \(rms\) off the learner's .* those at T=1",
    ),
    "drawn and recorded at another temperature than said": (
        {"recorded_at": lambda _, t: t * 1.02, "drawn_at": lambda _, t: t * 1.02},
        r"records logprobs that are .* another row",
    ),
    "drawn at T=1 whatever is recorded": (
        {"drawn_at": lambda request, temperatures: torch.ones_like(temperatures)},
        r"do not follow its own recorded logprobs at T=1.7 .* likely tokens come too often, another temperature",
    ),
    "a draw that leans to low ids": (
        {"draw": lambda weights, uniforms: draw(weights, uniforms**1.5)},
        r"do not follow its own recorded logprobs .* the draw is biased",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_sampler_is_caught(name):
    """One sentence names what disagrees, by how much, and the likely cause."""
    faults, message = BROKEN[name]
    with pytest.raises(SelfCheckError, match=message) as caught:
        check(Sampler(**faults))
    assert "\n" not in str(caught.value)
    assert "run.self_check=false" in str(caught.value)


def test_other_weights_are_caught():
    """The engine draws with weights that are not the learner's."""
    with pytest.raises(SelfCheckError, match="records entropies .* different weights"):
        check(Sampler(), weights=2.5 * OTHER_WEIGHTS)


def test_a_truncation_that_is_not_applied_is_caught():
    """The learner's logprobs are of a smaller set, so they are higher."""
    with pytest.raises(SelfCheckError, match="records logprobs that are 0.33 nats"):
        check(Sampler(truncates=False), Fixed(), Truncation(top_k=5))


def test_two_turns_are_enough_for_gross_faults():
    """At the least number of tokens, 256 a setting, each broken sampler but the slight ones is still caught."""
    for name in ("the temperature of another row", "raw logprobs", "drawn at T=1 whatever is recorded"):
        with pytest.raises(SelfCheckError):
            check(Sampler(**BROKEN[name][0]), turns=2)


def test_bfloat16_forgives_rounding_and_no_lost_temperature():
    """Noise of 0.02 in the logits passes at bfloat16, not at float32; raw logprobs pass at neither."""
    noisy = Sampler()
    noise = noisy.weights + 0.02 * OTHER_WEIGHTS
    check(noisy, weights=noise, dtype="bfloat16")
    with pytest.raises(SelfCheckError, match=r"0.001 is allowed"):
        check(noisy, weights=noise)
    with pytest.raises(SelfCheckError, match=r"those at T=1"):
        check(Sampler(**BROKEN["raw logprobs"][0]), dtype="bfloat16")


class Rounding(Sampler):
    """In the run's own setting, some tokens are recorded as of a set that is smaller by a tenth of its mass."""

    tokens = 2

    def generate(self, request: GroupRequest) -> list[Rollout]:
        rollouts = super().generate(request)
        for one in rollouts if request.temperature != HOT else ():
            if self.tokens:
                self.tokens -= 1
                one.sampler_logprobs[0] += 0.1
        return rollouts


def test_a_token_at_the_edge_of_its_set_stops_no_run():
    """Two such tokens are forgiven where a set is cut, and nowhere else; a third is not."""
    cut = Truncation(top_p=0.8)
    check(Rounding(), truncation=cut)
    with pytest.raises(SelfCheckError, match="records logprobs"):
        check(Rounding())
    more = Rounding()
    more.tokens = 3
    with pytest.raises(SelfCheckError, match="records logprobs"):
        check(more, truncation=cut)
