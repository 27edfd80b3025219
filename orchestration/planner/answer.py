"""From one simulated run to the numbers that a person decides by."""

from dataclasses import dataclass

from orchestration.planner.simulation import HOUR_S, Setting, Simulation, StepTaken

SETTLING = 4  # the first of so many parts of the steps is left out of the rates: the pipeline fills
START = StepTaken(
    at_s=0.0, tokens_drawn=0.0, rollout_busy_s=0.0, learner_busy_s=0.0, verifiers_busy_s=0.0, oldest=0, mean_age=0.0
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One row of the table. Rates, utilisation and staleness are of the settled part; hours are of all `run.steps`."""

    workers: int
    ranks: int
    staleness: int
    drafts: int
    gpus: int
    steps_per_hour: float
    tokens_per_s: float  # drawn, by all engines
    rollout_utilisation: float  # share of the time with something to decode, mean of the engines
    learner_utilisation: float
    verifier_utilisation: float  # 0 where their speed has no limit
    mean_age: float  # versions, of the oldest token of a trained group
    max_age: int
    hours: float

    @property
    def gpu_hours(self) -> float:
        return self.hours * self.gpus


def steady(steps: int, max_staleness: int) -> tuple[int, int]:
    """The steps (counted from 0) from whose ends to whose ends the pace of a run of so many is to be measured.

    Left out are the first quarter, and the last `max_staleness`, beside which nothing more is started. In between are
    whole multiples of max_staleness + 1 steps where there are so many: so many come in one go where responses to all
    groups in flight end together. -1 is the start of the run.
    """
    begin = steps // SETTLING if steps > 1 else -1
    taken = steps - max_staleness - 1 - begin
    taken -= taken % (max_staleness + 1)
    return begin, begin + taken if taken > 0 else steps - 1


def simulate(setting: Setting, *, total_steps: int, gpus_per_worker: int) -> Answer:
    """Simulate the steps that `setting` asks for, and extrapolate to `total_steps` of the same kind."""
    simulation = Simulation(setting)
    simulation.run()
    steps = simulation.steps
    begin, end = steady(len(steps), setting.pacing.max_staleness)
    first, last = steps[begin] if begin >= 0 else START, steps[end]
    counted = steps[begin + 1 : end + 1]
    taken = len(counted)
    passed_s = last.at_s - first.at_s
    return Answer(
        workers=setting.workers,
        ranks=setting.ranks,
        staleness=setting.pacing.max_staleness,
        drafts=setting.drafts,
        gpus=setting.workers * gpus_per_worker + setting.ranks,
        steps_per_hour=taken / passed_s * HOUR_S,
        tokens_per_s=(last.tokens_drawn - first.tokens_drawn) / passed_s,
        rollout_utilisation=(last.rollout_busy_s - first.rollout_busy_s) / passed_s / setting.workers,
        learner_utilisation=(last.learner_busy_s - first.learner_busy_s) / passed_s,
        verifier_utilisation=(last.verifiers_busy_s - first.verifiers_busy_s) / passed_s,
        mean_age=sum(step.mean_age for step in counted) / len(counted),
        max_age=max(step.oldest for step in steps),
        hours=(simulation.now + max(total_steps - len(steps), 0) * passed_s / taken) / HOUR_S,
    )
