"""Temperature policies: how hot each token is drawn, decided per token and per request.

    hidden state --head--> action --.
    logits --> H (nats, at T = 1) ---+--> policy --> T [rows] --> logits / T --> truncation --> draw

A policy is a small frozen dataclass. It travels inside the request as `to_wire(policy)`, plain values that any process
reads back with `from_wire`, and says in `needs` what it looks at, so that nobody computes what no policy reads:

    needs         policy                 is called with
    nothing       Fixed                  any [rows] tensor, whose values it does not read
    "entropy"     EntropyLinear,         entropies [rows] in nats of the raw logits, before temperature and truncation
                  LogPivot
    "hidden"      Learned                not called: its head acts on hidden states (rollout/draw/learned.py)
"""

from rollout.draw.learned import Learned
from rollout.draw.temperature.entropy_linear import EntropyLinear
from rollout.draw.temperature.fixed import Fixed
from rollout.draw.temperature.log_pivot import LogPivot, PivotStatistics
from rollout.draw.temperature.policy import TemperaturePolicy
from rollout.draw.temperature.wire import POLICIES, from_wire, to_wire

__all__ = [
    "POLICIES",
    "EntropyLinear",
    "Fixed",
    "Learned",
    "LogPivot",
    "PivotStatistics",
    "TemperaturePolicy",
    "from_wire",
    "to_wire",
]
