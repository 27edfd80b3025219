"""Settings of the verifier service; every default is written here and nowhere else."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from reward.messages import Status, Verdict

Isolation = Literal["bubblewrap", "unsafe"]


MAX_PARTIAL = 0.5  # of a full pass: what a design can earn that is not right


@dataclass(frozen=True, kw_only=True)
class LadderConfig:
    """What a design earns for how far it comes; the first rung it misses stops it.

    parse, compile, ports   it passes the policy and parses; compiles; has the ports of the reference
    partial                 times the baseline-corrected fraction of samples that agree (reward/verilog/ladder.py)
    full                    every sample agrees
    formal                  yosys finds no difference within `FormalConfig.depth`; None: not asked
    cost                    times min(1, cells of the reference / cells of the design), on top; None: not asked
    """

    parse: float = 0.0
    compile: float = 0.0
    ports: float = 0.0
    partial: float = 0.0
    full: float = 1.0
    formal: float | None = None
    cost: float | None = None

    def __post_init__(self) -> None:
        climb = [self.parse, self.compile, self.ports, self.full, *([] if self.formal is None else [self.formal])]
        if min(climb) < 0.0 or self.partial < 0.0 or climb != sorted(climb):
            raise ValueError(
                f"reward.verilog.ladder does not fall from parse to formal, and is not negative, got {self}"
            )
        if self.ports + self.partial > MAX_PARTIAL * self.full:
            raise ValueError(
                f"reward.verilog.ladder: ports + partial is what a wrong design can earn and is at most {MAX_PARTIAL:g}"
                f" of full, got {self.ports:g} + {self.partial:g} with full {self.full:g}"
            )
        if climb[-1] + (self.cost or 0.0) > 1.0 or (self.cost or 0.0) < 0.0:
            raise ValueError(f"reward.verilog.ladder: the highest rung plus cost is at most 1, got {self}")


@dataclass(frozen=True, kw_only=True)
class FormalConfig:
    """How yosys compares a design with its reference, where the ladder asks.

    depth     clock cycles from the reset state that a bounded proof covers
    cpu_s     CPU seconds of one proof; undecided after that
    """

    depth: int = 16
    cpu_s: int = 5

    def __post_init__(self) -> None:
        for name in ("depth", "cpu_s"):
            if getattr(self, name) < 1:
                raise ValueError(f"reward.verilog.formal.{name} is at least 1, got {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True)
class VerilogConfig:
    """How designs are compiled and simulated.

    batch           designs proven unable to hang that share one simulation
    wild_batch      other designs that share one; one of them hanging costs its mates a second simulation
    compile_cpu_s, simulate_cpu_s   CPU time of one compilation, one simulation; kernel limits, so whole seconds
    cycles          clock cycles of random stimuli for a reference design with state: twice as many, and up to 16 times
                    where an output bit has not changed by then
    vectors         random input vectors for a combinational reference design too wide to try them all
    seed            of random stimuli; None draws a secret when the service starts, so that two services may judge a
                    design differently that goes wrong rarely
    """

    batch: int = 256
    wild_batch: int = 8
    compile_cpu_s: int = 2
    simulate_cpu_s: int = 1
    cycles: int = 256
    vectors: int = 1024
    seed: int | None = None
    ladder: LadderConfig = field(default_factory=LadderConfig)
    formal: FormalConfig = field(default_factory=FormalConfig)

    def __post_init__(self) -> None:
        for name in ("batch", "wild_batch", "compile_cpu_s", "simulate_cpu_s", "cycles", "vectors"):
            if getattr(self, name) < 1:
                raise ValueError(f"reward.verilog.{name} is at least 1, got {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True)
class ChildConfig:
    """Persistent worker processes of the verifiers that run Python on a response (math, reasoning_gym).

    memory_bytes    address space of one process
    verdicts        a process is replaced after so many, which bounds what a library leaks
    start_s         deadline for a fresh process to import its libraries
    """

    memory_bytes: int = 2 * 2**30
    verdicts: int = 2000
    start_s: float = 60.0


@dataclass(frozen=True, kw_only=True)
class RewardConfig:
    """The verifier service.

    sandbox         "bubblewrap", or "unsafe": tools run with resource limits only, as the user of the run
    deadline_s      wall-clock seconds for judging one response, waiting in a queue not counted
    workers         processes judging at the same time, per verifier; a verifier not named gets `default_workers`
    cache_entries   verdicts remembered per verifier, so that equal responses are judged once
    max_waiting     responses that may wait for a verifier; a caller with more waits until there is room
    max_response_chars   a longer response is not read: its verdict is `resource`
    drop            statuses whose responses are left out of their group; one that is not judged and not dropped is
                    trained with reward 0. `error`, a fault of ours, is always dropped
    shaping         pieces of reward/shaping.py by name; a run adds them to the rewards it trains
    """

    sandbox: Isolation = "bubblewrap"
    deadline_s: float = 10.0
    default_workers: int = 1
    workers: dict[str, int] = field(default_factory=dict)
    cache_entries: int = 50_000
    max_waiting: int = 8192
    max_response_chars: int = 1 << 20
    verilog: VerilogConfig = field(default_factory=VerilogConfig)
    child: ChildConfig = field(default_factory=ChildConfig)
    drop: tuple[Status, ...] = (Status.TIMEOUT, Status.RESOURCE, Status.ERROR)
    shaping: Mapping[str, Any] = field(default_factory=dict)  # tokens, most tokens -> what is added

    def __post_init__(self) -> None:
        if self.sandbox not in ("bubblewrap", "unsafe"):
            raise ValueError(f"reward.sandbox is bubblewrap or unsafe, got {self.sandbox}")
        if self.deadline_s <= 0:
            raise ValueError(f"reward.deadline_s is above 0, got {self.deadline_s}")
        if min([self.default_workers, *self.workers.values()]) < 1:
            raise ValueError(f"reward.workers are at least 1, got {self.default_workers} and {self.workers}")
        if self.cache_entries < 0:
            raise ValueError(f"reward.cache_entries is at least 0, got {self.cache_entries}")
        for name in ("max_waiting", "max_response_chars"):
            if getattr(self, name) < 1:
                raise ValueError(f"reward.{name} is at least 1, got {getattr(self, name)}")
        if Status.ERROR not in self.drop or Status.SCORED in self.drop:
            raise ValueError(
                "reward.drop keeps error, which says nothing about a response, and never has scored, got"
                f" {', '.join(self.drop) or 'nothing'}"
            )

    def workers_for(self, verifier: str) -> int:
        return self.workers.get(verifier, self.default_workers)

    def reward_of(self, verdict: Verdict) -> float | None:
        """What a response is trained with, before shaping; None where it is left out of its group."""
        if verdict.status in self.drop:
            return None
        return verdict.reward if verdict.trainable else 0.0
