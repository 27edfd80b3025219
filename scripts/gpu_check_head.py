"""The fused head on a GPU: right to rounding, as fast as its products, small. Prints Markdown; exit code 1 below a bar.

    python scripts/gpu_check_head.py               at 16k tokens, 4096 channels, a vocabulary of 152k, bfloat16
    python scripts/gpu_check_head.py --tiles       and how fast its kernels are with other tiles

Bars: forward and backward at no less than 70 % of the rate of a plain bfloat16 product measured here, counting the
products each method performs, with less than 5 % of the full bfloat16 logits held beside inputs and gradients. Beside
it: the chunked function, full logits eagerly and compiled, and liger-kernel's fused cross entropy, which computes no
entropy and knows no temperatures. None of this has been run on a GPU yet.
"""

import argparse
import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass

import torch
import triton
from torch import Tensor
from triton.runtime.errors import OutOfResources

from learner import fused_head
from learner.fused_head import FusedTokenLogprobs, Tile
from learner.head import Picks, _Others, _TokenLogprobs

ROWS, CHANNELS, VOCABULARY = 16384, 4096, 151936
RATE_BAR, MEMORY_BAR = 0.70, 0.05
NATS, ROUNDING = 1e-4, 1e-2  # allowed: summing 4096 products in float32; blocks of gradients in bfloat16
REPEATS = 7
FUSED = "fused"
CHUNK_MIB = 256  # of the chunked function, as learner.head_chunk_mib
TILES = tuple(
    Tile(rows=rows, columns=columns, channels=channels, warps=warps, stages=stages)
    for rows, columns, channels, warps, stages in (
        (128, 256, 64, 8, 3),
        (128, 256, 64, 8, 4),
        (128, 128, 64, 4, 4),
        (128, 128, 64, 8, 4),
        (256, 128, 64, 8, 3),
        (64, 256, 64, 4, 4),
        (128, 128, 32, 8, 3),
    )
)


@dataclass(frozen=True, kw_only=True)
class Problem:
    """hidden [row, channel], weight [vocab, channel] and what comes back to log-probabilities and entropies."""

    hidden: Tensor
    weight: Tensor
    picks: Picks
    of_logprobs: Tensor
    of_entropies: Tensor

    @classmethod
    def drawn(cls, rows: int, channels: int, vocabulary: int, picks: int, device: str = "cuda") -> "Problem":
        """Hidden states of variance 1 and logits of variance 4; rows beyond the first picks are picked again."""
        generator = torch.Generator(device).manual_seed(0)

        def normal(*shape: int, scale: float = 1.0) -> Tensor:
            return scale * torch.randn(*shape, generator=generator, device=device)

        again = torch.randint(0, rows, (picks - rows,), generator=generator, device=device)
        every = torch.arange(rows, device=device)
        return cls(
            hidden=normal(rows, channels).bfloat16().requires_grad_(),
            weight=normal(vocabulary, channels, scale=2.0 * channels**-0.5).bfloat16().requires_grad_(),
            picks=Picks(
                row_nodes=every,
                temperatures=0.7 + 0.6 * torch.rand(rows, generator=generator, device=device),
                rows=torch.cat((every, again)).sort().values,
                tokens=torch.randint(0, vocabulary, (picks,), generator=generator, device=device),
            ),
            of_logprobs=normal(picks),
            of_entropies=normal(rows),
        )

    def forget(self) -> None:
        self.hidden.grad = self.weight.grad = None

    def step(self, head: Callable[[Tensor, Tensor, Picks], tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        """Forward and backward; gradients stay in hidden.grad and weight.grad."""
        self.forget()
        logprobs, entropies = head(self.hidden, self.weight, self.picks)
        torch.autograd.backward((logprobs, entropies), (self.of_logprobs, self.of_entropies))
        return logprobs.detach(), entropies.detach()


def full(hidden: Tensor, weight: Tensor, picks: Picks) -> tuple[Tensor, Tensor]:
    """The definition, in the dtype of its inputs up to the logits and in at least float32 from there."""
    logits = hidden[picks.row_nodes] @ weight.T
    logits = logits if logits.dtype == torch.float64 else logits.float()
    normalized = logits.log_softmax(-1)
    tempered = (logits / picks.temperatures[:, None]).log_softmax(-1)
    return tempered[picks.rows, picks.tokens], -(normalized.exp() * normalized).sum(-1)


def fused(hidden: Tensor, weight: Tensor, picks: Picks) -> tuple[Tensor, Tensor]:
    return FusedTokenLogprobs.apply(hidden, weight, None, picks)


def chunked(hidden: Tensor, weight: Tensor, picks: Picks) -> tuple[Tensor, Tensor]:
    """The function in PyTorch, which TokenHead takes elsewhere."""
    rows = max(1, CHUNK_MIB * 2**20 // (4 * len(weight)))
    return _TokenLogprobs.apply(hidden, weight, None, picks, rows, (), _Others(None, None))


def liger_step(problem: Problem) -> None:
    """Cross entropy of every row's token at T = 1, forward and backward, and nothing else."""
    from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss

    problem.forget()
    LigerFusedLinearCrossEntropyLoss(reduction="sum")(problem.weight, problem.hidden, problem.picks.tokens).backward()


def check_values() -> bool:
    """Against float64 over full logits, at a size that fits no tile, with more picks than rows."""
    problem = Problem.drawn(1100, 520, 20011, 1500)
    logprobs, entropies = problem.step(fused)
    exact = Problem(
        hidden=problem.hidden.detach().double().requires_grad_(),
        weight=problem.weight.detach().double().requires_grad_(),
        picks=problem.picks,
        of_logprobs=problem.of_logprobs.double(),
        of_entropies=problem.of_entropies.double(),
    )
    wanted, wanted_entropies = exact.step(full)
    errors = {
        "log-probability, nats": ((logprobs - wanted).abs().max().item(), NATS),
        "entropy, nats": ((entropies - wanted_entropies).abs().max().item(), NATS),
        "gradient of hidden states, relative": (relative(problem.hidden.grad, exact.hidden.grad), ROUNDING),
        "gradient of the weight, relative": (relative(problem.weight.grad, exact.weight.grad), ROUNDING),
    }
    again = problem.step(fused)
    same = torch.equal(again[0], logprobs) and torch.equal(again[1], entropies)
    print("| against float64 | largest or relative error | allowed |\n| --- | --- | --- |")
    for name, (error, allowed) in errors.items():
        print(f"| {name} | {error:.1e} | {allowed:.0e} |")
    print(f"\nThe same bits twice: {'yes' if same else 'NO'}.\n", flush=True)
    return same and all(error <= allowed for error, allowed in errors.values())


def check_rows(problem: Problem, count: int = 32) -> bool:
    """At full size, some rows against float64: offsets beyond 2**31 entries would show here."""
    logprobs, entropies = problem.step(fused)
    rows = torch.linspace(0, len(problem.hidden) - 1, count, device=problem.hidden.device).long()
    few = problem.picks
    part = Problem(
        hidden=problem.hidden.detach()[rows].double().requires_grad_(),
        weight=problem.weight.detach().double(),
        picks=Picks(
            row_nodes=torch.arange(count, device=rows.device),
            temperatures=few.temperatures[rows],
            rows=torch.arange(count, device=rows.device),
            tokens=few.tokens[rows],  # one pick a row at this size
        ),
        of_logprobs=problem.of_logprobs[rows].double(),
        of_entropies=problem.of_entropies[rows].double(),
    )
    wanted, wanted_entropies = part.step(full)
    errors = (
        (logprobs[rows] - wanted).abs().max().item(),
        (entropies[rows] - wanted_entropies).abs().max().item(),
        relative(problem.hidden.grad[rows], part.hidden.grad),
    )
    found = "log-probability {:.1e} nats, entropy {:.1e} nats, gradient {:.1e} of its norm".format(*errors)
    print(f"At full size, {count} rows against float64: {found}.\n", flush=True)
    return errors[0] <= NATS and errors[1] <= NATS and errors[2] <= ROUNDING


def relative(ours: Tensor, exact: Tensor) -> float:
    return ((ours.double() - exact).norm() / exact.norm()).item()


def milliseconds(work: Callable[[], object]) -> float:
    """Median, after two that warm up."""
    times = []
    for _ in range(REPEATS + 2):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        work()
        end.record()
        torch.cuda.synchronize()
        times.append(begin.elapsed_time(end))
    return statistics.median(times[2:])


def product_rate(problem: Problem) -> float:
    """TFLOP/s of a plain bfloat16 product: the better of the logits' own shape and a square one."""
    square = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
    hidden, weight = problem.hidden.detach(), problem.weight.detach()
    out = torch.empty(len(hidden), len(weight), device="cuda", dtype=torch.bfloat16)
    own = operations(problem) / milliseconds(lambda: torch.mm(hidden, weight.T, out=out)) / 1e9
    return max(own, 2 * 8192**3 / milliseconds(lambda: square @ square) / 1e9)


def operations(problem: Problem) -> float:
    """Of one product."""
    return 2.0 * problem.hidden.numel() * len(problem.weight)


def extra_bytes(problem: Problem, step: Callable[[], object]) -> int:
    """What forward and backward hold at most, beside inputs and the gradients they leave."""
    problem.forget()
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    step()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before - problem.hidden.nbytes - problem.weight.nbytes


def compare(problem: Problem) -> bool:
    rate = product_rate(problem)
    logits = 2 * len(problem.hidden) * len(problem.weight)
    print(f"A plain bfloat16 product: {rate:.0f} TFLOP/s.\n")
    print("| method | ms | products | TFLOP/s | of a plain product | held beside, GiB | of the logits |")
    print("|" + " --- |" * 7, flush=True)
    good = False
    compiled = torch.compile(full)
    for name, products, step in (
        (FUSED, 4, lambda: problem.step(fused)),
        ("chunked", 4, lambda: problem.step(chunked)),
        ("full logits, eager", 3, lambda: problem.step(full)),
        ("full logits, torch.compile", 3, lambda: problem.step(compiled)),
        ("liger, no entropy, T = 1", 3, lambda: liger_step(problem)),
    ):
        try:
            spent = milliseconds(step)
            held = extra_bytes(problem, step)
        except ImportError:
            print(f"| {name} | not installed |  |  |  |  |  |", flush=True)
            continue
        except torch.cuda.OutOfMemoryError:
            print(f"| {name} | out of memory |  |  |  |  |  |", flush=True)
            continue
        reached = products * operations(problem) / spent / 1e9
        print(
            f"| {name} | {spent:.1f} | {products} | {reached:.0f} | {reached / rate:.2f} | {held / 2**30:.2f} |"
            f" {held / logits:.3f} |",
            flush=True,
        )
        if name == FUSED:
            good = reached >= RATE_BAR * rate and held < MEMORY_BAR * logits
    print(f"\nThe fused head is {'within' if good else 'NOT within'} its bars.\n", flush=True)
    return good


def compare_tiles(problem: Problem) -> None:
    """TFLOP/s of the two kernels alone, for the choice of the constants in learner/fused_head.py."""
    print("| rows x columns x channels, warps, stages | partials, TFLOP/s | gradient, TFLOP/s |\n| --- | --- | --- |")
    rows = slice(0, fused_head.ROWS)
    states, weight = problem.hidden.detach()[rows], problem.weight.detach()
    temperatures = problem.picks.temperatures[rows]
    slopes = torch.ones(6, len(states), device="cuda")
    block = torch.empty(len(states), fused_head.BLOCK // fused_head.ROWS, device="cuda", dtype=torch.bfloat16)
    part = weight[: block.shape[1]]
    chosen = fused_head.tile_for
    for tile in TILES:
        fused_head.tile_for = lambda device, tile=tile: tile
        try:
            first = milliseconds(lambda: fused_head._normalizers(states, weight, None, temperatures))
            second = milliseconds(lambda: fused_head._grad_logits(block, states, part, None, slopes, slopes))
        except OutOfResources as error:
            print(f"| {tile} | {error} |  |", flush=True)
            continue
        work = 2.0 * states.numel()
        print(
            f"| {tile.rows} x {tile.columns} x {tile.channels}, {tile.warps}, {tile.stages} |"
            f" {work * len(weight) / first / 1e9:.0f} | {work * len(part) / second / 1e9:.0f} |",
            flush=True,
        )
    fused_head.tile_for = chosen


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiles", action="store_true")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        sys.stderr.write("gpu_check_head: no GPU here, so nothing was checked: run it on a machine with one\n")
        return 2
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, triton {triton.__version__}\n")
    good = check_values()
    problem = Problem.drawn(ROWS, CHANNELS, VOCABULARY, ROWS)
    good &= check_rows(problem)
    good &= compare(problem)
    if arguments.tiles:
        compare_tiles(problem)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
