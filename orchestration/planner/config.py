"""PlanConfig: what `temper plan` tries, and how fast the parts of a run are. Section `plan` of the configuration."""

from dataclasses import dataclass, field

from orchestration.planner.rates import Rates


@dataclass(frozen=True, kw_only=True)
class PlanConfig:
    """Every combination of `workers`, `ranks`, `staleness` and `speculation` is simulated; all else is the run's own.

    null takes what the run says and its neighbours: 1, 2 and 4 times its rollout.workers, 1 and 2 times its
    learner.ranks, its run.max_staleness, one more and 0, and speculation as it is and without.
    """

    workers: tuple[int, ...] | None = None
    ranks: tuple[int, ...] | None = None
    staleness: tuple[int, ...] | None = None
    speculation: tuple[bool, ...] | None = None
    gpus: int | None = None  # combinations that need more are left out; on CPUs, processes
    steps: int = 40  # simulated of each; the rest of run.steps goes on at the pace of their last three quarters
    picture: str = "plan.png"
    rates: Rates = field(default_factory=Rates)

    def __post_init__(self) -> None:
        for name, least in (("workers", 1), ("ranks", 1), ("staleness", 0)):
            if (values := getattr(self, name)) is not None and (not values or min(values) < least):
                raise ValueError(f"plan.{name} is a list of numbers, each at least {least}, got {list(values)}")
        if self.speculation is not None and not self.speculation:
            raise ValueError("plan.speculation is [true], [false] or [false,true], got []")
        if self.gpus is not None and self.gpus < 2:
            raise ValueError(f"plan.gpus is at least 2, one for rollouts and one for the learner, got {self.gpus}")
        if self.steps < 8:
            raise ValueError(f"plan.steps is at least 8, or the start weighs too much, got {self.steps}")
