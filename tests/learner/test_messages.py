import dataclasses

import numpy as np
import pytest

from learner.messages import HeadActions, KeptTokens


@pytest.fixture
def sample(make_sample):
    """A response of three tokens 4 5 6."""
    return make_sample(np.random.default_rng(0), 7, [1], [4, 5, 6], 1.0)


def kept(*sets) -> KeptTokens:
    return KeptTokens(
        ids=np.array([token for tokens in sets for token in tokens], np.int32),
        counts=np.array([len(tokens) for tokens in sets], np.int32),
    )


def test_a_token_outside_its_kept_tokens_is_refused(sample):
    """Its log-probability would be that of an impossible draw; the sentence says which token of which group."""
    dataclasses.replace(sample, kept=kept([4, 9], [], [6]))
    with pytest.raises(ValueError, match=r"group 7: response token 2 \(id 6\) is not among the tokens"):
        dataclasses.replace(sample, kept=kept([4, 9], [5], [4, 5]))


def test_a_token_that_is_not_trained_may_be_anywhere(sample):
    """Context was drawn by something else, whose kept tokens and temperature say nothing about the policy."""
    greedy = np.array([1.0, 1.0, 0.0], np.float32)
    context = np.array([True, True, False])
    changed = dataclasses.replace(sample, trained=context, kept=kept([4], [5], [4, 5]), temperatures=greedy)
    assert changed.trained_places.tolist() == [0, 1]
    with pytest.raises(ValueError, match="group 7 has tokens drawn greedily"):
        dataclasses.replace(sample, temperatures=greedy)


def test_kept_tokens_are_counted_and_rise():
    """What does not add up, repeats or falls within one position is refused; the next position starts anew."""
    kept([3, 8], [1, 2])
    with pytest.raises(ValueError, match="list 3 ids but count 2"):
        KeptTokens(ids=np.arange(3, dtype=np.int32), counts=np.array([2], np.int32))
    for wrong in ([8, 3], [3, 3]):
        with pytest.raises(ValueError, match="should rise"):
            kept([1, 2], wrong)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("trained", np.ones(2, bool)),
        ("kept", kept([4], [5])),
        ("head", HeadActions(changes=np.zeros(2, bool), logprobs=np.zeros(2, np.float32))),
    ],
)
def test_every_array_has_one_entry_per_response_token(name, value, sample):
    with pytest.raises(ValueError, match=rf"group 7: {name}.* has 2 entries for 3 response tokens"):
        dataclasses.replace(sample, **{name: value})
