"""Weights fetched from the learner over real sockets: all of them, or a sentence in time, and nobody waits for ever."""

import inspect
import json
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace

import pytest
import safetensors.torch
import torch

from learner import broadcast as sending
from learner.broadcast import VERSIONS, Broadcaster
from learner.publish import publication
from rollout.draw.temperature import Fixed
from rollout.errors import WeightUpdateError
from rollout.vllm_adapter.weights import broadcast as fetching
from rollout.vllm_adapter.weights.broadcast import Subscriber, is_offer
from tests.models import random_policy
from tests.rollout.engines import ask, recorded_errors, started, update, update_of
from tests.rollout.fetching import CPU, HERE, Child, as_bytes, learner, rank_of_an_engine

DEADLINE_S = 20.0
SHORT_S = 1.0  # where the deadline itself is tested
TENSORS = {
    "double": torch.arange(3, dtype=torch.float64),
    "matrix": torch.arange(600, dtype=torch.float32).view(20, 30),
    "half": torch.tensor([1.5, -2.0, float("nan")], dtype=torch.bfloat16),
    "number": torch.tensor(7),
    "empty": torch.zeros(0, 4),
    "flags": torch.tensor([True, False, True]),
}
SMALL_PIECES = 100  # bytes; of many pieces, and tensors lie across their borders
LARGE = {"large": torch.arange(2**23, dtype=torch.float32)}  # 32 MiB: more than the sockets buffer


def content_of(tensors, metadata=None) -> torch.Tensor:
    return torch.frombuffer(bytearray(safetensors.torch.save(tensors, metadata)), dtype=torch.uint8)


def moved(version: int) -> dict[str, torch.Tensor]:
    return {**TENSORS, "matrix": TENSORS["matrix"] + version}


@pytest.fixture
def broadcasters() -> Iterator[Callable[..., Broadcaster]]:
    """Makes broadcasters that are closed at the end."""
    made = []

    def make(deadline_s: float = DEADLINE_S, piece_bytes: int = SMALL_PIECES) -> Broadcaster:
        made.append(Broadcaster(HERE, deadline_s, piece_bytes))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture
def children() -> Iterator[Callable[..., Child]]:
    """Makes processes that are killed at the end."""
    made = []

    def make(*arguments) -> Child:
        made.append(Child(*arguments))
        return made[-1]

    yield make
    for child in made:
        child.kill()


def fetched(subscriber: Subscriber, offer: tuple[bytes, str], version: int) -> dict[str, tuple]:
    return as_bytes(subscriber.fetch(*offer, version).tensors)


def test_tensors_come_as_they_were_sent(broadcasters, monkeypatch):
    """Every dtype and shape, update after update, through the one group that the first of them formed."""
    groups = []
    join = fetching.join
    monkeypatch.setattr(fetching, "join", lambda *arguments: groups.append(1) or join(*arguments))
    broadcaster, subscriber = broadcasters(), Subscriber("an engine", 0, 1, CPU)
    for version in (1, 2, 3):
        offer = broadcaster.offer(version, content_of(moved(version)))
        assert is_offer(offer[0])
        assert fetched(subscriber, offer, version) == as_bytes(moved(version))
        wait_for(lambda: not sending_threads(), SHORT_S)  # sooner than an engine has taken and proved them
    assert len(groups) == 1


def test_it_is_the_payload_of_every_other_transport(broadcasters, tmp_path):
    """Byte for byte what goes through shared memory, with its checksum; metadata, which marks adapters, included."""
    model = SimpleNamespace(model=random_policy(tmp_path, tied=True))
    probe = (1, 2), 0.5
    expected, payload = publication(model, 7, probe, {})
    record, offer = publication(model, 7, probe, {}, broadcasters(piece_bytes=2**20))
    assert record == expected
    found = Subscriber("an engine", 0, 1, CPU).fetch(offer, record.checksum, 7)
    assert as_bytes(found.tensors) == as_bytes(safetensors.torch.load(payload.tobytes()))
    assert not found.is_adapter
    broadcaster = broadcasters()
    offer, checksum = broadcaster.offer(8, content_of(TENSORS, {"temper_adapter": "lora"}))
    assert Subscriber("an engine", 0, 1, CPU).fetch(offer, checksum, 8).is_adapter


def test_two_engines_one_of_two_ranks_fetch_at_the_same_time(broadcasters, children):
    """Each rank has all of every version; two updates each."""
    broadcaster = broadcasters()
    ranks = [children(rank_of_an_engine, *who, None) for who in (("a", 0, 2), ("b", 0, 1), ("a", 1, 2))]
    for version in (1, 2):
        offer = broadcaster.offer(version, content_of(moved(version)))
        for rank in ranks:
            rank.ask(*offer, version)
        for rank in ranks:
            assert rank.answer() == as_bytes(moved(version))


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGSTOP])
def test_a_rank_that_ends_in_the_middle_costs_the_learner_nothing(broadcasters, children, end):
    """Killed or standing still: others are served meanwhile, its thread ends by the deadline, a new engine comes."""
    broadcaster = broadcasters(SHORT_S, 2**20)
    offer = broadcaster.offer(1, content_of(LARGE))
    victim = children(rank_of_an_engine, "victim", 0, 1, end)
    victim.ask(*offer, 1)
    assert victim.answer() == "in the middle"
    assert fetched(Subscriber("other", 0, 1, CPU), offer, 1) == as_bytes(LARGE)
    wait_for(lambda: not sending_threads(), SHORT_S + 5)
    assert fetched(Subscriber("its successor", 0, 1, CPU), offer, 1) == as_bytes(LARGE)


def sending_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("broadcast v")]


def wait_for(condition: Callable[[], bool], deadline_s: float) -> None:
    late = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < late, f"still not so after {deadline_s} s"
        time.sleep(0.02)


def test_an_engine_survives_its_learner(children):
    """Dead while sending or before: a sentence in time; its successor serves the same engine, until it stands still."""
    subscriber = Subscriber("an engine", 0, 1, CPU)
    dying = children(learner, SHORT_S, True)
    dying.ask(1, bytes(content_of(TENSORS).tolist()))
    offer = dying.answer()
    began = time.monotonic()
    size = len(content_of(TENSORS))
    with pytest.raises(WeightUpdateError, match=f"v1 could not be fetched from the learner: {size} of {size} bytes"):
        subscriber.fetch(*offer, 1)
    with pytest.raises(WeightUpdateError, match=r"127.0.0.1:\d+ does not answer \(.* refused\); if the learner is"):
        subscriber.fetch(*offer, 1)
    assert time.monotonic() - began < 2 * SHORT_S + 5
    following = children(learner, SHORT_S, False)
    following.ask(1, bytes(content_of(TENSORS).tolist()))
    offer = following.answer()
    assert fetched(subscriber, offer, 1) == as_bytes(TENSORS)
    os.kill(following.process.pid, signal.SIGSTOP)
    began = time.monotonic()
    with pytest.raises(WeightUpdateError, match="v1 could not be fetched from the learner: it did not answer"):
        subscriber.fetch(*offer, 1)
    assert time.monotonic() - began < SHORT_S + 5


def test_a_rank_that_breaks_off_by_itself_starts_afresh(broadcasters, monkeypatch):
    """The learner has noticed nothing: what it sent before must not come out as the next version."""
    broadcaster, subscriber = broadcasters(piece_bytes=500), Subscriber("an engine", 0, 1, CPU)
    assert fetched(subscriber, broadcaster.offer(1, content_of(moved(1))), 1) == as_bytes(moved(1))
    wait_for(lambda: not sending_threads(), SHORT_S)

    def refused(*_) -> None:
        raise RuntimeError("out of memory")

    with monkeypatch.context() as patched:
        patched.setattr(fetching, "broadcast", refused)
        with pytest.raises(WeightUpdateError, match=r"bytes did not come \(out of memory\); if the learner is alive"):
            subscriber.fetch(*broadcaster.offer(2, content_of(moved(2))), 2)
    wait_for(lambda: not sending_threads(), DEADLINE_S / 2)
    assert fetched(subscriber, broadcaster.offer(3, content_of(moved(3))), 3) == as_bytes(moved(3))


def test_somebody_else_at_the_port_is_not_waited_for(broadcasters):
    """Whoever takes connections there and says nothing: a sentence by the deadline."""
    offer, checksum = broadcasters(SHORT_S).offer(1, content_of(TENSORS))
    began = time.monotonic()
    with socket.create_server((HERE, 0)) as silent:
        elsewhere = json.dumps(json.loads(offer) | {"port": silent.getsockname()[1]}).encode()
        with pytest.raises(WeightUpdateError, match="v1 could not be fetched from the learner: .* does not answer"):
            Subscriber("an engine", 0, 1, CPU).fetch(elsewhere, checksum, 1)
    assert time.monotonic() - began < SHORT_S + 5


def test_only_the_newest_versions_can_be_fetched(broadcasters):
    """Older ones are refused by name, and the group goes on."""
    broadcaster, subscriber = broadcasters(), Subscriber("an engine", 0, 1, CPU)
    offers = {version: broadcaster.offer(version, content_of(moved(version))) for version in range(1, VERSIONS + 2)}
    with pytest.raises(WeightUpdateError, match="v1 can no longer be fetched: the learner keeps v2 and v3 alone"):
        subscriber.fetch(*offers[1], 1)
    for version in (3, 2):
        assert fetched(subscriber, offers[version], version) == as_bytes(moved(version))


def test_a_rank_whose_sibling_does_not_ask_gives_up(broadcasters, children):
    """A sentence by the deadline; when both ask the next time, both are served."""
    broadcaster = broadcasters(SHORT_S)
    offer = broadcaster.offer(1, content_of(TENSORS))
    first, second = (children(rank_of_an_engine, "an engine", rank, 2, None) for rank in (0, 1))
    first.ask(*offer, 1)
    assert "v1 could not be fetched from the learner: it did not answer" in first.answer()
    second.ask(*offer, 1)
    assert "v1 could not be fetched from the learner: " in second.answer()
    for rank in (first, second):
        rank.ask(*offer, 1)
    assert first.answer() == second.answer() == as_bytes(TENSORS)


def test_other_bytes_than_were_sent_are_refused(broadcasters):
    """What arrives must have the checksum of the record, and what comes next is judged by itself."""
    broadcaster, subscriber = broadcasters(), Subscriber("an engine", 0, 1, CPU)
    content = content_of(TENSORS)
    offer = broadcaster.offer(1, content)
    content[-1] ^= 1
    with pytest.raises(WeightUpdateError, match=f"v1 changed on the way: checksum .*, sent was {offer[1]}"):
        subscriber.fetch(*offer, 1)
    assert fetched(subscriber, broadcaster.offer(2, content_of(TENSORS)), 2) == as_bytes(TENSORS)


def test_a_gpu_and_a_cpu_are_not_connected(broadcasters):
    """One sentence that names both and the transports that would do."""
    offer, checksum = broadcasters().offer(1, content_of(TENSORS))
    on_gpu = json.dumps(json.loads(offer) | {"gpu": "one"}).encode()
    with pytest.raises(WeightUpdateError, match="v1 lie on GPU one and the engine runs on cpu: .* use shared_memory"):
        Subscriber("an engine", 0, 1, CPU).fetch(on_gpu, checksum, 1)


@pytest.mark.parametrize("name", ["checksum_of", "join", "broadcast", "leave", "beside_the_rest"])
def test_both_sides_have_the_same_words(name):
    """The learner's and the engine's functions, which may not import each other, are equal to the letter."""
    assert inspect.getsource(getattr(sending, name)) == inspect.getsource(getattr(fetching, name))


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["in_process", "async_llm"])
def test_an_engine_draws_with_what_it_fetched(engine, broadcasters, ray_cluster, tmp_path):
    """Recorded logprobs are those of the new weights, after each of two updates; a refused one leaves the old."""
    from rollout.config import RolloutConfig, SpeculativeConfig

    old = random_policy(tmp_path)
    config = RolloutConfig(max_model_len=512, max_num_seqs=64, kv_cache_gib=0.1, engine=engine, transport="broadcast")
    broadcaster = broadcasters(piece_bytes=2**16)
    with started(tmp_path, old, config, SpeculativeConfig(), f"rollout-broadcast-{engine}") as running:
        for version in (1, 2):
            new = random_policy(tmp_path / f"v{version}", seed=version)
            _, checksum, probe, found, payload = update_of(new, version)
            offer, same = broadcaster.offer(version, torch.from_numpy(payload.copy()))
            assert same == checksum
            confirmation = running.wait(update(running, (version, checksum, probe, found, offer)))
            assert confirmation.probe_error < 1e-4
            request = ask(f"v{version}", Fixed())
            [group] = running.generate(request)
            assert running.version == version
            for rollout in group:
                assert max(recorded_errors(new, rollout, request)) < 1e-4
        with pytest.raises(Exception, match="v0 can no longer be fetched: .*; the engine keeps the version it has"):
            running.wait(update(running, (0, checksum, probe, found, offer)))
        assert running.version == 2
