"""The quickstart over six hosts, one of which is cut off and comes back, and one is killed: is all trained, and once?

    sudo .venv/bin/python scripts/multi_host.py /tmp/hosts --transport broadcast

    switch --+-- head         10.77.0.1   the driver, and nothing else
             +-- rollout-a    10.77.0.2   an engine: its link goes down, and later up again
             +-- rollout-b    10.77.0.3   an engine: all its processes are killed, and it stays away
             +-- learner-a    10.77.0.4   a rank of the learner
             +-- learner-b    10.77.0.5   the other rank
             +-- verifier     10.77.0.6   the verifiers

A host is a set of Linux namespaces: network, host name, processes, /dev/shm and /tmp/ray are its own. Code, model and
run folder are shared, as they are on a cluster. Each runs a real `ray start --block`, again whenever it ends, as a
service manager would. A link that is down loses packets and tells nobody, as a pulled cable does. Needs root and `ip`.

First the run is left alone, then it is disturbed. Prints Markdown for docs/benchmarks.md; exit code 1 if anything is
wrong. When this process ends, however it does, the kernel ends all hosts and what runs on them.
"""

import argparse
import json
import os
import re
import shlex
import shutil
import sqlite3
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import psutil

NETWORK, PORT = "10.77.0", 6379
ROLES = {  # host -> its label, and CPUs
    "head": ("head", 0),
    "rollout-a": ("rollout", 1),
    "rollout-b": ("rollout", 1),
    "learner-a": ("learner", 1),
    "learner-b": ("learner", 1),
    "verifier": ("verifier", 1),
}
CUT, KILLED = "rollout-a", "rollout-b"
TRAIN = (
    *("experiment=quickstart", "run.groups_per_step=8", "run.group_size=8", "rollout.workers=2", "learner.ranks=2"),
    *("cluster=ray", f"cluster.address={NETWORK}.1:{PORT}", "cluster.learner_placement=STRICT_SPREAD"),
    *("cluster.node_labels.rollout.role=rollout", "cluster.node_labels.learner.role=learner"),
    *("cluster.node_labels.verifier.role=verifier", "rollout.health_every_s=5", "rollout.health_deadline_s=15"),
    *("eval.every=0", "eval.at_start=false", "eval.at_end=false", "monitor=quiet"),
)
MARK = "TEMPER_HOSTS"  # in the environment of all processes of the hosts
HOST_S = 300.0  # for a host to be there, or gone
CHANGE_S = 300.0  # for the run to notice a change, or to deal with it
RUN_S = 1800.0
LOOK_S = 0.2

INIT = """
set -e
hostname {name}
mkdir -p /tmp/ray
mount -t tmpfs tmpfs /dev/shm
mount -t tmpfs tmpfs /tmp/ray
mount --bind {names} /etc/hosts
ip link set lo up
echo ready
while :; do sleep 3600; done
"""
SERVICE = "while :; do {start} </dev/null; sleep 2; done"  # a service manager, of one service


def obstacle() -> str | None:
    """Why hosts cannot be made here, if so."""
    if os.geteuid() != 0:
        return "namespaces with a network of their own need root"
    missing = [program for program in ("ip", "unshare", "nsenter", "setpriv", "mount") if not shutil.which(program)]
    return f"there is no {' and no '.join(missing)}" if missing else None


@dataclass(frozen=True)
class Host:
    """`pid`: of the first process of its namespaces, as seen from here; all its others end with it."""

    name: str
    address: str
    pid: int
    environment: Mapping[str, str]
    console: Path

    def run(self, *command: str, console: Path) -> subprocess.Popen:
        inside = ("nsenter", "-t", str(self.pid), "-m", "-u", "-i", "-n", "-p", f"--wd={Path.cwd()}")
        with console.open("a") as output:
            return subprocess.Popen([*inside, *command], stdout=output, stderr=output, env={**self.environment})

    def ip(self, *arguments: str) -> None:
        subprocess.run(["nsenter", "-t", str(self.pid), "-n", "ip", *arguments], check=True)

    def kill(self) -> None:
        """kill -9 of everything on it."""
        psutil.Process(self.pid).kill()


@contextmanager
def namespaces(name: str, address: str, environment: Mapping[str, str], folder: Path) -> Iterator[Host]:
    """A host without a link."""
    isolated = ("unshare", "--net", "--uts", "--mount", "--pid", "--ipc", "--mount-proc", "--fork", "--kill-child")
    command = [
        "setpriv",
        "--pdeathsig",
        "KILL",
        *isolated,
        "bash",
        "-c",
        INIT.format(name=name, names=folder / "hosts"),
    ]
    console = folder / f"{name}.console"
    with (
        console.open("a") as errors,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, env={**environment}) as process,
    ):
        try:
            if process.stdout.readline() != "ready\n":
                raise RuntimeError(f"the namespaces of {name} cannot be made: see {console}")
            yield Host(name, address, psutil.Process(process.pid).children()[0].pid, environment, console)
        finally:
            process.kill()


@dataclass(frozen=True)
class Lan:
    """Hosts on one switch."""

    switch: Host
    hosts: Mapping[str, Host]

    def link(self, name: str, state: str) -> None:
        """`up` or `down`."""
        self.switch.ip("link", "set", name, state)

    def plug_in(self, host: Host) -> None:
        peer = ("peer", "name", "eth0", "address", hardware(host), "netns", str(host.pid))
        self.switch.ip("link", "add", host.name, "type", "veth", *peer)
        self.switch.ip("link", "set", host.name, "master", "switch", "up")
        host.ip("address", "add", f"{host.address}/24", "dev", "eth0")
        host.ip("link", "set", "eth0", "up")
        # Otherwise the kernel looks for a host that is cut off, and tells who sends that there is none.
        for other in self.hosts.values():
            host.ip("neighbor", "replace", other.address, "lladdr", hardware(other), "dev", "eth0", "nud", "permanent")


def hardware(host: Host) -> str:
    """Its Ethernet address."""
    return f"02:00:00:00:00:{int(host.address.rpartition('.')[2]):02x}"


@contextmanager
def lan(folder: Path) -> Iterator[Lan]:
    """All hosts, with Ray on them; their consoles are in `folder`. Nothing of them is left behind it."""
    mark = uuid.uuid4().hex
    environment = {**os.environ, MARK: mark, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": uuid.uuid4().hex}
    addresses = {name: f"{NETWORK}.{number}" for number, name in enumerate(ROLES, start=1)}
    lines = ["127.0.0.1 localhost", *(f"{address} {name}" for name, address in addresses.items())]
    folder.mkdir(parents=True)
    (folder / "hosts").write_text("\n".join(lines) + "\n")
    services: list[subprocess.Popen] = []
    with ExitStack() as stack:
        stack.callback(until, lambda: not processes(mark), "all processes of the hosts are gone", HOST_S)
        stack.callback(lambda: [service.wait() for service in services])
        made = Lan(
            stack.enter_context(namespaces("switch", "", environment, folder)),
            {name: stack.enter_context(namespaces(name, at, environment, folder)) for name, at in addresses.items()},
        )
        made.switch.ip("link", "add", "switch", "type", "bridge")
        made.switch.ip("link", "set", "switch", "up")
        for host in made.hosts.values():
            made.plug_in(host)
            services.append(host.run("bash", "-c", SERVICE.format(start=ray_start(host)), console=host.console))
            # One after the other: all at once take longer on few cores than the 30 s that Ray gives each.
            until(partial(has_ray, host), f"Ray is up on {host.name}", HOST_S)
        yield made


def ray_start(host: Host) -> str:
    role, cpus = ROLES[host.name]
    joins = (f"--address={NETWORK}.1:{PORT}",)
    return shlex.join(
        (
            *(sys.executable, "-m", "ray.scripts.scripts", "start", "--block", f"--node-ip-address={host.address}"),
            *(("--head", f"--port={PORT}", "--include-dashboard=false") if role == "head" else joins),
            *(f"--num-cpus={cpus}", f"--labels=role={role}", f"--object-store-memory={128 * 2**20}"),
            "--disable-usage-stats",
        )
    )


def has_ray(host: Host) -> bool:
    return "Ray runtime started" in host.console.read_text()


def processes(mark: str) -> list[psutil.Process]:
    """Those of the hosts of one `lan`."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == mark:
                found.append(process)
        except psutil.Error:
            continue  # it ended, or is a zombie
    return found


def until(done: Callable[[], bool], what: str, deadline_s: float, run: subprocess.Popen | None = None) -> float:
    """Seconds until it was so. Raises RuntimeError where it does not come."""
    began = time.monotonic()
    while not done():
        waited_s = time.monotonic() - began
        if run is not None and run.poll() is not None:
            raise RuntimeError(f"the run ended with exit code {run.returncode} before this: {what} (more --steps?)")
        if waited_s > deadline_s:
            raise RuntimeError(f"waited {waited_s:.0f} s for this: {what}")
        time.sleep(LOOK_S)
    return time.monotonic() - began


@dataclass
class Seen:
    """What can be seen of a run from outside, in its folder."""

    folder: Path
    seconds: dict[str, float] = field(default_factory=dict)  # what was waited for -> how long
    minutes: float = 0.0
    exit_code: int | None = None

    def places(self) -> list[tuple[str, str, str]]:
        """(role, actor, host) of all that have started, in order."""
        log = self.folder / "logs" / "driver.log"
        lines = log.read_text() if log.exists() else ""
        return [
            (role, name, host) for name, role, host in re.findall(r"((\w+)-\d+) is up, process \d+ on (\S+)", lines)
        ]

    def engine_on(self, host: str) -> str | None:
        """The one that started there last."""
        engines = [name for role, name, place in self.places() if (role, place) == ("rollout", host)]
        return engines[-1] if engines else None

    def lost(self, engine: str) -> bool:
        """Whether the run has given this engine up."""
        return any(row["text"].startswith(f"{engine} died") for row in self._rows("events.jsonl"))

    def steps(self) -> list[dict]:
        return [row for row in self._rows("metrics.jsonl") if "train/loss" in row]

    def draws(self, engine: str | None) -> bool:
        """Whether it gave responses to the last step."""
        steps = self.steps()
        return bool(steps and steps[-1].get(f"rollout/{engine}/tokens_per_s"))

    def trained_groups(self) -> int:
        with sqlite3.connect(f"file:{self.folder / 'journal.sqlite'}?mode=ro", uri=True) as journal:
            return journal.execute("SELECT count(*) FROM groups WHERE state = 'trained'").fetchone()[0]

    def faults(self) -> list[str]:
        """Sentences of scripts/check_run.py."""
        command = [sys.executable, str(Path(__file__).with_name("check_run.py")), str(self.folder)]
        checked = subprocess.run(command, capture_output=True, text=True, check=False)
        return [line for line in checked.stdout.splitlines() if line.startswith("WRONG")] + checked.stderr.splitlines()

    def _rows(self, name: str) -> list[dict]:
        file = self.folder / name
        written = file.read_text() if file.exists() else ""
        return [json.loads(line) for line in written.splitlines(keepends=True) if line.endswith("\n")]


Disturbance = Callable[[Lan, Seen, subprocess.Popen], None]


def train(net: Lan, folder: Path, overrides: Sequence[str], disturbance: Disturbance | None = None) -> Seen:
    """One run, driven from the head."""
    seen, began = Seen(folder), time.monotonic()
    command = (sys.executable, "-m", "orchestration.cli", "train", *TRAIN, f"run.dir={folder}", *overrides)
    run = net.hosts["head"].run(*command, console=folder.with_suffix(".console"))
    try:
        if disturbance is not None:
            disturbance(net, seen, run)
        seen.exit_code = run.wait(timeout=RUN_S)
    finally:
        run.kill()
        run.wait()
    seen.minutes = (time.monotonic() - began) / 60
    return seen


def disturb(net: Lan, seen: Seen, run: subprocess.Popen, cut_s: float) -> None:
    """Cut one host off for at least `cut_s` and let it come back; then kill the other."""

    def wait(what: str, done: Callable[[], bool]) -> None:
        seen.seconds[what] = until(done, what, CHANGE_S, run)

    until(lambda: seen.draws(seen.engine_on(CUT)) and seen.draws(seen.engine_on(KILLED)), "both draw", RUN_S, run)
    cut, killed = seen.engine_on(CUT), seen.engine_on(KILLED)
    net.link(CUT, "down")
    began = time.monotonic()
    wait("from link down until its engine is given up", lambda: seen.lost(cut))
    steps = len(seen.steps())
    wait("from then until three more steps are trained", lambda: len(seen.steps()) >= steps + 3)
    time.sleep(max(0.0, began + cut_s - time.monotonic()))
    net.link(CUT, "up")
    wait("from link up until an engine starts there again", lambda: seen.engine_on(CUT) != cut)
    wait("from then until it gives responses", lambda: seen.draws(seen.engine_on(CUT)))
    net.hosts[KILLED].kill()
    wait("from the kill until its engine is given up", lambda: seen.lost(killed))


def compare(folder: Path, overrides: Sequence[str], cut_s: float) -> tuple[Seen, Seen]:
    """The run left alone, and the run disturbed, on the same hosts."""
    with lan(folder) as net:
        alone = train(net, folder / "alone", overrides)
        return alone, train(net, folder / "disturbed", overrides, partial(disturb, cut_s=cut_s))


def table(alone: Seen, disturbed: Seen) -> str:
    rows = [
        ("exit code", alone.exit_code, disturbed.exit_code),
        ("trained groups", alone.trained_groups(), disturbed.trained_groups()),
        ("minutes", f"{alone.minutes:.1f}", f"{disturbed.minutes:.1f}"),
        *((what, "", f"{seconds:.0f} s") for what, seconds in disturbed.seconds.items()),
    ]
    lines = ["| | left alone | disturbed |", "| --- | --- | --- |"]
    return "\n".join(lines + [f"| {' | '.join(map(str, row))} |" for row in rows])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="a new one")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--cut-s", type=float, default=0.0, help="the link is down for at least so long")
    parser.add_argument("--transport", choices=("shared_memory", "shared_files", "broadcast"), default="broadcast")
    parser.add_argument("overrides", nargs="*")
    chosen = parser.parse_args()
    if why := obstacle():
        sys.stderr.write(f"multi_host.py cannot run here: {why}\n")
        return 2
    options = [f"run.steps={chosen.steps}", f"rollout.transport={chosen.transport}", *chosen.overrides]
    alone, disturbed = compare(chosen.folder.absolute(), options, chosen.cut_s)
    print(table(alone, disturbed))
    wrong = [f"{seen.folder.name}: {fault}" for seen in (alone, disturbed) for fault in seen.faults()]
    for sentence in wrong:
        print(sentence)
    same = alone.trained_groups() == disturbed.trained_groups()
    return 0 if same and not wrong and alone.exit_code == disturbed.exit_code == 0 else 1


if __name__ == "__main__":
    sys.exit(main())
