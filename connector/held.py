"""A transfer as the producer's rank holds it: its pure state, and the request, clocks and counts around it.

Not locked by itself: the producer calls everything here with its own lock held.
"""

import time
from dataclasses import dataclass

from connector.layout import KVLayout, Piece, pieces_of_layer
from connector.messages import Cancelled, Done, Failed, Outcome
from connector.transfer import End, Outgoing, Run


@dataclass
class Held:
    state: Outgoing
    deadline: float  # when to give up unless both sides have come; no deadline while both are at work
    request_id: str | None = None
    released: bool = False  # the scheduler has given the request up: report it as sent once settled
    answered: bool = False
    bytes: int = 0
    early_bytes: int = 0
    pieces_written: int = 0
    first_write: float = 0.0
    prefill_end: float = 0.0
    queued: bool = False
    reply_to: str = ""  # control address of the consumer's rank

    def pieces(self, runs: list[Run], layout: KVLayout) -> list[Piece]:
        """The writes that move `runs` from our blocks into the consumer's."""
        registration = self.state.registration
        assert registration is not None
        pieces: list[Piece] = []
        for run in runs:
            pairs = [
                (self.state.block_ids[block], registration.block_ids[block - registration.first_block])
                for block in range(run.start, run.stop)
            ]
            pieces += pieces_of_layer(
                layout.layer_addresses[run.layer],
                layout.block_stride,
                registration.layer_addresses[run.layer],
                registration.block_stride,
                layout.page,
                pairs,
            )
        return pieces

    def outcome(self, transport: str) -> Outcome:
        """What the consumer is told of the decided end."""
        assert self.state.ending is not None
        end, cause = self.state.ending
        transfer_id = self.state.transfer_id
        if end is End.FAILED:
            return Failed(transfer_id, self.state.delivered_blocks, cause)
        if end is End.CANCELLED:
            return Cancelled(transfer_id)
        now = time.monotonic()
        return Done(
            transfer_id=transfer_id,
            bytes=self.bytes,
            early_bytes=self.early_bytes,
            pieces=self.pieces_written,
            seconds=now - self.first_write,
            exposed_seconds=now - self.prefill_end if self.prefill_end else 0.0,
            transport=transport,
        )
