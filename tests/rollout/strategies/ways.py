"""Ways of DiffAdapt with openers of a few characters."""

from rollout.strategies.diff_adapt import Way


def ways() -> dict[str, Way]:
    return {
        "easy": Way(temperature=0.5, top_p=1.0, length=0.4, opener="easy: "),
        "normal": Way(temperature=0.8, top_p=0.95, length=1.0, opener="normal: "),
        "hard": Way(temperature=0.4, top_p=1.0, length=0.5, opener="hard: "),
    }
