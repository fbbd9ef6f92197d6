"""A transfer as the producer's rank holds it: the pure state of its shares, with request, clocks and counts.

Not locked by itself: the producer calls everything here with its own lock held.
"""

import time
from dataclasses import dataclass, field

from connector.cache.layout import KVLayout
from connector.cache.pieces import BlockRun, Piece, block_runs, pieces_of_layer
from connector.control.messages import Cancelled, Done, Failed, FirstToken, Outcome, Register
from connector.mooncake.checksum import LayerChecksums
from connector.mooncake.rank_cache import Memory
from connector.telling.timeline import ChunkTimes, WriteTimes, text_of
from connector.transfer.prompt import Prompt
from connector.transfer.share import End, Run, Share

BlockTables = tuple[list[int], ...]  # by group


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
    ended_at: float = 0.0  # when its end was final; the answer may wait for the first token
    answered: bool = False  # or its consumer has ended, and there is nobody to answer
    answer: Outcome | None = None
    checksums: LayerChecksums | None = None  # of what was written, when the consumer asked for it
    write_times: WriteTimes | None = None  # likewise

    def __post_init__(self) -> None:
        if self.state.registration.timeline:
            self.write_times = WriteTimes()
        if self.state.registration.checksum:
            self.checksums = LayerChecksums(len(self.state.registration.layers))

    @property
    def is_final(self) -> bool:
        """No write is in flight and none will be; from the first look on `ended_at` says since when."""
        if self.state.settled and not self.ended_at:
            self.ended_at = time.monotonic()
        return self.state.settled

    @property
    def reply_to(self) -> str:
        return self.state.registration.reply_to

    def pieces(self, runs: list[Run], layout: KVLayout, block_ids: BlockTables) -> list[Piece]:
        """The writes that move `runs` from our blocks into the consumer's."""
        registration = self.state.registration
        joined: dict[tuple[int, int, int], list[BlockRun]] = {}  # layers of a group mostly ask for the same blocks
        pieces = []
        for run in runs:
            ours, there = layout.layers[run.layer], registration.layers[run.place]
            asked = (ours.group, run.start, run.stop)
            if asked not in joined:
                wanted = registration.groups[ours.group]
                targets = wanted.block_ids[run.start - wanted.first : run.stop - wanted.first]
                joined[asked] = block_runs(zip(block_ids[ours.group][run.start : run.stop], targets, strict=True))
            pieces += pieces_of_layer(
                ours.head_address(there.first_head),
                ours.block_stride,
                there.address,
                there.block_stride,
                there.heads * ours.head_bytes,
                joined[asked],
            )
        return pieces

    def add_to_checksums(self, runs: list[Run], layout: KVLayout, block_ids: BlockTables, memory: Memory) -> None:
        """To be called while nobody may rewrite the blocks."""
        if self.checksums is None:
            return
        for run in runs:
            ours, there = layout.layers[run.layer], self.state.registration.layers[run.place]
            first = ours.head_address(there.first_head)
            addresses = [first + block * ours.block_stride for block in block_ids[ours.group][run.start : run.stop]]
            self.checksums.add(run.place, memory, addresses, there.heads * ours.head_bytes)

    def outcome(self, rank: int, held: "Held") -> Outcome:
        """What the consumer is told of the decided end."""
        assert self.state.ending is not None
        end, cause = self.state.ending
        transfer_id = self.state.registration.transfer_id
        if end is End.FAILED:
            return Failed(transfer_id, rank, self.state.delivered_blocks, cause, self.state.unended)
        if end is End.CANCELLED:
            return Cancelled(transfer_id, rank, self.state.unended)
        return Done(
            transfer_id=transfer_id,
            rank=rank,
            bytes=self.bytes,
            early_bytes=self.early_bytes,
            pieces=self.pieces_written,
            seconds=self.ended_at - self.first_write,
            exposed_seconds=self.ended_at - held.prefill_end if held.prefill_end else 0.0,
            transport=self.transport,
            checksum=self.checksums.value() if self.checksums is not None else None,
            first_token=held.first_token if self.state.registration.first_token_to else None,
            filled=self.state.places if len(self.state.places) < len(self.state.registration.layers) else None,
            timeline=text_of(self.write_times, held.chunks, held.prefill_end) if self.write_times else "",
        )


@dataclass
class Held:
    """`deadline` (awake time) is when to give up unless both sides have come; there is none while both are at work."""

    transfer_id: str
    prompt: Prompt
    deadline: float
    request_id: str | None = None
    released: bool = False  # the scheduler has given the request up: report it as sent once settled
    prefill_end: float = 0.0
    chunks: ChunkTimes = field(default_factory=ChunkTimes)
    first_token: int | None = None
    first_token_told: bool = False
    shares: dict[int, HeldShare] = field(default_factory=dict)  # by the consumer's rank
    expected_shares: int = 0  # 0: no registration has said it yet
    ending: tuple[End, str] | None = None  # of the whole transfer; a share may also end by itself

    @property
    def all_registered(self) -> bool:
        return 0 < self.expected_shares == len(self.shares)

    def refusal(self, registration: Register) -> str:
        """Why this registration can add nothing to it; empty when it can."""
        if self.ending is not None:
            return self.ending[1]
        if registration.rank in self.shares or self.all_registered:
            return "bad registration: this transfer is registered already"
        if self.expected_shares not in (0, registration.shares):
            return f"bad registration: {registration.shares} shares, another rank said {self.expected_shares}"
        return ""

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

    def awaits_first_token(self, share: HeldShare) -> bool:
        """Whether the consumer would begin to compute what is being sampled here."""
        wanted = bool(share.state.registration.first_token_to) and share.state.whole
        return wanted and self.first_token is None and not self.released

    def take_first_token(self, engine_id: str) -> tuple[str, FirstToken] | None:
        """Once, when it is known and a consumer of the same prompt wants it: the message, and where it goes."""
        if self.first_token is None or self.first_token_told:
            return None
        for share in self.shares.values():
            asked = share.state.registration
            if asked.first_token_to and self.prompt.digest == asked.prompt:
                self.first_token_told = True
                return asked.first_token_to, FirstToken(self.transfer_id, engine_id, asked.prompt, self.first_token)
        return None

    @property
    def unended(self) -> bool:
        return any(share.state.unended for share in self.shares.values())

    @property
    def cause(self) -> str:
        """Why it was not delivered whole; empty when it was."""
        endings = [share.state.ending for share in self.shares.values()] + [self.ending]
        return next((ending[1] for ending in endings if ending and ending[0] is not End.DONE), "")
