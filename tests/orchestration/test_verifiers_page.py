"""docs/verifiers.md keeps its word: its examples run and give what it says."""

import asyncio
import json
import re
import subprocess
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

import httpx
import pytest

from orchestration.reward_options import reward_config
from reward import verifier
from reward.config import RewardConfig
from reward.http import HttpConfig, build_app
from reward.messages import Status, VerifyRequest
from reward.sandbox import bubblewrap_prefixes
from reward.service import VerifierPool

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "verifiers.md").read_text(encoding="utf-8")
BLOCKS: list[tuple[str, str]] = re.findall(r"^```(\w+)\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)


def blocks(language: str) -> list[str]:
    return [text for kind, text in BLOCKS if kind == language]


def shown(verdicts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: verdict[key] for key in ("id", "reward", "status")} for verdict in verdicts]


def test_the_cases_get_the_verdicts_shown(tmp_path):
    """The file of the page, judged by the command of the page."""
    cases, verdicts = blocks("jsonl")
    file = tmp_path / "cases.jsonl"
    file.write_text(cases)
    command = [sys.executable, "-m", "orchestration.cli", "verify", str(file)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    given = [json.loads(line) for line in done.stdout.splitlines()]
    assert shown(given) == [json.loads(line) for line in verdicts.splitlines()]


def test_the_call_gets_the_answer_shown():
    """The body that curl sends, posted to the application."""
    (call,), (answer,) = blocks("sh"), blocks("json")
    body = re.search(r"-d '(.*)'", call, re.DOTALL).group(1)

    async def post() -> list[dict[str, Any]]:
        app = build_app(RewardConfig(), HttpConfig())
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://t") as client,
        ):
            return (await client.post("/v1/verify", content=body)).json()["verdicts"]

    assert shown(asyncio.run(post())) == json.loads(answer)["verdicts"]


def test_the_program_runs():
    """As it stands, in a fresh interpreter."""
    program = blocks("python")[0]
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.stdout.startswith("1.0 {'scored': 1,"), done.stderr


@pytest.mark.parametrize("line", re.findall(r"^    temper (?:verify|serve-verifier) .*=.*$", PAGE, re.MULTILINE))
def test_the_settings_exist(line):
    """Every key=value of the page is one, and the values go together."""
    overrides = [word for word in line.split() if re.match(r"[\w.]+=", word)]
    reward_config(Namespace(workers=1, overrides=overrides))


def test_every_verifier_is_on_the_page():
    """The table has a row for each name that can be asked for, and no other."""
    table = PAGE[PAGE.index("## The verifiers") : PAGE.index("### The Verilog ladder")]
    assert sorted(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)) == verifier.known_verifiers()


def test_every_status_is_on_the_page():
    """So is each status."""
    assert re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE)[:5] == [
        "scored",
        "malformed",
        "timeout",
        "resource",
        "error",
    ]
    assert len(Status) == 5


def test_your_own_verifier(tmp_path, monkeypatch):
    """The class of the page under the line of the page: registered, checked, asked through the pool."""
    _, source, line = blocks("python")
    name, target = re.fullmatch(r'\s*"(\w+)": "reward\.(\w+:\w+)",\s*', line).groups()
    (tmp_path / f"{target.partition(':')[0]}.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(verifier.VERIFIERS, name, target)

    async def ask() -> list[tuple[float, str]]:
        pool = VerifierPool(RewardConfig())
        reference = {"fields": ["name", "age"]}
        answers = ['<think>so</think>{"name": 1}', '{"name": 1, "age": 2}', "[]", "[" * 100_000, "{"]
        requests = [VerifyRequest(id="1", verifier=name, response=one, reference=reference) for one in answers]
        requests.append(VerifyRequest(id="1", verifier=name, response="{}", reference={}))
        verdicts = await pool.verify(requests)
        await pool.close()
        return [(verdict.reward, verdict.status.value) for verdict in verdicts]

    assert asyncio.run(ask()) == [
        (0.5, "scored"),
        (1.0, "scored"),
        (0.0, "malformed"),
        (0.0, "malformed"),
        (0.0, "malformed"),
        (0.0, "error"),
    ]


def test_the_isolation_is_the_one_promised():
    """The page says no network, read-only system, private process table: the sandbox's command does that."""
    assert all({"--unshare-all", "--ro-bind", "--tmpfs", "--proc"} <= set(prefix) for prefix in bubblewrap_prefixes())
