"""Whether an engine is lost: dead, or alive and not moving although it has something to do."""

import time

from rollout.groups import Groups
from rollout.messages import EngineHealth


def health_of(name: str, *, dead: str, moved_at: float, groups: Groups, stuck_after_s: float) -> EngineHealth:
    """`dead`: one sentence when the engine no longer lives; `moved_at`: its last step, by time.perf_counter."""
    admission = groups.admission
    silent_s = 0.0
    if admission.busy_since is not None:
        silent_s = max(time.perf_counter() - max(admission.busy_since, moved_at), 0.0)
    reason = ""
    if dead:
        reason = dead
    elif silent_s > stuck_after_s:
        reason = (
            f"{name} is stuck: it holds {admission.inside} responses and has taken no step for {silent_s:.0f} s"
            f" (rollout.stuck_after_s={stuck_after_s:g})"
        )
    return EngineHealth(reason=reason, running=admission.inside, silent_s=silent_s)
