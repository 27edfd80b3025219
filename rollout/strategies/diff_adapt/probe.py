"""The probe: what the policy's hidden state at the end of a prompt says about how hard the prompt is.

prompt + announcement --policy--> h [hidden] --W1, relu, W2--> 3 logits + offsets --> Difficulty
"""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from rollout.errors import RolloutError
from rollout.strategies.diff_adapt.labels import Difficulty

WIDTH = 512  # hidden units in the release
DETAILS = "probe"  # key of the file's metadata


class DifficultyProbe(nn.Module):
    """hidden states [prompts, hidden] -> logits [prompts, 3].

    Source  DiffAdapt, arXiv:2510.19669, grade A-code, pre-release tree (Dominic789654/Probe_new probe_utils.py).

    `announcement` is put behind the prompt before the hidden state is taken: the probe knows prompts with it only, so
    it is part of the probe and of its file.
    """

    def __init__(self, hidden_size: int, announcement: str, width: int = WIDTH) -> None:
        super().__init__()
        self.announcement = announcement
        self.first = nn.Linear(hidden_size, width)
        self.second = nn.Linear(width, len(Difficulty))

    @property
    def hidden_size(self) -> int:
        return self.first.in_features

    def forward(self, hidden: Tensor) -> Tensor:
        return self.second(torch.relu(self.first(hidden)))

    def save(self, file: Path) -> None:
        details = json.dumps({"announcement": self.announcement})
        save_file({name: value.contiguous() for name, value in self.state_dict().items()}, file, {DETAILS: details})

    @classmethod
    def load(cls, file: Path) -> "DifficultyProbe":
        """Raises RolloutError for anything but a probe's file."""
        try:
            with safe_open(file, "pt") as opened:
                details = json.loads(opened.metadata()[DETAILS])
                weights = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118  not a dict
            width, hidden_size = weights["first.weight"].shape
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
            raise RolloutError(
                f"{file} is not the file of a difficulty probe ({' '.join(str(error).split())}): train one with"
                " scripts/train_difficulty_probe.py"
            ) from error
        probe = cls(hidden_size, details["announcement"], width)
        probe.load_state_dict(weights)
        return probe.eval()


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What the probe says of one prompt, and how sure it is, in [1/3, 1]."""

    difficulty: Difficulty
    confidence: float


@torch.no_grad()
def judge(probe: DifficultyProbe, hidden: Tensor, offsets: tuple[float, ...], min_confidence: float) -> Verdict:
    """hidden [hidden size] -> the likeliest class after `offsets`; Normal where it is less likely than asked for."""
    chances = (probe(hidden) + torch.tensor(offsets)).softmax(-1)
    confidence, place = chances.max(-1)
    sure = confidence.item() >= min_confidence
    return Verdict(difficulty=Difficulty(place.item()) if sure else Difficulty.NORMAL, confidence=confidence.item())
