"""The verifier `verilog`: responses and references in, verdicts out.

A reference is {"reference_source", "top_module", "testbench"}. Without a testbench the reference is a design, and the
response must do what it does under our stimuli; with one, the testbench runs both and judges by itself (harness.py).

Many responses are one simulation, and equal ones are one design in it: the trace of a design under given stimuli is
remembered, whatever the reference it is compared with.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from reward.cache import RecentlyUsed
from reward.config import RewardConfig
from reward.errors import UnusableReference
from reward.messages import Status, Verdict, VerifyRequest
from reward.sandbox import Sandbox, check_program
from reward.verilog.design import Design, parse_design
from reward.verilog.errors import Rejected
from reward.verilog.extract import extract_verilog
from reward.verilog.harness import HarnessProblem, HarnessRunner
from reward.verilog.interface import Interface, read_interface
from reward.verilog.judgement import Judgement, malformed
from reward.verilog.simulate import Outcome, Simulator
from reward.verilog.stimuli import Stimuli, stimuli_for
from reward.verilog.traces import NoTrace, Trace, agreement

PROBLEM_ENTRIES = 4096


@dataclass(frozen=True, kw_only=True, eq=False)
class DesignProblem:
    """A reference design: what to feed, and the design whose trace is the expectation."""

    top_module: str
    reference: Design
    interface: Interface
    stimuli: Stimuli


class VerilogVerifier:
    """See `reward.verifier.Verifier`."""

    name = "verilog"

    def __init__(self, config: RewardConfig) -> None:
        self._config = config.verilog
        self._sandbox = Sandbox(config.sandbox)
        self._simulator = Simulator(self._sandbox, config.verilog, config.deadline_s)
        self._problems: RecentlyUsed[DesignProblem | HarnessProblem | UnusableReference] = RecentlyUsed(PROBLEM_ENTRIES)
        self._stimuli: RecentlyUsed[Stimuli] = RecentlyUsed(PROBLEM_ENTRIES)
        self._designs: RecentlyUsed[Design | Rejected] = RecentlyUsed(config.cache_entries)
        self._outcomes: RecentlyUsed[Outcome] = RecentlyUsed(config.cache_entries)
        self._harness = HarnessRunner(self._sandbox, config.verilog, config.deadline_s)
        self._judgements: RecentlyUsed[Judgement] = RecentlyUsed(config.cache_entries)

    @staticmethod
    def check(config: RewardConfig) -> None:
        """Raises RewardError, one sentence, where the verifier cannot work on this machine."""
        for program in ("iverilog", "vvp"):
            check_program(program, package="iverilog")
        Sandbox(config.sandbox)

    @property
    def isolation(self) -> str:
        return self._sandbox.describe()

    def pids(self) -> list[int]:
        return self._sandbox.pids()

    def close(self) -> None:
        self._sandbox.close()

    def verify(self, requests: Sequence[VerifyRequest]) -> list[Verdict]:
        started = time.monotonic()
        judgements: dict[int, Judgement] = {}
        waiting: dict[int, tuple[DesignProblem, Design]] = {}
        for position, request in enumerate(requests):
            entry = self._entry(request)
            if isinstance(entry, Judgement):
                judgements[position] = entry
            else:
                waiting[position] = entry
        # references first and apart: no response runs in one process with what it is compared with
        expected = self._outcomes_of([(problem, problem.reference) for problem, _ in waiting.values()])
        sampled = self._outcomes_of(list(waiting.values()))
        for position, (problem, design) in waiting.items():
            judgements[position] = compared(
                sampled[outcome_key(problem, design)], expected[outcome_key(problem, problem.reference)]
            )
        seconds = (time.monotonic() - started) / max(1, len(requests))
        return [judgements[position].verdict(request.id, seconds) for position, request in enumerate(requests)]

    def _entry(self, request: VerifyRequest) -> "Judgement | tuple[DesignProblem, Design]":
        """What is left to do for a request: nothing, or a design to simulate."""
        try:
            problem = self._problem(request.reference)
        except UnusableReference as error:
            return Judgement(status=Status.ERROR, detail=str(error))
        source = extract_verilog(request.response, problem.top_module)
        if source is None:
            return malformed("the response holds no module")
        try:
            design = self._design(source, problem)
        except Rejected as reason:
            return malformed(str(reason))
        if isinstance(problem, HarnessProblem):
            return self._harness_judgement(problem, design)
        return problem, design

    def _problem(self, reference: Mapping[str, Any]) -> DesignProblem | HarnessProblem:
        key = tuple(reference.get(field) for field in ("reference_source", "top_module", "testbench"))
        problem = self._problems.get(key)
        if problem is None:
            try:
                problem = self._read_problem(*key)
            except UnusableReference as error:
                problem = error
            except Rejected as reason:
                problem = UnusableReference(f"the reference does not work as a design: {reason}")
            self._problems.put(key, problem)
        if isinstance(problem, UnusableReference):
            raise problem
        return problem

    def _read_problem(self, source: Any, top_module: Any, testbench: Any) -> DesignProblem | HarnessProblem:
        if not isinstance(source, str) or not isinstance(top_module, str) or not top_module:
            raise UnusableReference("a verilog reference has reference_source and top_module, both text")
        if testbench is not None:
            return self._harness.read(source, top_module, testbench)
        try:
            design = parse_design(source, top_module, trusted=True)
        except Rejected:
            design = parse_design(source, None, trusted=True)
        interface = read_interface(source, design.modules[design.top])
        stimuli = self._stimuli.get(interface)
        if stimuli is None:
            stimuli = stimuli_for(interface, cycles=self._config.cycles, vectors=self._config.vectors)
            self._stimuli.put(interface, stimuli)
        return DesignProblem(top_module=top_module, reference=design, interface=interface, stimuli=stimuli)

    def _design(self, source: str, problem: DesignProblem | HarnessProblem) -> Design:
        foreign = problem.names if isinstance(problem, HarnessProblem) else frozenset()
        key = (source, problem.top_module, foreign)
        design = self._designs.get(key)
        if design is None:
            try:
                design = parse_design(source, problem.top_module, foreign=foreign)
            except Rejected as reason:
                design = reason
            self._designs.put(key, design)
        if isinstance(design, Rejected):
            raise design
        return design

    def _harness_judgement(self, problem: HarnessProblem, design: Design) -> Judgement:
        key = (problem.harness, design.text)
        judgement = self._judgements.get(key)
        if judgement is None:
            judgement = self._harness.judge(problem, design)
            if judgement.certain:
                self._judgements.put(key, judgement)
        return judgement

    def _outcomes_of(self, wanted: Sequence[tuple[DesignProblem, Design]]) -> "dict[OutcomeKey, Outcome]":
        """Outcomes remembered, and those of designs not known yet, in one simulation per interface where possible."""
        outcomes: dict[OutcomeKey, Outcome] = {}
        missing: dict[Interface, dict[OutcomeKey, tuple[DesignProblem, Design]]] = {}
        for problem, design in wanted:
            key = outcome_key(problem, design)
            known = self._outcomes.get(key)
            if known is not None:
                outcomes[key] = known
            else:
                missing.setdefault(problem.interface, {})[key] = (problem, design)
        for interface, entries in missing.items():
            stimuli = next(iter(entries.values()))[0].stimuli
            fresh = self._simulator.outcomes([design for _, design in entries.values()], interface, stimuli)
            for key, outcome in zip(entries, fresh, strict=True):
                outcomes[key] = outcome
                if isinstance(outcome, Trace) or outcome.certain:
                    self._outcomes.put(key, outcome)
        return outcomes


OutcomeKey = tuple[Interface, str, int]


def outcome_key(problem: DesignProblem, design: Design) -> OutcomeKey:
    """Stimuli are a function of the interface."""
    return (problem.interface, design.text, design.top)


def compared(sampled: Outcome, expected: Outcome) -> Judgement:
    """The judgement of one trace against the reference's."""
    if isinstance(expected, NoTrace):
        return Judgement(
            status=Status.ERROR, detail=f"the reference does not run: {expected.detail}", certain=expected.certain
        )
    if expected.says_nothing:
        return Judgement(
            status=Status.ERROR, detail="the reference's outputs are unknown throughout: it judges nothing"
        )
    if isinstance(sampled, NoTrace):
        return Judgement(
            status=sampled.status,
            components={"parse": 1.0, "compile": float(sampled.compiled), "match": 0.0},
            detail=sampled.detail,
            certain=sampled.certain,
        )
    match = agreement(sampled.rows, expected.rows)
    wrong = round((1.0 - match) * len(expected.rows))
    return Judgement(
        status=Status.SCORED,
        reward=float(wrong == 0),
        components={"parse": 1.0, "compile": 1.0, "match": match},
        detail="all samples agree" if wrong == 0 else f"{wrong} of {len(expected.rows)} samples differ",
    )
