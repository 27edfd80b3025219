"""Tokens per second of packed micro-batches against padded ones, on the lengths of real problems and solutions.

    OMP_NUM_THREADS=1 python scripts/bench_learner_packing.py --data ../shared/data

Lengths come from MATH-500 and GSM8K under --data, counted in words, digits and symbols; without them, from a lognormal
distribution with a long tail, and the output says so. The tokens themselves are random. Forward, loss and backward of
the same 0.6M-parameter model with the same chunked head over the same response tokens, one thread; only the rows of the
transformer differ:

    packed        learner's own: all tokens of a micro-batch in one row, a shared prompt once
    padded        a row per response, as wide as the longest of the whole batch, as trainers that draw a batch pad it
    ... sorted    the same after sorting by length, as wide as the longest of each micro-batch

Tokens are those of prompts and responses, however often they are computed.
"""

import argparse
import dataclasses
import json
import re
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from learner_workloads import OBJECTIVE, TINY, batch_of_lengths, save_model
from torch import Tensor

from learner.batch import MicroBatch, Share, Trained, counts_of, shares, trained_part
from learner.config import LearnerConfig
from learner.forward import Policy, token_stats
from learner.messages import TrainBatch
from orchestration.process import prepare

CONFIG = LearnerConfig()
SHAPES = ((64, 1), (16, 4))  # problems and responses to each: without and with prompts that are shared
REPEATS = 2
FILES = {"math/math500_first150.jsonl": ("problem", "solution"), "gsm8k/test.jsonl": ("question", "answer")}
LONGEST = 1000  # tokens; SmolLM-sized positions are not the point here


def tokens_in(text: str) -> int:
    return len(re.findall(r"[A-Za-z]+|\d|[^\sA-Za-z\d]", text))


def real_lengths(data: Path) -> dict[str, tuple[list[int], list[int]]]:
    """Lengths of problems and of solutions by source; one made-up source where there are no files."""
    found = {}
    for name, (problem, solution) in FILES.items():
        if (data / name).is_file():
            rows = [json.loads(line) for line in (data / name).read_text().splitlines()]
            found[name.split("/")[0]] = [tokens_in(r[problem]) for r in rows], [tokens_in(r[solution]) for r in rows]
    if not found:
        rng = np.random.default_rng(0)
        found["lognormal, sigma 0.8 (no data)"] = (
            np.exp(rng.normal(4.0, 0.4, 200)).astype(int).tolist(),
            np.exp(rng.normal(5.0, 0.8, 200)).astype(int).tolist(),
        )
    return found


def drawn_batch(lengths: tuple[list[int], list[int]], problems: int, size: int) -> TrainBatch:
    """Problems with `size` responses each, whose lengths are those of any solutions."""
    rng = np.random.default_rng(1)
    prompts, responses = lengths
    chosen = rng.choice(prompts, problems).clip(1, LONGEST).tolist()
    drawn = rng.choice(responses, (problems, size)).clip(1, LONGEST).tolist()
    return batch_of_lengths(chosen, drawn, TINY["vocab_size"])


def rows_of(policy: Policy, trained: Trained, indices: Sequence[int], width: int) -> MicroBatch:
    """A row of `width` per response; every response reads hidden states of its own."""
    micro = policy.micro_batch(trained, Share(indices=tuple(indices), live=True))
    tokens = torch.zeros(len(indices), width, dtype=torch.int64)
    nodes, targets = [], []
    for row, index in enumerate(indices):
        one = trained.samples[index]
        ids = np.concatenate([one.prompt_ids, one.response_ids]).astype(np.int64)
        tokens[row, : len(ids)] = torch.from_numpy(ids)
        nodes.append(row * width + np.arange(len(one.prompt_ids) - 1, len(ids) - 1))
        targets.append(ids[len(one.prompt_ids) :])
    rows = torch.arange(sum(map(len, nodes)))
    picks = dataclasses.replace(
        micro.picks,
        row_nodes=torch.from_numpy(np.concatenate(nodes)),
        temperatures=None,
        rows=rows,
        tokens=torch.from_numpy(np.concatenate(targets)),
    )
    places = micro.mask.flatten().nonzero()[:, 0]  # row by row, as the picks
    return dataclasses.replace(
        micro, tokens=tokens, positions=None, layout=None, node_rows=None, picks=picks, places=places
    )


def packed(policy: Policy, trained: Trained) -> list[MicroBatch]:
    return [policy.micro_batch(trained, share) for share in shares(trained.samples, 1, CONFIG.micro_batch_tokens)[0]]


def padded(policy: Policy, trained: Trained, by_length: bool) -> list[MicroBatch]:
    """As many rows at a time as fit into the same number of computed positions."""
    lengths = [len(one.prompt_ids) + len(one.response_ids) for one in trained.samples]
    waiting = list(np.argsort(lengths)) if by_length else list(range(len(lengths)))
    micros = []
    while waiting:
        width = max(lengths[index] for index in waiting) if by_length else max(lengths)
        count = max(1, CONFIG.micro_batch_tokens // width)
        micros.append(rows_of(policy, trained, waiting[-count:], width))
        del waiting[-count:]
    return micros


def step(policy: Policy, trained: Trained, micros: Sequence[MicroBatch]) -> Tensor:
    """The summed loss, for comparison."""
    total = torch.zeros(())
    for micro in micros:
        lp, entropy = policy(micro)
        loss, _ = OBJECTIVE(token_stats(micro, lp, entropy, None, OBJECTIVE.needs), counts_of(trained.samples))
        loss.backward()
        total += loss.detach()
    return total


def compare(title: str, batch: TrainBatch, forest: Policy, rows: Policy) -> None:
    trained = trained_part(batch, OBJECTIVE)
    tokens = sum(len(one.prompt_ids) + len(one.response_ids) for one in trained.samples)
    ways: dict[str, tuple[Policy, Callable[[], list[MicroBatch]]]] = {
        "packed": (forest, lambda: packed(forest, trained)),
        "padded": (rows, lambda: padded(rows, trained, by_length=False)),
        "sorted": (rows, lambda: padded(rows, trained, by_length=True)),
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    losses: dict[str, float] = {}
    for _ in range(REPEATS):  # in turns
        for name, (policy, make) in ways.items():
            policy.zero_grad()
            began = time.process_time()
            losses[name] = float(step(policy, trained, make()))
            times[name].append(time.process_time() - began)
    if max(losses.values()) - min(losses.values()) > 1e-4:
        raise SystemExit(f"{title}: the layouts compute different losses: {losses}")
    rate = {name: tokens / statistics.median(values) for name, values in times.items()}
    ratios = f"{rate['packed'] / rate['padded']:.2f} | {rate['packed'] / rate['sorted']:.2f}"
    print(f"| {title} | {' | '.join(f'{rate[name]:.0f}' for name in ways)} | {ratios} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    data = parser.parse_args().data
    prepare()  # before transformers is imported
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        save_model(folder, TINY | {"max_position_embeddings": 4096})
        forest, rows = (
            Policy(
                AutoModelForCausalLM.from_pretrained(folder, attn_implementation="sdpa").eval(),
                layout=layout,
                head_chunk_mib=CONFIG.head_chunk_mib,
            )
            for layout in ("forest", "padded")
        )
    print("| lengths, problems x responses | packed, tokens/s | padded | ... sorted | to padded | to sorted |")
    print("|" + " --- |" * 6, flush=True)
    for source, lengths in real_lengths(data).items():
        for problems, size in SHAPES:
            compare(f"{source}, {problems} x {size}", drawn_batch(lengths, problems, size), forest, rows)


if __name__ == "__main__":
    main()
