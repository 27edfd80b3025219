"""Truncation: part of a tempered distribution is cut off before the draw, and the rest is renormalised.

    request --TruncationRows.of--> rows .
    logits / T --------------------------+--truncate--> logits (-inf outside), kept, ln(kept mass) --softmax--> draw
                                                            '--KeptSets.of--> the learner's kept_logprob

Truncation (top_p, top_k, min_p) and TopW travel in the request as `to_wire(truncation)`. The recorded logprob of a
token is that of the renormalised distribution it was drawn from: tempered logprob minus ln(kept mass).
"""

from rollout.draw.truncation.batch import Truncated, TruncationRows, truncate
from rollout.draw.truncation.kept import KeptSets, kept_logprob
from rollout.draw.truncation.tail import Truncation
from rollout.draw.truncation.top_w import Geometry, TopW
from rollout.draw.truncation.wire import TRUNCATIONS, from_wire, to_wire

__all__ = [
    "TRUNCATIONS",
    "Geometry",
    "KeptSets",
    "TopW",
    "Truncated",
    "Truncation",
    "TruncationRows",
    "from_wire",
    "kept_logprob",
    "to_wire",
    "truncate",
]
