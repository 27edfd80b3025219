"""Real processes for tests of the broadcast transport: ranks of an engine that fetch weights, and a learner to kill."""

import multiprocessing
import os
import signal
from collections.abc import Mapping
from multiprocessing.connection import Connection

import torch
from torch import Tensor

from learner.broadcast import Broadcaster
from rollout.errors import WeightUpdateError
from rollout.vllm_adapter.weights import broadcast
from rollout.vllm_adapter.weights.broadcast import Subscriber

CPU = torch.device("cpu")
HERE = "127.0.0.1"
PATIENCE_S = 60.0  # of a test, with a process that has its own deadline
# Forked from a process that has imported everything and has no threads: a rank is up in milliseconds.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["tests.rollout.fetching"])


def as_bytes(tensors: Mapping[str, Tensor]) -> dict[str, tuple]:
    """What makes two tensors the same, and can be sent and compared."""
    return {
        name: (str(one.dtype), tuple(one.shape), one.contiguous().flatten().view(torch.uint8).numpy().tobytes())
        for name, one in tensors.items()
    }


class Child:
    """A process that answers what it is asked."""

    def __init__(self, target, *arguments) -> None:
        self._pipe, theirs = PROCESSES.Pipe()
        self.process = PROCESSES.Process(target=target, args=(theirs, *arguments), daemon=True)
        self.process.start()

    def ask(self, *question) -> None:
        self._pipe.send(question)

    def answer(self):
        assert self._pipe.poll(PATIENCE_S), f"no answer within {PATIENCE_S} s"
        return self._pipe.recv()

    def kill(self) -> None:
        self.process.kill()
        self.process.join(PATIENCE_S)


def rank_of_an_engine(pipe: Connection, engine: str, rank: int, ranks: int, end: signal.Signals | None) -> None:
    """Fetch (offer, checksum, version) and answer with the tensors or the sentence; `end` hits it in the middle."""
    whole = broadcast.broadcast
    pieces = 0

    def struck(*arguments) -> None:
        nonlocal pieces
        pieces += 1
        if pieces == 2:
            pipe.send("in the middle")
            os.kill(os.getpid(), end)
        whole(*arguments)

    if end is not None:
        broadcast.broadcast = struck
    subscriber = Subscriber(engine, rank, ranks, CPU)
    while True:
        offer, checksum, version = pipe.recv()
        try:
            pipe.send(as_bytes(subscriber.fetch(offer, checksum, version).tensors))
        except WeightUpdateError as error:
            pipe.send(str(error))


def learner(pipe: Connection, deadline_s: float, dies_sending: bool) -> None:
    """Offer (version, content) and answer with the offer."""
    from learner import broadcast as sending

    if dies_sending:
        sending.broadcast = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
    broadcaster = Broadcaster(HERE, deadline_s)
    while True:
        version, content = pipe.recv()
        pipe.send(broadcaster.offer(version, torch.frombuffer(bytearray(content), dtype=torch.uint8)))
