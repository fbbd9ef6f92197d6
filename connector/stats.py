"""Counts of what a rank moved, kept between two engine steps; `metrics` carries them to Prometheus."""

import threading
from typing import Any


class TransferStats:
    """Counts since the last `take`; called from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: dict[str, float] = {}
        self._failures: dict[str, int] = {}
        self._exposed: list[float] = []

    def wrote(self, size: int, pieces: int, seconds: float) -> None:
        with self._lock:
            self._add(sent_bytes=size, sent_pieces=pieces, write_seconds=seconds)

    def delivered(self, exposed_seconds: float, early_bytes: int) -> None:
        with self._lock:
            self._add(delivered_transfers=1, early_bytes=early_bytes)
            self._exposed.append(exposed_seconds)

    def received(self, size: int, tokens: int) -> None:
        with self._lock:
            self._add(received_bytes=size, received_tokens=tokens, received_transfers=1)

    def failed(self, cause: str) -> None:
        """`cause` is `kind: details`; only the kind is counted, so that a metric's labels stay few."""
        with self._lock:
            kind = cause.partition(":")[0]
            self._failures[kind] = self._failures.get(kind, 0) + 1

    def take(self) -> dict[str, Any] | None:
        """Plain data: {"counts": {name: n}, "failures": {cause: n}, "exposed": [seconds]}; None when there is none."""
        with self._lock:
            if not self._counts and not self._failures and not self._exposed:
                return None
            data = {"counts": self._counts, "failures": self._failures, "exposed": self._exposed}
            self._counts, self._failures, self._exposed = {}, {}, []
            return data

    def _add(self, **amounts: float) -> None:
        for name, amount in amounts.items():
            self._counts[name] = self._counts.get(name, 0) + amount
