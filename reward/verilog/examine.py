"""From designs to findings: who is simulated how, and who has the last word.

    problem without testbench   design's trace against the reference's
    testbench, split            equal traces pass; any other trace is played back to the testbench
                                a testbench that reacts to the outputs is recorded further, round by round
    testbench, joint            testbench and design in one simulation

Designs of one problem, and of problems with the same interface under our own stimuli, share simulations.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from reward.cache import RecentlyUsed
from reward.config import VerilogConfig
from reward.errors import UnusableReference
from reward.messages import Status
from reward.sandbox import Sandbox
from reward.verilog.clock import Clock, running
from reward.verilog.design import Design, parse_design
from reward.verilog.errors import Rejected
from reward.verilog.harness import BASELESS, Harness
from reward.verilog.interface import Interface
from reward.verilog.ladder import Findings, baseline, unparsed, without_trace
from reward.verilog.memory import ByWeight
from reward.verilog.playback import Diverged, Part, Playback, Played
from reward.verilog.problem import NotPrepared, Problem, Problems
from reward.verilog.simulate import OUT_OF_TIME, Simulator
from reward.verilog.stimuli import Stimuli
from reward.verilog.testbench import WORD, Said, timescale_of
from reward.verilog.traces import UNKNOWN, NoTrace, Outcome, Trace, agreeing, agreement, weight

ROUNDS = 12  # of recording a testbench further, before it counts as one that cannot be split for this design
SAID_ENTRIES = 16_384
PAST = " "  # a bit of the reference that there is not
TRACE_BYTES = 64 << 20  # of outcomes that one verifier remembers

OutcomeKey = tuple[Interface | str, str, int]


@dataclass(frozen=True, kw_only=True, eq=False)
class Candidate:
    """A design to judge. `source` is what it was parsed from; the clock is that of the responses it stands for."""

    problem: Problem
    design: Design
    source: str
    clock: Clock = field(repr=False)


class Examiner:
    """Safe to share between threads."""

    def __init__(self, sandbox: Sandbox, config: VerilogConfig) -> None:
        self._simulator = Simulator(sandbox, config)
        self._playback = Playback(sandbox, config.compile_cpu_s)
        self._harness = Harness(sandbox, config.compile_cpu_s)
        self.problems = Problems(sandbox, self._simulator, self._playback, self._harness, config)
        self._traces: ByWeight[Outcome] = ByWeight(TRACE_BYTES, weight)
        self._said: RecentlyUsed[Said] = RecentlyUsed(SAID_ENTRIES)
        self._baselines: RecentlyUsed[float] = RecentlyUsed(SAID_ENTRIES)

    def findings(self, candidates: Sequence[Candidate]) -> list[Findings]:
        """What is found out about each candidate, in order."""
        found: dict[int, Findings] = {}
        sampled = [index for index, candidate in enumerate(candidates) if candidate.problem.stimuli is not None]
        # references first and apart: no response runs in one process with what it is compared with
        expected = self._expected([candidates[index] for index in sampled])
        outcomes = self._outcomes([candidates[index] for index in sampled])
        played: dict[str, list[int]] = {}
        traces: dict[int, Trace] = {}
        for index, want, outcome in zip(sampled, expected, outcomes, strict=True):
            problem = candidates[index].problem
            if isinstance(outcome, NoTrace) or isinstance(want, NoTrace) or problem.player is None:
                found[index] = self._compared(problem, outcome, want)
            elif outcome == want:
                found[index] = passed(self._compared(problem, outcome, want), "all samples agree")
            else:
                traces[index] = outcome
                played.setdefault(problem.key, []).append(index)
        for indices in played.values():
            said = self._played([candidates[index] for index in indices], [traces[index] for index in indices])
            found.update(zip(indices, said, strict=True))
        for index, candidate in enumerate(candidates):
            if index not in found:
                found[index] = self._joint(candidate)
        return [found[index] for index in range(len(candidates))]

    def differ(self, candidate: Candidate, vectors: tuple[str, ...]) -> int | None:
        """The first of the vectors after which design and reference differ in our own simulation, None if none does."""
        problem, interface = candidate.problem, candidate.problem.interface
        stimuli = Stimuli(vectors=vectors)
        pair = [
            self._simulator.outcomes([design], [candidate.clock], interface, stimuli)[0]
            for design in (problem.reference, candidate.design)
        ]
        if isinstance(pair[0], NoTrace) or isinstance(pair[1], NoTrace):
            return None
        return next((index for index, same in enumerate(agreeing(pair[1], pair[0])) if not same), None)

    def _expected(self, candidates: Sequence[Candidate]) -> list[Outcome]:
        """The reference's outcome for each candidate."""
        problems: dict[str, tuple[Problem, list[Clock]]] = {}
        for candidate in candidates:
            problems.setdefault(candidate.problem.key, (candidate.problem, []))[1].append(candidate.clock)
        references = [
            Candidate(
                problem=problem,
                design=problem.reference,
                source="",
                clock=Clock(max(clock.left_s for clock in clocks)),
            )
            for problem, clocks in problems.values()
            if problem.expected is None
        ]
        outcomes: dict[str, Outcome] = {}
        for reference, outcome in zip(references, self._outcomes(references), strict=True):
            outcomes[reference.problem.key] = outcome
            for clock in {id(clock): clock for clock in problems[reference.problem.key][1]}.values():
                clock.spent_s += reference.clock.spent_s
        return [candidate.problem.expected or outcomes[candidate.problem.key] for candidate in candidates]

    def _outcomes(self, candidates: Sequence[Candidate]) -> list[Outcome]:
        """Outcomes remembered, and those of designs not known yet, in few simulations."""
        outcomes: dict[OutcomeKey, Outcome] = {}
        missing: dict[Interface | str, dict[OutcomeKey, Candidate]] = {}
        keys = [(one.problem.samples_key, one.design.text, one.design.top) for one in candidates]
        for key, candidate in zip(keys, candidates, strict=True):
            known = self._traces.get(key)
            if known is not None:
                outcomes[key] = known
            else:
                missing.setdefault(key[0], {})[key] = candidate
        for entries in missing.values():
            problem = next(iter(entries.values())).problem
            assert problem.stimuli is not None
            fresh = self._simulator.outcomes(
                [one.design for one in entries.values()],
                [one.clock for one in entries.values()],
                problem.interface,
                problem.stimuli,
            )
            for key, outcome in zip(entries, fresh, strict=True):
                outcomes[key] = outcome
                if isinstance(outcome, Trace) or outcome.certain:
                    self._traces.put(key, outcome)
        return [outcomes[key] for key in keys]

    def _compared(self, problem: Problem, outcome: Outcome, expected: Outcome) -> Findings:
        """One trace against the reference's, as if there were no testbench."""
        if isinstance(expected, NoTrace):
            return fault(f"the reference does not run: {expected.detail}", certain=expected.certain)
        if expected.says_nothing:
            return fault("the reference's outputs are unknown throughout: it judges nothing")
        if isinstance(outcome, NoTrace):
            return without_trace(outcome, trusted_harness=True)
        match = 1.0 if outcome.text == expected.text else agreement(outcome, expected)
        full = match == 1.0
        wrong = round((1.0 - match) * len(expected))
        return Findings(
            compile=True,
            ports=True,
            match=match,
            baseline=self._baseline(problem, expected),
            full=full,
            trusted_harness=True,
            detail="all samples agree" if full else f"{wrong} of {len(expected)} samples differ",
        )

    def _baseline(self, problem: Problem, expected: Trace) -> float:
        known = self._baselines.get(problem.key)
        if known is None:
            known = baseline(expected)
            self._baselines.put(problem.key, known)
        return known

    def _played(self, candidates: Sequence[Candidate], traces: Sequence[Trace]) -> list[Findings]:
        """What the testbench of one problem says of traces that are not the reference's."""
        problem = candidates[0].problem
        assert problem.stimuli is not None
        parts = {index: Part(stimuli=problem.stimuli, trace=trace) for index, trace in enumerate(traces)}
        found: dict[int, Findings] = {}
        for _ in range(ROUNDS):
            if not parts:
                break
            diverged: dict[int, Stimuli] = {}
            all_played = self._playbacks(candidates, parts)
            baseless = self._baseless(candidates, parts, all_played)
            for index, played in all_played.items():
                if isinstance(played, Diverged):
                    diverged[index] = played.stimuli
                else:
                    found[index] = self._said_of(problem, traces[index], baseless.get(index, played))
            parts = {}
            for index, stimuli in diverged.items():
                one = candidates[index]
                (outcome,) = self._simulator.outcomes([one.design], [one.clock], problem.interface, stimuli)
                if isinstance(outcome, NoTrace):
                    found[index] = without_trace(outcome, trusted_harness=True)
                else:
                    parts[index] = Part(stimuli=stimuli, trace=outcome)
        for index in parts:
            found[index] = self._joint(candidates[index])
        return [found[index] for index in range(len(candidates))]

    def _baseless(
        self, candidates: Sequence[Candidate], parts: dict[int, Part], played: dict[int, Played]
    ) -> dict[int, Said]:
        """Successes of designs that owe them to unknown outputs, as failures.

        `if (out != wanted) error` says nothing of an unknown `out`. So each output bit that the reference knows must be
        known once, and what passes with unknown bits, where the reference has none, must pass with all of them 0 or all
        of them 1 too, like a design that knows them; unless the testbench then does something else and cannot be asked.
        """
        expected, stimuli = candidates[0].problem.expected, candidates[0].problem.stimuli
        assert expected is not None
        assert stimuli is not None
        answers: dict[int, list[Played]] = {}
        doubtful = [index for index, said in played.items() if succeeded(said)]
        for bit in "01":
            guessed = {
                index: replace(parts[index], trace=trace)
                for index in doubtful
                if (trace := guess(parts[index], expected, stimuli.vectors, bit)) is not None
            }
            again = self._playbacks(candidates, guessed) if guessed else {}
            for index, said in again.items():
                answers.setdefault(index, []).append(said)
            doubtful = [index for index, said in again.items() if not succeeded(said)]
        failures: dict[int, Said] = {}
        for index, said in answers.items():
            asked = all(isinstance(one, Said) for one in said)
            if expected.known_bits - parts[index].trace.known_bits or (asked and not any(map(succeeded, said))):
                failures[index] = Said(passed=False, match=0.0, detail=BASELESS)
        return failures

    def _playbacks(self, candidates: Sequence[Candidate], parts: dict[int, Part]) -> dict[int, Played]:
        """Each distinct trace is played once, and what was said of it is remembered."""
        problem = candidates[0].problem
        assert problem.player is not None
        groups: dict[str, list[int]] = {}
        for index, part in parts.items():
            key = part_key(problem, part)
            groups.setdefault(key, []).append(index)
        played: dict[int, Played] = {}
        fresh: list[tuple[str, list[int]]] = []
        for key, indices in groups.items():
            said = self._said.get(key)
            if said is None:
                fresh.append((key, indices))
            else:
                played.update(dict.fromkeys(indices, said))
        firsts = [indices[0] for _, indices in fresh]
        results = self._playback.play(
            problem.player, [parts[index] for index in firsts], [candidates[index].clock for index in firsts]
        )
        for (key, indices), result in zip(fresh, results, strict=True):
            played.update(dict.fromkeys(indices, result))
            if isinstance(result, Said):
                self._said.put(key, result)
        return played

    def _said_of(self, problem: Problem, trace: Trace, said: Said | NoTrace) -> Findings:
        assert problem.expected is not None
        if isinstance(said, NoTrace):
            return without_trace(said, trusted_harness=True)
        findings = self._compared(problem, trace, problem.expected)
        if said.passed:
            return passed(findings, said.detail)
        return replace(findings, full=False, detail=f"{said.detail}; {findings.detail}")

    def _joint(self, candidate: Candidate) -> Findings:
        """Testbench and design in one simulation; what the design mentions must not be the testbench's."""
        problem = candidate.problem
        try:
            joint = self.problems.joint(problem, candidate.clock)
        except UnusableReference as error:
            return fault(str(error), certain=not isinstance(error, NotPrepared))
        try:
            design = parse_design(candidate.source, problem.top_module, foreign=joint.bench.names)
            timescale = timescale_of(candidate.source)
        except Rejected as reason:
            return unparsed(str(reason))
        seen = joint.bench.shared.intersection(WORD.findall(design.text))
        if seen:
            return unparsed(f"a name that the testbench declares for all modules, {min(seen)}")
        if candidate.clock.passed:
            return without_trace(OUT_OF_TIME, trusted_harness=False)
        with running([candidate.clock]) as deadline:
            said = self._harness.judge(joint, design, timescale, deadline)
        if isinstance(said, NoTrace):
            return without_trace(said, trusted_harness=False)
        return Findings(
            compile=True,
            ports=True,
            match=said.match,
            full=said.passed,
            trusted_harness=False,
            detail=said.detail,
        )


def succeeded(played: Played) -> bool:
    return isinstance(played, Said) and played.passed


def guess(part: Part, expected: Trace, vectors: tuple[str, ...], bit: str) -> Trace | None:
    """The trace with its unknown bits as `bit`, but where the reference has the same one; None where there are none."""
    got = part.trace.text
    if got.strip("01") == "":
        return None
    pairs = enumerate(zip(part.stimuli.vectors, vectors, strict=False))
    same = next((row for row, (here, there) in pairs if here != there), min(len(part.stimuli.vectors), len(vectors)))
    wanted = expected.text[: same * expected.width].ljust(len(got), PAST)
    # past the vectors that both were fed, a reference that floats somewhere may float too
    unsure_past = "x" if "z" in expected.text else "xz"
    text = "".join(
        bit if have in (unsure_past if want == PAST else "xz") and want not in (UNKNOWN, have) else have
        for have, want in zip(got, wanted, strict=True)
    )
    return None if text == got else replace(part.trace, text=text)


def part_key(problem: Problem, part: Part) -> str:
    """Equal for equal traces under equal stimuli of one problem."""
    content = "\n".join((problem.key, part.trace.text, *part.stimuli.vectors))
    return hashlib.sha256(content.encode()).hexdigest()


def passed(findings: Findings, detail: str) -> Findings:
    return replace(findings, full=True, match=1.0, detail=detail)


def fault(detail: str, *, certain: bool = True) -> Findings:
    """Of a problem that cannot judge; nothing is known of the design but that it parses."""
    return Findings(status=Status.ERROR, detail=detail, certain=certain)
