"""A transfer as the producer's rank holds it: the pure state of its shares, with request, clocks and counts.

Not locked by itself: the producer calls everything here with its own lock held.
"""

import time
from dataclasses import dataclass, field

from connector.cache.layout import KVLayout, Piece, block_runs, pieces_of_layer
from connector.control.messages import Cancelled, Done, Failed, Outcome
from connector.transfer.checksum import LayerChecksums, Memory
from connector.transfer.transfer import End, Prompt, Run, Share


@dataclass
class HeldShare:
    """One consumer rank's share and what moving it took."""

    state: Share
    transport: str
    segment: str
    bytes: int = 0
    early_bytes: int = 0
    pieces_written: int = 0
    first_write: float = 0.0
    queued: bool = False
    answered: bool = False  # or its consumer has ended, and there is nobody to answer
    answer: Outcome | None = None
    checksums: LayerChecksums | None = None  # of what was written, when the consumer asked for it

    def __post_init__(self) -> None:
        if self.state.registration.checksum:
            self.checksums = LayerChecksums(self.state.prompt.layers)

    @property
    def reply_to(self) -> str:
        return self.state.registration.reply_to

    def pieces(self, runs: list[Run], layout: KVLayout, block_ids: list[int]) -> list[Piece]:
        """The writes that move `runs` from our blocks, which `block_ids` names, into the consumer's."""
        registration = self.state.registration
        length = registration.heads * layout.head_bytes
        joined = {  # layers mostly ask for the same blocks
            (start, stop): block_runs(
                zip(
                    block_ids[start:stop],
                    registration.block_ids[start - registration.first_block : stop - registration.first_block],
                    strict=True,
                )
            )
            for start, stop in {(run.start, run.stop) for run in runs}
        }
        return [
            piece
            for run in runs
            for piece in pieces_of_layer(
                layout.address(run.layer, 0, registration.first_head),
                layout.block_stride,
                registration.layer_addresses[run.layer],
                registration.block_stride,
                length,
                joined[run.start, run.stop],
            )
        ]

    def add_to_checksums(self, runs: list[Run], layout: KVLayout, block_ids: list[int], memory: Memory) -> None:
        """To be called while nobody may rewrite the blocks."""
        if self.checksums is None:
            return
        registration = self.state.registration
        for run in runs:
            addresses = [
                layout.address(run.layer, block, registration.first_head) for block in block_ids[run.start : run.stop]
            ]
            self.checksums.add(run.layer, memory, addresses, registration.heads * layout.head_bytes)

    def outcome(self, rank: int, prefill_end: float) -> Outcome:
        """What the consumer is told of the decided end."""
        assert self.state.ending is not None
        end, cause = self.state.ending
        transfer_id = self.state.registration.transfer_id
        if end is End.FAILED:
            return Failed(transfer_id, rank, self.state.delivered_blocks, cause, self.state.unended)
        if end is End.CANCELLED:
            return Cancelled(transfer_id, rank, self.state.unended)
        now = time.monotonic()
        return Done(
            transfer_id=transfer_id,
            rank=rank,
            bytes=self.bytes,
            early_bytes=self.early_bytes,
            pieces=self.pieces_written,
            seconds=now - self.first_write,
            exposed_seconds=now - prefill_end if prefill_end else 0.0,
            transport=self.transport,
            checksum=self.checksums.value() if self.checksums is not None else None,
        )


@dataclass(frozen=True)
class Ended:
    """What is remembered of a transfer: why it serves no more, and whether bytes of it may still arrive."""

    cause: str
    unended: bool


@dataclass
class Held:
    """`deadline` (awake time) is when to give up unless both sides have come; there is none while both are at work."""

    transfer_id: str
    prompt: Prompt
    deadline: float
    request_id: str | None = None
    released: bool = False  # the scheduler has given the request up: report it as sent once settled
    prefill_end: float = 0.0
    shares: dict[int, HeldShare] = field(default_factory=dict)  # by the consumer's rank
    expected_shares: int = 0  # 0: no registration has said it yet
    ending: tuple[End, str] | None = None  # of the whole transfer; a share may also end by itself

    @property
    def all_registered(self) -> bool:
        return 0 < self.expected_shares == len(self.shares)

    def end(self, how: End, cause: str) -> None:
        if self.ending is None:
            self.ending = (how, cause)
        for share in self.shares.values():
            share.state.end(how, cause)

    @property
    def settled(self) -> bool:
        """Nothing of it is in flight any more, and nothing will be."""
        decided = self.ending is not None or self.all_registered
        return decided and all(share.state.settled for share in self.shares.values())

    @property
    def unended(self) -> bool:
        return any(share.state.unended for share in self.shares.values())

    @property
    def cause(self) -> str:
        """Why it was not delivered whole; empty when it was."""
        endings = [share.state.ending for share in self.shares.values()] + [self.ending]
        return next((ending[1] for ending in endings if ending and ending[0] is not End.DONE), "")
