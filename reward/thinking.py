"""Where a response's reasoning ends and what it says to the reader begins."""

THINK_START, THINK_END = "<think>", "</think>"


def after_thinking(response: str) -> str | None:
    """What follows the last `</think>`, or all of it without tags; None where the reasoning has no end."""
    rest = response.rpartition(THINK_END)[2]
    return None if THINK_START in rest else rest
