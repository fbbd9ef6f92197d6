"""What is known of one request, and how it is told: response headers, a last comment of a stream, the log.

Phases, in seconds, add up to the time to first token, or to that of a whole answer where it comes as one:
queue       from the request's arrival to its dispatch: its body, the wait for a place, tries that failed
prefill     from there to the end of the producer's leg, or to its first token where the consumer passed that on before;
            on the local path there is none
transfer    what of the KV transfer was left after the prefill, as the connector measured it; 0 where the first token is
            the producer's, which does not wait for it
first_step  the rest of a stream's: on the consumer, until its first token was here; on the local path the prompt too
answer      the rest of a whole answer's: on the consumer, until all of it was here
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from proxy.routing.dispatch import Route

_HEADERS = {
    "path": "X-PD-Path",
    "reason": "X-PD-Reason",
    "producer": "X-PD-Producer",
    "consumer": "X-PD-Consumer",
    "transfer_id": "X-PD-Transfer-Id",
    "transport": "X-PD-Transport",
    "first_token": "X-PD-First-Token",
    "kv_bytes": "X-PD-Kv-Bytes",
    "kv_tokens": "X-PD-Kv-Tokens",
    "store_tokens": "X-PD-Store-Tokens",
}


@dataclass(slots=True)
class AttemptFacts:
    """One try, for whoever makes it to fill in: times are of `time.monotonic`, None for what has not happened.

    store_tokens: of the prompt, which the producer loaded from a KV store; it is known with the producer's answer.
    """

    route: Route
    transfer_id: str | None
    dispatched_at: float
    prefilled_at: float | None = None
    answered_at: float | None = None
    store_tokens: int | None = None


@dataclass(slots=True)
class RequestFacts:
    """Filled in while the request goes on; times are of `time.monotonic`, sizes in bytes and tokens.

    stream: whether the answer comes event by event. parameter: the one for which the consumer gets the request alone.
    second_token_s: after the first, of a stream; with the producer's first token the wait for the cache is in it.
    """

    arrived_at: float
    stream: bool = False
    attempt: AttemptFacts | None = None
    attempts: int = 0
    earlier: tuple[AttemptFacts, ...] = ()  # tries that failed, before the last
    parameter: str | None = None
    transfer: Mapping[str, Any] = field(default_factory=dict)
    second_token_s: float | None = None
    _dispatch: dict[str, Any] | None = None  # it is shown three times
    _phases: tuple[tuple[Any, ...], Mapping[str, float]] | None = None  # and these, behind what they were made of
    _phases_ms: dict[str, float] | None = None

    def tried(self, attempt: AttemptFacts) -> None:
        self.attempts += 1
        if self.attempt is not None:
            self.earlier = (*self.earlier, self.attempt)
        self.attempt = attempt
        self._dispatch = None

    def moved(self, transfer: Mapping[str, Any]) -> None:
        """What the consumer's connector says of the transfer; empty when it says nothing."""
        self.transfer = transfer
        self._dispatch = None

    def told(self) -> None:
        """Headers, comment and log line are out: what was put together for them is not kept, only what it is made of.

        The console keeps a thousand of these, and what lives that long has to be fetched into the CPU's caches again
        when it goes.
        """
        self._dispatch = self._phases = self._phases_ms = None

    def second_token(self) -> None:
        if self.attempt is not None and self.attempt.answered_at is not None:
            self.second_token_s = time.monotonic() - self.attempt.answered_at

    @property
    def second_token_ms(self) -> float | None:
        return None if self.second_token_s is None else round(1000 * self.second_token_s, 2)

    @property
    def path(self) -> str | None:
        """`disaggregated` or `local`; None before there was a route."""
        if self.attempt is None:
            return None
        return "disaggregated" if self.attempt.route.producer else "local"

    @property
    def reason(self) -> str:
        """Why this path, once there is a route."""
        if self.attempt is None:
            return ""
        reason = self.attempt.route.reason
        return self.parameter if self.parameter and reason == "parameters" else reason

    @property
    def ttft_s(self) -> float | None:
        """For an answer that is not a stream the time to the whole of it."""
        answered = self.attempt.answered_at if self.attempt else None
        return None if answered is None else answered - self.arrived_at

    @property
    def phases(self) -> Mapping[str, float]:
        """Those that are over."""
        if (attempt := self.attempt) is None:
            return {}
        made_of = (attempt, attempt.prefilled_at, attempt.answered_at, self.transfer)
        if self._phases is None or self._phases[0] != made_of:
            self._phases = made_of, self._measured(attempt)
        return self._phases[1]

    def _measured(self, attempt: AttemptFacts) -> dict[str, float]:
        phases = {"queue": attempt.dispatched_at - self.arrived_at}
        early = self.transfer.get("first_token") == "producer"
        ends = [attempt.prefilled_at, attempt.answered_at if early else None]
        if ended := [end for end in ends if end is not None]:
            phases["prefill"] = min(ended) - attempt.dispatched_at
        if early:
            phases["transfer"] = 0.0
        elif (exposed := self.transfer.get("exposed_seconds")) is not None:
            phases["transfer"] = exposed
        if (ttft := self.ttft_s) is not None:
            rest = "first_step" if self.stream else "answer"
            phases[rest] = max(0.0, ttft - sum(phases.values()))
        return phases

    @property
    def dispatch(self) -> dict[str, Any]:
        """Which instances had the last try, why, and what moved between them."""
        if self.attempt is None:
            return {}
        stored = self.attempt.store_tokens
        if self._dispatch is None or self._dispatch.get("store_tokens") != stored:  # the producer answered since
            route = self.attempt.route
            facts = {
                "path": self.path,
                "reason": self.reason,
                "producer": route.producer.instance_id if route.producer else None,
                "consumer": route.consumer.instance_id,
                "transfer_id": self.attempt.transfer_id,
                "transport": self.transfer.get("transport"),
                "first_token": self.transfer.get("first_token"),
                "kv_bytes": self.transfer.get("bytes"),
                "kv_tokens": self.transfer.get("tokens"),
                "store_tokens": stored,
            }
            self._dispatch = {name: value for name, value in facts.items() if value is not None}
        return self._dispatch

    def headers(self) -> dict[str, str]:
        shown = {_HEADERS[name]: str(value) for name, value in self.dispatch.items()}
        if self.attempt is not None:
            shown["Server-Timing"] = ", ".join(f"{name};dur={1000 * s:.2f}" for name, s in self.phases.items())
        return shown

    def comment(self, **more: Any) -> bytes:
        """A server-sent comment, which clients skip: for what was not known when the headers were sent."""
        self._phases_ms = self.phases_ms()
        return b": pd " + orjson.dumps(self.dispatch | self._phases_ms | more) + b"\n\n"

    def phases_ms(self) -> dict[str, float]:
        """Once they were in a comment, the same."""
        if self._phases_ms is not None:
            return self._phases_ms
        return {f"{name}_ms": round(1000 * seconds, 2) for name, seconds in self.phases.items()}
