"""The service over HTTP: what goes in and out, every refusal in a sentence, and limits that hold while bytes arrive."""

import asyncio
import hashlib
import json
import socket
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import httpx
import pytest
import uvicorn

import reward.sandbox
import reward.service
from reward.config import RewardConfig
from reward.errors import RewardError
from reward.http import HttpConfig, build_app
from reward.messages import Status, Verdict
from reward.verifier import VERIFIERS

TOKEN = "correct-horse-battery"
CASE = {"id": 1, "verifier": "math", "response": r"\boxed{0.5}", "reference": {"answer": "1/2"}}


def talk(
    scenario: Callable[[httpx.AsyncClient], Awaitable[Any]],
    config: RewardConfig | None = None,
    http: HttpConfig | None = None,
) -> Any:
    """Run a conversation with a fresh application."""

    async def conversation() -> Any:
        app = build_app(config or RewardConfig(), http or HttpConfig())
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=transport, base_url="http://t") as client,
        ):
            return await scenario(client)

    return asyncio.run(conversation())


def post(content: Any, *, headers: dict[str, str] | None = None, **options: Any) -> httpx.Response:
    body = {"content": content} if isinstance(content, bytes) else {"json": content}
    return talk(lambda client: client.post("/v1/verify", headers=headers, **body), **options)


def test_verdicts_in_order_under_the_ids_given():
    """Several verifiers in one call; ids keep their type; a limit is a verdict and not an error of the call."""
    cases = [
        CASE,
        {**CASE, "id": "a", "response": "no answer"},
        {**CASE, "id": "a", "response": "x" * 200},
        {**CASE, "verifier": "majority", "reference": {}, "group": "g"},
        {**CASE, "verifier": "majority", "reference": {}, "group": "g"},
    ]
    answer = post({"requests": cases}, config=RewardConfig(max_response_chars=100))
    assert answer.status_code == 200
    assert [(one["id"], one["reward"], one["status"]) for one in answer.json()["verdicts"]] == [
        (1, 1.0, "scored"),
        ("a", 0.0, "malformed"),
        ("a", 0.0, "resource"),
        (1, 1.0, "scored"),
        (1, 1.0, "scored"),
    ]


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        (b"{", "it is not JSON: EOF while parsing"),
        (b"\xff", "it is not JSON: "),
        (b"[]", "it: an object is expected, got []"),
        (b"{}", "the field requests is missing"),
        (b'{"requests": [7]}', "requests.0: an object is expected, got 7"),
        (json.dumps({"requests": [CASE, {"id": "2"}]}).encode(), "the field requests.1.verifier is missing"),
        (json.dumps({"requests": [{**CASE, "verifier": "mth"}]}).encode(), "there is no verifier mth, only composed,"),
        (json.dumps({"requests": [{**CASE, "response": "\ud800"}]}).encode(), "it is not JSON: "),
        (b'{"requests": ' + b"[" * 100_000, "it is not JSON: recursion limit exceeded"),
        (json.dumps({"requests": [CASE] * 4}).encode(), "at most 3 requests are judged in one call, got 4"),
    ],
)
def test_a_body_that_is_not_understood(body, sentence):
    """422 and one sentence that says where and why."""
    answer = post(body, http=HttpConfig(max_cases=3))
    assert answer.status_code == 422
    assert list(answer.json()) == ["error"]
    assert answer.json()["error"].startswith(sentence)
    assert "\n" not in answer.json()["error"]


def test_a_large_body_is_refused():
    """413 by its declared length, and 413 without one as soon as too much has come, however much would still come."""
    limit = HttpConfig(max_body_bytes=1000)
    assert post(b"x" * 1001, http=limit).status_code == 413
    assert post({"requests": [CASE]}, http=limit).status_code == 200
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        while sent < 1 << 20:
            sent += 300
            yield b"x" * 300

    answer = talk(lambda client: client.post("/v1/verify", content=endless()), http=limit)
    assert answer.status_code == 413
    assert answer.json()["error"] == "the body is larger than 1000 bytes: send fewer responses at once"
    assert sent <= 1200
    sent = 0
    declared = {"Content-Length": "1048576"}
    assert (
        talk(lambda client: client.post("/v1/verify", content=endless(), headers=declared), http=limit).status_code
        == 413
    )
    assert sent == 0  # refused by what it declared, before any of it was read


def test_a_body_that_does_not_come():
    """408 after the seconds allowed."""

    async def stuck() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.sleep(30)

    answer = talk(lambda client: client.post("/v1/verify", content=stuck()), http=HttpConfig(body_s=0.1))
    assert (answer.status_code, answer.json()["error"]) == (408, "the body did not arrive within 0.1 s")


@pytest.mark.parametrize("given", [None, "Bearer wrong", f"Basic {TOKEN}", f"Bearer {TOKEN}x", "Bearer ", TOKEN])
def test_without_the_token(given):
    """401 for judging and for metrics, before the body is looked at; health and the description stay open."""
    http = HttpConfig(token_sha256=hashlib.sha256(TOKEN.encode()).hexdigest(), max_body_bytes=1)
    headers = {} if given is None else {"Authorization": given}

    async def everywhere(client: httpx.AsyncClient) -> list[httpx.Response]:
        get = [await client.get(path, headers=headers) for path in ("/metrics", "/health", "/openapi.json")]
        return [await client.post("/v1/verify", content=b"too large", headers=headers), *get]

    answers = talk(everywhere, http=http)
    assert [answer.status_code for answer in answers] == [401, 401, 200, 200]
    assert answers[0].headers["WWW-Authenticate"] == "Bearer"
    assert "Authorization: Bearer" in answers[0].json()["error"]


def test_with_the_token():
    """The right one opens the door."""
    http = HttpConfig(token_sha256=hashlib.sha256(TOKEN.encode()).hexdigest())
    assert post({"requests": [CASE]}, http=http, headers={"Authorization": f"Bearer {TOKEN}"}).status_code == 200


class Controlled:
    """A verifier that waits for `go`, and fails where the response says so."""

    name = "math"
    go = threading.Event()

    def __init__(self, config: RewardConfig) -> None:
        pass

    @staticmethod
    def check(config: RewardConfig) -> None:
        raise RewardError("a tool is missing: install it")

    def verify(self, requests):
        if any(one.response == "fault" for one in requests):
            raise RewardError("the tool is gone")
        if any(one.response == "bug" for one in requests):
            raise ZeroDivisionError("oh")
        assert self.go.wait(20)
        return [Verdict(id=one.id, reward=1.0, status=Status.SCORED, seconds=0.5) for one in requests]

    def pids(self):
        return []

    def close(self):
        self.go.set()


@pytest.fixture
def controlled(monkeypatch):
    monkeypatch.setattr(Controlled, "go", threading.Event())
    monkeypatch.setattr(reward.service, "verifier_class", lambda name: Controlled)
    return Controlled.go


def requests(*responses: str) -> dict:
    return {"requests": [{**CASE, "response": response} for response in responses]}


def test_too_many_waiting(controlled):
    """503 with Retry-After at once; what was taken before is judged."""

    async def crowd(client: httpx.AsyncClient) -> tuple[httpx.Response, httpx.Response, httpx.Response]:
        first = asyncio.create_task(client.post("/v1/verify", json=requests("a")))
        await asyncio.sleep(0.1)
        second = asyncio.create_task(client.post("/v1/verify", json=requests("b", "c")))
        await asyncio.sleep(0.1)
        refused = await client.post("/v1/verify", json=requests("d"))
        controlled.set()
        return refused, await first, await second

    refused, first, second = talk(crowd, config=RewardConfig(max_waiting=2))
    assert (refused.status_code, refused.headers["Retry-After"]) == (503, "1")
    assert refused.json()["error"].startswith("2 responses wait for the verifier math")
    assert (len(first.json()["verdicts"]), len(second.json()["verdicts"])) == (1, 2)


@pytest.mark.usefixtures("controlled")
@pytest.mark.parametrize(
    ("response", "sentence"), [("fault", "the tool is gone"), ("bug", "the verifier math failed on a batch of 1")]
)
def test_a_fault_of_ours_is_no_verdict(response, sentence):
    """500 with the sentence; nobody gets a reward of 0 for it."""
    answer = post(requests(response))
    assert answer.status_code == 500
    assert answer.json()["error"].startswith(sentence)


def test_metrics(controlled):
    """Verdicts by verifier and status, seconds, refusals, what waits and what is at work."""

    async def look(client: httpx.AsyncClient) -> tuple[str, str]:
        first = asyncio.create_task(client.post("/v1/verify", json=requests("a", "b")))
        await asyncio.sleep(0.1)
        second = asyncio.create_task(client.post("/v1/verify", json=requests("c")))
        await asyncio.sleep(0.1)
        during = (await client.get("/metrics")).text
        controlled.set()
        await asyncio.gather(first, second)
        await client.post("/v1/verify", content=b"{")
        return during, (await client.get("/metrics")).text

    during, after = talk(look)
    assert 'temper_busy{verifier="math"} 2.0' in during
    assert 'temper_waiting{verifier="math"} 1.0' in during
    assert 'temper_verdicts_total{status="scored",verifier="math"} 3.0' in after
    assert 'temper_verdict_seconds_sum{verifier="math"} 1.5' in after
    assert 'temper_verdict_seconds_bucket{le="0.3",verifier="math"} 0.0' in after
    assert 'temper_refusals_total{code="422"} 1.0' in after
    assert 'temper_busy{verifier="math"} 0.0' in after


def test_health_names_what_is_there():
    """Isolation in force and every verifier, null where it can work."""
    health = talk(lambda client: client.get("/health"), config=RewardConfig(sandbox="unsafe")).json()
    assert health["isolation"].startswith("UNSAFE")
    assert set(health["verifiers"]) == set(VERIFIERS)
    assert health["verifiers"]["math"] is None
    assert health["status"] == "ok"


@pytest.mark.usefixtures("controlled")
def test_health_names_what_is_missing(monkeypatch):
    """Without any tool: degraded, and the sentence that says how to get each; without bubblewrap: no isolation."""
    monkeypatch.setenv("PATH", "/nonexistent")
    reward.sandbox.bubblewrap_prefixes.cache_clear()
    health = talk(lambda client: client.get("/health")).json()
    reward.sandbox.bubblewrap_prefixes.cache_clear()
    assert health["status"] == "degraded"
    assert health["isolation"].startswith("none: bubblewrap")
    assert set(health["verifiers"].values()) == {"a tool is missing: install it"}


def test_the_description_is_complete():
    """OpenAPI knows the body, with examples, every error, and the token; nothing it refers to is missing."""
    described = talk(lambda client: client.get("/openapi.json")).json()
    operation = described["paths"]["/v1/verify"]["post"]
    body = operation["requestBody"]["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
    schemas = described["components"]["schemas"]
    assert "requests" in schemas[body]["properties"]
    assert schemas["Case"]["examples"][0]["verifier"] == "math"
    assert {"200", "401", "408", "413", "422", "500", "503"} <= set(operation["responses"])
    assert operation["security"] == [{"HTTPBearer": []}]
    text = json.dumps(described)
    referred = {piece.partition('"')[0] for piece in text.split("#/components/schemas/")[1:]}
    assert referred <= set(schemas)
    example = schemas["Case"]["examples"][0]
    assert post({"requests": [example]}).json()["verdicts"][0]["reward"] == 1.0


def test_elsewhere_is_a_sentence_too():
    """404 and 405 are JSON like everything else; the page for people is there."""

    async def wander(client: httpx.AsyncClient) -> list[httpx.Response]:
        return [await client.get(path) for path in ("/nowhere", "/v1/verify", "/docs")]

    lost, wrong_method, docs = talk(wander)
    assert (lost.status_code, wrong_method.status_code, docs.status_code) == (404, 405, 200)
    assert lost.json() == {"error": "there is no GET /nowhere here: see /docs"}


def test_over_a_real_socket():
    """uvicorn in front: verdicts come, and a sender without end is cut off after little more than the limit."""
    app = build_app(RewardConfig(), HttpConfig(max_body_bytes=1 << 20))
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="error", ws="none"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        deadline = time.monotonic() + 20
        while not server.started and time.monotonic() < deadline:
            time.sleep(0.02)
        port = server.servers[0].sockets[0].getsockname()[1]
        answer = httpx.post(f"http://127.0.0.1:{port}/v1/verify", json={"requests": [CASE]}, timeout=30)
        assert answer.json()["verdicts"][0]["reward"] == 1.0
        sent = 0
        with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
            connection.sendall(b"POST /v1/verify HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n")
            try:
                while sent < 1 << 30:
                    connection.sendall(b"10000\r\n" + b"x" * 65536 + b"\r\n")
                    sent += 65536
            except ConnectionError:
                pass
        assert sent < 64 << 20  # what fits into the buffers of the sockets comes on top of the limit
    finally:
        server.should_exit = True
        thread.join(20)
    assert not thread.is_alive()
