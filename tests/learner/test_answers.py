"""Where an answer begins, in texts whose tokens do not end where the marker does."""

import dataclasses

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from learner.answers import Answers
from learner.batch import Share, Trained, micro_batch
from learner.config import LearnerConfig
from learner.errors import ModelError
from learner.objective import Objective
from learner.objective.advantage import GroupMean
from learner.objective.aggregate import TokenMean
from learner.objective.alignment import AlignRight
from learner.objective.marks import Right
from learner.objective.observations import AnswerState
from learner.objective.reads import AnchorRatio
from learner.objective.surrogate import Anchored, Clipped
from learner.worker import LearnerWorker

# Each token stands for its text; "Ġ" is how byte-level tokenizers write a blank, the two halves of "é" are "Ã" and "©".
PIECES = ["So", "Ġ", "Ġ\\", "\\", "box", "boxed", "ed", "{", "ed{", "4", "}", "Ġ=", "\\boxed{", ".\\box", "Ã", "©"] + [
    "end"
]
ID = {piece: token for token, piece in enumerate(PIECES)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    backend = Tokenizer(models.BPE(vocab=ID, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    folder = tmp_path_factory.mktemp("tokenizer")
    PreTrainedTokenizerFast(tokenizer_object=backend).save_pretrained(folder)
    return folder


def sample_of(make_sample, pieces, trained=None):
    sample = make_sample(np.random.default_rng(0), 0, [1, 2, 3], [ID[piece] for piece in pieces], 1.0)
    return sample if trained is None else dataclasses.replace(sample, trained=np.array(trained, bool))


CASES = {
    "alone": (["So", "Ġ", "\\boxed{", "4", "}"], 2),
    "in pieces": (["So", "Ġ", "\\", "box", "ed", "{", "4", "}"], 2),
    "merged with the blank before": (["So", "Ġ\\", "boxed", "{", "4", "}"], 1),
    "merged with a full stop": (["So", ".\\box", "ed{", "4", "}"], 1),
    "the last of two": (["\\boxed{", "4", "}", "Ġ=", "Ġ\\", "boxed", "{", "4", "}"], 4),
    "at the very beginning": (["\\boxed{", "4"], 0),
    "after letters of two tokens": (["Ã", "©", "Ã", "©", "\\boxed{", "4"], 4),
    "after half a letter": (["So", "Ã", "\\boxed{", "4"], 2),
    "none": (["So", "Ġ=", "4"], None),
    "not quite": (["So", "\\", "box", "4"], None),
}


@pytest.mark.parametrize("name", CASES)
def test_the_token_in_which_the_marker_begins(name, folder, make_sample):
    """By hand; without a marker the answer is the last token."""
    pieces, expected = CASES[name]
    trained = Trained(samples=(sample_of(make_sample, pieces),), advantages=np.zeros(1))
    found = Answers(AnswerState(), folder).find(trained)
    assert found.answers.tolist() == [len(pieces) - 1 if expected is None else expected]
    assert found.metrics == {"align/marked_fraction": 0.0 if expected is None else 1.0}


def test_only_text_up_to_the_last_trained_token_counts(folder, make_sample):
    """A marker in context after it was not written by the policy; one in context before it is still where it is."""
    pieces = ["So", "\\boxed{", "4", "}", "\\boxed{", "4"]
    samples = (
        sample_of(make_sample, pieces, [1, 1, 1, 0, 0, 0]),
        sample_of(make_sample, pieces, [1, 0, 0, 0, 0, 1]),
        sample_of(make_sample, pieces[:1] + pieces[3:], [1, 1, 0, 0]),
    )
    trained = Trained(samples=samples, advantages=np.zeros(3))
    found = Answers(AnswerState(), folder).find(trained)
    assert found.answers.tolist() == [1, 4, 1]
    assert found.metrics["align/marked_fraction"] == pytest.approx(2 / 3)


def test_without_a_marker_no_tokenizer_is_needed(make_sample, tmp_path):
    trained = Trained(samples=(sample_of(make_sample, ["\\boxed{", "4", "}"]),), advantages=np.zeros(1))
    assert Answers(AnswerState(marker=None), tmp_path).find(trained).answers.tolist() == [2]


def test_another_marker(folder, make_sample):
    trained = Trained(samples=(sample_of(make_sample, ["So", "end", "4", "end", "}"]),), advantages=np.zeros(1))
    assert Answers(AnswerState(marker="end"), folder).find(trained).answers.tolist() == [3]


def test_a_model_without_a_tokenizer_is_refused(tmp_path):
    with pytest.raises(ModelError, match="the tokenizer in .* cannot be loaded"):
        Answers(AnswerState(), tmp_path)


@pytest.mark.parametrize("forest_layout", [False, True])
def test_the_state_is_the_one_that_predicts_the_answer(forest_layout, make_batch):
    """Its node has the token before the answer, at that token's position; parts of a batch keep their places."""
    batch = make_batch(groups=3)
    rng = np.random.default_rng(0)
    answers = np.array([rng.integers(0, len(sample.response_ids)) for sample in batch.samples])
    whole = Trained(samples=batch.samples, advantages=np.zeros(len(answers)), answers=answers)
    part = whole.part(np.arange(4, 12))
    share = Share(indices=(5, 0, 7), live=True)
    micro = micro_batch(part, share, forest_layout=forest_layout, device=torch.device("cpu"))
    tokens = micro.tokens.flatten() if micro.node_rows is None else micro.tokens.flatten()[micro.node_rows]
    for row, index in enumerate((9, 4, 11)):
        sample = batch.samples[index]
        before = [*sample.prompt_ids, *sample.response_ids][len(sample.prompt_ids) + answers[index] - 1]
        assert tokens[micro.answers[row]] == before
    assert micro.members.tolist() == [5, 0, 7]


def test_more_anchors_than_tokens_are_refused_when_the_learner_starts(model_path, free_port):
    objective = Objective(advantage=GroupMean(), surrogate=Anchored(anchor=AnchorRatio(k=62)), aggregate=TokenMean())
    with pytest.raises(ValueError, match=r"the model has 61 tokens, too few for AnchorRatio\(k=62"):
        LearnerWorker(model_path, LearnerConfig(), objective, 0, 1, "127.0.0.1", free_port, 0, 10)


def test_one_micro_batch_needs_no_second_pass(model_path, free_port, make_batch, monkeypatch):
    """It holds all states itself; where there are several micro-batches, each goes forward twice."""
    objective = Objective(
        advantage=GroupMean(),
        surrogate=Clipped(),
        aggregate=TokenMean(),
        marks={"right": Right()},
        regularisers={"align": AlignRight()},
    )
    for budget, several in ((10_000, False), (25, True)):
        config = LearnerConfig(micro_batch_tokens=budget, mismatch_kl_limit=1e9)
        worker = LearnerWorker(model_path, config, objective, 0, 1, "127.0.0.1", free_port, 0, 10)
        passes, trained = [], []
        forward, accumulate = worker.policy.hidden_states, worker.engine.accumulate
        monkeypatch.setattr(worker.policy, "hidden_states", lambda *a, f=forward, p=passes: p.append(1) or f(*a))
        monkeypatch.setattr(
            worker.engine, "accumulate", lambda *a, f=accumulate, t=trained, **k: t.append(1) or f(*a, **k)
        )
        worker.train(make_batch())
        assert (len(trained) > 1) == several
        assert len(passes) == (2 if several else 1) * len(trained)
