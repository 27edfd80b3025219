"""Is the verilog verifier as strict as the testbenches it takes apart? Single-token mutants of real references say.

    python scripts/check_verilog_mutants.py --data ../shared/data [--every 10] [--problem Prob0] [--form testbench]

Every mutant is judged twice: by its testbench as its author meant it, in one plain simulation, and by the verifier. A
mutant that the testbench kills must be rejected. One that it lets live passes in the testbench form, unless it owes
that to unknown outputs; the design form, with stimuli of its own, may still reject it. Prints the counts and every
disagreement; exit code 1 where a killed mutant passes. The plain simulations run unprotected: the mutants are of
trusted references.
"""

import argparse
import logging
import math
import re
import resource
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pyslang import SourceManager
from pyslang.ast import Compilation, SymbolKind
from pyslang.syntax import SyntaxTree

from reward.config import RewardConfig
from reward.messages import VerifyRequest
from reward.verilog.testbench import read_verdict
from reward.verilog.verifier import VerilogVerifier

PLAIN_CPU_S = 20  # of one plain simulation, before it counts as endless
SLOWER = 10  # times the CPU time of the reference that a mutant may take, and a second
DEADLINE_S = 600.0  # a busy machine changes no verdict
BATCH = 64
OUT_OF_CPU = (-signal.SIGXCPU, -signal.SIGKILL, 128 + signal.SIGXCPU, 128 + signal.SIGKILL)
UNKNOWN = "unknown"  # in the detail of a verdict that does not let x pass where the testbench does
SWAPS = {
    "&": "|", "|": "&", "^": "&", "~^": "^", "+": "-", "-": "+", "*": "+", "==": "!=", "!=": "==", "&&": "||",
    "||": "&&",
    "<": ">=", ">": "<=", ">=": "<", "<<": ">>", ">>": "<<", "~": "", "!": "", "posedge": "negedge",
    "negedge": "posedge", "===": "!==",
}  # fmt: skip
TOKEN = re.compile(
    r"//[^\n]*|/\*.*?\*/|\"(?:\\.|[^\"\\\n])*\"|`[^\n]*|\d*\s*'s?[bdhoBDHO]\s*[0-9a-fA-FxzXZ?_]+|'[01]|\d+(?:\.\d+)?"
    r"|\$?\w+|<<<|>>>|===|!==|~\^|~&|~\||<<|>>|<=|>=|==|!=|&&|\|\||\+:|-:|\*\*|\S",
    re.DOTALL,
)
NUMBER = re.compile(r"(\d*\s*'s?([bdhoBDHO]))\s*([0-9a-fA-F_]+)$")
DIGITS = {"b": "01", "o": "01234567", "d": "0123456789", "h": "0123456789abcdef"}


@dataclass(frozen=True, kw_only=True)
class Problem:
    """A reference and its testbench; `design` is the reference under the name that the testbench instantiates."""

    name: str
    top_module: str
    reference: str
    testbench: str
    design: str
    beside: str  # what the testbench needs besides the design


def problems(data: Path) -> Iterator[Problem]:
    folder = data / "verilog_eval_v2" / "spec_to_rtl"
    for path in sorted(folder.glob("*_ref.sv")):
        name = path.name.removesuffix("_ref.sv")
        reference = path.read_text()
        yield Problem(
            name=name,
            top_module="TopModule",
            reference=reference,
            testbench=(folder / f"{name}_test.sv").read_text(),
            design=re.sub(r"\bRefModule\b", "TopModule", reference),
            beside=reference,
        )
    for path in sorted((data / "rtllm_v2").rglob("testbench.v")):
        reference = next(path.parent.glob("verified_*.v")).read_text()
        name = path.parent.name
        yield Problem(
            name=name,
            top_module=name,
            reference=reference,
            testbench=path.read_text(),
            design=re.sub(r"(\bmodule\s+)verified_\w+", rf"\g<1>{name}", reference),
            beside="",
        )


def mutants(design: str, top_module: str) -> Iterator[tuple[str, str]]:
    """(what was changed, the design with one token changed)."""
    widths = declared_widths(design, top_module)
    tokens = list(TOKEN.finditer(design))
    started = False
    for position, match in enumerate(tokens):
        token = match.group()
        started = started or token == ";"  # names and widths of ports stay
        before = tokens[position - 1].group() if position else ""
        for other in replacements(token, before, widths) if started else ():
            line = design.count("\n", 0, match.start()) + 1
            yield (
                f"line {line}: {token} -> {other or 'nothing'}",
                design[: match.start()] + other + design[match.end() :],
            )


def replacements(token: str, before: str, widths: dict[str, int]) -> list[str]:
    if token in SWAPS:
        return [SWAPS[token]]
    sized = NUMBER.match(token)
    if sized:
        digits = DIGITS[sized.group(2).lower()]
        last = digits.find(sized.group(3)[-1].lower())
        return [token[:-1] + digits[(last + 1) % len(digits)]] if last >= 0 else []
    if token.isdigit():
        return [str(int(token) + 1)]
    if token in ("'0", "'1"):
        return ["'1" if token == "'0" else "'0"]
    if token in widths and before not in ("logic", "reg", "wire", "]", "."):
        return [name for name, width in sorted(widths.items()) if width == widths[token] and name != token][:2]
    return []


def declared_widths(design: str, top_module: str) -> dict[str, int]:
    """Vectors declared in the top module -> their bits."""
    compilation = Compilation()
    compilation.addSyntaxTree(SyntaxTree.fromText(design, SourceManager()))
    for instance in compilation.getRoot().topInstances:
        if instance.name == top_module:
            return {
                member.name: member.type.bitWidth
                for member in instance.body
                if member.kind in (SymbolKind.Variable, SymbolKind.Net) and member.type.isIntegral
            }
    return {}


def plainly(problem: Problem, design: str, cpu_s: int = PLAIN_CPU_S) -> bool | None:
    """Whether testbench and design in one simulation pass; None where that does not end."""
    with tempfile.TemporaryDirectory(prefix="temper-") as folder:
        files = {"testbench.sv": problem.testbench, "design.sv": design, "reference.sv": problem.beside}
        for name, text in files.items():
            Path(folder, name).write_text(text)
        limit = ["prlimit", f"--cpu={cpu_s}", "--"]
        printed = b""
        for command in (["iverilog", "-g2012", "-o", "s.vvp", *files], ["vvp", "-n", "s.vvp", "-none"]):
            done = subprocess.run([*limit, *command], cwd=folder, capture_output=True, check=False)
            if done.returncode in OUT_OF_CPU:
                return None
            if done.returncode and command[0] == "iverilog":
                return False
            printed = done.stdout
    return read_verdict(printed.decode(errors="replace")).passed


def cpu_seconds() -> float:
    """Of all that was waited for so far."""
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    return spent.ru_utime + spent.ru_stime


def check(problem: Problem, every: int, forms: list[str], verifier: VerilogVerifier) -> Counter[str]:
    """Judge the mutants of one problem both ways; prints what disagrees."""
    counts: Counter[str] = Counter()
    before_s = cpu_seconds()
    if not plainly(problem, problem.design):
        return Counter({"problems that do not run plainly": 1})
    cpu_s = min(PLAIN_CPU_S, math.ceil(1 + SLOWER * (cpu_seconds() - before_s)))
    chosen = list(mutants(problem.design, problem.top_module))[::every]
    alive = [plainly(problem, text, cpu_s) for _, text in chosen]
    for form in forms:
        testbench = problem.testbench if form == "testbench" else None
        fields = {"reference_source": problem.reference, "top_module": problem.top_module, "testbench": testbench}
        requests = [
            VerifyRequest(id=what, verifier="verilog", response=text, reference=fields) for what, text in chosen
        ]
        for start in range(0, len(requests), BATCH):
            verdicts = verifier.verify(requests[start : start + BATCH])
            for verdict, lives in zip(verdicts, alive[start : start + BATCH], strict=True):
                plain = "endless" if lives is None else "alive" if lives else "killed"
                ours = "passes" if verdict.reward == 1.0 else "rejected" if verdict.trainable else verdict.status.value
                if ours == "rejected" and UNKNOWN in verdict.detail:
                    ours = "rejected for unknown outputs"
                counts[f"{form}: {plain}, {ours}"] += 1
                if (plain, ours) not in (("alive", "passes"), ("killed", "rejected")):
                    trusted = verdict.components.get("trusted_harness")
                    print(f"{problem.name} [{form}] {plain} but {ours}: {verdict.id}; {verdict.detail} ({trusted=})")
    return counts


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with verilog_eval_v2 and rtllm_v2")
    parser.add_argument("--every", type=int, default=1, help="judge every n-th mutant")
    parser.add_argument("--problem", default="", help="only problems whose name contains this")
    parser.add_argument("--form", choices=("testbench", "design"), action="append", help="default: both")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    verifier = VerilogVerifier(RewardConfig(deadline_s=DEADLINE_S))
    counts: Counter[str] = Counter()
    forms = arguments.form or ["testbench", "design"]
    for problem in problems(arguments.data):
        if arguments.problem in problem.name:
            counts += check(problem, arguments.every, forms, verifier)
    verifier.close()
    for what, count in sorted(counts.items()):
        print(f"{count:6d}  {what}")
    return int(counts["testbench: killed, passes"] > 0)


if __name__ == "__main__":
    sys.exit(main())
