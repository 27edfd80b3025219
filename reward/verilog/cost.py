"""How big a design is: the number of cells yosys makes of it.

    Design --synth -flatten--> generic gates and flip-flops --stat--> their number

Each gate of yosys' own library (and, nand, xor, mux, and the like, of at most a few inputs) and each flip-flop or latch
of one bit counts 1; memories become flip-flops. There is no technology in it (ours), so the number compares designs of
one function with each other and says nothing about area or delay.
"""

import re

from reward.deadline import Deadline
from reward.sandbox import Sandbox
from reward.verilog.design import Design
from reward.verilog.yosys import for_yosys, run_yosys

CPU_S = 10  # of one synthesis; a VerilogEval reference takes 0.1 s
SCRIPT = """
yosys -q -p "read_verilog -sv gate.v; synth -flatten -top gate; check -assert; tee -o stat.txt stat gate" \\
    > log.txt && cat stat.txt
"""
CELLS = re.compile(r"^ *Number of cells: +(\d+)$", re.MULTILINE)


class Synthesis:
    """Counts cells in the sandbox. Safe to share between threads."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox

    def cells(self, design: Design, deadline: Deadline) -> int | None:
        """Cells of the flattened top, None where yosys cannot read the design or not in time."""
        files = {"gate.v": for_yosys(design, "gate")}
        finished = run_yosys(self._sandbox, SCRIPT, files, cpu_s=CPU_S, deadline=deadline)
        counted = CELLS.findall(finished.stdout.decode(errors="replace"))
        return int(counted[-1]) if finished.status == 0 and counted else None
