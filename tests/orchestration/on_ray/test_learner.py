"""The learner behind its Ray actors, with actors that are played: whose turn it is, and what a save waits for."""

import asyncio
from pathlib import Path
from types import SimpleNamespace

import pytest

from orchestration.errors import CheckpointError, WorkerFailure
from orchestration.on_ray.learner import RayLearner


class Rank:
    """An actor that notes what is asked of it, and writes until it is told that it has."""

    def __init__(self, number: int, asked: list[str]) -> None:
        self.name, self.host = f"learner-{number}", "the host"
        self.asked = asked
        self.answer: asyncio.Future[dict[str, int]] = asyncio.get_running_loop().create_future()

    async def call(self, method: str, *arguments: object, deadline_s: float) -> object:
        if self.name == "learner-0":
            self.asked.append(method)
        await asyncio.sleep(0)
        return await self.answer if method == "finish_save" else (0, [])


def learner_of(ranks: int) -> tuple[RayLearner, list[Rank], list[str]]:
    asked: list[str] = []
    config = SimpleNamespace(step_deadline_s=10.0)
    learner = RayLearner(SimpleNamespace(plan=SimpleNamespace(learner=config)))
    learner._ranks = [Rank(number, asked) for number in range(ranks)]
    return learner, learner._ranks, asked


def test_steps_are_taken_while_a_checkpoint_is_written(tmp_path: Path) -> None:
    """The save comes first, where it was asked for first, and answers when every rank has written."""

    async def run() -> None:
        learner, ranks, asked = learner_of(2)
        save = asyncio.create_task(learner.save(tmp_path))
        scored = [asyncio.create_task(learner.score([])) for _ in range(2)]
        _, late = await asyncio.wait(scored, timeout=5)
        assert not late
        assert asked[0] == "begin_save"
        assert sorted(asked[1:]) == ["finish_save", "score", "score"]
        ranks[0].answer.set_result({})
        await asyncio.sleep(0.01)
        assert not save.done()
        ranks[1].answer.set_result({})
        await asyncio.wait_for(save, 5)

    asyncio.run(run())


def test_a_rank_that_failed_is_told_when_nobody_writes_any_more(tmp_path: Path) -> None:
    """Only then may the folder go."""

    async def run() -> None:
        learner, ranks, _ = learner_of(2)
        save = asyncio.create_task(learner.save(tmp_path))
        await asyncio.sleep(0.01)
        ranks[0].answer.set_exception(WorkerFailure("the disk is full", worker="learner-0", died=False))
        await asyncio.sleep(0.01)
        assert not save.done()
        ranks[1].answer.set_result({})
        with pytest.raises(WorkerFailure, match="the disk is full"):
            await asyncio.wait_for(save, 5)

    asyncio.run(run())


@pytest.mark.parametrize(("there", "found"), [(None, "none"), (b"12", "2")])
def test_files_that_the_driver_does_not_see_are_no_checkpoint(tmp_path: Path, there: bytes | None, found: str) -> None:
    """As where run.dir is each host's own disk; a file that has not arrived whole is none either."""
    file = tmp_path / "trained.safetensors"
    if there is not None:
        file.write_bytes(there)

    async def run() -> None:
        learner, ranks, _ = learner_of(1)
        ranks[0].answer.set_result({str(file): 1_000})
        with pytest.raises(
            CheckpointError,
            match=rf"learner-0 on the host wrote 1,000 bytes to {file}, .* finds {found}: set run.dir",
        ):
            await learner.save(tmp_path)

    asyncio.run(run())
