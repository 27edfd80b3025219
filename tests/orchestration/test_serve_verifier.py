"""`temper serve-verifier`: what it refuses before it starts, and the real thing on Ray Serve from start to end."""

import os
import signal
import socket
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import psutil
import pytest

from orchestration.cli import main

ROOT = Path(__file__).parents[2]
TOKEN = "correct-horse-battery"
CASE = {"id": 1, "verifier": "math", "response": r"\boxed{0.5}", "reference": {"answer": "1/2"}}


@pytest.fixture(autouse=True)
def no_token(monkeypatch):
    monkeypatch.delenv("TEMPER_VERIFIER_TOKEN", raising=False)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.7", "example.org"])
def test_without_a_token_only_this_machine_is_served(host, capsys):
    """A host that others can reach needs a token: exit 2, and the sentence says how to give one."""
    assert main(["serve-verifier", "--host", host]) == 2
    error = capsys.readouterr().err
    assert f"--host {host} can be reached from other machines" in error
    assert "--token-file" in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("token", "why"),
    [
        ("short", "at least 16"),
        ("has a blank in the middle", "without spaces"),
        ("ä" * 20, "ASCII"),
        ("", "at least 16"),
    ],
)
def test_a_token_that_is_none(token, why, tmp_path, capsys):
    """Too short, or not to be sent in a header: exit 2, and the token itself is not shown."""
    file = tmp_path / "token"
    file.write_text(token)
    assert main(["serve-verifier", "--token-file", str(file)]) == 2
    error = capsys.readouterr().err
    assert why in error
    assert not token or token not in error


def test_the_token_leaves_the_environment(monkeypatch, capsys):
    """No process that judges inherits it."""
    monkeypatch.setenv("TEMPER_VERIFIER_TOKEN", "short")
    assert main(["serve-verifier"]) == 2
    assert "$TEMPER_VERIFIER_TOKEN" in capsys.readouterr().err
    assert "TEMPER_VERIFIER_TOKEN" not in os.environ


@pytest.mark.parametrize(
    ("arguments", "code", "why"),
    [
        (["--token-file", "/nonexistent/token"], 2, "cannot be read"),
        (["--port", "0"], 2, "--port is between 1 and 65535, got 0"),
        (["--max-body-mib", "0"], 2, "--max-body-mib is at least 1, got 0"),
        (["sandbox=none"], 2, "reward.sandbox"),
        (
            ["--host", "no-such-host.invalid", "--token-file", "TOKEN"],
            1,
            "cannot listen at http://no-such-host.invalid",
        ),
    ],
)
def test_what_is_refused_before_anything_starts(arguments, code, why, tmp_path, capsys):
    """One sentence each, and no Ray."""
    (tmp_path / "token").write_text(TOKEN)
    given = [str(tmp_path / "token") if argument == "TOKEN" else argument for argument in arguments]
    assert main(["serve-verifier", *given]) == code
    error = capsys.readouterr().err
    assert why in error
    assert error.count("\n") == 1


def test_a_port_in_use(capsys):
    """Exit 1, naming the address and what to do."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["serve-verifier", "--port", str(port)]) == 1
    assert capsys.readouterr().err == (
        f"temper: cannot listen at http://127.0.0.1:{port}, somebody listens there already: choose another --port\n"
    )


def test_without_any_tool(monkeypatch, capsys):
    """A service that could judge nothing does not start: exit 1."""
    monkeypatch.setattr("reward.service.missing_tools", lambda config: {"math": "math-verify is not installed"})
    assert main(["serve-verifier"]) == 1
    assert "no verifier can work here: math-verify is not installed" in capsys.readouterr().err


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


@pytest.mark.slow
def test_served_by_ray(tmp_path):
    """Start, judge for many callers, refuse strangers and endless bodies, listen on loopback only, leave no trace."""
    (tmp_path / "token").write_text(TOKEN)
    port = free_port()
    command = ["serve-verifier", "--port", str(port), "--token-file", str(tmp_path / "token"), "--max-body-mib", "1"]
    process = subprocess.Popen(
        [sys.executable, "-m", "orchestration.cli", *command, "max_response_chars=1000"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        assert process.stdout.readline() == (
            f"listening at http://127.0.0.1:{port} (try http://127.0.0.1:{port}/docs), Ctrl-C ends it\n"
        )
        below = psutil.Process(process.pid).children(recursive=True)
        bearer = {"Authorization": f"Bearer {TOKEN}"}
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
            assert client.post("/v1/verify", json={"requests": [CASE]}).status_code == 401
            assert client.get("/health").json()["verifiers"]["math"] is None
            long = {**CASE, "id": "long", "response": "x" * 1001}
            answer = client.post("/v1/verify", json={"requests": [CASE, long]}, headers=bearer).json()
            assert [one["status"] for one in answer["verdicts"]] == ["scored", "resource"]
            with ThreadPoolExecutor(16) as callers:
                body = {"requests": [CASE] * 50}
                codes = callers.map(
                    lambda _: client.post("/v1/verify", json=body, headers=bearer).status_code, range(60)
                )
                assert Counter(codes) == {200: 60}
            assert 'status="scored",verifier="math"} 3001.0' in client.get("/metrics", headers=bearer).text
        assert send_without_end(port) < 256 << 20
        assert outside_ports(below) <= 1  # the replica's own, which asks for Ray's token
        below = psutil.Process(process.pid).children(recursive=True)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        assert process.wait(60) == 0
        assert process.stderr.read() == ""
        _, alive = psutil.wait_procs(below, timeout=10)
        assert alive == []
    finally:
        if process.poll() is None:
            process.kill()
        process.stdout.close()
        process.stderr.close()


def send_without_end(port: int) -> int:
    """Bytes that the service let somebody with the token send before it closed the connection."""
    sent = 0
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        head = ["POST /v1/verify HTTP/1.1", "Host: t", f"Authorization: Bearer {TOKEN}", "Transfer-Encoding: chunked"]
        connection.sendall("\r\n".join([*head, "", ""]).encode())
        try:
            while sent < 2 << 30:
                connection.sendall(b"10000\r\n" + b"x" * 65536 + b"\r\n")
                sent += 65536
        except ConnectionError:
            pass
    return sent


def outside_ports(processes: list[psutil.Process]) -> int:
    """Ports of these processes that another machine could reach."""
    listening = [
        connection.laddr.ip.removeprefix("::ffff:")
        for process in processes
        if process.is_running()
        for connection in process.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN
    ]
    assert listening
    return sum(not address.startswith("127.") for address in listening)
