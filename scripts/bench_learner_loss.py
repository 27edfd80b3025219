"""Loss and gradients of one step: ours, TRL's GRPO trainer, and full logits in plain PyTorch, on identical tensors.

    OMP_NUM_THREADS=1 python scripts/bench_learner_loss.py

Each method runs in processes of its own, forked after the imports: one for memory, one for time, in turns. All compute
the same clipped loss (the gradients are compared), in float32, one thread, without the optimizer's step.

- ours: learner.batch.micro_batch, learner.forward.Policy and learner.objective, as LearnerWorker calls them
- TRL: GRPOTrainer.compute_loss of a trainer that is built and never trains (loss_type dapo, beta 0), which computes
  log-probabilities and entropies through its own chunked head. Used where it can be imported; not a dependency
- plain: logits of all tokens and one log-softmax over them, no entropies
- floor: the transformer's hidden states alone, ours, with a head that reads one token

Peak memory is resident memory beyond what the process had before its model: parameters, gradients, two float32 per
parameter as AdamW holds, and whatever forward and backward need. The floor is what no head can go below.
"""

import ctypes
import importlib.util
import multiprocessing
import re
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from learner_workloads import OBJECTIVE, SMOLLM2, TINY, batch_of_lengths, padded_loss, padded_tensors, save_model
from torch import nn

from learner.batch import counts_of, shares, trained_part
from learner.config import LearnerConfig
from learner.forward import Policy, token_stats
from learner.messages import TrainBatch
from orchestration.process import prepare

CONFIG = LearnerConfig()
ROUNDS, REPEATS = 2, 1  # timed processes per method, steps in each
LIMIT_S = 300.0  # of one process
MEMORY_BAR = 1.15  # of the floor
SAME = 1e-3  # relative difference of two gradients through rounding
MMAP_THRESHOLD = -3  # of mallopt: above this size memory returns to the system when it is freed
METHODS = ("ours", "TRL", "plain", "floor")


@dataclass(frozen=True, kw_only=True)
class Case:
    """`groups` prompts of `prompt` tokens with `size` responses each, their lengths spread evenly over `responses`."""

    title: str
    model: dict[str, object]
    groups: int
    size: int
    prompt: int
    responses: tuple[int, int]

    def batch(self) -> TrainBatch:
        low, high = self.responses
        lengths = [low + (high - low) * place // (self.size - 1) for place in range(self.size)]
        return batch_of_lengths([self.prompt] * self.groups, [lengths] * self.groups, self.model["vocab_size"])


CASES = (
    Case(
        title="0.6M parameters and a head of 32k tokens, 32 responses",
        model=TINY | {"vocab_size": 32768},
        groups=2,
        size=16,
        prompt=10,
        responses=(16, 40),
    ),
    Case(
        title="the shapes of SmolLM2-135M, 6 responses",
        model=SMOLLM2,
        groups=1,
        size=6,
        prompt=16,
        responses=(16, 40),
    ),
)


def ours(model: nn.Module, batch: TrainBatch) -> Callable[[], None]:
    policy = Policy(model, layout=CONFIG.layout, head_chunk_mib=CONFIG.head_chunk_mib)

    def step() -> None:
        trained = trained_part(batch, OBJECTIVE)
        for share in shares(trained.samples, 1, CONFIG.micro_batch_tokens)[0]:
            micro = policy.micro_batch(trained, share)
            lp, entropy = policy(micro)
            loss, _ = OBJECTIVE(token_stats(micro, lp, entropy, None, OBJECTIVE.needs), counts_of(trained.samples))
            loss.backward()

    return step


def floor(model: nn.Module, batch: TrainBatch) -> Callable[[], None]:
    policy = Policy(model, layout=CONFIG.layout, head_chunk_mib=CONFIG.head_chunk_mib)

    def step() -> None:
        trained = trained_part(batch, OBJECTIVE)
        for share in shares(trained.samples, 1, CONFIG.micro_batch_tokens)[0]:
            hidden = policy.hidden_states(policy.micro_batch(trained, share))
            (hidden.sum() + nn.functional.linear(hidden[:1], policy.head.weight).sum()).backward()

    return step


def plain(model: nn.Module, batch: TrainBatch) -> Callable[[], None]:
    tensors = padded_tensors(batch, OBJECTIVE)
    return lambda: padded_loss(model, tensors).backward()


def trl(model: nn.Module, batch: TrainBatch) -> Callable[[], None]:
    from datasets import Dataset
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast
    from trl import GRPOConfig, GRPOTrainer

    words = Tokenizer(models.WordLevel({"<pad>": 0, "<eos>": 1}, unk_token="<pad>"))
    with tempfile.TemporaryDirectory() as folder:
        trainer = GRPOTrainer(
            model=model,
            reward_funcs=lambda completions, **_: [0.0] * len(completions),
            args=GRPOConfig(
                output_dir=folder,
                use_cpu=True,
                bf16=False,
                report_to="none",
                num_generations=8,
                per_device_train_batch_size=8,
                gradient_checkpointing=False,
                loss_type="dapo",
                beta=0.0,
                epsilon_high=0.28,
            ),
            train_dataset=Dataset.from_list([{"prompt": "-"}] * 8),
            processing_class=PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="<eos>"),
        )
    trainer.current_gradient_accumulation_steps = 1
    tensors = padded_tensors(batch, OBJECTIVE)
    tensors["num_items_in_batch"] = tensors["completion_mask"].sum().float()
    model.train()  # no dropout in either model; the trainer counts by it
    return lambda: trainer.compute_loss(model, tensors).backward()


BUILDERS = {"ours": ours, "TRL": trl, "plain": plain, "floor": floor}


def resident_bytes(field: str) -> int:
    return 1024 * int(re.search(rf"{field}:\s+(\d+)", Path("/proc/self/status").read_text())[1])


def work(method: str, case: Case, folder: str, measure_memory: bool, answer) -> None:
    """In a forked process: sends (bytes, gradient of the head) or the processor seconds of each repeat."""
    from transformers import AutoModelForCausalLM

    warnings.filterwarnings("ignore")
    if measure_memory:
        ctypes.CDLL(None).mallopt(MMAP_THRESHOLD, 2**16)
    batch = case.batch()
    before = resident_bytes("VmRSS")
    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="sdpa")
    if measure_memory:  # a mapped file would be counted when it is touched
        for parameter in model.parameters():
            parameter.data = parameter.data.clone()
    step = BUILDERS[method](model, batch)
    held = [torch.full_like(p, 1e-9) for p in model.parameters() for _ in range(2)]
    for parameter in model.parameters():
        parameter.grad = torch.empty_like(parameter).fill_(0.0)  # written, so that it is resident
    if measure_memory:
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from here
        step()
        answer.send((resident_bytes("VmHWM") - before, model.get_output_embeddings().weight.grad.norm().item()))
    else:
        step()
        times = []
        for _ in range(REPEATS):
            began = time.process_time()
            step()
            times.append(time.process_time() - began)
        answer.send(times)
    del held


def in_process(method: str, case: Case, folder: str, measure_memory: bool):
    fork = multiprocessing.get_context("fork")
    answer, sender = fork.Pipe(duplex=False)
    process = fork.Process(target=work, args=(method, case, folder, measure_memory, sender))
    process.start()
    sender.close()
    if not answer.poll(LIMIT_S):
        process.kill()
        raise SystemExit(f"{method} did not finish {case.title} within {LIMIT_S:.0f} s")
    try:
        result = answer.recv()
    except EOFError:
        raise SystemExit(f"{method} failed at {case.title}: its error is above") from None
    process.join()
    return result


def compare(case: Case, methods: tuple[str, ...]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        save_model(folder, case.model)
        memory = {method: in_process(method, case, folder, True) for method in methods}
        times: dict[str, list[float]] = {method: [] for method in methods}
        for _ in range(ROUNDS):
            for method in methods:
                times[method] += in_process(method, case, folder, False)
    reference = memory["plain"][1]
    for method in methods:
        if method != "floor" and abs(memory[method][1] / reference - 1.0) > SAME:
            raise SystemExit(f"{method} computes another gradient than plain: {memory[method][1]}, {reference}")
    least = memory["floor"][0]
    spent = {method: statistics.median(values) for method, values in times.items()}
    print(f"\n{case.title}:\n\n| | CPU s | to ours | peak, MiB | to the floor |\n|" + " --- |" * 5)
    for method in methods:
        peak = memory[method][0]
        ratios = f"{spent[method] / spent['ours']:.2f} | {peak / 2**20:.0f} | {peak / least:.2f}"
        print(f"| {method} | {spent[method]:.3f} | {ratios} |", flush=True)
    kept = memory["ours"][0] <= MEMORY_BAR * least
    print(f"\nOurs is {'within' if kept else 'NOT within'} {MEMORY_BAR} of the floor.", flush=True)


def main() -> None:
    prepare()  # before transformers is imported
    torch.set_num_threads(1)
    methods = METHODS
    if importlib.util.find_spec("trl") is None:
        print("TRL cannot be imported here and is left out: pip install trl")
        methods = tuple(method for method in METHODS if method != "TRL")
    else:
        warnings.filterwarnings("ignore")
        import trl  # before the forks

        print(f"TRL {trl.__version__}")
        from trl import GRPOTrainer  # noqa: F401  (its imports take longest)
    for case in CASES:
        compare(case, methods)


if __name__ == "__main__":
    main()
