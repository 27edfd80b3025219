import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import hydra.utils
import pytest
import torch
from omegaconf import OmegaConf

from learner.objective import Counts, Objective, Outcomes, TokenStats
from learner.objective.advantage import GroupMean
from learner.objective.aggregate import SequenceMean, TokenMean
from learner.objective.alignment import AlignRight
from learner.objective.ares import DifficultyKl
from learner.objective.credit import StepConfidence, TemperatureRatio
from learner.objective.filters import MixedGroupsOnly
from learner.objective.marks import Right
from learner.objective.reads import TopPEntropy
from learner.objective.regularisers import EntropyBonus, PeakEntropyAnchor
from learner.objective.second_rollout import ImitatedSeconds
from learner.objective.select import EntropyQuantile, NegativesBelowPolicy
from learner.objective.spine import ForkBand, ForkDivergence
from learner.objective.stats import Peers
from learner.objective.surrogate import Clipped
from learner.objective.weights import LowToHigh, TruncatedImportance

CONF = Path(__file__).parents[3] / "conf"
ALGORITHMS = sorted((CONF / "algorithm").glob("*.yaml"))


def objective_of(file: Path) -> Objective:
    """With the temperature and the strategy that it asks for, which it may refer to."""
    others = {"temperature": {"introllm": "learned"}, "strategy": {"aepo": "second_rollout"}}
    plain = {"temperature": "fixed", "strategy": "none"}
    run = {group: names.get(file.stem, plain[group]) for group, names in others.items()}
    parts = {group: OmegaConf.load(CONF / group / f"{name}.yaml") for group, name in run.items()}
    run = OmegaConf.create(parts | {"algorithm": OmegaConf.load(file)})
    return hydra.utils.instantiate(run.algorithm, _convert_="all")


def with_needs(stats: TokenStats, objective: Objective) -> TokenStats:
    """The statistics with what the forward pass would have read, and marks; read values and states are any."""
    generator = torch.Generator().manual_seed(3)
    wanted = (*objective.reads, *objective.attention)
    states = torch.randn(len(stats.mask), 6, generator=generator).double()
    marks = {name: torch.ones(len(stats.mask)) for name in objective.marks}
    return dataclasses.replace(
        stats,
        reads={read: torch.rand(stats.mask.shape, generator=generator).double() for read in wanted},
        marks=marks,
        answers=states,
        peers=Peers(states=states, group=stats.group, marks=marks),
    )


def composed(**changes) -> Objective:
    pieces = {"advantage": GroupMean(), "surrogate": Clipped(), "aggregate": TokenMean()} | changes
    return Objective(**pieces)


def random_stats(token_stats, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def normal():
        return torch.randn(3, 5, generator=generator, dtype=torch.float64)

    mask = torch.tensor([[1] * 5, [1] * 3 + [0] * 2, [1] + [0] * 4], dtype=torch.bool)
    lp_old = -normal().abs()
    return token_stats(
        mask,
        advantage=normal()[:, :1].expand(3, 5),
        lp=(lp_old + 0.3 * normal()).requires_grad_(),
        lp_old=lp_old,
        lp_sampler=lp_old + 0.5 * normal(),
        entropy=normal().abs(),
        lp_ref=lp_old + 0.1 * normal(),
    )


@pytest.mark.parametrize("selected", [False, True])
@pytest.mark.parametrize("aggregate", [TokenMean(), SequenceMean()])
def test_the_whole_formula_against_a_loop(aggregate, selected, token_stats):
    """L = agg(keep * w * C) + agg(-c H), value and gradient, against a loop over tokens."""
    stats = random_stats(token_stats)
    counts = Counts(tokens=9, sequences=3, groups=1)
    objective = composed(
        surrogate=Clipped(eps_lo=0.2, eps_hi=0.28),
        aggregate=aggregate,
        weights={"mismatch": TruncatedImportance(cap=1.5)},
        select={"forks": EntropyQuantile(keep=0.4)} if selected else {},
        regularisers={"bonus": EntropyBonus(coefficient=0.01)},
    )
    loss, measures = objective(stats, counts)
    (gradient,) = torch.autograd.grad(loss, stats.lp)

    kept_entropies = sorted(stats.entropy[stats.mask].tolist(), reverse=True)
    expected, slopes = 0.0, torch.zeros(3, 5, dtype=torch.float64)
    for i in range(3):
        length = int(stats.mask[i].sum())
        share = 1 / 9 if isinstance(aggregate, TokenMean) else 1 / (3 * length)
        for t in range(length):
            advantage, entropy = stats.advantage[i, t].item(), stats.entropy[i, t].item()
            expected -= 0.01 * entropy * share
            if selected and entropy < kept_entropies[3]:  # the .6 quantile of 9 values lies between the 4th and 5th
                continue
            ratio = (stats.lp[i, t] - stats.lp_old[i, t]).exp().item()
            weight = min((stats.lp_old[i, t] - stats.lp_sampler[i, t]).exp().item(), 1.5)
            free, bound = -advantage * ratio, -advantage * min(max(ratio, 0.8), 1.28)
            expected += weight * max(free, bound) * share
            slopes[i, t] = weight * free * share if free >= bound else 0.0
    assert loss.item() == pytest.approx(expected)
    torch.testing.assert_close(gradient, slopes)
    assert measures["train/loss"].value.item() == pytest.approx(expected)


def test_extras_that_are_off_change_nothing(token_stats):
    """Keeping every token, a weight of 1 and a coefficient of 0 give plain clipped GRPO to the bit."""
    stats = random_stats(token_stats)
    counts = Counts(tokens=9, sequences=3, groups=1)
    plain, _ = composed()(stats, counts)
    dressed, _ = composed(
        select={"all": EntropyQuantile(keep=1.0)}, regularisers={"bonus": EntropyBonus(coefficient=0.0)}
    )(stats, counts)
    assert plain.item() == dressed.item()


def test_every_piece_that_is_off_changes_nothing(token_stats):
    """All of them at once, at rest, in value and gradient: GRPO to the bit."""
    dressed = composed(
        select={"below": NegativesBelowPolicy(deviations=math.inf)},
        credit={"contrast": TemperatureRatio(), "steps": StepConfidence(k=0.0, zeta=0.0, centre=False)},
        surrogate=ImitatedSeconds(),
        marks={"right": Right(), "right_fraction": Right(), "difficulty": Right(), "second_chance": Right()},
        regularisers={
            "peaks": PeakEntropyAnchor(),
            "band": ForkBand(below=0.0, above=0.0),
            "divergence": ForkDivergence(coefficient=0.0),
            "kl": DifficultyKl(coefficient=0.0),
            "align": AlignRight(coefficient=0.0),
        },
        weights={"attention": LowToHigh(strength=0.0)},
    )
    stats = with_needs(random_stats(token_stats), dressed)
    counts = Counts(tokens=9, sequences=3, groups=1)
    plain, _ = composed()(stats, counts)
    loss, _ = dressed(stats, counts)
    assert plain.item() == loss.item()
    assert torch.equal(*(torch.autograd.grad(one, stats.lp)[0] for one in (plain, loss)))


def test_padding_and_unselected_tokens_have_no_gradient(token_stats):
    stats = random_stats(token_stats)
    loss, _ = composed(select={"forks": EntropyQuantile(keep=0.2)})(stats, Counts(tokens=9, sequences=3, groups=1))
    (gradient,) = torch.autograd.grad(loss, stats.lp)
    chosen = EntropyQuantile(keep=0.2)(stats)
    assert (gradient[~chosen] == 0).all()
    assert (gradient[chosen] != 0).any()


def test_filters_must_all_agree():
    outcomes = Outcomes(
        rewards=torch.tensor([1.0, 0.0, 1.0, 1.0], dtype=torch.float64),
        unshaped=torch.tensor([1.0, 0.0, 1.0, 1.0], dtype=torch.float64),
        groups=torch.tensor([0, 0, 1, 1]),
        lengths=torch.tensor([1, 2, 3, 4]),
    )
    long = lambda outcomes: outcomes.lengths > 1  # noqa: E731
    assert composed(filters={"mixed": MixedGroupsOnly(), "long": long}).keep(outcomes).tolist() == [0, 1, 0, 0]
    assert composed().keep(outcomes).all()


def test_needs_are_the_union_of_the_pieces():
    assert composed().needs == frozenset()
    assert composed(regularisers={"bonus": EntropyBonus()}).needs == {"entropy_grad"}


def test_reads_are_the_needs_that_the_head_computes():
    """In a fixed order, and accepted whatever their parameters."""

    class Wishful:
        needs: ClassVar = frozenset({TopPEntropy(p=0.5), TopPEntropy(p=0.2), "lp_ref"})

    objective = composed(select={"wish": Wishful()})
    assert objective.reads == (TopPEntropy(p=0.2), TopPEntropy(p=0.5))
    assert objective.reference
    assert not composed(regularisers={"bonus": EntropyBonus()}).reference


def test_a_need_nobody_can_meet_is_refused():
    """A piece that wants what the forward pass does not compute is refused when the objective is built."""

    class Wishful:
        needs: ClassVar[frozenset[str]] = frozenset({"attention"})

    with pytest.raises(ValueError, match=r"needs \['attention'\]"):
        composed(weights={"wish": Wishful()})


@dataclass(frozen=True, kw_only=True)
class Thermostat:
    """Adds the distance from a target entropy to its state and hands that to the bonus."""

    target: float

    def start(self):
        return {"sum": 0.0}

    def knobs(self, state):
        return {"regularisers.bonus.coefficient": state["sum"]}

    def update(self, state, metrics):
        return {"sum": state["sum"] + self.target - metrics["entropy/mean"]}


def test_a_controller_turns_its_knob():
    """State -> knob -> a new objective; the configured one is left alone."""
    controller = Thermostat(target=1.0)
    objective = composed(regularisers={"bonus": EntropyBonus()}, controllers={"thermostat": controller})
    state = controller.update(controller.start(), {"entropy/mean": 0.75})
    assert objective.controlled({"thermostat": state}).regularisers["bonus"].coefficient == 0.25
    assert objective.regularisers["bonus"].coefficient == EntropyBonus().coefficient


def test_a_knob_that_does_not_exist_is_named():
    class Lost(Thermostat):
        def knobs(self, state):
            return {"surrogate.eps_high": 1.0}

    with pytest.raises(ValueError, match="no knob 'eps_high' in Clipped; it has eps_lo, eps_hi, dual"):
        composed(controllers={"lost": Lost(target=1.0)})


@pytest.mark.parametrize("name", ["advantage", "surrogate", "aggregate"])
def test_an_objective_without_a_part_that_it_cannot_do_without_is_refused(name):
    with pytest.raises(ValueError, match=f"{name} is a piece of learner.objective, got None"):
        composed(**{name: None})


def test_a_mark_that_nobody_makes_is_named():
    with pytest.raises(ValueError, match="TemperatureRatio reads the mark 'right_fraction', and `marks` has right"):
        composed(credit={"contrast": TemperatureRatio()}, marks={"right": Right()})


@pytest.mark.parametrize("file", ALGORITHMS, ids=lambda file: file.stem)
def test_every_algorithm_file_is_an_objective(file, token_stats):
    """Each YAML composes, gives a finite loss, and no gradient where every advantage is zero."""
    objective = objective_of(file)
    assert isinstance(objective, Objective)
    stats = with_needs(random_stats(token_stats), objective)
    loss, measures = objective(stats, Counts(tokens=9, sequences=3, groups=1))
    assert loss.isfinite()
    idle = with_needs(random_stats(token_stats), objective)
    idle, found = objective(
        dataclasses.replace(idle, mask=torch.zeros_like(idle.mask)), Counts(tokens=9, sequences=3, groups=1)
    )
    assert idle.item() == 0.0, "a rank without work adds nothing"
    assert found.keys() == measures.keys(), "and reports the same names, or metrics could not be combined"
    lp = torch.zeros(1, 2, dtype=torch.float64, requires_grad=True)
    stats = with_needs(token_stats([[1, 1]], lp=lp, lp_ref=[[0.0, 0.0]]), objective)
    if objective.teacher:  # imitation looks at no advantage: what pulls at nothing is the absence of feedback
        stats = dataclasses.replace(stats, reads={read: 0.0 * value for read, value in stats.reads.items()})
    (gradient,) = torch.autograd.grad(objective(stats, Counts(tokens=2, sequences=1, groups=1))[0], stats.lp)
    assert (gradient == 0).all()
