"""The metrics of a server that OpenTelemetry's conventions for generative AI define, under their names in Prometheus.

https://opentelemetry.io/docs/specs/semconv/gen-ai/gen-ai-metrics/: `gen_ai.server.request.duration`,
`gen_ai.server.time_to_first_token` and `gen_ai.server.time_per_output_token`, in seconds, with the bounds of buckets
given there. Those end at 10 and 80 s, which a busy CPU passes: three more follow. The model is a label only while an
instance serves it, so that invented names make no series.

Beside them goodput's count: streams by whether their TTFT and their TPOT were within the bounds that were set.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import cached_property

from prometheus_client import CollectorRegistry, Counter, Histogram

from proxy.telemetry.history import PastRequest

MORE = (30.0, 60.0, 120.0)
TTFT_S = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, *MORE)
TPOT_S = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5)
DURATION_S = (*(0.01 * 2**power for power in range(14)), 163.84, 327.68)
PROVIDER = "vllm"
# By the ends of the paths that generate; the conventions' own names where they have one.
OPERATIONS = {"/v1/completions": "text_completion"}
CHAT = "chat"
MET = {True: "met", False: "missed"}
TOO_MANY_REQUESTS = 429


@dataclass(frozen=True)
class Bounds:
    """What a stream has to keep to count as good, in seconds."""

    ttft_s: float
    tpot_s: float


class _Series:
    """Of one endpoint and model, each made with its first value: to look one up costs as much as to count in it."""

    def __init__(self, names: tuple[str, str, str], ttft: Histogram, tpot: Histogram, duration: Histogram) -> None:
        self._names = names
        self._of_all = ttft, tpot, duration
        self._durations: dict[str, Histogram] = {}  # by outcome

    @cached_property
    def ttft(self) -> Histogram:
        return self._of_all[0].labels(*self._names)

    @cached_property
    def tpot(self) -> Histogram:
        return self._of_all[1].labels(*self._names)

    def duration(self, outcome: str) -> Histogram:
        known = self._durations.get(outcome)
        if known is None:
            error_type = "" if outcome == "ok" else outcome
            known = self._durations[outcome] = self._of_all[2].labels(*self._names, error_type)
        return known


class GenAiMetrics:
    """Args: served: the names of the models that are served now."""

    def __init__(self, registry: CollectorRegistry, bounds: Bounds, served: Callable[[], Collection[str]]) -> None:
        self._bounds = bounds
        self._served = served
        self._known: dict[tuple[str, str], _Series] = {}  # by endpoint and model
        names = ("gen_ai_operation_name", "gen_ai_provider_name", "gen_ai_request_model")
        self._ttft = Histogram(
            "gen_ai_server_time_to_first_token_seconds",
            "From the request's arrival to the first chunk of a streamed answer",
            names,
            buckets=TTFT_S,
            registry=registry,
        )
        self._tpot = Histogram(
            "gen_ai_server_time_per_output_token_seconds",
            "Of a whole stream, the mean time from one token to the next after the first",
            names,
            buckets=TPOT_S,
            registry=registry,
        )
        self._duration = Histogram(
            "gen_ai_server_request_duration_seconds",
            "From the request's arrival to the end of its answer; error_type is empty where all went well",
            (*names, "error_type"),
            buckets=DURATION_S,
            registry=registry,
        )
        streams = Counter(
            "pd_proxy_streams",
            "Streams that have ended, by whether TTFT and TPOT were within PROXY_GOODPUT_TTFT_S and _TPOT_S",
            ("ttft", "tpot"),
            registry=registry,
        )
        # All at once: Prometheus' `increase` does not see the first value of a new series.
        self._streams = {(ttft, tpot): streams.labels(MET[ttft], MET[tpot]) for ttft in MET for tpot in MET}

    def ended(self, past: PastRequest) -> None:
        """A request of a path that generates."""
        asked, ended, facts = past.asked, past.ended, past.facts
        model = asked.model if asked.model is not None and asked.model in self._served() else ""
        series = self._known.get((asked.endpoint, model))
        if series is None:
            names = (OPERATIONS.get(asked.endpoint, CHAT), PROVIDER, model)
            series = self._known[asked.endpoint, model] = _Series(names, self._ttft, self._tpot, self._duration)
        series.duration(ended.outcome).observe(past.duration_s)
        if not facts.stream:
            return
        ttft, tpot = facts.ttft_s, past.itl_s
        if ttft is not None:
            series.ttft.observe(ttft)
        if tpot is not None:
            series.tpot.observe(tpot)
        if ended.outcome == "ok":
            assert ttft is not None
            self._streams[ttft <= self._bounds.ttft_s, tpot is None or tpot <= self._bounds.tpot_s].inc()
        elif ended.outcome != "client_left" and (ended.status not in range(400, 500) or _is_busy(ended.status)):
            self._streams[ttft is not None and ttft <= self._bounds.ttft_s, False].inc()


def _is_busy(status: int) -> bool:
    return status == TOO_MANY_REQUESTS
