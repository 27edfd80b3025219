"""Counters of the HTTP service, as Prometheus reads them: verdicts, their seconds, refusals, what waits and is busy."""

from collections.abc import Iterable, Mapping, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

from reward.lane import Load
from reward.messages import Verdict

SECONDS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)


class ServiceMetrics:
    """One registry per application, so that several can live in one process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._verdicts = Counter("temper_verdicts", "Verdicts given.", ["verifier", "status"], registry=self.registry)
        self._seconds = Histogram(
            "temper_verdict_seconds",
            "Time spent judging one response, waiting not counted.",
            ["verifier"],
            buckets=SECONDS,
            registry=self.registry,
        )
        self._refusals = Counter(
            "temper_refusals", "Calls that got no verdicts, by HTTP status.", ["code"], registry=self.registry
        )
        self._waiting = Gauge("temper_waiting", "Responses waiting for a worker.", ["verifier"], registry=self.registry)
        self._busy = Gauge("temper_busy", "Responses being judged.", ["verifier"], registry=self.registry)

    def judged(self, verifiers: Iterable[str], verdicts: Sequence[Verdict]) -> None:
        """Count verdicts with the verifier that was asked for each."""
        for verifier, verdict in zip(verifiers, verdicts, strict=True):
            self._verdicts.labels(verifier, verdict.status.value).inc()
            self._seconds.labels(verifier).observe(verdict.seconds)

    def refused(self, code: int) -> None:
        self._refusals.labels(str(code)).inc()

    def loaded(self, load: Mapping[str, Load]) -> None:
        """What every verifier has to do now."""
        for verifier, of_verifier in load.items():
            self._waiting.labels(verifier).set(of_verifier.waiting)
            self._busy.labels(verifier).set(of_verifier.busy)
