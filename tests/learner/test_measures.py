import torch

from learner.measures import combine, max_of, mean_of, reduce, sum_of


def test_means_sums_and_maxima_over_micro_batches():
    """A mean weighs every entry the same, however unevenly micro-batches are filled."""
    mask = torch.tensor([True, True, False])
    parts = [
        {"a": mean_of(torch.tensor([1.0, 2.0, 99.0]), mask), "b": max_of(torch.tensor([1.0, 5.0, 99.0]), mask)},
        {"a": mean_of(torch.tensor([6.0]), mask[:1]), "b": max_of(torch.tensor([4.0]), mask[:1])},
    ]
    parts = [part | {"c": sum_of(torch.tensor(0.25))} for part in parts]
    assert reduce(combine(parts), ranks=1) == {"a": 3.0, "b": 5.0, "c": 0.5}


def test_nothing_measured_is_zero():
    nothing = torch.tensor([False])
    parts = {"a": mean_of(torch.tensor([7.0]), nothing), "b": max_of(torch.tensor([7.0]), nothing)}
    assert reduce(combine([parts]), ranks=1) == {"a": 0.0, "b": 0.0}
