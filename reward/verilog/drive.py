"""How a pair of designs is fed in a proof: the same way as stimuli feed a simulation, with every value left open.

    interface, mode --driver--> Verilog around the miter --sat--> a value per input and time step --vectors--> stimuli

The solver knows no edges. Where all state changes at one edge of one clock that does nothing else, a time step is a
cycle (Mode.CYCLE). Otherwise a step is one vector and the clock an input that rises and falls (Mode.EDGE); there the
first cycle is not compared, since a simulator's inputs start unknown, which is an edge more. Resets are asserted in the
first cycles and free afterwards.
"""

from collections.abc import Mapping, Sequence
from enum import StrEnum

from reward.verilog.interface import Interface
from reward.verilog.stimuli import RESET_CYCLES


class Mode(StrEnum):
    """What a time step of the solver stands for."""

    NONE = "none"  # there is no state, and only one step
    CYCLE = "cycle"  # data, clock rises, clock falls
    EDGE = "edge"  # one vector


def steps_per_cycle(interface: Interface, mode: Mode) -> int:
    """In Mode.EDGE: data change, then each further clock may, then the main clock rises, then it falls."""
    return len(interface.clocks) + 2 if mode == Mode.EDGE and interface.clocks else 1


def driver(interface: Interface, mode: Mode) -> str:
    """Module `drive` around module `miter`. Input i is `d<i>`; `known` says that the reference has a defined output."""
    steps = steps_per_cycle(interface, mode)
    phase = "phase" if steps > 1 else "0"
    free, wires, held, connections = [], [], [], []
    for index, port in enumerate(interface.inputs):
        free.append(f"input [{port.width - 1}:0] f{index}, ")
        wires.append(f"(* keep *) wire [{port.width - 1}:0] d{index} = {driven(interface, mode, index, phase)};")
        held.append(f"reg [{port.width - 1}:0] h{index} = 0; always @($global_clock) h{index} <= d{index};")
        connections.append(f".\\in_{port.name} (d{index})")
    bits = []
    for index, port in enumerate(interface.outputs):
        wires.append(f"wire [{port.width - 1}:0] g{index};")
        connections.append(f".\\gold_{port.name} (g{index})")
        bits += [f"(g{index}[{bit}] !== 1'bx)" for bit in range(port.width)]
    state = (
        f"reg [3:0] phase = 0; always @($global_clock) phase <= phase == {steps - 1} ? 0 : phase + 1;\n"
        f"reg [7:0] cycle = 0; always @($global_clock)"
        f" if ({phase} == {steps - 1} && cycle != {RESET_CYCLES}) cycle <= cycle + 1;\n"
    )
    lines = [*wires, *(held if steps > 1 else ())]
    return (
        f"module drive({''.join(free)}output differ, output trigger, output known);\n"
        + ("" if mode == Mode.NONE else state)
        + "\n".join(lines)
        + f"\nassign known = {' | '.join(bits)};\n"
        + f"assign trigger = {'differ && cycle != 0' if mode == Mode.EDGE else 'differ'};\n"
        + f"miter m({', '.join([*connections, '.trigger (differ)'])});\nendmodule\n"
    )


def driven(interface: Interface, mode: Mode, index: int, phase: str) -> str:
    """The value of input `index`, from its free value, the one it had, and where in a cycle we are."""
    name = interface.inputs[index].name
    if mode == Mode.NONE:
        return f"f{index}"
    if name in interface.clocks[:1]:
        return "1'b0" if mode == Mode.CYCLE else f"phase == {steps_per_cycle(interface, mode) - 2}"
    value, changes = f"f{index}", 0
    if name in interface.clocks:
        changes = interface.clocks.index(name)
    for reset, active in interface.resets:
        if reset == name:
            value = f"(cycle != {RESET_CYCLES} ? 1'b{active} : f{index})"
    return value if phase == "0" else f"(phase == {changes} ? {value} : h{index})"


def vectors(interface: Interface, mode: Mode, steps: Sequence[Mapping[int, str]]) -> tuple[str, ...]:
    """The solver's values (position of an input -> bits, per time step) as stimuli."""
    rows = []
    for values in steps or [{}]:  # without inputs there is nothing to choose
        levels = ("0", "1", "0") if mode == Mode.CYCLE else ("",)
        for level in levels:
            bits = [
                level if level and port.name in interface.clocks[:1] else values.get(index, "0" * port.width)
                for index, port in enumerate(interface.inputs)
            ]
            rows.append("".join(bits))
    return tuple(rows)
