"""What is asked of a design that passed, where the ladder asks: a proof of equality, and its size in cells.

Neither judges alone. A difference that yosys finds counts when our own simulation of its input vectors shows it too;
what yosys cannot read or decide leaves the design where the simulation put it.
"""

from dataclasses import replace

from reward.cache import RecentlyUsed
from reward.config import VerilogConfig
from reward.sandbox import Sandbox
from reward.verilog.clock import running
from reward.verilog.cost import Synthesis
from reward.verilog.examine import Candidate, Examiner
from reward.verilog.formal import Outcome, Prover
from reward.verilog.ladder import Findings

CELLS_ENTRIES = 4096
SHOWN_VECTORS = 8  # of a counterexample, in a verdict's detail


class Supplement:
    """Safe to share between threads."""

    def __init__(self, sandbox: Sandbox, config: VerilogConfig, examiner: Examiner) -> None:
        self._ladder = config.ladder
        self._examiner = examiner
        self._prover = Prover(sandbox, config.formal)
        self._synthesis = Synthesis(sandbox)
        self._reference_cells: RecentlyUsed[int] = RecentlyUsed(CELLS_ENTRIES)

    def extended(self, candidate: Candidate, findings: Findings) -> Findings:
        """The findings with formal and cost, as far as the ladder asks and the design comes."""
        if findings.full and self._ladder.formal is not None:
            findings = self._proven(candidate, findings)
        missed = self._ladder.formal is not None and not findings.formal
        if findings.full and self._ladder.cost is not None and not missed:
            findings = replace(findings, cost=self._cost(candidate))
        late = candidate.clock.passed  # then what is missing may be there another time
        return replace(findings, certain=findings.certain and not late)

    def _proven(self, candidate: Candidate, findings: Findings) -> Findings:
        interface = candidate.problem.interface
        if candidate.clock.passed:
            return findings
        with running([candidate.clock]) as deadline:
            proof = self._prover.prove(candidate.problem.reference, candidate.design, interface, deadline)
        if proof.outcome in (Outcome.EQUAL, Outcome.EQUAL_TO_DEPTH):
            return replace(findings, formal=True, detail=f"{findings.detail}; {proof.detail}")
        if proof.outcome == Outcome.DIFFERENT and proof.counterexample:
            vectors = proof.counterexample
            where = self._examiner.differ(candidate, vectors)
            if where is not None:
                shown = " ".join(vectors[max(0, where + 1 - SHOWN_VECTORS) : where + 1])
                names = ", ".join(port.name for port in interface.inputs)
                return replace(
                    findings,
                    full=False,
                    formal=False,
                    detail=f"differs from the reference at input vector {where + 1} of ({names}): {shown}",
                )
        return findings

    def _cost(self, candidate: Candidate) -> float | None:
        """Cells of the reference for each cell of the design, at most 1; None where one of them cannot be counted."""
        if candidate.clock.passed:
            return None
        with running([candidate.clock]) as deadline:
            wanted = self._reference_cells.get(candidate.problem.key)
            if wanted is None:
                wanted = self._synthesis.cells(candidate.problem.reference, deadline)
                if wanted is None:
                    return None
                self._reference_cells.put(candidate.problem.key, wanted)
            cells = self._synthesis.cells(candidate.design, deadline)
        if cells is None:
            return None
        return min(1.0, wanted / cells) if cells else 1.0
