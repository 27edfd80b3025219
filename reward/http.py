"""The verifier service over HTTP: JSON in, verdicts out, the same pool as everywhere. No Ray here: an ASGI application.

    POST /v1/verify --token? size? JSON?--> VerifierPool, without waiting for room --> verdicts
    GET  /health  /metrics  /openapi.json  /docs

Every error is {"error": one sentence}. The body is counted while it arrives, so that no declared or missing
Content-Length makes the service hold more than `max_body_bytes` of it; the token is checked before the body is read.
"""

import asyncio
import contextlib
import hashlib
import hmac
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.openapi.utils import get_openapi
from fastapi.responses import JSONResponse, PlainTextResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel, Field, ValidationError
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.requests import ClientDisconnect

from reward.config import RewardConfig
from reward.errors import NoRoom, RewardError
from reward.messages import Verdict
from reward.sandbox import Sandbox
from reward.service import VerifierPool, missing_tools
from reward.telemetry import ServiceMetrics
from reward.wire import Case, Outcome, outcome, sentence

HEALTH_S = 30.0  # what /health says is at most this old: it starts tools to find out


@dataclass(frozen=True, kw_only=True)
class HttpConfig:
    """Limits of the HTTP service.

    max_body_bytes  of one request; a larger one is refused while it arrives
    max_cases       responses in one request
    body_s          seconds in which a request's body must have arrived
    retry_after_s   what a caller is told when too many responses wait
    token_sha256    hex digest of the bearer token that callers must give; None: no token is asked for
    """

    max_body_bytes: int = 16 << 20
    max_cases: int = 4096
    body_s: float = 60.0
    retry_after_s: int = 1
    token_sha256: str | None = None

    def __post_init__(self) -> None:
        for name in ("max_body_bytes", "max_cases", "body_s", "retry_after_s"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} is above 0, got {getattr(self, name)}")


class VerifyCall(BaseModel):
    """Responses to judge. They may name different verifiers."""

    requests: list[Case] = Field(description="Judged side by side; the verdicts come back in this order.")


class Verdicts(BaseModel):
    """One verdict per request, in their order."""

    verdicts: list[Outcome]


class Problem(BaseModel):
    """Why there is no answer, in one sentence."""

    error: str


class Health(BaseModel):
    """What the service can do now."""

    status: str = Field(description="ok, or degraded where no verifier can work.", examples=["ok"])
    isolation: str = Field(
        description="How responses that run as programs are isolated.",
        examples=["bubblewrap: no network, read-only /usr, private /tmp and process table, user nobody"],
    )
    verifiers: dict[str, str | None] = Field(
        description="Every verifier, with what it lacks here; null where it works.", examples=[{"math": None}]
    )


PROBLEMS = {
    401: "No or a wrong bearer token.",
    408: "The body did not arrive in time.",
    413: "The body is too large.",
    422: "The request is not understood: not JSON, a field missing or of a wrong type, an unknown verifier.",
    500: "A fault of the service: a tool is missing, or a verifier failed.",
    503: "Too many responses wait. Ask again after the seconds in Retry-After.",
}


def build_app(config: RewardConfig, http: HttpConfig) -> FastAPI:
    """The application with a pool of its own, which ends with it."""
    pool = VerifierPool(config)
    metrics = ServiceMetrics()
    health = HealthProbe(config)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await pool.close()

    app = FastAPI(
        title="Temper verifier service",
        description="Judges responses of language models: mathematics, Verilog, and more.",
        version="1",
        lifespan=lifespan,
    )
    app.state.pool = pool
    answer_in_sentences(app, http, metrics)
    guarded = [Depends(token_check(http.token_sha256))]

    @app.post(
        "/v1/verify",
        summary="Judge responses",
        response_model=Verdicts,
        responses={code: {"model": Problem, "description": text} for code, text in PROBLEMS.items()},
        dependencies=guarded,
    )
    async def verify(request: Request) -> JSONResponse:
        """One verdict per request, in order. A timeout or a limit is a verdict, not an error of this call."""
        call = read_call(await read_body(request, http), http)
        verdicts = await pool.verify([case.request() for case in call.requests], wait=False)
        metrics.judged((case.verifier for case in call.requests), verdicts)
        return JSONResponse(content={"verdicts": outcomes(call, verdicts)})

    @app.get("/health", summary="What can be judged here, and how safely", response_model=Health)
    async def say_health() -> Health:
        return await health()

    @app.get("/metrics", summary="Counters for Prometheus", response_class=PlainTextResponse, dependencies=guarded)
    async def say_metrics() -> PlainTextResponse:
        metrics.loaded(await pool.load())
        return PlainTextResponse(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)

    app.openapi = lambda: openapi_of(app)
    return app


def outcomes(call: VerifyCall, verdicts: list[Verdict]) -> list[dict[str, Any]]:
    return [outcome(case.id, verdict) for case, verdict in zip(call.requests, verdicts, strict=True)]


async def read_body(request: Request, http: HttpConfig) -> bytes:
    """The body, or an HTTPException as soon as it is too large, whatever its Content-Length says."""
    too_large = HTTPException(
        413,
        f"the body is larger than {http.max_body_bytes} bytes: send fewer responses at once",
        headers={"Connection": "close"},  # otherwise the server reads the rest of it
    )
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > http.max_body_bytes:
        raise too_large
    body = bytearray()
    try:
        async with asyncio.timeout(http.body_s):
            async for piece in request.stream():
                body += piece
                if len(body) > http.max_body_bytes:
                    raise too_large
    except TimeoutError:
        late = f"the body did not arrive within {http.body_s:g} s"
        raise HTTPException(408, late, headers={"Connection": "close"}) from None
    except ClientDisconnect:
        raise HTTPException(400, "the caller went away before the body had arrived") from None
    return bytes(body)


def read_call(body: bytes, http: HttpConfig) -> VerifyCall:
    try:
        call = VerifyCall.model_validate_json(body)
    except ValidationError as error:
        raise HTTPException(422, sentence(error)) from None
    if len(call.requests) > http.max_cases:
        raise HTTPException(422, f"at most {http.max_cases} requests are judged in one call, got {len(call.requests)}")
    return call


def token_check(sha256: str | None) -> Any:
    """A dependency that refuses callers without the token. Digests are compared, in constant time."""
    bearer = HTTPBearer(auto_error=False, description="Only where the service was started with a token.")

    async def check(credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)]) -> None:
        if sha256 is None:
            return
        given = "" if credentials is None else credentials.credentials
        if not hmac.compare_digest(hashlib.sha256(given.encode()).hexdigest(), sha256):
            raise HTTPException(
                401,
                "this service asks for a token: send the header `Authorization: Bearer <token>`",
                headers={"WWW-Authenticate": "Bearer"},
            )

    return check


class HealthProbe:
    """Looks for tools and isolation, at most every `HEALTH_S` seconds and off the event loop."""

    def __init__(self, config: RewardConfig) -> None:
        self._config = config
        self._lock = asyncio.Lock()
        self._known: tuple[float, Health] | None = None

    async def __call__(self) -> Health:
        async with self._lock:
            if self._known is None or time.monotonic() - self._known[0] > HEALTH_S:
                self._known = (time.monotonic(), await asyncio.to_thread(look, self._config))
        return self._known[1]


def look(config: RewardConfig) -> Health:
    verifiers = missing_tools(config)
    try:
        isolation = Sandbox(config.sandbox).describe()
    except RewardError as error:
        isolation = f"none: {error}"
    status = "ok" if None in verifiers.values() else "degraded"
    return Health(status=status, isolation=isolation, verifiers=verifiers)


def answer_in_sentences(app: FastAPI, http: HttpConfig, metrics: ServiceMetrics) -> None:
    """Every error leaves as {"error": sentence}."""

    def problem(code: int, text: str, headers: dict[str, str] | None = None) -> JSONResponse:
        metrics.refused(code)
        return JSONResponse(status_code=code, content={"error": text}, headers=headers)

    @app.exception_handler(StarletteHTTPException)
    async def refused(request: Request, error: StarletteHTTPException) -> JSONResponse:
        text = error.detail
        if error.status_code in (404, 405):
            text = f"there is no {request.method} {request.url.path} here: see /docs"
        return problem(error.status_code, text, dict(error.headers or {}))

    @app.exception_handler(NoRoom)
    async def full(_: Request, error: NoRoom) -> JSONResponse:
        return problem(503, str(error), {"Retry-After": str(http.retry_after_s)})

    @app.exception_handler(RewardError)
    async def fault(_: Request, error: RewardError) -> JSONResponse:
        return problem(500, str(error))

    @app.exception_handler(Exception)
    async def bug(_: Request, error: Exception) -> JSONResponse:  # Starlette raises it again, into the server's log
        return problem(500, f"a fault of the service, {type(error).__name__}: its log says more")


def openapi_of(app: FastAPI) -> dict[str, Any]:
    """FastAPI's description, and the body of /v1/verify: that is read by hand, so FastAPI does not know it."""
    if app.openapi_schema is None:
        described = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
        schema = VerifyCall.model_json_schema(ref_template="#/components/schemas/{model}")
        schemas = described["components"]["schemas"]
        schemas.update(schema.pop("$defs"))
        schemas["VerifyCall"] = schema
        content = {"application/json": {"schema": {"$ref": "#/components/schemas/VerifyCall"}}}
        described["paths"]["/v1/verify"]["post"]["requestBody"] = {"required": True, "content": content}
        app.openapi_schema = described
    return app.openapi_schema
