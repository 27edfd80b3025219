"""DiffAdapt: a probe looks at the prompt and says how hard it is; temperature, length and opening follow.

strategy.py  what each difficulty is drawn with
probe.py     hidden state of the prompt -> easy, normal or hard
training.py  the probe from labelled prompts
labels.py    what ten responses say about a prompt's difficulty
"""

from rollout.strategies.diff_adapt.strategy import DiffAdapt, Way

__all__ = ["DiffAdapt", "Way"]
