"""Rows of logits -> what each is drawn from: the row's own request says at which temperature and with which tail cut.

    logits --softmax--> p at T = 1, H --policy--> T --> logits / T --truncation--> softmax = what is drawn from

A batch mixes requests, and with speculation a request has several rows. Whose a row is, is decided here and nowhere
else: the sampler, the verifier of drafts and the drafter all ask `RowRules`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rollout.draw.distribution import point_mass_, softmax_with_entropy, temper
from rollout.draw.temperature import Fixed, TemperaturePolicy, from_wire
from rollout.draw.truncation import Truncation, TruncationRows, truncate
from rollout.draw.truncation import from_wire as truncation_from_wire

POLICY_KEY = "temperature_policy"  # in SamplingParams.extra_args, as plain values
TRUNCATION_KEY = "truncation"
FINISHED_KEPT = 1024  # rules of requests that may have ended before they are forgotten


@dataclass(frozen=True, slots=True)
class Rule:
    """How one request draws."""

    temperature: TemperaturePolicy
    truncation: Truncation


PLAIN = Rule(Fixed(), Truncation())  # of rows that no request of ours owns, e.g. vLLM's warm-up


@dataclass(frozen=True, slots=True)
class Rows:
    """What rows are drawn from: probabilities [rows, vocab], all on one token where T = 0; the others [rows]."""

    probabilities: Tensor
    entropies: Tensor  # nats, at T = 1
    temperatures: Tensor


class RowRules:
    """The rules of the requests in the runner's batch. `runner` is vLLM's V1 model runner."""

    def __init__(self, runner: Any) -> None:
        self._runner = runner
        self._known: dict[str, Rule] = {}

    def rows(self, logits: Tensor, counts: Sequence[int] | None = None) -> Rows:
        """logits [rows, vocab] float32, `counts` rows of each request in turn (None: one each)."""
        rules = self._of_batch()
        probabilities, entropies = softmax_with_entropy(logits)
        temperatures = _temperatures([rule.temperature for rule in rules], entropies, counts)
        cuts = TruncationRows.of([rule.truncation for rule in rules], counts, logits.device)
        if cuts is None and bool((temperatures == 1.0).all()):
            return Rows(probabilities, entropies, temperatures)
        tempered = truncate(temper(logits, temperatures), cuts).logits
        return Rows(point_mass_(tempered.softmax(-1), temperatures == 0.0), entropies, temperatures)

    def _of_batch(self) -> list[Rule]:
        """One rule per request, in the runner's order."""
        requests = self._runner.requests
        if len(self._known) > len(requests) + FINISHED_KEPT:
            self._known = {name: rule for name, rule in self._known.items() if name in requests}
        rules = []
        for name in self._runner.input_batch.req_ids:
            rule = self._known.get(name)
            if rule is None:
                rule = self._known[name] = _rule(requests[name].sampling_params.extra_args or {})
            rules.append(rule)
        return rules or [PLAIN]


def _rule(arguments: dict[str, Any]) -> Rule:
    temperature, truncation = arguments.get(POLICY_KEY), arguments.get(TRUNCATION_KEY)
    return Rule(
        from_wire(temperature) if temperature else PLAIN.temperature,
        truncation_from_wire(truncation) if truncation else PLAIN.truncation,
    )


def _temperatures(policies: list[TemperaturePolicy], entropies: Tensor, counts: Sequence[int] | None) -> Tensor:
    """[rows]: each request's own policy at its rows; rows of one policy are computed together."""
    distinct = set(policies)
    if len(distinct) == 1:
        return policies[0](entropies)
    owners = torch.arange(len(policies), device=entropies.device)
    if counts is not None:
        owners = owners.repeat_interleave(torch.tensor(counts, device=entropies.device))
    temperatures = torch.ones_like(entropies)
    for policy in distinct:
        mine = torch.tensor([one == policy for one in policies], device=entropies.device)[owners]
        temperatures[mine] = policy(entropies[mine])
    return temperatures
