"""BES: a search over solutions cut into paragraphs, which are continued by the policy and recombined with each other.

strategy.py   the search: which operator, which parents, until the budget is spent
pool.py       partial solutions, what they are worth, who is chosen as a parent
paragraphs.py where a paragraph ends; combine, delete, translocate, crossover, and what of a record survives them
judge.py      how good a partial solution is
"""

from rollout.strategies.bes.judge import Certainty, Landmarks
from rollout.strategies.bes.strategy import Evolution

__all__ = ["Certainty", "Evolution", "Landmarks"]
