"""Rows of logits -> what each is drawn from: the row's own request says at which temperature and with which tail cut.

    logits --softmax--> p at T = 1, H --policy--> T --> logits / T --truncation--> softmax = what is drawn from
    hidden states --temperature head (head.py), for requests that ask for it--> T

A batch mixes requests, and with speculation a request has several rows. Whose a row is, is decided here and nowhere
else: the sampler, the verifier of drafts and the drafter all ask `RowRules`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from rollout.draw.distribution import point_mass_, probabilities, softmax_with_entropy, temper
from rollout.draw.temperature import Fixed, TemperaturePolicy, from_wire
from rollout.draw.truncation import Geometry, TopW, Truncation, TruncationRows, truncate
from rollout.draw.truncation import from_wire as truncation_from_wire
from rollout.vllm_adapter.head import Actions, HeadTap, Taus
from rollout.vllm_adapter.kept import KeptRows, truncates
from rollout.vllm_adapter.prompt_states import PromptStates

POLICY_KEY = "temperature_policy"  # in SamplingParams.extra_args, as plain values
TRUNCATION_KEY = "truncation"
FINISHED_KEPT = 1024  # rules of requests that may have ended before they are forgotten


@dataclass(frozen=True, slots=True)
class Rule:
    """How one request draws."""

    temperature: TemperaturePolicy
    truncation: Truncation | TopW


PLAIN = Rule(Fixed(), Truncation())  # of rows that no request of ours owns, e.g. vLLM's warm-up


@dataclass(frozen=True, slots=True)
class Rows:
    """What rows are drawn from: probabilities [rows, vocab], all on one token where T = 0; the others [rows]."""

    probabilities: Tensor
    entropies: Tensor  # nats, at T = 1
    temperatures: Tensor
    truncated: Tensor | None = None  # tempered logits [rows, vocab], -inf outside the kept set; None: nothing was cut
    actions: Actions | None = None  # None: no row was drawn by the temperature head


@dataclass(frozen=True, slots=True)
class Known:
    """A request in the runner: its rule, and vLLM's own state of it, by which it is told from others of its id."""

    state: Any
    rule: Rule
    taus: Taus | None  # of a learned policy


class RowRules:
    """The rules of the requests in the runner's batch. `runner` is vLLM's V1 model runner, `head` its tap, if any."""

    def __init__(self, runner: Any) -> None:
        self._runner = runner
        self._known: dict[str, Known] = {}
        self._last_temperatures: Tensor | None = None  # [requests], of the last token each emitted in this step
        self._kept: KeptRows | None = None
        self._geometry: Geometry | None = None
        self.head: HeadTap | None = None
        self.prompt_states = PromptStates()

    def rows(self, logits: Tensor, counts: Sequence[int] | None = None) -> Rows:
        """The target's logits [rows, vocab] float32, `counts` rows of each request in turn (None: one each)."""
        batch = self._of_batch()
        if self.prompt_states.expected:
            self.prompt_states.keep(self._runner.input_batch.req_ids, counts, self.head.hidden)
        at_one, entropies = softmax_with_entropy(logits)
        temperatures = _temperatures([one.rule.temperature for one in batch], entropies, counts)
        actions = None
        if any(one.taus is not None for one in batch):
            actions = self.head.act([one.taus for one in batch], counts, temperatures)
        return self._drawn_from(logits, batch, counts, Rows(at_one, entropies, temperatures, actions=actions))

    def drafting(self, requests: Sequence[int] | None = None) -> Callable[[Tensor], Tensor]:
        """The drafter's logits [requests, vocab] -> q: as the target's, but a learned temperature stays where it is.

        For this step, and of the batch the `requests` of these indices alone (None: all).
        """
        batch = self._of_batch()
        if requests is not None:
            batch = [batch[index] for index in requests]
        if all(one.rule is PLAIN for one in batch):
            return lambda logits: logits.softmax(-1)
        learned = [one.taus is not None for one in batch]

        def drawn_from(logits: Tensor) -> Tensor:
            at_one, entropies = softmax_with_entropy(logits)
            temperatures = _temperatures([one.rule.temperature for one in batch], entropies, None)
            if any(learned):
                last = self._last_temperatures if requests is None else self._last_temperatures[list(requests)]
                temperatures = torch.where(torch.tensor(learned, device=logits.device), last, temperatures)
            return self._drawn_from(logits, batch, None, Rows(at_one, entropies, temperatures)).probabilities

        return drawn_from

    def emitted(self, rows: Rows, at: Tensor, lengths: Tensor | None = None) -> None:
        """The step emitted `lengths` [requests] tokens of each request (None: one), at the rows `at` [requests, most].

        Behind a request's last token its row is repeated.
        """
        self._last_temperatures = rows.temperatures[at[:, -1]]
        if rows.truncated is not None:
            cut = [truncates(one.rule.temperature, one.rule.truncation) for one in self._of_batch()]
            self._kept = KeptRows.of(rows.truncated, at, lengths, cut)

    def take_kept(self) -> KeptRows | None:
        """The kept sets of the step's tokens, once; None where no request truncates."""
        kept, self._kept = self._kept, None
        return kept

    def weights_changed(self) -> None:
        """The vocabulary's geometry follows the embeddings."""
        self._geometry = None

    def _drawn_from(self, logits: Tensor, batch: list[Known], counts: Sequence[int] | None, rows: Rows) -> Rows:
        """`rows`, whose probabilities are those at T = 1, tempered and truncated."""
        cuts = TruncationRows.of([one.rule.truncation for one in batch], counts, logits.device)
        if cuts is None and bool((rows.temperatures == 1.0).all()):
            return rows
        if cuts is None:
            return replace(rows, probabilities=probabilities(logits, rows.temperatures))
        truncated = truncate(temper(logits, rows.temperatures), cuts, self._geometry_for(cuts)).logits
        drawn_from = point_mass_(truncated.softmax(-1), rows.temperatures == 0.0)
        return replace(rows, probabilities=drawn_from, truncated=truncated)

    def _geometry_for(self, cuts: TruncationRows | None) -> Geometry | None:
        """Of the model's input embeddings, where a row is cut by it; built once for each version of the weights."""
        if cuts is None or not any(isinstance(rule, TopW) for _, rule in cuts.parts):
            return None
        if self._geometry is None:
            ids = torch.arange(self._runner.model_config.get_vocab_size(), device=self._runner.device)
            self._geometry = Geometry.of(self._runner.get_model().embed_input_ids(ids))
        return self._geometry

    def _of_batch(self) -> list[Known]:
        """One per request, in the runner's order."""
        requests = self._runner.requests
        if len(self._known) > len(requests) + FINISHED_KEPT:
            self._known = {name: known for name, known in self._known.items() if name in requests}
        batch = []
        for name in self._runner.input_batch.req_ids:
            known = self._known.get(name)
            if known is None or known.state is not requests[name]:  # an id may be used again
                known = self._known[name] = _known(requests[name])
            batch.append(known)
        return batch or [NOBODY]


def _known(state: Any) -> Known:
    arguments = state.sampling_params.extra_args or {}
    temperature, truncation = arguments.get(POLICY_KEY), arguments.get(TRUNCATION_KEY)
    rule = Rule(
        from_wire(temperature) if temperature else PLAIN.temperature,
        truncation_from_wire(truncation) if truncation else PLAIN.truncation,
    )
    rule = PLAIN if rule == PLAIN else rule  # so that a batch of plain rules is known by identity
    learned = "hidden" in rule.temperature.needs
    return Known(state, rule, Taus(rule.temperature, state) if learned else None)


NOBODY = Known(None, PLAIN, None)


def _temperatures(policies: list[TemperaturePolicy], entropies: Tensor, counts: Sequence[int] | None) -> Tensor:
    """[rows]: each request's own policy at its rows; rows of one policy are computed together. 1 for the head's."""
    distinct = set(policies)
    if len(distinct) == 1 and "hidden" not in policies[0].needs:
        return policies[0](entropies)
    owners = torch.arange(len(policies), device=entropies.device)
    if counts is not None:
        owners = owners.repeat_interleave(torch.tensor(counts, device=entropies.device))
    temperatures = torch.ones_like(entropies)
    for policy in distinct:
        if "hidden" in policy.needs:
            continue
        mine = torch.tensor([one == policy for one in policies], device=entropies.device)[owners]
        temperatures[mine] = policy(entropies[mine])
    return temperatures
