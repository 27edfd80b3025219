"""What is fed to a design: a fixed list of input vectors, the same for every design with the same interface.

Each vector is applied, everything settles, the outputs are sampled. A clock is an input like any other: one cycle is
three vectors (data changes while it is low, it rises, it falls), so nothing races with an edge. Where a testbench is
given, the list is recorded from it instead (recording.py).
"""

import random
import zlib
from dataclasses import dataclass

from reward.verilog.interface import Interface, Port

EXHAUSTIVE_BITS = 10  # up to so many input bits, every vector is tried
RESET_CYCLES = 3  # at the start
RESET_AGAIN = 1 / 32  # probability per cycle, where a phase has resets
PHASE_CYCLES = (4, 48)  # the character of the data changes after so many cycles
ONES = (0.0, 0.1, 0.5, 0.5, 0.9, 1.0)  # probability that a one-bit input is 1, by phase


@dataclass(frozen=True, slots=True, kw_only=True)
class Stimuli:
    """`vectors`: the input bits as text (`0 1`; recorded ones also `x z`), most significant first, ports in the order
    of the interface's inputs.

    from_start   the first vector is there before anything in the design runs, so it is no event
    seconds      what simulating the reference under them took: generated stimuli are of known length, recorded not
    """

    vectors: tuple[str, ...]
    from_start: bool = False
    seconds: float = 0.0


def stimuli_for(interface: Interface, *, cycles: int, vectors: int) -> Stimuli:
    """Deterministic in its arguments. A combinational interface of few bits gets every vector, twice in different
    orders: a design that remembers is then caught where one order alone could hide it."""
    generator = random.Random(zlib.crc32(repr(interface).encode()))
    bits = interface.input_bits
    if bits == 0:
        return Stimuli(vectors=("",))
    if interface.sequential:
        return Stimuli(vectors=tuple(clocked(interface, cycles, generator)))
    if bits <= EXHAUSTIVE_BITS:
        every = [format(value, f"0{bits}b") for value in range(2**bits)]
        return Stimuli(vectors=(*every, *generator.sample(every, len(every))))
    corners = ["0" * bits, "1" * bits]
    chosen = [data(interface.inputs, {}, generator.choice(ONES), generator) for _ in range(vectors - len(corners))]
    return Stimuli(vectors=(*corners, *("".join(vector[port.name] for port in interface.inputs) for vector in chosen)))


def clocked(interface: Interface, cycles: int, generator: random.Random) -> list[str]:
    """Three vectors a cycle, and one more where there are several clocks. Without a clock, one vector a cycle."""
    main, others = interface.clocks[:1], interface.clocks[1:]
    resets = dict(interface.resets)
    plain = [port for port in interface.inputs if port.name not in interface.clocks and port.name not in resets]
    levels = dict.fromkeys(interface.clocks, "0")
    values: dict[str, str] = {}
    ones, left, resets_again = 0.5, 0, False
    vectors: list[str] = []

    def apply() -> None:
        vectors.append("".join({**values, **levels}[port.name] for port in interface.inputs))

    for cycle in range(cycles):
        if left == 0:
            left = generator.randint(*PHASE_CYCLES)
            ones, resets_again = generator.choice(ONES), generator.random() < 0.5
        left -= 1
        values.update(data(plain, values, ones, generator))
        for name, active in resets.items():
            asserted = cycle < RESET_CYCLES or (resets_again and generator.random() < RESET_AGAIN)
            values[name] = str(active if asserted else 1 - active)
        apply()
        for name in others:
            if generator.random() < 0.5:
                levels[name] = "10"[int(levels[name])]
                apply()
        for level in "10":
            for name in main:
                levels[name] = level
                apply()
    return vectors


def data(
    ports: list[Port] | tuple[Port, ...], before: dict[str, str], ones: float, generator: random.Random
) -> dict[str, str]:
    """A value per port: one bit is 1 with probability `ones`; a vector is uniform, kept, extreme, small or one-hot."""
    values: dict[str, str] = {}
    for port in ports:
        if port.width == 1:
            values[port.name] = str(int(generator.random() < ones))
            continue
        kind = generator.random()
        if kind < 0.2 and port.name in before:
            value = before[port.name]
        elif kind < 0.3:
            value = generator.choice("01") * port.width
        elif kind < 0.4:
            value = format(generator.randrange(min(8, 2**port.width)), f"0{port.width}b")
        elif kind < 0.5:
            value = format(1 << generator.randrange(port.width), f"0{port.width}b")
        else:
            value = format(generator.getrandbits(port.width), f"0{port.width}b")
        values[port.name] = value
    return values
