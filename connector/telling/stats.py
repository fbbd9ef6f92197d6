"""What a rank or a scheduler measured since the last engine step; `metrics` carries it to Prometheus.

Counts and observations are of *shares*: a transfer has one for each pair of ranks between which it moves heads, so
with one rank on both sides a share is a transfer. Ranks of one instance add up.
"""

import threading
from collections import Counter
from typing import Any

from connector.control.messages import Done


def kind_of(cause: str) -> str:
    """Of `kind: details` only the kind, so that a metric's labels stay few."""
    return cause.partition(":")[0]


class TransferStats:
    """Called from several threads; `transport` and `cause` become labels, an unknown transport is empty."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counted: Counter[tuple[str, ...]] = Counter()  # by metric and label values
        self._observed: list[list[str | float]] = []
        self._gauges: dict[str, float] = {}
        self._told: dict[str, float] = {}  # the gauges as they were last taken

    # --- a producer's rank ---

    def wrote(self, transport: str, size: int, pieces: int, seconds: float) -> None:
        """One write has returned and its bytes are at the consumer."""
        self._count(
            ("sent_bytes", transport, size), ("sent_pieces", transport, pieces), ("write_seconds", transport, seconds)
        )

    def registered(self, refused: str = "") -> None:
        """A consumer's rank has registered its blocks; `refused`: the cause for which it was turned away."""
        self._count(("registrations", kind_of(refused) or "accepted", 1))

    def delivered(self, done: Done) -> None:
        """A share has arrived. One that moves no head (its rank only learns the end with it) counts nowhere."""
        if not done.bytes:
            return
        self._count(("delivered_shares", done.transport, 1), ("early_bytes", done.transport, done.early_bytes))
        with self._lock:
            self._observed += [
                ["transfer_seconds", done.transport, done.seconds],
                ["exposed_seconds", done.transport, done.exposed_seconds],
                ["early_ratio", done.transport, done.early_bytes / done.bytes],
            ]
            if done.seconds:
                self._observed.append(["transfer_bytes_per_second", done.transport, done.bytes / done.seconds])

    # --- a consumer's rank ---

    def received(self, done: Done, tokens: int) -> None:
        """A share has arrived. `tokens`: of its prompt, given with one share of a transfer only, 0 with the others."""
        if done.bytes:
            self._count(("received_shares", done.transport, 1), ("received_bytes", done.transport, done.bytes))
        self._count(("received_tokens", done.transport, tokens))

    def revoked(self, transport: str) -> None:
        """Peers may no longer write into the memory under the name that it had."""
        self._count(("revocations", transport, 1))

    def first_token(self, cause: str = "") -> None:
        """Of an answer: the producer's, or for `cause` computed here."""
        self._count(("first_tokens", "consumer" if cause else "producer", cause, 1))

    # --- both ---

    def failed(self, cause: str, transport: str = "") -> None:
        self._count(("failed_shares", kind_of(cause), transport, 1))

    # --- the scheduler's side, which counts a block once, however many ranks have a slice of it ---

    def blocks_held(self, blocks: int, since: float) -> None:
        """Args: since: when the oldest hold began, in Unix seconds, 0 without one: an age would need steps to grow."""
        self._set("blocks_held", blocks)
        self._set("oldest_hold_timestamp_seconds", since)

    def free_blocks(self, blocks: int) -> None:
        self._set("free_blocks", blocks)

    def take(self) -> dict[str, Any] | None:
        """Everything since the last call, as plain data: {"counted": rows, "observed": rows, "gauges": rows} with
        rows [metric, label value, ..., number]. None when there is nothing."""
        with self._lock:
            if not (self._counted or self._observed or self._gauges):
                return None
            data = {
                "counted": [[*key, number] for key, number in self._counted.items()],
                "observed": self._observed,
                "gauges": [[name, number] for name, number in self._gauges.items()],
            }
            self._told |= self._gauges
            self._counted, self._observed, self._gauges = Counter(), [], {}
            return data

    def _set(self, gauge: str, number: float) -> None:
        """Every step asks; only a change goes to the API server."""
        with self._lock:
            if self._told.get(gauge) == number:
                self._gauges.pop(gauge, None)
            else:
                self._gauges[gauge] = number

    def _count(self, *rows: tuple[Any, ...]) -> None:
        with self._lock:
            for *key, number in rows:
                self._counted[tuple(key)] += number
