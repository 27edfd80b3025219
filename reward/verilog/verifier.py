"""The verifier `verilog`: responses and references in, verdicts out.

    response --extract--> source --parse--> Design --examine--> Findings --(formal, cost)--> --ladder--> Verdict

A reference is {"reference_source", "top_module", "testbench"}. Without a testbench the reference is a design, and the
response must do what it does under our stimuli; with one, the testbench judges (problem.py). Many responses are one
simulation, and equal ones are one design in it.

`seconds` of a verdict is the time on its response's clock (clock.py), which `reward.deadline_s` bounds: the preparation
of its reference and every simulation it took part in count in full, the rest of its batch does not.
"""

import hashlib
from collections.abc import Sequence

from reward.cache import RecentlyUsed
from reward.config import RewardConfig
from reward.errors import UnusableReference
from reward.messages import Verdict, VerifyRequest
from reward.sandbox import Sandbox, check_program
from reward.verilog.clock import Clock, running
from reward.verilog.design import Design, parse_design
from reward.verilog.errors import Rejected
from reward.verilog.examine import Candidate, Examiner, fault
from reward.verilog.extract import extract_verilog
from reward.verilog.judgement import Judgement
from reward.verilog.ladder import judgement, unparsed
from reward.verilog.problem import NotPrepared, Problem
from reward.verilog.supplement import Supplement
from reward.verilog.testbench import timescale_of

DESIGN_ENTRIES = 4096


class VerilogVerifier:
    """See `reward.verifier.Verifier`."""

    name = "verilog"

    def __init__(self, config: RewardConfig) -> None:
        self._config = config
        self._sandbox = Sandbox(config.sandbox)
        self._examiner = Examiner(self._sandbox, config.verilog)
        self._supplement = Supplement(self._sandbox, config.verilog, self._examiner)
        self._designs: RecentlyUsed[Design | Rejected] = RecentlyUsed(DESIGN_ENTRIES)
        self._judgements: RecentlyUsed[Judgement] = RecentlyUsed(config.cache_entries)

    @staticmethod
    def check(config: RewardConfig) -> None:
        """Raises RewardError, one sentence, where the verifier cannot work on this machine."""
        for program in ("iverilog", "vvp"):
            check_program(program, package="iverilog")
        if config.verilog.ladder.formal is not None or config.verilog.ladder.cost is not None:
            check_program("yosys", package="yosys")
        Sandbox(config.sandbox)

    @property
    def isolation(self) -> str:
        return self._sandbox.describe()

    def pids(self) -> list[int]:
        return self._sandbox.pids()

    def close(self) -> None:
        self._sandbox.close()

    def verify(self, requests: Sequence[VerifyRequest]) -> list[Verdict]:
        settled: dict[int, tuple[Judgement, Clock]] = {}
        waiting: dict[str, Candidate] = {}  # key of a judgement -> the design it is about
        keys: dict[int, str] = {}
        preparing_s: dict[str, float] = {}  # of problems that this batch had to prepare
        for position, request in enumerate(requests):
            clock = Clock(self._config.deadline_s)
            entry = self._entry(request, clock)
            if isinstance(entry, Judgement):
                settled[position] = entry, clock
                continue
            delay_s = preparing_s.setdefault(entry.problem.key, clock.spent_s)
            clock.spent_s = max(clock.spent_s, delay_s)
            keys[position] = key = judgement_key(entry)
            known = self._judgements.get(key)
            if known is not None:
                settled[position] = known, clock
            else:
                waiting.setdefault(key, entry)
        fresh = self._judged(list(waiting.values()))
        judged = dict(zip(waiting, fresh, strict=True))
        for key, one in judged.items():
            if one.certain:
                self._judgements.put(key, one)
        for position, key in keys.items():
            if position not in settled:
                settled[position] = judged[key], waiting[key].clock
        return [
            settled[position][0].verdict(request.id, settled[position][1].spent_s)
            for position, request in enumerate(requests)
        ]

    def _judged(self, candidates: Sequence[Candidate]) -> list[Judgement]:
        findings = self._examiner.findings(candidates)
        ladder = self._config.verilog.ladder
        return [
            judgement(self._supplement.extended(candidate, one), ladder)
            for candidate, one in zip(candidates, findings, strict=True)
        ]

    def _entry(self, request: VerifyRequest, clock: Clock) -> Judgement | Candidate:
        """What is left to do for a request: nothing, or a design to examine."""
        ladder = self._config.verilog.ladder
        try:
            problem = self._examiner.problems.get(request.reference, clock)
        except UnusableReference as error:
            return judgement(fault(str(error), certain=not isinstance(error, NotPrepared)), ladder)
        with running([clock]):
            source = extract_verilog(request.response, problem.top_module)
            if source is None:
                return judgement(unparsed("the response holds no module"), ladder)
            try:
                design = self._design(source, problem)
            except Rejected as reason:
                return judgement(unparsed(str(reason)), ladder)
        return Candidate(problem=problem, design=design, source=source, clock=clock)

    def _design(self, source: str, problem: Problem) -> Design:
        key = (source, problem.top_module)
        design = self._designs.get(key)
        if design is None:
            try:
                design = parse_design(source, problem.top_module)
            except Rejected as reason:
                design = reason
            self._designs.put(key, design)
        if isinstance(design, Rejected):
            raise design
        return design


def judgement_key(candidate: Candidate) -> str:
    """Equal for designs that differ in spacing and comments, under one problem."""
    # the directive counts where a testbench runs around the design itself
    timescale = timescale_of(candidate.source) if candidate.problem.testbench is not None else ""
    design = f"{timescale} {candidate.design.top} {candidate.design.text}"
    return hashlib.sha256(f"{candidate.problem.key} {design}".encode()).hexdigest()
