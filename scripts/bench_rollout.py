"""Rollouts against bare vLLM: the worker's throughput, and what a temperature per token costs; prints Markdown for
docs/benchmarks.md.

    OMP_NUM_THREADS=1 python scripts/bench_rollout.py

Two processes, one with `vllm.LLM`, one with a RolloutWorker, on the same model, prompts and engine arguments, take
turns generating the same number of tokens; a ratio is the median over rounds of one process's speed by the other's in
the same round. Bare vLLM is asked for the logprob of each token, as training needs it, and once without. The model is
random and tiny, so this measures what surrounds the model, the worst case for a ratio; --model names a real one.
"""

import argparse
import asyncio
import json
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from orchestration import process
from rollout.config import RolloutConfig, SpeculativeConfig
from rollout.draw.temperature import EntropyLinear, Fixed, TemperaturePolicy
from rollout.messages import GroupRequest
from rollout.vllm_adapter.start import engine_arguments, environment
from rollout.worker import RolloutWorker

BATCHES = (1, 8, 32, 128)  # responses at a time
GROUP = 8  # responses to a prompt
PROMPT_TOKENS, RESPONSE_TOKENS = 16, 64
VOCABULARIES = (512, 32768)
ROUNDS = 9
LEAST_S = 0.4  # of one measurement: small batches are generated several times
START_S = 600.0
COLUMNS = (
    "batch",
    "bare vLLM, tok/s",
    "T = 1, to bare",
    "adaptive, to bare",
    "adaptive, to T = 1",
    "adaptive, to T = 0.9",
    "T = 1, to bare without logprobs",
)
OURS_ALONE = {"worker_cls", "scheduler_cls", "logits_processors", "weight_transfer_config", "disable_log_stats"}
SHAPE = {
    "model_type": "qwen2",
    "hidden_size": 128,
    "intermediate_size": 384,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "tie_word_embeddings": True,
    "initializer_range": 0.2,  # entropies then spread, and the adaptive temperature really adapts
    "bos_token_id": 1,
    "eos_token_id": 2,
}
POLICIES: dict[str, TemperaturePolicy] = {
    "fixed": Fixed(),
    "cool": Fixed(temperature=0.9),
    "adaptive": EntropyLinear(low=0.7, high=1.3, entropy_low=1.0, entropy_high=6.0),
}


@dataclass(frozen=True)
class Work:
    """`how` is a key of the serving process: a policy's name, or "logprobs" and "plain" for bare vLLM."""

    how: str
    batch: int
    times: int
    cpu_time: bool


def prompts_of(batch: int) -> list[tuple[int, ...]]:
    """One prompt per group of at most GROUP responses."""
    return [
        tuple(3 + (97 * group + 31 * place) % 500 for place in range(PROMPT_TOKENS))
        for group in range(-(-batch // GROUP))
    ]


def serve_bare(pipe: Connection, config: RolloutConfig, model: Path) -> None:
    process.prepare()
    from vllm import LLM, SamplingParams

    arguments = engine_arguments(config, SpeculativeConfig(), model, seed=0)
    llm = LLM(**{name: value for name, value in arguments.items() if name not in OURS_ALONE})

    def generate(work: Work) -> int:
        params = SamplingParams(
            n=min(GROUP, work.batch),
            temperature=1.0,
            max_tokens=RESPONSE_TOKENS,
            ignore_eos=True,
            detokenize=False,
            logprobs=0 if work.how == "logprobs" else None,
        )
        requests = [{"prompt_token_ids": list(prompt)} for prompt in prompts_of(work.batch)]
        outputs = llm.generate(requests, params, use_tqdm=False)
        return sum(len(one.token_ids) for output in outputs for one in output.outputs)

    answer(pipe, generate)


def serve_worker(pipe: Connection, config: RolloutConfig, model: Path) -> None:
    process.prepare()
    worker = RolloutWorker("rollout-0", config, SpeculativeConfig(), model, 0)
    loop = asyncio.new_event_loop()
    loop.run_until_complete(worker.start())
    numbers = iter(range(10**9))

    async def group(prompt: tuple[int, ...], work: Work) -> int:
        request = GroupRequest(
            group_id=str(next(numbers)),
            prompt_ids=prompt,
            n=min(GROUP, work.batch),
            max_tokens=RESPONSE_TOKENS,
            temperature=POLICIES[work.how],
        )
        return sum([len(rollout.response_ids) async for rollout in worker.generate(request)])

    async def generate(work: Work) -> int:
        return sum(await asyncio.gather(*(group(prompt, work) for prompt in prompts_of(work.batch))))

    answer(pipe, lambda work: loop.run_until_complete(generate(work)))


def answer(pipe: Connection, generate: Callable[[Work], int]) -> None:
    """Tokens per second of each Work that comes, until None does."""
    pipe.send("ready")
    while (work := pipe.recv()) is not None:
        clock = time.process_time if work.cpu_time else time.perf_counter
        began = clock()
        tokens = sum(generate(work) for _ in range(work.times))
        pipe.send(tokens / (clock() - began))


@contextmanager
def serving(target: Callable, config: RolloutConfig, model: Path) -> Iterator[Callable[[Work], float]]:
    """A process that answers Work with tokens per second."""
    here, there = multiprocessing.get_context("spawn").Pipe()
    child = multiprocessing.get_context("spawn").Process(target=target, args=(there, config, model), daemon=True)
    child.start()
    there.close()

    def ask(work: Work | None) -> float:
        here.send(work)
        return here.recv() if work is not None else 0.0

    try:
        if not here.poll(START_S):
            raise SystemExit(f"{target.__name__} did not start within {START_S:.0f} s")
        here.recv()
        yield ask
        ask(None)
        child.join(timeout=60)
    finally:
        child.kill()


def measure(config: RolloutConfig, model: Path, batches: tuple[int, ...], rounds: int, cpu_time: bool) -> None:
    """One row per batch: speed of bare vLLM, and ratios to it."""
    print("| " + " | ".join(COLUMNS) + " |")
    print("|" + " --- |" * len(COLUMNS), flush=True)
    with serving(serve_bare, config, model) as bare, serving(serve_worker, config, model) as worker:
        sides = {"logprobs": bare, "plain": bare, "fixed": worker, "cool": worker, "adaptive": worker}
        for batch in batches:
            warm = {how: ask(Work(how, batch, 1, cpu_time)) for how, ask in sides.items()}
            warm = {how: ask(Work(how, batch, 1, cpu_time)) for how, ask in sides.items()}
            times = max(1, int(LEAST_S * min(warm.values()) / (batch * RESPONSE_TOKENS)))
            found: list[dict[str, float]] = []
            for number in range(rounds):
                turn = list(sides.items())
                if number % 2:
                    turn.reverse()
                found.append({how: ask(Work(how, batch, times, cpu_time)) for how, ask in turn})

            def ratio(ours: str, theirs: str, found: list = found) -> str:
                ratios = sorted(one[ours] / one[theirs] for one in found)
                low, high = ratios[len(ratios) // 4], ratios[-1 - len(ratios) // 4]
                return f"{statistics.median(ratios):.3f} ({low:.2f} .. {high:.2f})"

            cells = [
                str(batch),
                f"{statistics.median(one['logprobs'] for one in found):.0f}",
                ratio("fixed", "logprobs"),
                ratio("adaptive", "logprobs"),
                ratio("adaptive", "fixed"),
                ratio("adaptive", "cool"),
                ratio("fixed", "plain"),
            ]
            print("| " + " | ".join(cells) + " |", flush=True)


def save_model(folder: Path, vocabulary: int) -> Path:
    """A random model with a tokenizer of numbered words."""
    import torch
    from tokenizers import Tokenizer, models
    from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(AutoConfig.for_model(**SHAPE, vocab_size=vocabulary)).save_pretrained(folder)
    words = {"<s>": 1, "</s>": 2} | {f"w{number}": number for number in (0, *range(3, vocabulary))}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="w0"))
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>").save_pretrained(folder)
    return folder


def config_of(arguments: argparse.Namespace) -> RolloutConfig:
    return RolloutConfig(
        engine=arguments.engine,
        dtype=arguments.dtype,
        model_runner=arguments.model_runner,
        max_model_len=512,
        max_num_seqs=max(arguments.batches),
        kv_cache_gib=arguments.kv_cache_gib,
        enforce_eager=not arguments.compile,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="a Hugging Face folder; default: random models")
    parser.add_argument("--vocabularies", type=int, nargs="+", default=VOCABULARIES)
    parser.add_argument("--batches", type=int, nargs="+", default=BATCHES)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--engine", choices=["in_process", "async_llm"], default="in_process")
    parser.add_argument("--model-runner", choices=["v1", "v2"], default="v1", help="v2: on a GPU alone")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--kv-cache-gib", type=float, default=0.25)
    parser.add_argument("--compile", action="store_true", help="let vLLM compile and capture graphs, as on a GPU")
    parser.add_argument("--cpu-time", action="store_true", help="per second of the process's own, on a busy machine")
    arguments = parser.parse_args()
    process.prepare()
    config = config_of(arguments)
    os.environ.update(
        process.environment() | environment(config)
    )  # of both processes: glibc reads some of it when they start
    with tempfile.TemporaryDirectory() as temporary:
        if arguments.model is not None:
            vocabulary = json.loads((arguments.model / "config.json").read_text())["vocab_size"]
            models = {vocabulary: arguments.model}
        else:
            models = {size: save_model(Path(temporary) / str(size), size) for size in arguments.vocabularies}
        for vocabulary, model in models.items():
            print(f"\nVocabulary of {vocabulary}, {RESPONSE_TOKENS} tokens a response, medians and quartiles:\n")
            measure(config, model, tuple(arguments.batches), arguments.rounds, arguments.cpu_time)


if __name__ == "__main__":
    main()
