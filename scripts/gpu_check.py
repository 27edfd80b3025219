"""Everything that only a GPU can show, one check after the other, each in a process of its own with a time limit;
prints Markdown for docs/benchmarks.md.

    python scripts/gpu_check.py                      all checks, about half an hour
    python scripts/gpu_check.py --only kernel        any of them, by their names in CHECKS below

A check that fails or does not end says so in its own section, and the exit code is then 1. Nothing in here has been run
on a GPU yet.
"""

import argparse
import asyncio
import importlib.metadata
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

HERE = Path(__file__).parent
KERNEL_ROWS, KERNEL_VOCABULARIES = (1, 32, 256, 1024), (32768, 151936)
UPDATES = 5
TRANSPORTS = ("shared_memory", "shared_files", "cuda_ipc")
ON_GPU = ("rollout.num_gpus=0.5", "learner.num_gpus=0.5", "eval.every=0", "eval.at_start=false", "eval.at_end=false")
RUN_STEPS, RUN_LIMIT_S = 20, 600
DEVICE = torch.device("cuda")
BENCH = ("--compile", "--dtype", "bfloat16", "--vocabularies", "151936", "--kv-cache-gib", "4", "--rounds", "5")


@dataclass(frozen=True, kw_only=True)
class Check:
    """`command`: arguments of python; `limit_s`: it is killed then."""

    title: str
    command: tuple[str, ...]
    limit_s: float


def script(name: str, *arguments: str) -> tuple[str, ...]:
    return (str(HERE / name), *arguments)


def own(name: str) -> tuple[str, ...]:
    return (str(Path(__file__)), "--inside", name)


CHECKS = {
    "versions": Check(title="Versions", command=own("versions"), limit_s=60),
    "kernel": Check(title="Temperature per row: fused kernel and eager", command=own("kernel"), limit_s=300),
    "head": Check(title="The fused head", command=script("gpu_check_head.py", "--tiles"), limit_s=900),
    "exact-v1": Check(title="Draws against their record, model runner V1", command=own("exact-v1"), limit_s=900),
    "exact-v2": Check(title="Draws against their record, model runner V2", command=own("exact-v2"), limit_s=900),
    "update": Check(title="Weight updates", command=own("update"), limit_s=600),
    "runs": Check(title="Whole runs, by transport", command=own("runs"), limit_s=3 * 700),
    "speculation": Check(title="MTP against none", command=script("bench_speculation.py"), limit_s=1800),
    "speed-v1": Check(title="Worker against bare vLLM, V1", command=script("bench_rollout.py", *BENCH), limit_s=1800),
    "speed-v2": Check(
        title="Worker against bare vLLM, V2",
        command=script("bench_rollout.py", *BENCH, "--model-runner", "v2"),
        limit_s=1800,
    ),
}


def versions() -> None:
    driver = subprocess.run(
        ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"],
        capture_output=True,
        text=True,
        check=False,
    )
    print(f"- GPU: {torch.cuda.get_device_name()}, {torch.cuda.mem_get_info()[1] / 2**30:.0f} GiB")
    print(f"- driver {driver.stdout.strip() or 'unknown'}, CUDA {torch.version.cuda}, Python {sys.version.split()[0]}")
    for package in ("torch", "vllm", "triton", "flashinfer-python", "transformers", "ray", "deepspeed"):
        try:
            print(f"- {package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            print(f"- {package}: not installed")


def kernel() -> None:
    """Correct to rounding, and how much of the memory's speed it reaches."""
    from rollout.draw.distribution import softmax_with_entropy, temper
    from rollout.draw.temperature import EntropyLinear
    from rollout.vllm_adapter.fused_temperature import parameters_of, temper_

    policy = EntropyLinear(low=0.7, high=1.3, entropy_low=1.0, entropy_high=6.0)
    table = torch.tensor([parameters_of(policy)], device="cuda")

    def eager(logits: torch.Tensor) -> torch.Tensor:
        return temper(logits, policy(softmax_with_entropy(logits)[1]))

    print("| rows | vocabulary | eager, us | fused, us | ratio | fused, GB/s of 2 reads and 1 write | largest error |")
    print("|" + " --- |" * 7)
    for vocabulary in KERNEL_VOCABULARIES:
        for rows in KERNEL_ROWS:
            logits = 4.0 * torch.randn(rows, vocabulary, device="cuda")
            requests = torch.zeros(rows, dtype=torch.int32, device="cuda")
            expected, ours = eager(logits), logits.clone()
            temper_(ours, requests, table)
            error = (ours.log_softmax(-1) - expected.log_softmax(-1)).abs().max().item()
            slow = microseconds(lambda logits=logits: eager(logits))
            fast = microseconds(lambda ours=ours, requests=requests: temper_(ours, requests, table))
            rate = 3 * ours.nbytes / fast / 1e3
            print(
                f"| {rows} | {vocabulary} | {slow:.1f} | {fast:.1f} | {slow / fast:.1f} | {rate:.0f} | {error:.1e} |",
                flush=True,
            )


def microseconds(work: Callable[[], object], repeats: int = 50) -> float:
    """Median over repeats, after five that warm up."""
    times = []
    for _ in range(repeats + 5):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        work()
        end.record()
        torch.cuda.synchronize()
        times.append(begin.elapsed_time(end) * 1e3)
    return sorted(times[5:])[repeats // 2]


class LocalLearner:
    """The learner's forward in this process: what `orchestration.self_check` asks of a learner."""

    def __init__(self, folder: Path, dtype: torch.dtype) -> None:
        from learner.forward import Policy
        from learner.model import load_model

        self.policy = Policy(load_model(str(folder), dtype, DEVICE), layout="padded", head_chunk_mib=256)

    async def score(self, drawn: list) -> tuple:
        from learner.score import score

        return 0, score(self.policy, drawn, micro_batch_tokens=4096, seed=len(drawn))


async def exact(model_runner: str) -> None:
    """The start-up self-check, with every drafter and dtype, through real engines."""
    from orchestration.self_check import self_check
    from rollout.config import RolloutConfig, SpeculativeConfig
    from rollout.draw.temperature import EntropyLinear, Fixed
    from rollout.draw.truncation import Truncation
    from rollout.errors import RolloutError
    from rollout.worker import RolloutWorker
    from tests.models import random_mtp_policy

    drafting = {
        "none": SpeculativeConfig(),
        "MTP, probabilistic": SpeculativeConfig(method="mtp"),
        "MTP, greedy": SpeculativeConfig(method="mtp", drafts="greedy"),
    }
    temperatures = {
        "T = 1": Fixed(),
        "entropy-linear": EntropyLinear(low=0.5, high=1.6, entropy_low=2.5, entropy_high=5.0),
    }
    print("| dtype | drafts | temperature | tokens | logprob, rms | entropy, rms | temperature, rms | least p-value |")
    print("|" + " --- |" * 8, flush=True)
    failed = False
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        random_mtp_policy(folder)
        for dtype in ("float32", "bfloat16"):
            learner = LocalLearner(folder, getattr(torch, dtype))
            for name, drafts in drafting.items():
                config = RolloutConfig(model_runner=model_runner, dtype=dtype, max_model_len=512, kv_cache_gib=1.0)
                worker = RolloutWorker("rollout-0", config, drafts, folder, 0)
                await worker.start()
                worker.name = "rollout-0"
                for said, temperature in temperatures.items():
                    try:
                        report = await self_check(
                            worker,
                            learner,
                            prompts=((1, 30, 40, 50), (1, 5, 9, 13)),
                            temperature=temperature,
                            truncation=Truncation(),
                            dtype=dtype,
                            max_model_len=512,
                        )
                    except RolloutError as error:
                        failed = True
                        print(f"| {dtype} | {name} | {said} | {error} |  |  |  |  |", flush=True)
                        continue
                    print(
                        f"| {dtype} | {name} | {said} | {report.tokens} | {report.logprob_error:.1e} |"
                        f" {report.entropy_error:.1e} | {report.temperature_error:.1e} | {report.p_value:.2g} |",
                        flush=True,
                    )
                await worker.close()
    if failed:
        raise SystemExit(1)


async def update() -> None:
    """Seconds from the call to the confirmation, and of a plain copy of the same bytes to the GPU."""
    from bench_rollout import save_model

    from learner.publish import probe_of, publication
    from rollout.config import RolloutConfig, SpeculativeConfig
    from rollout.worker import RolloutWorker

    print("| weights | update, s | copy of the same bytes, s | probe error, nats |")
    print("|" + " --- |" * 4, flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        folder = save_model(Path(temporary), 151936)
        policy = LocalLearner(folder, torch.float32).policy
        worker = RolloutWorker("rollout-0", RolloutConfig(max_model_len=512), SpeculativeConfig(), folder, 0)
        await worker.start()
        for version in range(1, UPDATES + 1):
            record, payload = publication(policy, version, probe_of(policy), {})
            done = await worker.update_weights(
                version, record.checksum, record.probe_ids, record.probe_entropy, payload
            )
            began = time.perf_counter()
            torch.from_numpy(payload).to(DEVICE, copy=True)  # from pageable memory: done when it returns
            copied = time.perf_counter() - began
            size = f"{payload.nbytes / 2**20:.0f} MiB"
            print(f"| {size} | {done.seconds:.3f} | {copied:.3f} | {done.probe_error:.1e} |", flush=True)
        await worker.close()


def runs() -> None:
    """Whole runs with learner and engine on the same GPU, one per way in which weights travel."""
    print("| transport | steps/s | worst mismatch-KL | self-check | trained |")
    print("|" + " --- |" * 5, flush=True)
    ended = []
    for transport in TRANSPORTS:
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary) / "run"
            options = [f"rollout.transport={transport}", f"run.dir={folder}", f"run.steps={RUN_STEPS}"]
            command = ["train", "experiment=quickstart", "monitor=quiet", *ON_GPU, *options]
            done = subprocess.run(
                [sys.executable, "-m", "orchestration.cli", *command],
                capture_output=True,
                text=True,
                timeout=RUN_LIMIT_S,
                check=False,
            )
            ended.append(done.returncode)
            if done.returncode:
                print(f"| {transport} | {' '.join(done.stderr.split())[-300:]} |  |  | no |", flush=True)
                continue
            rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
            steps = [row for row in rows if "train/reward" in row]
            rate = (len(steps) - 1) / (steps[-1]["time/elapsed_s"] - steps[0]["time/elapsed_s"])
            worst = max(row["mismatch/kl"] for row in steps)
            passed = "passed" if "passed its self-check" in (folder / "logs" / "driver.log").read_text() else "NOT RUN"
            print(f"| {transport} | {rate:.2f} | {worst:.1e} | {passed} | yes |", flush=True)
    print("\nNot checked: NCCL between two GPUs, several engines, tensor parallelism.")
    if any(ended):
        raise SystemExit(1)


def inside(name: str) -> None:
    """One check, in its own process."""
    sys.path.insert(0, str(HERE.parent))  # tests.models
    from orchestration import process
    from rollout.config import RolloutConfig
    from rollout.vllm_adapter.start import environment

    process.prepare()
    runner = "v2" if name.endswith("v2") else "v1"
    os.environ.update(process.environment() | environment(RolloutConfig(model_runner=runner)))
    {
        "versions": versions,
        "kernel": kernel,
        "exact-v1": lambda: asyncio.run(exact("v1")),
        "exact-v2": lambda: asyncio.run(exact("v2")),
        "update": lambda: asyncio.run(update()),
        "runs": runs,
    }[name]()


def run(check: Check) -> bool:
    """Print the check's section; its errors go to stderr as they come."""
    print(f"\n## {check.title}\n", flush=True)
    if not Path(check.command[0]).is_file():
        print(f"Not checked: there is no {check.command[0]}.", flush=True)
        return False
    began = time.monotonic()
    try:
        code = subprocess.run([sys.executable, *check.command], timeout=check.limit_s, check=False).returncode
    except subprocess.TimeoutExpired:
        print(f"\nDid not end within its {check.limit_s:.0f} s.", flush=True)
        return False
    print(
        f"\n{'Done' if code == 0 else f'FAILED with exit code {code}'} after {time.monotonic() - began:.0f} s.",
        flush=True,
    )
    return code == 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=CHECKS, default=list(CHECKS))
    parser.add_argument("--inside", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        build = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built for CPU"
        sys.stderr.write(
            f"gpu_check: no GPU here (torch is {build}), so nothing was checked: run it on a machine with one\n"
        )
        return 2
    if arguments.inside:
        inside(arguments.inside)
        return 0
    passed = {name: run(CHECKS[name]) for name in arguments.only}
    failed = [name for name, good in passed.items() if not good]
    print(f"\n{len(passed) - len(failed)} of {len(passed)} checks passed; not: {', '.join(failed) or 'none'}.")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
