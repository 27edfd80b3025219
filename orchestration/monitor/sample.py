"""Sample: one judged response kept for people to read, with how unsure the policy was at each of its tokens."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """A response, its verdict, and optionally how each token was drawn; the three token arrays are aligned.

    tokens        the text of each response token; None where it is not known
    temperatures  what the logits were divided by, 0 = greedy
    entropies     nats, of the distribution at T = 1
    """

    prompt: str
    response: str
    reward: float
    status: str  # of the verdict
    step: int  # training steps behind the policy that wrote it; 0 = before training
    detail: str = ""  # the verifier's sentence
    tokens: tuple[str, ...] | None = None
    temperatures: tuple[float, ...] | None = None
    entropies: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        for name in ("temperatures", "entropies"):
            values = getattr(self, name)
            if values is not None and (self.tokens is None or len(values) != len(self.tokens)):
                known = "no" if self.tokens is None else len(self.tokens)
                raise ValueError(
                    f"a sample's {name} belong to its tokens, got {len(values)} of them for {known} tokens"
                )


def append_samples(path: Path, samples: Iterable[Sample]) -> None:
    """Append one JSON object a line."""
    with path.open("a", encoding="utf-8") as file:
        for sample in samples:
            file.write(json.dumps(asdict(sample)) + "\n")


def read_samples(path: Path) -> list[Sample]:
    """All samples in the order of writing; none where there is no file."""
    if not path.exists():
        return []
    samples = []
    for line in path.read_text(encoding="utf-8").splitlines():
        fields = json.loads(line)
        for name in ("tokens", "temperatures", "entropies"):
            fields[name] = None if fields[name] is None else tuple(fields[name])
        samples.append(Sample(**fields))
    return samples
