"""How a run is paced: what the scheduler has to know of the configuration, checked when it is made."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class SchedulerConfig:
    """Steps are learner steps. `eval_every` and `checkpoint_every` are 0 for never."""

    groups_per_step: int
    total_steps: int
    max_staleness: int  # versions; 0 is synchronous training
    publish_every: int
    eval_every: int
    eval_at_start: bool  # nothing else runs beside it, so the clock of training starts after it
    eval_at_end: bool
    checkpoint_every: int  # one is written at the end and on a stop in any case
    max_retries: int = 3  # of one task, and of one evaluation
    refills: int = 0  # tasks that a group may take in place of rejected ones
    take_turns: bool = False  # nothing is drawn while a step is trained, by evaluations neither; synchronous runs only

    def __post_init__(self) -> None:
        for name, least in (
            ("groups_per_step", 1),
            ("total_steps", 1),
            ("max_staleness", 0),
            ("publish_every", 1),
            ("eval_every", 0),
            ("checkpoint_every", 0),
            ("max_retries", 0),
            ("refills", 0),
        ):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is at least {least}, got {getattr(self, name)}")
        if self.take_turns and self.max_staleness:
            raise ValueError(f"take_turns needs max_staleness=0, got {self.max_staleness}")
        if self.publish_every > self.max_staleness + 1:
            raise ValueError(
                f"publish_every={self.publish_every} with max_staleness={self.max_staleness} would wait for itself:"
                f" set publish_every to at most {self.max_staleness + 1},"
                f" or max_staleness to at least {self.publish_every - 1}"
            )
