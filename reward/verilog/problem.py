"""From a reference, as a request brings it, to a problem that designs can be judged by.

    {"reference_source", "top_module", "testbench"}
        no testbench                                   -> stimuli of our own (stimuli.py)
        testbench --record--> stimuli --simulate--> the reference's trace --play back--> does it still pass?
              it does                                  -> split: stimuli, expected trace, player
              outputs never known: it judges nothing   -> stimuli of our own
              it does not, or nothing to record        -> joint: testbench and design in one simulation

A testbench can be split where the reference, reduced to its recorded outputs, still passes. Real-time delays inside the
design, no inputs, parameters at the instance or several instances prevent that.
"""

import hashlib
import logging
import secrets
import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from reward.cache import RecentlyUsed
from reward.config import VerilogConfig
from reward.errors import UnusableReference
from reward.sandbox import Sandbox
from reward.verilog.clock import Clock, running
from reward.verilog.constants import constants_of
from reward.verilog.design import Design, parse_design
from reward.verilog.errors import Rejected
from reward.verilog.harness import Harness, Joint, Ran
from reward.verilog.interface import Interface, read_interface
from reward.verilog.memory import ByWeight
from reward.verilog.playback import Part, Playback, Player, bench_cpu_s
from reward.verilog.recording import BENCH_CPU_S, Recording, record
from reward.verilog.shell import read_shell
from reward.verilog.simulate import Simulator
from reward.verilog.stimuli import Stimuli, is_exhaustive, stimuli_for
from reward.verilog.testbench import Bench, Said, read_bench, timescale_of
from reward.verilog.traces import NoTrace, Trace
from reward.verilog.wrapper import Wrapper, fresh

log = logging.getLogger(__name__)

GROWTHS = (2, 8, 16)  # times VerilogConfig.cycles; 1 misses one wrong counter in fifty
PROBLEM_ENTRIES = 4096
PROBLEM_BYTES = 256 << 20  # of problems that one verifier remembers
ENTRY_BYTES = 16 << 10  # of a problem beside its lists and texts: its reference, parsed
STIMULI_BYTES = 64 << 20
HALF_ENTRIES = 16
FIELDS = ("reference_source", "top_module", "testbench")


class NotPrepared(UnusableReference):
    """A problem was not ready in time; the same request may be judged another time."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Problem:
    """What designs are judged by.

    key               equal for equal references
    interface         of the reference
    stimuli           generated or recorded; None where the problem has a testbench that cannot be split, `why_joint`
    samples_key       equal where a design leaves equal samples: interface and stimuli are the same
    expected, player  of a split testbench: the reference's trace, and the testbench around a player
    timescale         the directive in the reference's source, or nothing
    testbench         as given
    """

    key: str
    top_module: str
    reference: Design
    interface: Interface
    stimuli: Stimuli | None = None
    samples_key: Interface | str = ""
    expected: Trace | None = None
    player: Player | None = None
    timescale: str = ""
    testbench: str | None = None
    why_joint: str = ""


class Problems:
    """Prepares problems, each once, and remembers them. Safe to share between threads."""

    def __init__(
        self, sandbox: Sandbox, simulator: Simulator, playback: Playback, harness: Harness, config: VerilogConfig
    ) -> None:
        self._sandbox = sandbox
        self._simulator = simulator
        self._playback = playback
        self._harness = harness
        self._config = config
        self._known: ByWeight[Problem | UnusableReference] = ByWeight(PROBLEM_BYTES, weight)
        self._joints: RecentlyUsed[Joint] = RecentlyUsed(PROBLEM_ENTRIES)
        self._stimuli: ByWeight[Stimuli] = ByWeight(STIMULI_BYTES, lambda stimuli: stimuli.memory_bytes)
        # what a preparation that ran out of time had finished: the next one goes on from there
        self._recordings: RecentlyUsed[Recording] = RecentlyUsed(HALF_ENTRIES)
        self._expected: RecentlyUsed[Trace] = RecentlyUsed(HALF_ENTRIES)
        self._seed = secrets.token_hex(16) if config.seed is None else config.seed
        self._preparing: dict[str, threading.Event] = {}
        self._lock = threading.Lock()

    def get(self, reference: Mapping[str, Any], clock: Clock) -> Problem:
        """The problem of a reference. Raises UnusableReference; NotPrepared where the clock ran out before it."""
        fields = tuple(reference.get(field) for field in FIELDS)
        key = hashlib.sha256(repr(fields).encode()).hexdigest()
        problem = self._known.get(key)
        if problem is None:
            with self._lock:
                ready = self._preparing.get(key)
                if ready is None:
                    mine = self._preparing[key] = threading.Event()
            if ready is None:
                try:
                    problem = self._prepared(key, *fields, clock)
                finally:
                    with self._lock:
                        del self._preparing[key]
                    mine.set()
            else:
                with running([clock]) as deadline:
                    ready.wait(deadline.left_s())
                problem = self._known.get(key) or NotPrepared("the reference was not ready in time for this response")
        if isinstance(problem, UnusableReference):
            raise problem
        return problem

    def joint(self, problem: Problem, clock: Clock) -> Joint:
        """Testbench and design in one simulation, in a form in which the reference passes. Raises UnusableReference."""
        joint = self._joints.get(problem.key)
        if joint is None:
            joint = self._working_joint(problem, clock)
            self._joints.put(problem.key, joint)
        return joint

    def _prepared(
        self, key: str, source: Any, top_module: Any, testbench: Any, clock: Clock
    ) -> Problem | UnusableReference:
        problem: Problem | UnusableReference
        try:
            problem = self._read(key, source, top_module, testbench, clock)
        except NotPrepared as error:
            return error
        except UnusableReference as error:
            problem = error
        except Rejected as reason:
            problem = UnusableReference(f"the reference does not work as a design: {reason}")
        self._known.put(key, problem)
        return problem

    def _read(self, key: str, source: Any, top_module: Any, testbench: Any, clock: Clock) -> Problem:
        if not isinstance(source, str) or not isinstance(top_module, str) or not top_module:
            raise UnusableReference("a verilog reference has reference_source and top_module, both text")
        with running([clock]):
            try:
                reference = parse_design(source, top_module, trusted=True)
            except Rejected:
                reference = parse_design(source, None, trusted=True)
            interface = read_interface(source, reference.modules[reference.top])
        problem = Problem(
            key=key,
            top_module=top_module,
            reference=reference,
            interface=interface,
            timescale=timescale_of(source),
            testbench=testbench,
        )
        if testbench is None:
            return self._generated(problem, clock)
        beside = reference.render(fresh(), top_name=reference.modules[reference.top])
        bench = read_bench(testbench, top_module, reference, beside)
        problem = self._recorded(problem, bench, clock)
        if problem.stimuli is None:
            self.joint(problem, clock)
            log.info("a testbench of %s cannot be split: %s", top_module, problem.why_joint)
        return problem

    def _generated(self, problem: Problem, clock: Clock) -> Problem:
        """The problem with stimuli of our own. Raises UnusableReference where they would let a constant pass."""
        interface = problem.interface
        if is_exhaustive(interface):
            stimuli = self._stimuli_for((interface, (), self._config.cycles))
            return replace(problem, stimuli=stimuli, samples_key=interface)
        constants = constants_of(problem.reference)
        best: tuple[float, Stimuli, int] = (-1.0, Stimuli(vectors=()), 0)
        for growth in GROWTHS if interface.sequential else (1,):
            cycles = growth * self._config.cycles
            stimuli = self._stimuli_for((interface, constants, cycles))
            before_s = clock.spent_s
            (outcome,) = self._simulator.outcomes([problem.reference], [clock], interface, stimuli)
            if isinstance(outcome, NoTrace):
                raise UnusableReference(f"the reference does not run: {detail_of(outcome)}")
            if outcome.toggled > best[0]:
                best = outcome.toggled, replace(stimuli, seconds=clock.spent_s - before_s), cycles
            if outcome.toggled == 1.0 or outcome.says_nothing:
                break
        toggled, stimuli, cycles = best
        if toggled == 0.0:
            raise UnusableReference(
                "the outputs of the reference never change under our stimuli, so they would let a constant pass: give a"
                " testbench"
            )
        return replace(problem, stimuli=stimuli, samples_key=f"{interface} {constants} {cycles}")

    def _stimuli_for(self, key: tuple[Interface, tuple[int, ...], int]) -> Stimuli:
        stimuli = self._stimuli.get(key)
        if stimuli is None:
            interface, constants, cycles = key
            stimuli = stimuli_for(
                interface, cycles=cycles, vectors=self._config.vectors, constants=constants, seed=self._seed
            )
            self._stimuli.put(key, stimuli)
        return stimuli

    def _recorded(self, problem: Problem, bench: Bench, clock: Clock) -> Problem:
        """The problem split, or with our own stimuli, or with the reason why neither."""
        if not bench.plain:
            return replace(problem, why_joint="the testbench gives the design parameters, or has several of it")
        recording = self._recordings.get(problem.key)
        if recording is None:
            with running([clock]) as deadline:
                recording = record(
                    self._sandbox,
                    bench,
                    problem.reference,
                    problem.interface,
                    compile_cpu_s=self._config.compile_cpu_s,
                    deadline=deadline,
                )
            if isinstance(recording, NoTrace):
                return replace(problem, why_joint=detail_of(recording))
            self._recordings.put(problem.key, recording)
        if recording.stimuli is None or not recording.passed:
            return replace(problem, why_joint=recording.why)
        why = ""
        for from_start in (recording.stimuli.from_start, not recording.stimuli.from_start):
            if from_start and not problem.interface.inputs:
                continue
            stimuli = replace(recording.stimuli, from_start=from_start)
            split = self._played_back(problem, bench, stimuli, clock)
            if isinstance(split, Problem):
                return split
            why = split
        return replace(problem, why_joint=why)

    def _played_back(self, problem: Problem, bench: Bench, stimuli: Stimuli, clock: Clock) -> Problem | str:
        """The problem split by these stimuli, or the reason why not."""
        before_s = clock.spent_s
        half_key = (problem.key, stimuli.from_start)
        expected = self._expected.get(half_key)
        if expected is None:
            (outcome,) = self._simulator.outcomes([problem.reference], [clock], problem.interface, stimuli)
            if isinstance(outcome, NoTrace):
                return detail_of(outcome)
            expected = outcome
            self._expected.put(half_key, expected)
            stimuli = replace(stimuli, seconds=clock.spent_s - before_s)
        if expected.says_nothing:
            return self._generated(problem, clock)
        part = Part(stimuli=stimuli, trace=expected)
        with running([clock]) as deadline:
            built = self._playback.build(bench, problem.interface, part, deadline)
        if isinstance(built, NoTrace):
            return detail_of(built)
        player, played = built
        if isinstance(played, Said) and played.passed:
            return replace(problem, stimuli=stimuli, samples_key=problem.key, expected=expected, player=player)
        return "the reference's recorded outputs do not pass"

    def _working_joint(self, problem: Problem, clock: Clock) -> Joint:
        reference, detail = problem.reference, ""
        bench = read_bench(problem.testbench, problem.top_module, reference, "")
        shell = read_shell(reference, bench.given)
        for one_way in (True, False):
            wrapper = Wrapper(shell=shell, one_way=one_way)
            beside = wrapper.around(reference, reference.modules[reference.top])
            bench = read_bench(problem.testbench, problem.top_module, reference, beside)
            joint = Joint(bench=bench, wrapper=wrapper, reference=reference, cpu_s=BENCH_CPU_S)
            before_s = clock.spent_s
            with running([clock]) as deadline:
                ran = self._harness.run(joint, reference, problem.timescale, deadline)
            cpu_s = bench_cpu_s(clock.spent_s - before_s)
            if isinstance(ran, Ran) and ran.said.passed:
                with running([clock]) as deadline:
                    known = self._harness.made_known(joint, reference, problem.timescale, deadline)
                if isinstance(known, NoTrace):
                    detail_of(known)
                knowing = isinstance(known, Said) and known.passed
                return replace(joint, cpu_s=cpu_s, known=ran.known, driven=ran.driven, knowing=knowing)
            detail = detail_of(ran) if isinstance(ran, NoTrace) else ran.said.detail
        raise UnusableReference(f"the reference does not pass its own testbench: {detail}")


def weight(problem: Problem | UnusableReference) -> int:
    """Bytes that remembering a problem takes, about."""
    if isinstance(problem, UnusableReference) or problem.stimuli is None:
        return ENTRY_BYTES
    size = ENTRY_BYTES + problem.stimuli.memory_bytes + len(problem.testbench or "")
    if problem.player is not None and problem.expected is not None:
        size += len(problem.player.vvp) + len(problem.expected.text)
    return size


def detail_of(outcome: NoTrace) -> str:
    """Why nothing came of a reference. Raises NotPrepared where another try could end otherwise."""
    if not outcome.certain:
        raise NotPrepared(f"the reference was not ready in time: {outcome.detail}")
    return outcome.detail
