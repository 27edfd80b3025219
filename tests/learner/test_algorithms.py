"""Every file in conf/algorithm, in the learner itself: two real steps, and the batches that have nothing to teach."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from learner.config import LearnerConfig
from learner.messages import TrainBatch
from learner.objective import Objective
from learner.worker import LearnerWorker

CONF = Path(__file__).parents[2] / "conf"
NAMES = sorted(path.stem for path in (CONF / "algorithm").glob("*.yaml"))


def objective_of(name: str) -> Objective:
    """With the temperature and the strategy that it asks for, which it may refer to."""
    temperature = "learned" if name == "introllm" else "fixed"
    strategy = "second_rollout" if name == "aepo" else "none"
    files = {"temperature": temperature, "strategy": strategy, "algorithm": name}
    run = OmegaConf.create({group: OmegaConf.load(CONF / group / f"{file}.yaml") for group, file in files.items()})
    return instantiate(run.algorithm, _convert_="all")


@pytest.fixture
def start(model_path, free_port):
    def start(name: str, **changes) -> LearnerWorker:
        config = LearnerConfig(**({"lr": 1e-3, "mismatch_kl_limit": 1e9} | changes))
        return LearnerWorker(model_path, config, objective_of(name), 0, 1, "127.0.0.1", free_port, 0, 10)

    return start


@pytest.mark.parametrize("name", NAMES)
def test_every_algorithm_learns(
    name, start, make_batch, make_sample, with_actions, with_feedback, truncated, with_context
):
    """A group of one, responses of one token, then real batches in two minibatches: finite, and the weights move."""
    worker = start(name, minibatches=2, micro_batch_tokens=60)
    before = [parameter.detach().clone() for parameter in worker.policy.parameters()]
    rng = np.random.default_rng(0)
    single = [make_sample(rng, group, [3, 4], [5 + group], float(group == 0)) for group in (0, 1, 1)]
    batches = [TrainBatch(step=0, samples=tuple(single[:1])), TrainBatch(step=1, samples=tuple(single))]
    for step in (2, 3):
        batch = make_batch(seed=step, step=step, groups=6, rewards=[1, 0, 0, 1] * 6)
        batches.append(with_context(truncated(batch)))
    for batch in batches:
        metrics = worker.train(with_feedback(with_actions(batch))).metrics
        assert all(np.isfinite(value) for value in metrics.values()), metrics
    assert any(not torch.equal(*pair) for pair in zip(before, worker.policy.parameters(), strict=True))


@pytest.mark.parametrize("name", NAMES)
def test_groups_that_agree_pull_at_nothing(name, start, make_batch, with_actions):
    """All right, or all wrong: no policy gradient. What regularises may act, and is switched off here."""
    worker = start(name)
    worker.objective = dataclasses.replace(worker.objective, regularisers={}, controllers={})
    for step, reward in enumerate((0.0, 1.0)):
        metrics = worker.train(with_actions(make_batch(step=step, groups=2, rewards=[reward] * 8))).metrics
        assert metrics["train/grad_norm"] == 0.0


@pytest.mark.parametrize("name", NAMES)
def test_the_page_of_algorithms_names_every_file(name):
    """With the paper and the grade of its header, and a test that exists."""
    header = " ".join(line for line in (CONF / "algorithm" / f"{name}.yaml").read_text().splitlines() if line[0] == "#")
    page = (CONF.parent / "docs" / "algorithms.md").read_text(encoding="utf-8")
    (row,) = [line for line in page.splitlines() if line.startswith(f"| `{name}` |")]
    _, _, _, paper, grade, test, _ = (cell.strip() for cell in row.split("|"))
    assert f"arXiv:{paper}" in header
    assert f"Evidence {grade}" in header
    assert (CONF.parent / "tests" / "learner" / test.strip("`")).is_file()
