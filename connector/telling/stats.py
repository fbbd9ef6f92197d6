"""What a rank or a scheduler measured since the last engine step; `metrics` carries it to Prometheus.

Counts and observations are of *shares*: a transfer has one for each pair of ranks between which it moves heads, so
with one rank on both sides a share is a transfer. Ranks of one instance add up.
"""

from connector.control.messages import Done
from connector.telling.measured import Measured


def kind_of(cause: str) -> str:
    """Of `kind: details` only the kind, so that a metric's labels stay few."""
    return cause.partition(":")[0]


class TransferStats(Measured):
    """`transport` and `cause` become labels, an unknown transport is empty."""

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
        self._observe(
            ["transfer_seconds", done.transport, done.seconds],
            ["exposed_seconds", done.transport, done.exposed_seconds],
            ["early_ratio", done.transport, done.early_bytes / done.bytes],
        )
        if done.seconds:
            self._observe(["transfer_bytes_per_second", done.transport, done.bytes / done.seconds])

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
