"""Seconds per verdict of the Verilog verifier against bare iverilog and vvp on the same designs; scaling; a soak.

    OMP_NUM_THREADS=1 python scripts/bench_verilog_verifier.py --data ../shared/data [--every 1] [--soak 10000]

For every problem of VerilogEval with its testbench: groups of eight different designs, half of them right and half with
one token changed, as a policy in training writes them. Bare: one compilation and one simulation per design, without any
isolation. Ours: isolated; "cold" prepares the problem for its first group, "warm" judges a second one. Both take turns,
so that a busy machine slows both. Prints Markdown for docs/benchmarks.md.
"""

import argparse
import asyncio
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import psutil
from check_verilog_mutants import Problem, mutants, plainly, problems

from reward.config import RewardConfig
from reward.messages import VerifyRequest
from reward.service import VerifierPool
from reward.verilog.verifier import VerilogVerifier

GROUP = 8
DEADLINE_S = 60.0
WORKERS = 2
ROUNDS = 3
LIGHT_S = 0.2  # of one bare design
STREAM = 4  # groups of each problem that wait at the same time


def right(problem: Problem, number: int) -> str:
    """The reference's design, with a wire nobody reads: a text of its own."""
    return problem.design.replace("endmodule", f"wire temper_bench_{number};\nendmodule", 1)


def groups(problem: Problem, count: int) -> list[list[str]]:
    """`count` groups of GROUP different designs each, half of them right."""
    wrong = [text for _, text in mutants(problem.design, problem.top_module)]
    random.Random(problem.name).shuffle(wrong)
    found = []
    for number in range(count):
        half = wrong[number * GROUP // 2 : (number + 1) * GROUP // 2]
        found.append(half + [right(problem, number * GROUP + at) for at in range(GROUP - len(half))])
    return found


def requests(problem: Problem, designs: Sequence[str]) -> list[VerifyRequest]:
    fields = {"reference_source": problem.reference, "top_module": problem.top_module, "testbench": problem.testbench}
    return [
        VerifyRequest(id=str(at), verifier="verilog", response=text, reference=fields)
        for at, text in enumerate(designs)
    ]


def against_bare(corpus: list[Problem]) -> None:
    verifier = VerilogVerifier(RewardConfig(deadline_s=DEADLINE_S))
    spent = {"bare": [], "cold": [], "warm": []}
    for problem in corpus:
        first, second = groups(problem, 2)
        started = time.perf_counter()
        ended = None not in [plainly(problem, text) for text in second]
        bare_s = time.perf_counter() - started
        if ended:  # a design that never ends measures a time limit
            spent["bare"].append(bare_s)
            for name, designs in (("cold", first), ("warm", second)):
                started = time.perf_counter()
                verifier.verify(requests(problem, designs))
                spent[name].append(time.perf_counter() - started)
    verifier.close()
    # bare takes as long for either group
    spent["both groups"] = [(cold + warm) / 2 for cold, warm in zip(spent["cold"], spent["warm"], strict=True)]
    count = len(spent["bare"])
    print(f"\n{count} problems (of {len(corpus)}; the others have a design that never ends), groups of {GROUP}\n")
    print("| | ms per verdict | of all problems, to bare | median problem, to bare |\n|---|---|---|---|")
    for name, values in spent.items():
        ratios = [one / bare for one, bare in zip(values, spent["bare"], strict=True)]
        print(
            f"| {name} | {1000 * sum(values) / count / GROUP:.1f} | {sum(values) / sum(spent['bare']):.2f}"
            f" | {statistics.median(ratios):.2f} |"
        )


def scaling(corpus: list[Problem]) -> None:
    """Right designs, as wrong ones may wait for a limit; rounds of one and of more workers take turns, the first one
    prepares the problems."""
    rates: dict[int, list[float]] = {1: [], WORKERS: []}

    async def judge(pool: VerifierPool, batches: list[list[VerifyRequest]]) -> None:
        await asyncio.gather(*(pool.verify(batch) for batch in batches))

    async def main() -> None:
        pools = {
            workers: VerifierPool(RewardConfig(deadline_s=DEADLINE_S, default_workers=workers)) for workers in rates
        }
        for number in range(ROUNDS + 1):
            batches = [
                requests(problem, [right(problem, ((number * STREAM) + turn) * GROUP + at) for at in range(GROUP)])
                for turn in range(STREAM)
                for problem in corpus
            ]
            for workers, pool in pools.items():
                started = time.perf_counter()
                await judge(pool, batches)
                if number:
                    rates[workers].append(STREAM * len(corpus) * GROUP / (time.perf_counter() - started))
        for pool in pools.values():
            await pool.close()

    asyncio.run(main())
    one, more = (statistics.median(values) for values in rates.values())
    print(
        f"verdicts/s with 1 worker {one:.0f}, with {WORKERS} workers {more:.0f}: efficiency {more / one / WORKERS:.0%}"
    )


def light(problem: Problem) -> bool:
    started = time.perf_counter()
    plainly(problem, problem.design)
    return time.perf_counter() - started < LIGHT_S


def soak(corpus: list[Problem], verdicts: int) -> None:
    """Many verdicts, so of quick problems only."""
    me = psutil.Process()
    verifier = VerilogVerifier(RewardConfig(deadline_s=DEADLINE_S, cache_entries=1000))
    files = set(os.listdir(tempfile.gettempdir()))
    memory, done, number = [], 0, 0
    started = time.perf_counter()
    while done < verdicts:
        for problem in corpus:
            designs = [right(problem, number * GROUP + at) for at in range(GROUP)]
            done += len(verifier.verify(requests(problem, designs)))
        number += 1
        memory.append(me.memory_info().rss / 2**20)
    verifier.close()
    print(
        f"\nsoak: {done} verdicts in {time.perf_counter() - started:.0f} s; memory after a quarter"
        f" {memory[len(memory) // 4]:.0f} MiB, at the end {memory[-1]:.0f} MiB; processes left"
        f" {len(me.children(recursive=True))}; files left {len(set(os.listdir(tempfile.gettempdir())) - files)}"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--every", type=int, default=1, help="take every n-th problem")
    parser.add_argument("--soak", type=int, default=0, help="verdicts of the soak")
    arguments = parser.parse_args()
    corpus = [
        problem
        for problem in list(problems(arguments.data))[:: arguments.every]
        if problem.beside and plainly(problem, problem.design)
    ]
    if not corpus:
        print(f"no problems under {arguments.data}: nothing measured")
        return 0
    against_bare(corpus)
    quick = [problem for problem in corpus if light(problem)]
    for name, part in (("all", corpus), ("light", quick)):
        print(f"\n{name} {len(part)} problems: ", end="")
        scaling(part)
    if arguments.soak:
        soak(quick, arguments.soak)
    return 0


if __name__ == "__main__":
    sys.exit(main())
