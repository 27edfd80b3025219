"""DiffAdapt: labels and probe by hand, and every response drawn the way its prompt's difficulty asks for."""

import asyncio

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from rollout.draw.temperature import Fixed
from rollout.draw.truncation import Truncation
from rollout.errors import RolloutError
from rollout.messages import FinishReason, GroupRequest, Rollout
from rollout.strategies import Circumstances, DiffAdapt
from rollout.strategies.diff_adapt.labels import Difficulty, Thresholds, calibrated, cheapest
from rollout.strategies.diff_adapt.probe import DifficultyProbe, judge
from rollout.strategies.diff_adapt.strategy import Way
from rollout.strategies.diff_adapt.training import ProbeTraining, macro_f1, train_probe
from tests.rollout.strategies.fakes import STOP, FakeEngine, check_record, decode, encode, resources
from tests.rollout.strategies.ways import ways

EASY, NORMAL, HARD = Difficulty
PLAIN_RUN = Circumstances(group_size=4, max_tokens=8, learned_temperature=False, plain_draw=True)


@pytest.mark.parametrize(
    ("accuracy", "entropy", "label"),
    [(0.9, 0.3, NORMAL), (0.85, 0.3, EASY), (0.9, 0.35, EASY), (0.6, 1.0, EASY), (0.59, 0.1, HARD), (0.0, 2.0, HARD)],
)
def test_labels_by_the_two_thresholds(accuracy, entropy, label):
    """Normal above .85 and below .35 nats, Hard below .60, Easy in between; the borders themselves are Easy."""
    assert Thresholds().difficulty(accuracy, entropy) is label


def test_calibrated_labels_make_the_share_normal():
    """`calm` lies where 41 % of all prompts are Normal; with too few accurate ones, all of those are."""
    accuracies = np.array([1.0] * 80 + [0.7] * 20)
    entropies = np.arange(100) / 50
    thresholds = calibrated(accuracies, entropies)
    labels = [thresholds.difficulty(*pair) for pair in zip(accuracies, entropies, strict=True)]
    assert labels.count(NORMAL) == pytest.approx(41, abs=1)
    assert set(labels[50:]) == {EASY}
    few = calibrated(accuracies, entropies, normal=0.9)
    assert [few.difficulty(*pair) for pair in zip(accuracies, entropies, strict=True)].count(NORMAL) == 80
    assert calibrated(np.zeros(3), np.ones(3)).accurate == 0.85


def test_labels_by_the_cheapest_right_way():
    """The right way with the fewest tokens; the shortest of all where none is right; the easier one on ties."""
    assert cheapest([False, True, True], [10, 90, 50]) is HARD
    assert cheapest([False, False, False], [30, 90, 20]) is HARD
    assert cheapest([True, False, True], [20, 5, 20]) is EASY


def probe_that_says(difficulty: Difficulty, hidden_size: int = 4, announcement: str = "?!") -> DifficultyProbe:
    """Of the hidden state (1, 0, 0, 0): logit 1 for its class, 0 for the others."""
    probe = DifficultyProbe(hidden_size, announcement, width=2)
    with torch.no_grad():
        for parameter in probe.parameters():
            parameter.zero_()
        probe.first.weight[0, 0] = 2.0
        probe.second.weight[difficulty, 0] = 0.5
    return probe


def test_the_probe_by_hand():
    """W2 relu(W1 h + b1) + b2, argmax after offsets, Normal where it is not sure enough."""
    probe = probe_that_says(HARD)
    hidden = torch.tensor([1.0, 5.0, 5.0, 5.0])
    assert probe(torch.stack([hidden, -hidden])).tolist() == [[0.0, 0.0, 1.0], [0.0, 0.0, 0.0]]
    sure = np.exp(1) / (np.exp(1) + 2)
    verdict = judge(probe, hidden, (0.0, 0.0, 0.0), 0.0)
    assert (verdict.difficulty, verdict.confidence) == (HARD, pytest.approx(sure))
    assert judge(probe, hidden, (1.5, 0.0, 0.0), 0.0).difficulty is EASY
    assert judge(probe, hidden, (0.0, 0.0, 0.0), sure + 0.01).difficulty is NORMAL


def test_a_probe_keeps_its_announcement(tmp_path):
    """What was put behind the prompts it was trained with is in its file; other files are refused by name."""
    file = tmp_path / "probe.safetensors"
    probe_that_says(EASY).save(file)
    again = DifficultyProbe.load(file)
    assert (again.announcement, again.hidden_size) == ("?!", 4)
    assert torch.equal(again(torch.eye(4)), probe_that_says(EASY)(torch.eye(4)))
    save_file({"first.weight": torch.zeros(2, 2)}, file)
    with pytest.raises(RolloutError, match=r"is not the file of a difficulty probe .*train_difficulty_probe.py"):
        DifficultyProbe.load(file)


def test_training_finds_what_can_be_found():
    """Three separable clouds are told apart on held-out prompts, and the same seed gives the same probe."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(150) % 3
    hidden = torch.eye(3)[labels].repeat(1, 2) * 3 + torch.randn(150, 6, generator=generator)
    how = ProbeTraining(learning_rate=1e-2, epochs=20, width=16)
    found, again = (train_probe(hidden, labels, "?", how) for _ in range(2))
    assert found.macro_f1 > 0.9
    assert found.macro_f1 == pytest.approx(found.accuracy, abs=0.1)
    assert torch.equal(found.probe(hidden), again.probe(hidden))
    shuffled = train_probe(hidden, labels[torch.randperm(150, generator=generator)], "?", how)
    assert shuffled.macro_f1 < 0.7
    with pytest.raises(ValueError, match="prompts to train and to hold out, got 2"):
        train_probe(hidden[:2], labels[:2], "?", how)


def test_macro_f1_by_hand():
    """Easy 2 of 2 found with one false: 4/5; Normal never said: 0; Hard occurs nowhere and does not count."""
    said, true = torch.tensor([0, 0, 0]), torch.tensor([0, 0, 1])
    assert macro_f1(said, true) == pytest.approx((0.8 + 0.0) / 2)


def drawn(
    tmp_path, difficulty: Difficulty, engine: FakeEngine, n: int = 3, max_tokens: int = 100, **changes
) -> tuple[list[Rollout], list[tuple]]:
    """The group's rollouts, and the prompts whose hidden state was asked for."""
    file = tmp_path / "probe.safetensors"
    probe_that_says(difficulty).save(file)
    asked = []

    async def hidden(prompt_ids):
        asked.append(prompt_ids)
        return np.array([1, 0, 0, 0], np.float32)

    source = DiffAdapt(probe=str(file), **ways() | changes).over(resources(engine, hidden=hidden))
    request = GroupRequest(group_id="g", prompt_ids=(1, 5), n=n, max_tokens=max_tokens, temperature=Fixed())

    async def all_of():
        return [rollout async for rollout in source.generate(request)]

    return sorted(asyncio.run(all_of()), key=lambda rollout: rollout.index), asked


@pytest.mark.parametrize(("difficulty", "room"), [(EASY, 40), (NORMAL, 100), (HARD, 50)])
def test_every_way_is_drawn_as_it_says(tmp_path, difficulty, room):
    """Opener, temperature, top-p and length are those of the class; the probe looked once, behind its announcement."""
    engine = FakeEngine(stop_rate=0.0)
    rollouts, asked = drawn(tmp_path, difficulty, engine, cue_tokens=0)
    way = ways()[difficulty.name.lower()]
    assert asked == [(1, 5, *encode("?!"))]
    for request in engine.requests:
        assert request.temperature == Fixed(temperature=way.temperature)
        assert request.truncation == Truncation(top_p=way.top_p)
        assert request.prompt_ids == (1, 5, *encode(way.opener))
    for rollout in rollouts:
        assert rollout.prompt_ids == (1, 5)
        assert rollout.text.startswith(way.opener)
        assert rollout.policy_drawn.tolist() == [False] * len(way.opener) + [True] * (room - len(way.opener))
        assert rollout.finish_reason is FinishReason.LENGTH
        check_record(rollout, engine)


def test_a_cut_response_is_rescued(tmp_path):
    """The cue nobody drew, then the policy at 0.6 up to the closing brace and no token further."""
    engine = FakeEngine(alphabet="ab}", stop_rate=0.0)
    rollouts, _ = drawn(tmp_path, HARD, engine, n=6, cue=" so {", chunk=7)
    for rollout in rollouts:
        opener, cue = len("hard: "), len(" so {")
        text = decode(rollout.response_ids.tolist())
        assert text[50:55] == " so {"
        assert text[55:].index("}") == len(text) - 56
        assert rollout.finish_reason is FinishReason.STOP
        assert rollout.policy_drawn.tolist() == (
            [False] * opener + [True] * (50 - opener) + [False] * cue + [True] * (len(text) - 55)
        )
        assert set(rollout.temperatures[opener:50]) == {np.float32(0.4)}
        assert set(rollout.temperatures[55:]) == {np.float32(0.6)}
        check_record(rollout, engine)


def test_a_rescue_never_exceeds_the_request(tmp_path):
    """Without a brace it ends at max_tokens, unfinished; a normal response has no room for it and stays as it is."""
    [hard], _ = drawn(tmp_path, HARD, FakeEngine(alphabet="ab", stop_rate=0.0), n=1, cue=" so {")
    assert (len(hard.response_ids), hard.finish_reason) == (100, FinishReason.LENGTH)
    [normal], _ = drawn(tmp_path, NORMAL, FakeEngine(alphabet="ab", stop_rate=0.0), n=1, cue=" so {")
    assert (len(normal.response_ids), " so {" in normal.text) == (100, False)


def test_a_response_that_ends_is_left_alone(tmp_path):
    """No cue behind a stop token, and none drawn behind one in a rescue."""
    engine = FakeEngine(alphabet="ab", stop_rate=0.2)
    rollouts, _ = drawn(tmp_path, HARD, engine, n=8, cue=" so {")
    for rollout in rollouts:
        assert rollout.finish_reason is FinishReason.STOP
        assert rollout.response_ids.tolist().index(STOP) == len(rollout.response_ids) - 1


def test_no_room_behind_the_opener_is_an_error(tmp_path):
    """The sentence says which way, how long its opener is and what to change."""
    with pytest.raises(RolloutError, match=r"the easy way .* its opener has 6 of 4 tokens: raise task.max_tokens"):
        drawn(tmp_path, EASY, FakeEngine(), max_tokens=10)


def test_a_probe_of_another_model_is_an_error(tmp_path):
    """A hidden state of another size was never seen by the probe."""
    probe_that_says(EASY, hidden_size=8).save(tmp_path / "probe.safetensors")

    async def hidden(prompt_ids):
        return np.zeros(4, np.float32)

    strategy = DiffAdapt(probe=str(tmp_path / "probe.safetensors"), **ways())
    source = strategy.over(resources(FakeEngine(), hidden=hidden))

    async def all_of():
        request = GroupRequest(group_id="g", prompt_ids=(1,), n=1, max_tokens=20, temperature=Fixed())
        return [rollout async for rollout in source.generate(request)]

    with pytest.raises(RolloutError, match="reads 8 hidden values and the policy has 4"):
        asyncio.run(all_of())


def test_what_cannot_work_is_refused_before_anything_starts(tmp_path):
    """No probe, a file that is none, or a draw of the run's own that would be overruled: one sentence each."""
    file = tmp_path / "probe.safetensors"
    strategy = DiffAdapt(probe=str(file), **ways())
    strategy.check(PLAIN_RUN)
    with pytest.raises(RolloutError, match="No such file.*train one with scripts/train_difficulty_probe.py"):
        strategy.check_files()
    file.write_text("nothing")
    with pytest.raises(RolloutError, match="is not the file of a difficulty probe"):
        strategy.check_files()
    probe_that_says(EASY).save(file)
    strategy.check_files()
    hot = Circumstances(group_size=4, max_tokens=8, learned_temperature=False, plain_draw=False)
    with pytest.raises(ValueError, match="would overrule the run's"):
        strategy.check(hot)


@pytest.mark.parametrize(
    "changes",
    [{"min_confidence": 1.5}, {"cue_tokens": -1}, {"chunk": 0}, {"cue_end": ""}, {"cue_temperature": float("nan")}],
)
def test_impossible_settings_are_refused(changes):
    """When the configuration is built."""
    with pytest.raises(ValueError, match="got"):
        DiffAdapt(probe="p", **ways(), **changes)


@pytest.mark.parametrize("changes", [{"length": 0.0}, {"length": 1.1}, {"temperature": -1.0}, {"top_p": 0.0}])
def test_impossible_ways_are_refused(changes):
    """A length is a fraction; temperature and top-p are checked as everywhere."""
    with pytest.raises(ValueError, match="got"):
        Way(**{"temperature": 1.0, "top_p": 1.0, "length": 0.5, "opener": ""} | changes)
