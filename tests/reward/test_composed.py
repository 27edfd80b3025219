"""Composition: what is asked of the parts, and what their verdicts make together."""

import pytest

from reward.composed import combine, expand
from reward.errors import UnusableReference
from reward.messages import Status, Verdict, VerifyRequest

PARTS = {
    "right": {"verifier": "math", "weight": 3, "reference": {"answer": "4"}},
    "form": {"verifier": "instructions", "weight": 1, "reference": {"constraints": [{"kind": "no_commas"}]}},
}


def request(**changes) -> VerifyRequest:
    reference = {"parts": PARTS, **changes}
    return VerifyRequest(id="5", verifier="composed", response="#### 4", reference=reference, group="g")


def verdicts(right: float, form: float, statuses=(Status.SCORED, Status.SCORED)) -> list[Verdict]:
    return [
        Verdict(id="5/right", reward=right, status=statuses[0], components={"answered": 1.0}, detail="a", seconds=0.5),
        Verdict(id="5/form", reward=form, status=statuses[1], detail="b", seconds=0.25),
    ]


def test_every_part_gets_the_response_its_reference_and_its_group():
    """Ids and groups carry the part's name: two parts may ask the same verifier."""
    right, form = expand(request())
    assert right == VerifyRequest(
        id="5/right", verifier="math", response="#### 4", reference={"answer": "4"}, group="g/right"
    )
    assert (form.id, form.verifier, form.group) == ("5/form", "instructions", "g/form")


def test_rewards_are_added_by_weight():
    """3 : 1 of 1 and 0.5 is 0.875, with every part reported under its name."""
    verdict = combine(request(), verdicts(1.0, 0.5))
    assert verdict == Verdict(
        id="5",
        reward=0.875,
        status=Status.SCORED,
        components={"right": 1.0, "right/answered": 1.0, "form": 0.5},
        detail="right: a; form: b",
        seconds=0.75,
    )


@pytest.mark.parametrize(
    ("gate", "right", "form", "reward"),
    [("form", 1.0, 1.0, 1.0), ("form", 1.0, 0.5, 0.125), ("right", 0.0, 1.0, 0.0), ("right", 1.0, 0.0, 0.75)],
)
def test_a_gate_that_is_not_full_shuts_out_the_others(gate, right, form, reward):
    """Only the gate's own share is left: 0.5 of the quarter that `form` is worth."""
    assert combine(request(gate=gate), verdicts(right, form)).reward == pytest.approx(reward)


@pytest.mark.parametrize(
    ("statuses", "whole", "reward"),
    [
        ((Status.SCORED, Status.MALFORMED), Status.MALFORMED, 0.875),
        ((Status.TIMEOUT, Status.MALFORMED), Status.TIMEOUT, 0.0),
        ((Status.TIMEOUT, Status.RESOURCE), Status.RESOURCE, 0.0),
        ((Status.SCORED, Status.ERROR), Status.ERROR, 0.0),
    ],
)
def test_the_worst_status_is_that_of_the_whole(statuses, whole, reward):
    """One part that says nothing about the response leaves nothing to train on; a malformed part counts as it is."""
    verdict = combine(request(), verdicts(1.0, 0.5, statuses))
    assert (verdict.status, verdict.reward) == (whole, pytest.approx(reward))


def test_a_part_of_weight_0_is_only_reported():
    """It can still be a gate."""
    parts = {**PARTS, "form": {**PARTS["form"], "weight": 0}}
    assert combine(request(parts=parts), verdicts(1.0, 0.0)).reward == 1.0
    assert combine(request(parts=parts, gate="form"), verdicts(1.0, 0.0)).reward == 0.0


def part(**changes) -> dict:
    return {"parts": {"a": {**PARTS["right"], **changes}}}


@pytest.mark.parametrize(
    ("reference", "sentence"),
    [
        ({}, "a composed reference is"),
        ({"parts": {}}, "a composed reference is"),
        ({"parts": PARTS, "gates": "form"}, "has parts and gate, got also gates"),
        ({"parts": PARTS, "gate": "shape"}, "the gate 'shape' is none of the parts right, form"),
        ({"parts": PARTS, "gate": ["form"]}, "the gate .* is none of the parts"),
        ({"parts": {"a/b": PARTS["form"]}}, "a text without /, got 'a/b'"),
        ({"parts": {"a": {"verifier": "math"}}}, "part a has verifier, weight and reference, got verifier"),
        ({"parts": {"a": None}}, "part a has verifier, weight and reference, got None"),
        (part(verifier="composed"), "part a is composed itself"),
        (part(verifier="mth"), "part a: unknown verifier 'mth', there are .*math"),
        (part(weight=-1), "weight is a number from 0 to .*, got -1"),
        (part(weight=float("nan")), "weight is a number"),
        (part(weight=float("inf")), "weight is a number"),
        (part(weight=True), "weight is a number from 0 to .*, got True"),
        (part(weight=0), "weights of a composed reference are all 0"),
        (part(reference=None), "reference is an object, got None"),
    ],
)
def test_a_wrong_reference_is_named(reference, sentence):
    """One sentence says which part and what was expected."""
    with pytest.raises(UnusableReference, match=sentence):
        expand(VerifyRequest(id="5", verifier="composed", response="", reference=reference))
