"""Settings of the verifier service; every default is written here and nowhere else."""

from dataclasses import dataclass, field
from typing import Literal

Isolation = Literal["bubblewrap", "unsafe"]


@dataclass(frozen=True, kw_only=True)
class VerilogConfig:
    """How designs are compiled and simulated.

    batch           designs proven unable to hang that share one simulation
    wild_batch      other designs that share one; one of them hanging costs its mates a second simulation
    compile_cpu_s, simulate_cpu_s   CPU time of one compilation, one simulation; kernel limits, so whole seconds
    cycles          clock cycles of random stimuli for a reference design with state
    vectors         random input vectors for a combinational reference design too wide to try them all
    """

    batch: int = 256
    wild_batch: int = 8
    compile_cpu_s: int = 2
    simulate_cpu_s: int = 1
    cycles: int = 256
    vectors: int = 1024

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
    """

    sandbox: Isolation = "bubblewrap"
    deadline_s: float = 10.0
    default_workers: int = 1
    workers: dict[str, int] = field(default_factory=dict)
    cache_entries: int = 50_000
    verilog: VerilogConfig = field(default_factory=VerilogConfig)
    child: ChildConfig = field(default_factory=ChildConfig)

    def __post_init__(self) -> None:
        if self.sandbox not in ("bubblewrap", "unsafe"):
            raise ValueError(f"reward.sandbox is bubblewrap or unsafe, got {self.sandbox}")
        if self.deadline_s <= 0:
            raise ValueError(f"reward.deadline_s is above 0, got {self.deadline_s}")
        if min([self.default_workers, *self.workers.values()]) < 1:
            raise ValueError(f"reward.workers are at least 1, got {self.default_workers} and {self.workers}")
        if self.cache_entries < 0:
            raise ValueError(f"reward.cache_entries is at least 0, got {self.cache_entries}")

    def workers_for(self, verifier: str) -> int:
        return self.workers.get(verifier, self.default_workers)
