"""What is fed to a design: a list of input vectors, the same for every design of a problem, and known to none of them.

Each vector is applied, everything settles, the outputs are sampled. A clock is an input like any other: one cycle is
three vectors (data changes while it is low, it rises, it falls), so nothing races with an edge. In some cycles data
change while it is high too, which a latch shows, or a reset comes and goes between two edges, which only an
asynchronous one sees. Where a testbench is given, the list is recorded from it instead (recording.py).
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from reward.verilog.interface import Interface, Port

EXHAUSTIVE_BITS = 12  # up to so many input bits, every vector is tried
VECTOR_BYTES = 50  # of a text in memory beside its characters
RESET_CYCLES = 3  # at the start
LONG_CYCLES = 512  # from so many on, the second half runs without a reset, for what takes long to happen
RESET_AGAIN = 1 / 32  # probability per cycle, where a phase has resets
RESET_PULSE = 1 / 16  # the same, for one that comes and goes while the clock is high
SURE_PULSES = (10, 20, 40, 60, 80, 100)  # cycles in which one comes in any case
LATE_DATA = 1 / 4  # probability per cycle that data change while the clock is high too
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

    @property
    def memory_bytes(self) -> int:
        """What they take in memory, about."""
        return len(self.vectors) * (VECTOR_BYTES + len(self.vectors[0])) if self.vectors else 0


def stimuli_for(
    interface: Interface, *, cycles: int, vectors: int, constants: tuple[int, ...] = (), seed: object = 0
) -> Stimuli:
    """Deterministic in its arguments. `constants` are values worth trying (constants.py).

    A combinational interface of few bits gets every vector, twice in different orders: a design that remembers is then
    caught where one order alone could hide it. Whoever knows the seed could write down what a reference answers and
    replay it by delays, so the seed is a secret of the service.
    """
    generator = random.Random(f"{seed} {interface}")
    bits = interface.input_bits
    if bits == 0:
        return Stimuli(vectors=("",))
    if interface.sequential:
        return Stimuli(vectors=tuple(clocked(interface, cycles, constants, generator)))
    if is_exhaustive(interface):
        every = [format(value, f"0{bits}b") for value in range(2**bits)]
        return Stimuli(vectors=(*every, *generator.sample(every, len(every))))
    corners = ["0" * bits, "1" * bits]
    chosen = [
        data(interface.inputs, {}, biases(interface.inputs, generator), constants, generator)
        for _ in range(vectors - len(corners))
    ]
    chosen += [
        {
            **data(interface.inputs, {}, biases(interface.inputs, generator), constants, generator),
            port.name: fitted(value, port),
        }
        for port in interface.inputs
        for value in constants
        if value.bit_length() <= port.width
    ]
    return Stimuli(vectors=(*corners, *("".join(vector[port.name] for port in interface.inputs) for vector in chosen)))


def is_exhaustive(interface: Interface) -> bool:
    """Whether every input vector is tried, so that a design that agrees everywhere is right."""
    return not interface.sequential and interface.input_bits <= EXHAUSTIVE_BITS


def clocked(interface: Interface, cycles: int, constants: tuple[int, ...], generator: random.Random) -> list[str]:
    """At least three vectors a cycle, and one more where there are several clocks. Without a clock, one a cycle."""
    main, others = interface.clocks[:1], interface.clocks[1:]
    resets = dict(interface.resets)
    plain = [port for port in interface.inputs if port.name not in interface.clocks and port.name not in resets]
    levels = dict.fromkeys(interface.clocks, "0")
    values: dict[str, str] = {}
    ones: dict[str, float] = {}
    left, resets_again = 0, False
    vectors: list[str] = []

    def apply() -> None:
        vectors.append("".join({**values, **levels}[port.name] for port in interface.inputs))

    for cycle in range(cycles):
        if left == 0:
            left = generator.randint(*PHASE_CYCLES)
            ones, resets_again = biases(plain, generator), generator.random() < 0.5
        left -= 1
        values.update(data(plain, values, ones, constants, generator))
        undisturbed = cycles >= LONG_CYCLES and cycle >= cycles // 2
        for name, active in resets.items():
            asserted = cycle < RESET_CYCLES or (resets_again and not undisturbed and generator.random() < RESET_AGAIN)
            values[name] = str(active if asserted else 1 - active)
        apply()
        for name in others:
            if generator.random() < 0.5:
                levels[name] = "10"[int(levels[name])]
                apply()
        for name in main:
            levels[name] = "1"
            apply()
            if generator.random() < LATE_DATA:
                values.update(data(plain, values, ones, constants, generator))
                apply()
            random_pulse = resets_again and not undisturbed and generator.random() < RESET_PULSE
            if resets and (cycle in SURE_PULSES or random_pulse):
                reset, active = generator.choice(interface.resets)
                for level in (active, 1 - active):
                    values[reset] = str(level)
                    apply()
            levels[name] = "0"
            apply()
    return vectors


def biases(ports: Sequence[Port], generator: random.Random) -> dict[str, float]:
    """The probability of 1 for each input, half of the time the same for all: an enable is then held without a load."""
    if generator.random() < 0.5:
        return dict.fromkeys((port.name for port in ports), generator.choice(ONES))
    return {port.name: generator.choice(ONES) for port in ports}


def data(
    ports: Sequence[Port],
    before: Mapping[str, str],
    ones: Mapping[str, float],
    constants: tuple[int, ...],
    generator: random.Random,
) -> dict[str, str]:
    """A value per port: one bit is 1 with probability `ones`; a vector is uniform, kept, extreme, small, one-hot, one
    of the constants, or that of another port."""
    values: dict[str, str] = {}
    last: dict[int, str] = {}  # width -> value of the port before
    for port in ports:
        if port.width == 1:
            values[port.name] = str(int(generator.random() < ones[port.name]))
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
        elif kind < 0.6 and (fitting := [one for one in constants if one.bit_length() <= port.width]):
            value = fitted(generator.choice(fitting), port)
        elif kind < 0.65 and port.width in last:
            value = last[port.width]
        else:
            value = format(generator.getrandbits(port.width), f"0{port.width}b")
        values[port.name] = last[port.width] = value
    return values


def fitted(value: int, port: Port) -> str:
    return format(value, f"0{port.width}b")
