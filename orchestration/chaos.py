"""Chaos: kill -9 of a run's own processes at random, to see that the run survives what it says it survives.

    temper train experiment=quickstart chaos=default

Every kill is noted in the run's chaos.jsonl before it is done, so that kills are counted over restarts of the driver.
"""

import asyncio
import json
import logging
import os
import random
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

log = logging.getLogger(__name__)

DRIVER = "driver"
KINDS = ("rollout", "verifier", "learner", DRIVER)
FILE = "chaos.jsonl"


class Victim(Protocol):
    """What chaos wants of an actor; orchestration.on_ray.actor.Service is one."""

    def kill_process(self) -> None: ...


@dataclass(frozen=True, kw_only=True)
class ChaosConfig:
    """`every_s` is the mean time between kills, exponentially distributed; 0 is never."""

    every_s: float = 0.0
    kills: int = 200  # in all, over restarts of the driver
    victims: tuple[str, ...] = KINDS  # each kind is equally likely, whatever its number of processes
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "victims", tuple(self.victims))  # YAML knows lists only
        if self.every_s < 0 or self.kills < 0:
            raise ValueError(f"chaos.every_s and chaos.kills are at least 0, got {self.every_s} and {self.kills}")
        if not self.victims or not set(self.victims) <= set(KINDS):
            raise ValueError(f"chaos.victims are some of {', '.join(KINDS)}, got {list(self.victims)}")


def kills_so_far(folder: Path) -> int:
    """Over all starts of the run in `folder`."""
    return len((folder / FILE).read_text().splitlines()) if (folder / FILE).exists() else 0


async def chaos(config: ChaosConfig, folder: Path, alive: Callable[[], Mapping[str, Victim]]) -> None:
    """Kill until `config.kills` are done; `alive` gives the run's present actors by name, `<kind>-<number>`."""
    done = kills_so_far(folder)
    rng = random.Random(f"{config.seed}/{done}")  # another sequence after each restart
    while done < config.kills:
        await asyncio.sleep(rng.expovariate(1.0 / config.every_s))
        kind = rng.choice(config.victims)
        names = [DRIVER] if kind == DRIVER else sorted(name for name in alive() if name.rpartition("-")[0] == kind)
        if not names:  # it is just being replaced
            continue
        victim = rng.choice(names)
        done += 1
        with (folder / FILE).open("a") as notes:
            notes.write(json.dumps({"time": time.time(), "victim": victim}) + "\n")
        log.warning("chaos: kill %d of %d, %s", done, config.kills, victim)
        if victim == DRIVER:
            os.kill(os.getpid(), signal.SIGKILL)
        alive()[victim].kill_process()
