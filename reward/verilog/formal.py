"""Does a design do what its reference does on every input, not only on those we simulate? yosys says.

    reference, design --READ--> flat netlists --miter--> a circuit that says where their outputs differ
                                              --drive--> fed as in a simulation --sat--> Proof

A proof supplements a simulation and never replaces it: yosys reads less of the language than the simulator, knows no
delays, and spreads unknown values further. What it cannot read or decide is `undecided`. A difference comes with the
input vectors that show it, in the form of reward/verilog/stimuli.py, so that the verifier can see it happen in the
simulator before believing it.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from reward.config import FormalConfig
from reward.deadline import Deadline
from reward.sandbox import Sandbox
from reward.verilog.design import Design
from reward.verilog.drive import Mode, driver, steps_per_cycle, vectors
from reward.verilog.interface import Interface
from reward.verilog.yosys import for_yosys, run_yosys, why_nothing

INDUCTION_STEPS = 4  # of an unbounded proof; a longer one seldom succeeds where this fails
PLAIN_NAME = re.compile(r"[A-Za-z_]\w*")

# Both designs as flat netlists, and lists of their cells: state, and what of it forbids time steps of whole cycles.
# Two drivers of a net or a loop of gates are equations without a solution, which proves anything, so `check` refuses.
READ_ONE = """
read_verilog -sv {name}.v
hierarchy -check -top {name}
proc
flatten
memory_collect
memory_map
tribuf
opt_expr -keepdc
opt_clean
setundef -undriven -undef
check -assert
design -stash {name}
"""
READ = """
design -copy-from gold gold
design -copy-from gate gate
select -set flops t:$*ff*
select -set clock {clock}
select -write state.txt t:$*ff* t:$*latch* t:$sr
select -write odd.txt t:$*latch* t:$sr @flops @clock %co1:+[CLK] @flops %i %d @clock %co1:-[CLK] c:* %i
select -write rising.txt @flops r:CLK_POLARITY=1'1 %i
select -write falling.txt @flops r:CLK_POLARITY=1'0 %i
miter -equiv -ignore_gold_x -make_outputs -flatten gold gate miter
"""
# One yosys process, so that its CPU limit is that of the proof. Where outputs that agree for a few steps agree for
# ever, which is so for most pairs, only the first steps are searched, otherwise all. `-tempinduct-def` looks only at
# states without unknown bits, so it comes after a full search, which covers the unknown bits of power-up. `known` is
# about the reference alone: where yosys takes all its outputs for unknown, anything equals it.
PROVE = """
proc sat {{part args}} {{
    yosys tee -o $part.txt sat -set-def-inputs -enable_undef {{*}}$args drive
    set file [open $part.txt]
    set said [read $file]
    close $file
    return $said
}}
yosys script read.ys
set mode edge
if {{[file size state.txt] == 0}} {{
    set mode none
}} elseif {{[file size odd.txt] == 0 && ([file size rising.txt] == 0 || [file size falling.txt] == 0)}} {{
    set mode cycle
}}
set file [open mode.txt w]
puts $file $mode
close $file
yosys script $mode.ys
set shown {{{shown}}}
if {{$mode == "none"}} {{
    set base {{}}
    sat proof -prove trigger 0 {{*}}$shown
}} else {{
    array set steps {{cycle {cycle_steps} edge {edge_steps}}}
    array set settled {{cycle {cycle_settled} edge {edge_settled}}}
    set induction [list -tempinduct-inductonly -seq 0 -maxsteps {induction_steps} -prove differ 0]
    set ever [regexp SUCCESS [sat ever {{*}}$induction]]
    if {{$ever && $settled($mode) < $steps($mode)}} {{
        set steps($mode) $settled($mode)
    }}
    set base [list -tempinduct-baseonly -seq 0 -maxsteps $steps($mode) -set-init-undef]
    set refuted [regexp FAIL! [sat proof {{*}}$base -prove trigger 0 {{*}}$shown]]
    if {{!$ever && !$refuted}} {{
        sat ever -tempinduct-def {{*}}$induction
    }}
}}
sat known {{*}}$base -prove known 0
"""
DRIVE = """
{edges}
read_verilog -sv -formal {mode}.v
hierarchy -top drive
proc
flatten
opt_merge
opt_clean
"""
EDGES = {Mode.NONE: "", Mode.CYCLE: "async2sync", Mode.EDGE: "clk2fflogic"}
PARTS = ("mode", "ever", "proof", "known")
SCRIPT = """
(yosys -q -c prove.tcl > log.txt)
status=$?
for part in {parts}; do
    echo "@ $part"
    if [ -e $part.txt ]; then cat $part.txt; fi
done
exit $status
""".format(parts=" ".join(PARTS))
PART = re.compile(r"^@ (\w+)$", re.MULTILINE)
REFUTED = re.compile(r"^SAT (?:temporal induction )?proof finished - model found", re.MULTILINE)
HOLDS = re.compile(r"^SAT proof finished - no model found|^Reached maximum number of time steps", re.MULTILINE)
EVER = re.compile(r"^Induction step proven: SUCCESS", re.MULTILINE)
VALUE = re.compile(r"^ *(\d*) +\\d(\d+) .*?([01x]+)$", re.MULTILINE)


class Outcome(StrEnum):
    """What a proof says."""

    EQUAL = "equal"  # for every input and for ever
    EQUAL_TO_DEPTH = "equal_to_depth"  # for every input in the first `FormalConfig.depth` cycles
    DIFFERENT = "different"  # as the counterexample shows
    UNDECIDED = "undecided"  # yosys cannot read one of the two, or cannot decide in time


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """`counterexample`: input vectors as in `Stimuli`, where the outcome is DIFFERENT; `detail`: one sentence."""

    outcome: Outcome
    counterexample: tuple[str, ...] | None = None
    detail: str = ""


class Prover:
    """Compares designs in the sandbox. Safe to share between threads."""

    def __init__(self, sandbox: Sandbox, config: FormalConfig) -> None:
        self._sandbox = sandbox
        self._config = config

    def prove(self, reference: Design, design: Design, interface: Interface, deadline: Deadline) -> Proof:
        """Compare two designs that both have the ports of `interface`. Never raises for what is in them."""
        files = {
            "gold.v": for_yosys(reference, "gold"),
            "gate.v": for_yosys(design, "gate"),
            "read.ys": read_script(interface),
            "prove.tcl": proof_script(interface, self._config.depth),
        }
        for mode in Mode:
            files[f"{mode}.v"] = driver(interface, mode)
            files[f"{mode}.ys"] = DRIVE.format(edges=EDGES[mode], mode=mode)
        finished = run_yosys(self._sandbox, SCRIPT, files, cpu_s=self._config.cpu_s, deadline=deadline)
        parts = PART.split(finished.stdout.decode(errors="replace"))
        said = dict.fromkeys(PARTS, "") | dict(zip(parts[1::2], parts[2::2], strict=True))
        if not said["mode"].strip():
            return Proof(outcome=Outcome.UNDECIDED, detail=why_nothing(finished))
        mode = Mode(said["mode"].strip())
        if REFUTED.search(said["proof"]):
            return Proof(
                outcome=Outcome.DIFFERENT,
                counterexample=vectors(interface, mode, shown_values(said["proof"])),
                detail="yosys finds inputs for which the outputs differ",
            )
        if not HOLDS.search(said["proof"]):
            return Proof(outcome=Outcome.UNDECIDED, detail=why_nothing(finished))
        if not REFUTED.search(said["known"]):
            reason = "takes the reference's outputs for unknown" if HOLDS.search(said["known"]) else "gives up"
            return Proof(outcome=Outcome.UNDECIDED, detail=f"yosys {reason}")
        if mode == Mode.NONE or EVER.search(said["ever"]):
            return Proof(outcome=Outcome.EQUAL, detail="yosys proves the outputs equal")
        depth = self._config.depth
        return Proof(outcome=Outcome.EQUAL_TO_DEPTH, detail=f"yosys finds no difference in the first {depth} cycles")


def read_script(interface: Interface) -> str:
    clock = "t:none"  # no cell has this type: every state element then needs steps of single vectors
    if interface.clocks and PLAIN_NAME.fullmatch(interface.clocks[0]):
        clock = f"w:{interface.clocks[0]}"
    return READ_ONE.format(name="gold") + "design -reset\n" + READ_ONE.format(name="gate") + READ.format(clock=clock)


def proof_script(interface: Interface, depth: int) -> str:
    return PROVE.format(
        shown=" ".join(f"-show d{index}" for index in range(len(interface.inputs))),
        cycle_steps=depth * steps_per_cycle(interface, Mode.CYCLE),
        edge_steps=depth * steps_per_cycle(interface, Mode.EDGE),
        cycle_settled=INDUCTION_STEPS,
        edge_settled=INDUCTION_STEPS + steps_per_cycle(interface, Mode.EDGE),
        induction_steps=INDUCTION_STEPS,
    )


def shown_values(said: str) -> list[Mapping[int, str]]:
    """Per time step: position of an input in the interface -> its bits. What does not matter is 0."""
    steps: dict[str, dict[int, str]] = {}
    for step, index, bits in VALUE.findall(said):
        steps.setdefault(step, {})[int(index)] = bits.replace("x", "0")
    return list(steps.values())
