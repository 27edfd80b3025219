"""An engine without a model: random tokens, and a record that is a function of what stands before the token.

So a test can ask of every token of a response: would this engine, at this version, have recorded this behind this very
prefix? Tokens are characters; id 2 ends a response.
"""

import hashlib
from collections.abc import AsyncIterator, Callable, Sequence

import numpy as np

from rollout.messages import FinishReason, GroupRequest, KeptTokens, Rollout, VersionSpan
from rollout.strategies import Resources

STOP = 2
VOCAB = 128


def encode(text: str) -> tuple[int, ...]:
    return tuple(map(ord, text))


def decode(ids: Sequence[int]) -> str:
    return "".join(map(chr, (one for one in ids if one != STOP)))


def number(*parts: object) -> float:
    """In [0, 1), always the same for the same parts."""
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=6).digest()) / 2**48


class FakeEngine:
    """`alphabet` is drawn from evenly; `version` rises by one every `update_every` draws; `entropy` in nats."""

    def __init__(
        self,
        name: str = "policy",
        alphabet: str = "ab \n",
        stop_rate: float = 0.02,
        update_every: int = 0,
        kept: bool = False,
        entropy: Callable[[tuple[int, ...]], float] | None = None,
    ) -> None:
        self.name = name
        self.requests: list[GroupRequest] = []
        self.version = 0
        self.entropy = entropy or (lambda prefix: 3.0 * number(name, prefix))
        self._alphabet = encode(alphabet)
        self._stop_rate = stop_rate
        self._update_every = update_every
        self._kept = kept
        self._random = np.random.default_rng(7)

    def logprob(self, prefix: tuple[int, ...], token: int, version: int) -> np.float32:
        return np.float32(-5.0 * number(self.name, prefix, token, int(version)))

    async def generate(self, request: GroupRequest) -> AsyncIterator[Rollout]:
        self.requests.append(request)
        for index in range(request.n):
            yield self._rollout(request, index)
        if self._update_every and len(self.requests) % self._update_every == 0:
            self.version += 1

    async def abort(self, group_id: str) -> int:
        return 0

    def _rollout(self, request: GroupRequest, index: int) -> Rollout:
        prefix, ids, logprobs, entropies = request.prompt_ids, [], [], []
        while len(ids) < request.max_tokens and STOP not in ids:
            stops = self._random.random() < self._stop_rate
            token = STOP if stops else int(self._random.choice(self._alphabet))
            logprobs.append(self.logprob(prefix, token, self.version))
            entropies.append(self.entropy(prefix))
            ids.append(token)
            prefix = (*prefix, token)
        counts = np.array([token % 2 for token in ids], np.int32)
        return Rollout(
            group_id=request.group_id,
            index=index,
            prompt_ids=request.prompt_ids,
            response_ids=np.array(ids, np.int32),
            sampler_logprobs=np.array(logprobs, np.float32),
            temperatures=np.full(len(ids), request.temperature.temperature, np.float32),
            entropies=np.array(entropies, np.float32),
            spans=(VersionSpan(version=self.version, start=0, end=len(ids)),),
            text=decode(ids),
            finish_reason=FinishReason.STOP if STOP in ids else FinishReason.LENGTH,
            drafted_tokens=len(ids),
            accepted_histogram=(1, 2),
            seconds=0.0,
            kept=KeptTokens(ids=np.array(ids, np.int32)[counts > 0], counts=counts) if self._kept else None,
        )


def resources(policy: FakeEngine, other: FakeEngine | None = None, hidden=None) -> Resources:
    return Resources(
        policy=policy,
        other=other,
        encode=encode,
        decode=decode,
        vocab_size=VOCAB,
        version=lambda: policy.version,
        deadline_s=60.0,
        hidden=hidden,
    )


def check_record(rollout: Rollout, policy: FakeEngine) -> None:
    """What the response says the policy drew is what the policy records behind that very prefix, at that version."""
    drawn = np.ones(len(rollout.response_ids), bool) if rollout.policy_drawn is None else rollout.policy_drawn
    ids = rollout.response_ids.tolist()
    for place in np.flatnonzero(drawn):
        prefix = (*rollout.prompt_ids, *ids[:place])
        assert rollout.sampler_logprobs[place] == policy.logprob(prefix, ids[place], rollout.versions[place])
        assert rollout.entropies[place] == np.float32(policy.entropy(prefix))
    assert rollout.text == decode(ids)
    if rollout.kept is not None:
        owner = np.repeat(np.arange(len(ids)), rollout.kept.counts)
        assert (rollout.response_ids[owner] == rollout.kept.ids).all()
