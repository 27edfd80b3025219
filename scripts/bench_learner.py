"""Time one learner step against the plain padded step with full logits, on the same samples, in the same process.

    OMP_NUM_THREADS=1 python scripts/bench_learner.py

16 prompts x 16 responses, a 0.6M-parameter Qwen2 model, float32, one thread, both with the optimizer's step. First on
what the quickstart's own policy answers as it starts; how much of the work can be shared depends on that. Then on
random tokens that share only the prompt, that share their first 18 tokens as well (the header of a module), and with 6
distinct responses out of 16, at last with a truncation that left 20 tokens to draw each one from (the padded step knows
nothing of that).
"""

import dataclasses
import socket
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from learner_workloads import OBJECTIVE, TINY, padded_loss, padded_tensors, quickstart_batches, sample, save_model

from learner.config import LearnerConfig
from learner.messages import KeptTokens, TrainBatch
from learner.objective.weights import TruncatedImportance
from learner.worker import LearnerWorker
from orchestration.process import prepare

PROMPTS, RESPONSES, VOCABULARY = 16, 16, TINY["vocab_size"]
PROMPT_TOKENS, HEADER_TOKENS, BODY_TOKENS = 10, 18, (6, 14)
KEPT = 20  # tokens that truncation leaves, of the vocabulary
REPEATS = 7
CORRECTED = dataclasses.replace(OBJECTIVE, weights={"mismatch": TruncatedImportance()})


def kept_tokens(response: np.ndarray) -> KeptTokens:
    """The tokens right above each drawn one, cyclically, and the drawn one itself."""
    listed = np.sort((response[:, None] + np.arange(KEPT)) % VOCABULARY, axis=1)
    return KeptTokens(ids=listed.ravel().astype(np.int32), counts=np.full(len(response), KEPT, np.int32))


def batch_of(step: int, *, shared_header: bool, distinct: int, truncated: bool = False) -> TrainBatch:
    rng = np.random.default_rng(step)
    samples = []
    for group in range(PROMPTS):
        prompt = rng.integers(0, VOCABULARY, PROMPT_TOKENS)
        header = rng.integers(0, VOCABULARY, HEADER_TOKENS)
        responses = []
        for _ in range(distinct):
            body = rng.integers(0, VOCABULARY, rng.integers(*BODY_TOKENS))
            beginning = header if shared_header else rng.integers(0, VOCABULARY, HEADER_TOKENS)
            responses.append(np.concatenate([beginning, body]))
        for member in range(RESPONSES):
            response = responses[member % distinct]
            kept = kept_tokens(response) if truncated else None
            samples.append(sample(group, prompt, response, float(member % 2), kept=kept))
    return TrainBatch(step=step, samples=tuple(samples))


class PaddedStep:
    """Padded rows and full logits, by transformers and torch alone."""

    def __init__(self, path: str | Path) -> None:
        from transformers import AutoModelForCausalLM

        self.model = AutoModelForCausalLM.from_pretrained(path, attn_implementation="sdpa")
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-5, betas=(0.9, 0.95), weight_decay=0.0)

    def __call__(self, batch: TrainBatch) -> int:
        """Returns the number of computed positions."""
        tensors = padded_tensors(batch, OBJECTIVE)
        self.optimizer.zero_grad()
        padded_loss(self.model, tensors).backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        return tensors["prompt_ids"].numel() + tensors["completion_ids"].numel()


def seconds(step: Callable[[TrainBatch], object], batch: TrainBatch) -> tuple[float, object]:
    """Of processor time, which other work on the machine changes least."""
    started = time.process_time()
    result = step(batch)
    return time.process_time() - started, result


def learner(folder: str | Path) -> LearnerWorker:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    config = LearnerConfig(lr=1e-5, mismatch_kl_limit=1e6)
    return LearnerWorker(str(folder), config, CORRECTED, 0, 1, "127.0.0.1", port, 0, 1000)


def compare(title: str, worker: LearnerWorker, padded: PaddedStep, batches: Sequence[TrainBatch]) -> None:
    ours, theirs, computed, all_positions = [], [], [], []
    for batch in batches:  # in turns, so that a noisy neighbour disturbs both
        spent, positions = seconds(padded, batch)
        theirs.append(spent)
        all_positions.append(positions)
        spent, report = seconds(worker.train, dataclasses.replace(batch, step=worker.version))
        ours.append(spent)
        computed.append(report.metrics["learner/forward_tokens"])
    slow, fast = statistics.median(theirs), statistics.median(ours)
    counts = f"{statistics.median(all_positions):.0f} | {statistics.median(computed):.0f}"
    print(f"| {title} | {slow:.3f} | {fast:.3f} | {slow / fast:.2f} | {counts} |", flush=True)


def main() -> None:
    prepare()  # before transformers is imported
    print("| responses | padded, CPU s | Temper, CPU s | ratio | padded positions | computed tokens |")
    print("|" + " --- |" * 6, flush=True)
    folder, batches = quickstart_batches(REPEATS + 1, PROMPTS, RESPONSES)
    compare("the quickstart's, as it starts", learner(folder), PaddedStep(folder), batches[1:])
    with tempfile.TemporaryDirectory() as temporary:
        save_model(temporary, TINY)
        worker, padded = learner(temporary), PaddedStep(temporary)
        for title, kind in (
            ("share only the prompt", {"shared_header": False, "distinct": RESPONSES}),
            ("share a header of 18 tokens", {"shared_header": True, "distinct": RESPONSES}),
            ("... and 6 of 16 are distinct", {"shared_header": True, "distinct": 6}),
            ("... and 20 tokens are kept", {"shared_header": True, "distinct": 6, "truncated": True}),
        ):
            compare(title, worker, padded, [batch_of(step, **kind) for step in range(REPEATS)])


if __name__ == "__main__":
    main()
