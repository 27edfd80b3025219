"""Verdicts per second of the math verifier, worker process included, against math-verify called directly.

    OMP_NUM_THREADS=1 python scripts/bench_math_verifier.py --data ../shared/data

Both judge the same worked solutions against the same references, taking turns, so that a busy machine slows both: half
of the pairs are right, half take the next problem's solution. "cold" remembers no verdict; "again" judges them a second
time from memory. math-verify runs as its users run it, parse and verify in one process, without any isolation.
Prints Markdown for docs/benchmarks.md.
"""

import argparse
import json
import logging
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from math_verify import parse, verify

from reward.config import RewardConfig
from reward.math.verifier import MathVerifier
from reward.messages import VerifyRequest

REPEATS = 5
PAIRS = 400
Pair = tuple[str, str]  # response, reference


def gsm8k(data: Path) -> list[Pair]:
    """Free text, the answer behind ####, which math-verify does not know: it gets the answer in a box."""
    rows = [json.loads(line) for line in (data / "gsm8k" / "test.jsonl").read_text().splitlines()]
    split = [row["answer"].rpartition("####") for row in rows]
    return [(f"{text}So the answer is \\boxed{{{answer.strip()}}}.", answer.strip()) for text, _, answer in split]


def math(data: Path) -> list[Pair]:
    rows = [json.loads(line) for line in (data / "math" / "math500_first150.jsonl").read_text().splitlines()]
    return [(row["solution"], row["answer"]) for row in rows]


def symbolic(pairs: list[Pair]) -> list[Pair]:
    """Those whose reference is no whole number: what a fast path for numbers does not reach."""
    return [(solution, answer) for solution, answer in pairs if not answer.lstrip("-").isdigit()]


def half_wrong(pairs: list[Pair]) -> list[Pair]:
    wrong = [(there[0], here[1]) for here, there in zip(pairs, [*pairs[1:], pairs[0]], strict=True)]
    return [wrong[at] if at % 2 else pairs[at] for at in range(len(pairs))][:PAIRS]


def ours(verifier: MathVerifier, pairs: list[Pair]) -> Callable[[], None]:
    requests = [
        VerifyRequest(id=str(at), verifier="math", response=response, reference={"answer": reference})
        for at, (response, reference) in enumerate(pairs)
    ]
    return lambda: [verdict.reward for verdict in verifier.verify(requests)] and None


def directly(pairs: list[Pair]) -> Callable[[], None]:
    return lambda: [verify(parse(f"${reference}$"), parse(response)) for response, reference in pairs] and None


def seconds(work: Callable[[], None]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    arguments.add_argument("--data", type=Path, required=True, help="folder with gsm8k/ and math/")
    data = arguments.parse_args().data
    if not data.is_dir():
        print(f"no problems under {data}: nothing measured")
        return
    logging.getLogger("math_verify").setLevel(logging.ERROR)
    config = RewardConfig(deadline_s=30.0)
    cold, warm = MathVerifier(replace(config, cache_entries=0)), MathVerifier(config)
    print("| answers | pairs | math-verify, 1/s | ours cold, 1/s | ratio | ours again, 1/s | ratio |")
    print("|---|---|---|---|---|---|---|")
    try:
        for name, pairs in (
            ("GSM8K", half_wrong(gsm8k(data))),
            ("MATH-500", half_wrong(math(data))),
            ("MATH-500, no whole numbers", half_wrong(symbolic(math(data)))),
        ):
            print(row(name, len(pairs), [directly(pairs), ours(cold, pairs), ours(warm, pairs)]), flush=True)
    finally:
        cold.close()
        warm.close()


def row(name: str, pairs: int, works: list[Callable[[], None]]) -> str:
    """Medians over repeats in which all take turns; the first turn warms libraries and caches and is not counted."""
    turns = [[seconds(work) for work in works] for _ in range(REPEATS + 1)][1:]
    base, cold, warm = (pairs / statistics.median(times) for times in zip(*turns, strict=True))
    ratios = [statistics.median(turn[0] / turn[at] for turn in turns) for at in (1, 2)]
    return f"| {name} | {pairs} | {base:.0f} | {cold:.0f} | {ratios[0]:.1f} | {warm:.0f} | {ratios[1]:.1f} |"


if __name__ == "__main__":
    main()
