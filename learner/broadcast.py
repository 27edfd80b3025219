"""New weights for engines that fetch them: broadcast to the ranks of one engine, over gloo on CPU and NCCL on GPUs.

    payload, uint8 [bytes] --offer--> the newest VERSIONS stay here; an offer of a few words --Ray--> the engines
    ranks of an engine --ask--> one group {this process, the ranks} --piece after piece--> the payload

The other side is rollout/vllm_adapter/weights/broadcast.py. Every engine is served by itself, from a thread of its own:
none waits for another, and one that dies or stands still in the middle costs no more than that thread, which ends by
its deadline. A group is kept for the next update, and formed anew when anything went wrong in it. Neither DeepSpeed's
groups nor vLLM's are touched. The NCCL form is not run.

What passes through the store, a torch.distributed.TCPStore that listens here, all of it JSON:

    queue asks                  {engine, rank, ranks, turn, version, group}, from each rank of an engine
    key   answer/ENGINE/TURN    {group}: the number of the group to meet in, rank 0 is the learner; or {refused}
"""

import json
import logging
import os
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import xxhash
from torch import Tensor
from torch.distributed import DistError, PrefixStore, ProcessGroupGloo, Store, TCPStore
from torch.distributed.distributed_c10d import Backend, BroadcastOptions

from learner.gpu_memory import VERSIONS, fingerprint

DEADLINE_S = 60.0  # for each wait: an answer, the forming of a group, a piece; a piece takes 0.3 s over 10 Gbit/s
PIECE_BYTES = 256 * 2**20  # the largest broadcast: long enough for full speed, short enough for the deadline
SUMMED_BYTES = 16 * 2**20  # of what lies on a GPU: `fingerprint` needs 24 times as much memory while it runs
LISTENING_S = 86400.0  # for the next to ask, again and again; torch writes a warning whenever it is over
ASKS, ANSWER = "asks", "answer/{engine}/{turn}"

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Group:
    """The learner and the ranks of one engine. `number`: the engine's turn in which it was formed."""

    number: int
    version: int  # sent last
    channel: Backend


class Broadcaster:
    """Sends the newest VERSIONS payloads to whoever asks, until `close`. `address`: of this host, for the engines."""

    def __init__(self, address: str, deadline_s: float = DEADLINE_S, piece_bytes: int = PIECE_BYTES) -> None:
        self._address = address
        self._deadline_s = deadline_s
        self._piece_bytes = piece_bytes
        self._kept: dict[int, Tensor] = {}
        self._asks: dict[str, list[dict]] = {}  # of engines whose other ranks have not asked yet
        self._groups: dict[str, Group] = {}  # by engine, those that are whole and at rest
        listening = socket.create_server((address, 0))  # by itself the store would listen at every address
        self._port = listening.getsockname()[1]
        self._store = TCPStore(
            address,
            self._port,
            is_master=True,
            timeout=timedelta(seconds=LISTENING_S),
            wait_for_workers=False,
            master_listen_fd=listening.detach(),
        )
        self._listener = threading.Thread(target=self._listen, name="broadcaster", daemon=True)
        self._listener.start()

    def offer(self, version: int, content: Tensor) -> tuple[bytes, str]:
        """Keep `content`, uint8 [bytes], for the engines; returns what they need to fetch it, and its checksum."""
        if content.is_cuda:
            torch.cuda.synchronize(content.device)  # it is sent from another stream
        self._kept.pop(version, None)
        self._kept[version] = content
        for old in list(self._kept)[:-VERSIONS]:
            del self._kept[old]
        for engine, group in list(self._groups.items()):
            # Of an engine that has died, or is replaced; or taken up this moment by one that is late.
            if group.version not in self._kept and self._groups.pop(engine, None) is not None:
                leave(group.channel)
        offer = {
            "address": self._address,
            "port": self._port,
            "bytes": len(content),
            "piece_bytes": self._piece_bytes,
            "summed_bytes": SUMMED_BYTES,
            "deadline_s": self._deadline_s,
            "gpu": str(torch.cuda.get_device_properties(content.device).uuid) if content.is_cuda else None,
        }
        return json.dumps(offer).encode(), checksum_of(content, SUMMED_BYTES)

    def close(self) -> None:
        """Answer no more. Who is being sent something gets the rest."""
        self._client().queue_push(ASKS, json.dumps(None))
        self._listener.join()

    def _client(self) -> TCPStore:
        """A connection of its own: a wait on one keeps all others of that connection waiting."""
        deadline = timedelta(seconds=self._deadline_s)
        return TCPStore(self._address, self._port, is_master=False, timeout=deadline, wait_for_workers=False)

    # -- below: the listener's thread, and one thread for every payload that is being sent

    def _listen(self) -> None:
        while True:
            try:
                ask = json.loads(self._store.queue_pop(ASKS))
            except DistError:  # nobody has asked for so long
                continue
            if ask is None:
                return
            engine = ask["engine"]
            others = [other for other in self._asks.pop(engine, []) if other["turn"] == ask["turn"]]
            if len(others) + 1 < ask["ranks"]:
                self._asks[engine] = [*others, ask]
            else:
                self._answer(engine, [*others, ask])

    def _answer(self, engine: str, asks: Sequence[dict]) -> None:
        turn, version = asks[0]["turn"], asks[0]["version"]
        content = self._kept.get(version)
        held = self._groups.get(engine)
        if content is None:
            kept = " and ".join(f"v{one}" for one in list(self._kept))
            answer: dict[str, Any] = {"refused": f"the learner keeps {kept or 'no version yet'} alone"}
        else:
            self._groups.pop(engine, None)
            if held is not None and any(ask["group"] != held.number for ask in asks):
                leave(held.channel)
                held = None
            number = turn if held is None else held.number
            answer = {"group": number}
            channel = None if held is None else held.channel
            threading.Thread(
                target=self._send,
                args=(engine, len(asks), number, channel, version, content),
                name=f"broadcast v{version} to {engine}",
                daemon=True,
            ).start()
        self._store.delete_key(ANSWER.format(engine=engine, turn=turn - 1))
        self._store.set(ANSWER.format(engine=engine, turn=turn), json.dumps(answer))

    def _send(
        self, engine: str, ranks: int, number: int, channel: Backend | None, version: int, content: Tensor
    ) -> None:
        try:
            if channel is None:
                meeting = PrefixStore(f"group/{engine}/{number}", self._client())
                channel = join(meeting, 0, 1 + ranks, content.device, self._address, self._deadline_s)
            for piece in content.split(self._piece_bytes):
                broadcast(channel, piece, self._deadline_s)
        except RuntimeError as error:  # the engine's side has its own sentence, and asks again
            reason = str(error).partition("\n")[0].partition(". ")[0]  # behind it: stacks, and advice of torch's
            log.warning("weights v%d did not reach engine %s: %s", version, engine, reason)
            if channel is not None:
                leave(channel)
            return
        self._groups[engine] = Group(number=number, version=version, channel=channel)


# What follows is the same on the engines' side, which may not import it; tests/rollout/test_broadcast.py compares.


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
