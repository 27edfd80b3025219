"""Time one learner step against the plain padded step with full logits, on the same samples, in the same process.

    OMP_NUM_THREADS=1 python scripts/bench_learner.py

The quickstart's shape: 16 prompts x 16 responses, a 0.6M-parameter Qwen2 model, float32, one thread. How much of the
work can be shared depends on the policy, so three kinds of groups are measured: responses that share only the prompt,
that share their first 18 tokens as well (the header of a module), and groups with 6 distinct responses out of 16, at
last with a truncation that left 20 tokens to draw each one from (the padded step knows nothing of that).
"""

import socket
import statistics
import tempfile
import time
from collections.abc import Callable

import numpy as np
import torch

from learner.batch import trained_part
from learner.config import LearnerConfig
from learner.messages import KeptTokens, TrainBatch, TrainSample
from learner.objective import Objective
from learner.objective.advantage import GroupMean
from learner.objective.aggregate import TokenMean
from learner.objective.filters import MixedGroupsOnly
from learner.objective.surrogate import Clipped
from learner.objective.weights import TruncatedImportance
from learner.worker import LearnerWorker
from orchestration.process import prepare

PROMPTS, RESPONSES, VOCABULARY = 16, 16, 512
PROMPT_TOKENS, HEADER_TOKENS, BODY_TOKENS = 10, 18, (6, 14)
KEPT = 20  # tokens that truncation leaves, of the vocabulary
REPEATS = 7
MODEL = {
    "model_type": "qwen2",
    "vocab_size": VOCABULARY,
    "hidden_size": 128,
    "intermediate_size": 384,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "tie_word_embeddings": True,
}
OBJECTIVE = Objective(
    advantage=GroupMean(),
    surrogate=Clipped(eps_hi=0.28),
    aggregate=TokenMean(),
    weights={"mismatch": TruncatedImportance()},
    filters={"mixed": MixedGroupsOnly()},
)


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
            responses.append(np.concatenate([beginning, body]).astype(np.int32))
        for member in range(RESPONSES):
            response = responses[member % distinct]
            count = len(response)
            samples.append(
                TrainSample(
                    group=group,
                    prompt_ids=prompt,
                    response_ids=response,
                    sampler_logprobs=np.full(count, -np.log(VOCABULARY), np.float32),
                    temperatures=np.ones(count, np.float32),
                    entropies=np.ones(count, np.float32),
                    versions=np.full(count, step, np.int32),
                    reward=float(member % 2),
                    unshaped=float(member % 2),
                    kept=kept_tokens(response) if truncated else None,
                )
            )
    return TrainBatch(step=step, samples=tuple(samples))


class PaddedStep:
    """The step as one writes it first: right-padded rows, an attention mask, logits of every token."""

    def __init__(self, path: str) -> None:
        from transformers import AutoModelForCausalLM

        self.model = AutoModelForCausalLM.from_pretrained(path, attn_implementation="sdpa")
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-5, betas=(0.9, 0.95), weight_decay=0.0)

    def __call__(self, batch: TrainBatch) -> None:
        trained = trained_part(batch, OBJECTIVE)
        rows = [np.concatenate([s.prompt_ids, s.response_ids]) for s in trained.samples]
        tokens = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.int64)
        attention_mask, response_mask = torch.zeros_like(tokens), torch.zeros_like(tokens, dtype=torch.float32)
        sampled = torch.zeros_like(response_mask)
        for index, (row, sample) in enumerate(zip(rows, trained.samples, strict=True)):
            tokens[index, : len(row)] = torch.from_numpy(row)
            attention_mask[index, : len(row)] = 1
            response_mask[index, len(sample.prompt_ids) : len(row)] = 1
            sampled[index, len(sample.prompt_ids) : len(row)] = torch.from_numpy(sample.sampler_logprobs)
        advantages = torch.from_numpy(trained.advantages).float()[:, None]
        logits = self.model(input_ids=tokens, attention_mask=attention_mask, use_cache=False).logits[:, :-1]
        logprobs = logits.log_softmax(-1).gather(2, tokens[:, 1:, None])[..., 0]
        ratio = (logprobs - logprobs.detach()).exp()
        weight = (logprobs.detach() - sampled[:, 1:]).exp().clamp_max(2.0)
        surrogate = torch.maximum(-advantages * ratio, -advantages * ratio.clamp(0.8, 1.28))
        loss = (weight * surrogate * response_mask[:, 1:]).sum() / response_mask.sum()
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()


def timed(step: Callable[[TrainBatch], object], batch: TrainBatch) -> float:
    started = time.perf_counter()
    step(batch)
    return time.perf_counter() - started


def save_model(folder: str) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(AutoConfig.for_model(**MODEL)).save_pretrained(folder)


def main() -> None:
    prepare()  # before transformers is imported
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        save_model(folder)
        config = LearnerConfig(lr=1e-5, mismatch_kl_limit=100.0)
        worker = LearnerWorker(folder, config, OBJECTIVE, 0, 1, "127.0.0.1", port, 0, 1000)
        padded = PaddedStep(folder)
        print(f"{'responses of a group':38} {'padded s':>9} {'temper s':>9} {'ratio':>6} {'computed tokens':>16}")
        for title, kind in (
            ("share only the prompt", {"shared_header": False, "distinct": RESPONSES}),
            ("share a header of 18 tokens", {"shared_header": True, "distinct": RESPONSES}),
            ("... and 6 of 16 are distinct", {"shared_header": True, "distinct": 6}),
            ("... and 20 tokens are kept", {"shared_header": True, "distinct": 6, "truncated": True}),
        ):
            ours, theirs = [], []
            for _ in range(REPEATS):  # in turns, so that a noisy neighbour disturbs both
                batch = batch_of(worker.version, **kind)
                theirs.append(timed(padded, batch))
                ours.append(timed(worker.train, batch))
            tokens = worker.train(batch_of(worker.version, **kind)).metrics["learner/forward_tokens"]
            slow, fast = statistics.median(theirs), statistics.median(ours)
            print(f"{title:38} {slow:9.3f} {fast:9.3f} {slow / fast:6.2f} {tokens:16.0f}")


if __name__ == "__main__":
    main()
