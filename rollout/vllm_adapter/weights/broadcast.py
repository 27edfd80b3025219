"""Weights fetched from the learner's memory: broadcast to this engine's ranks, over gloo on CPU and NCCL on GPUs.

    offer (JSON) --> ask, in the learner's store --> one group {learner, ranks of this engine} --> uint8 [bytes]
                 --> checksum --> named tensors that are views into it

The learner's side is learner/broadcast.py, whose docstring says what passes through the store. What arrives is the
safetensors payload of every other transport, whole on every rank, in memory of the device the engine computes on; so an
engine on a GPU needs room for a second copy of the weights while it is updated. The NCCL form is not run.

A group serves update after update. Whatever goes wrong ends in one sentence by the offer's deadline, and the next
update forms a new one.
"""

import json
import os
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from typing import Any

import torch
import xxhash
from torch import Tensor
from torch.distributed import DistError, PrefixStore, ProcessGroupGloo, Store, TCPStore
from torch.distributed.distributed_c10d import Backend, BroadcastOptions

from rollout.errors import WeightUpdateError
from rollout.vllm_adapter.weights.gpu_memory import fingerprint
from rollout.vllm_adapter.weights.payload import Payload, read

SPARE_S = 0.5  # torch's own deadlines come first, where they hold: they say more
ASKS, ANSWER = "asks", "answer/{engine}/{turn}"


def is_offer(payload: bytes) -> bool:
    """Whether it is an offer of this transport, rather than handles of GPU memory, which are a pickle."""
    return payload.startswith(b"{")


class Subscriber:
    """One rank of an engine, for as long as its process lives. `engine` is the same on its ranks, and on no other."""

    def __init__(self, engine: str, rank: int, ranks: int, device: torch.device) -> None:
        self._engine = engine
        self._rank = rank
        self._ranks = ranks
        self._device = device
        self._turn = 0  # updates asked for; equal on all ranks, which are always asked together
        self._channel: Backend | None = None  # of the group, while it is whole
        self._number: int | None = None  # of the group
        self._store: TCPStore | None = None
        self._where: tuple[str, int] | None = None  # the store's server listens

    def fetch(self, offer: bytes, checksum: str, version: int) -> Payload:
        """What the learner offers. Raises WeightUpdateError, by the offer's deadline, where it does not come whole."""
        offered = json.loads(offer)
        self._check_devices(offered["gpu"], version)
        self._turn += 1
        here = self._connect(offered, version)
        number = self._ask(offered, version)
        content = self._receive(offered, number, here, version)
        found = checksum_of(content, offered["summed_bytes"])
        if found != checksum:
            raise WeightUpdateError(f"weights v{version} changed on the way: checksum {found}, sent was {checksum}")
        return read(content, version)

    def _check_devices(self, gpu: str | None, version: int) -> None:
        if (gpu is not None) != (self._device.type == "cuda"):
            raise WeightUpdateError(
                f"weights v{version} lie on {f'GPU {gpu}' if gpu else 'a CPU'} and the engine runs on {self._device}:"
                " rollout.transport=broadcast needs both on GPUs or both on CPUs; otherwise use shared_memory"
            )
        if gpu is not None and gpu == str(torch.cuda.get_device_properties(self._device).uuid):
            raise WeightUpdateError(
                f"weights v{version} lie on GPU {gpu}, on which the engine runs as well: NCCL connects different GPUs,"
                " so use rollout.transport=cuda_ipc"
            )

    def _connect(self, offered: dict, version: int) -> str:
        """To the learner's store; returns this host's address on that way."""
        where, deadline_s = (offered["address"], offered["port"]), offered["deadline_s"]
        try:
            # Asked once by hand: the store would try again and again, until its deadline, where nobody listens.
            with socket.create_connection(where, timeout=deadline_s) as way:
                here = way.getsockname()[0]
            if self._where != where:
                self._leave()
                deadline = timedelta(seconds=deadline_s)
                self._store = within(
                    deadline_s,
                    lambda: TCPStore(*where, is_master=False, timeout=deadline, wait_for_workers=False),
                )
                self._where = where
            return here
        except (OSError, DistError) as error:
            raise self._broken(version, f"{where[0]}:{where[1]} does not answer", error) from error

    def _ask(self, offered: dict, version: int) -> int:
        """The number of the group in which the learner sends `version`."""
        ask = {
            "engine": self._engine,
            "rank": self._rank,
            "ranks": self._ranks,
            "turn": self._turn,
            "version": version,
            "group": self._number,
        }
        store, key, deadline_s = self._store, ANSWER.format(engine=self._engine, turn=self._turn), offered["deadline_s"]

        def asked() -> dict:
            store.queue_push(ASKS, json.dumps(ask))
            store.wait([key], timedelta(seconds=deadline_s))
            return json.loads(store.get(key))

        try:
            answer = within(deadline_s, asked)
        except (TimeoutError, DistError) as error:
            raise self._broken(version, "it did not answer", error) from error
        if refused := answer.get("refused"):
            raise WeightUpdateError(f"weights v{version} can no longer be fetched: {refused}")
        return answer["group"]

    def _receive(self, offered: dict, number: int, here: str, version: int) -> Tensor:
        """uint8 [bytes] on this rank's device."""
        deadline_s, missing = offered["deadline_s"], offered["bytes"]
        try:
            content = torch.empty(missing, dtype=torch.uint8, device=self._device)
            if content.is_cuda:
                torch.cuda.synchronize(self._device)  # until nothing that is under way has to do with that memory
            if self._number != number:
                self._leave()
                meeting = PrefixStore(f"group/{self._engine}/{number}", self._store)
                who = 1 + self._rank, 1 + self._ranks, self._device
                self._channel = within(deadline_s, partial(join, meeting, *who, here, deadline_s))
                self._number = number
            for piece in content.split(offered["piece_bytes"]):
                within(deadline_s, partial(broadcast, self._channel, piece, deadline_s))
                missing -= len(piece)
        except (TimeoutError, RuntimeError) as error:
            raise self._broken(version, f"{missing} of {offered['bytes']} bytes did not come", error) from error
        return content

    def _broken(self, version: int, what: str, error: Exception) -> WeightUpdateError:
        """The sentence; from here on nothing of the connection is used again."""
        self._leave()
        self._where = self._store = None
        error.with_traceback(None)  # its frames refer to the group, whose connections close with the last reference
        reason = str(error).partition("\n")[0].partition(". ")[0]  # behind it: stacks, and advice of torch's
        return WeightUpdateError(
            f"weights v{version} could not be fetched from the learner: {what} ({reason}); if the learner is alive, the"
            " next update connects anew"
        )

    def _leave(self) -> None:
        if self._channel is not None:
            leave(self._channel)
        self._channel = self._number = None


def within(deadline_s: float, work: Callable[[], Any]) -> Any:
    """What `work` returns or raises, or TimeoutError.

    It runs on a thread of its own, because torch's store waits without a deadline for the words of a learner that is
    stopped, or can no longer be reached. Such a thread ends with its connection.
    """
    done: Future[Any] = Future()

    def run() -> None:
        try:
            done.set_result(work())
        except Exception as error:
            done.set_exception(error)

    threading.Thread(target=run, name="broadcast", daemon=True).start()
    try:
        return done.result(deadline_s + SPARE_S)
    except TimeoutError as late:
        raise TimeoutError(f"no word within {deadline_s:.0f} s") from late


# What follows is the same on the learner's side, which may not import it; tests/rollout/test_broadcast.py compares.


def checksum_of(content: Tensor, summed_bytes: int) -> str:
    """xxh3_128 of all bytes; of what lies on a GPU the `fingerprint`, piece by piece, so that it need not leave it."""
    if not content.is_cuda:
        return xxhash.xxh3_128_hexdigest(content.numpy())
    return fingerprint({str(number): piece for number, piece in enumerate(content.split(summed_bytes))})


def join(store: Store, rank: int, size: int, device: torch.device, address: str, deadline_s: float) -> Backend:
    """Meet the others in `store`: NCCL between GPUs, gloo otherwise. `address`: of this process, for the others."""
    deadline = timedelta(seconds=deadline_s)
    if device.type == "cpu":
        options = ProcessGroupGloo._Options()
        options._devices = [ProcessGroupGloo.create_device(hostname=address)]
        options._timeout = deadline
        return ProcessGroupGloo(store, rank, size, options)
    from torch.distributed import ProcessGroupNCCL  # not in builds of torch for CPUs

    options = ProcessGroupNCCL.Options()
    options._timeout = deadline
    options.config.blocking = 0  # otherwise one who dies while the others connect keeps them for ever
    os.environ.setdefault("TORCH_NCCL_NONBLOCKING_TIMEOUT", str(int(deadline_s)))
    # Waits that raise; the default is to end the process whose peer is gone. Read when a group is made, so nobody
    # else's groups change.
    before = os.environ.get("TORCH_NCCL_BLOCKING_WAIT", "0")
    os.environ["TORCH_NCCL_BLOCKING_WAIT"] = "1"
    try:
        return ProcessGroupNCCL(store, rank, size, options)
    finally:
        os.environ["TORCH_NCCL_BLOCKING_WAIT"] = before


def broadcast(channel: Backend, piece: Tensor, deadline_s: float) -> None:
    """From rank 0 to all others; returns when it is done here, and raises RuntimeError by the deadline if it is not."""
    options = BroadcastOptions()
    options.rootRank = 0
    options.rootTensor = 0
    with beside_the_rest(piece.device):
        channel.broadcast([piece], options).wait(timedelta(seconds=deadline_s))


def leave(channel: Backend) -> None:
    """Without a word to the others, who may be dead; gloo's connections close with the last reference."""
    if not isinstance(channel, ProcessGroupGloo):
        channel.abort()


@contextmanager
def beside_the_rest(device: torch.device) -> Iterator[None]:
    """On a GPU: on a stream of its own, so that nothing here waits for what the process computes there."""
    if device.type == "cpu":
        yield
        return
    with torch.cuda.device(device), torch.cuda.stream(torch.cuda.Stream(device)):
        yield
