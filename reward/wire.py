"""How requests and verdicts are written as JSON: the body of the HTTP service, and the lines of `temper verify`.

    JSON --Case, checked--> VerifyRequest ... Verdict --outcome--> JSON

What a caller can get wrong is found here, before anything is judged; `sentence` says it in his terms.
"""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StrictInt, StrictStr, ValidationError, field_validator
from pydantic_core import PydanticCustomError

from reward.messages import Status, Verdict, VerifyRequest
from reward.verifier import known_verifiers


class Case(BaseModel):
    """One response to judge. Fields not named here are ignored."""

    model_config = ConfigDict(
        strict=True,
        json_schema_extra={
            "examples": [
                {
                    "id": "1",
                    "verifier": "math",
                    "response": r"Half of it is \boxed{0.5}",
                    "reference": {"answer": r"\frac{1}{2}"},
                }
            ]
        },
    )

    id: StrictStr | StrictInt = Field(description="Comes back with the verdict. Need not be unique.")
    verifier: str = Field(description="Name of a verifier; GET /health lists them.")
    response: str = Field(description="What the model wrote, reasoning included.")
    reference: dict[str, Any] = Field(description="What the verifier needs to judge with; see docs/verifiers.md.")
    group: str | None = Field(
        default=None, description="Responses with an equal group are judged together, as responses to one task."
    )

    @field_validator("verifier")
    @classmethod
    def _known(cls, name: str) -> str:
        if name not in known_verifiers():
            raise PydanticCustomError(
                "verifier",
                "there is no verifier {name}, only {known}",
                {"name": name, "known": ", ".join(known_verifiers())},
            )
        return name

    def request(self) -> VerifyRequest:
        return VerifyRequest(
            id=str(self.id),
            verifier=self.verifier,
            response=self.response,
            reference=self.reference,
            group=self.group,
        )


class Outcome(BaseModel):
    """The judgement of one response."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "id": "1",
                    "reward": 1.0,
                    "status": "scored",
                    "components": {"answered": 1.0},
                    "detail": r"0.5 equals \frac{1}{2}",
                    "seconds": 0.002,
                }
            ]
        }
    )

    id: str | int = Field(description="That of the request.")
    reward: Annotated[float, Field(ge=0.0, le=1.0)] = Field(
        description="Meaningful only where status is scored or malformed."
    )
    status: Status = Field(
        description="scored: judged. malformed: it cannot be judged, no answer or a forbidden construct. timeout,"
        " resource: a limit came first. error: a fault of ours or of the reference, says nothing about the response."
    )
    components: dict[str, float] = Field(description="The named parts the reward is made of.")
    detail: str = Field(description="One sentence for a person.")
    seconds: float = Field(description="Time spent judging.")


def outcome(case_id: str | int, verdict: Verdict) -> dict[str, Any]:
    """A verdict as plain JSON values, under the id its request came with."""
    return {
        "id": case_id,
        "reward": verdict.reward,
        "status": verdict.status.value,
        "components": dict(verdict.components),
        "detail": verdict.detail,
        "seconds": round(verdict.seconds, 6),
    }


def sentence(error: ValidationError, shown: int = 80) -> str:
    """The first thing that is wrong, in words: `response: a string is expected, got 7`."""
    problem = error.errors(include_url=False)[0]
    where = ".".join(str(step) for step in problem["loc"] if step not in ("str", "int"))
    if problem["type"] == "json_invalid":
        return f"it is not JSON: {problem['ctx']['error'].replace('line 1 column', 'column')}"
    if problem["type"] == "missing":
        return f"the field {where} is missing"
    if problem["type"] == "model_type":
        return f"{where or 'it'}: an object is expected, got {short(problem['input'], shown)}"
    if problem["type"] == "verifier":
        return problem["msg"]
    message = problem["msg"][:1].lower() + problem["msg"][1:]
    return f"{where}: {message}, got {short(problem['input'], shown)}"


def short(value: Any, shown: int) -> str:
    text = repr(value)
    return text if len(text) <= shown else f"{text[:shown]}..."
