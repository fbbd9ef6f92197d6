"""A producer's consumers and the network to them, simulated: writes last until the test ends them, and are judged."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from connector.cache.pieces import Piece
from connector.control.messages import Cancelled, Done, Failed, Message, Outcome, Register
from connector.mooncake.engine import TransferError
from connector.mooncake.polled_write import always
from tests.unit.connector.properties.simulated_vllm import (
    BLOCK_TOKENS,
    HEAD_BYTES,
    HEADS,
    LAYERS,
    PROMPT,
    UNTOUCHED,
    Cache,
    Content,
    empty_cache,
    layout,
    tokens_in,
)

LIMIT_S = 30.0  # for what must happen at all; no verdict depends on how fast
TARGET_START = 77
# What a registration may say that the producer must refuse.
LIES: dict[str, Any] = {
    "fingerprint": "other",
    "engine_id": "the one before",
    "layer_addresses": [0] * (LAYERS + 1),
    "block_ids": [],
    "heads": HEADS + 1,
    "segments": {"rdma": "impostor"},
}


@dataclass
class Plan:
    """What a transfer's consumer will ask for: heads by rank, from a block on. `extra` blocks more than the prompt has
    make it another prompt, and so does another digest."""

    tokens: int
    split: list[range]
    first_block: int
    extra: int
    prompt: str
    targets: list[int]
    checksum: bool

    def registration(self, number: int, rank: int) -> Register:
        heads, blocks = self.split[rank], -(-self.tokens // BLOCK_TOKENS) + self.extra
        there = layout(TARGET_START, heads)
        return Register(
            transfer_id=f"t{number}",
            engine_id="p",
            fingerprint="same",
            reply_to=f"tcp://d{number}.{rank}:1",
            rank=rank,
            shares=len(self.split),
            segments={"tcp": f"segment{number}.{rank}"},
            host_identity="",
            layer_addresses=list(there.layer_addresses),
            block_stride=there.block_stride,
            first_head=heads.start,
            heads=len(heads),
            first_block=self.first_block,
            block_ids=self.targets[: blocks - self.first_block],
            prompt=self.prompt,
            checksum=self.checksum,
        )


@dataclass
class Share:
    """One rank of a consumer, and what it has learnt of one transfer."""

    registration: Register
    number: int  # of the prompt
    tokens: int
    memory: bytearray = field(default_factory=empty_cache)
    answers: list[Outcome] = field(default_factory=list)
    asked: int = 1  # messages that may each have an answer
    gone: bool = False
    unwanted: bool = False  # nothing more may be written
    believed: bool = False  # its first answer was found right

    @property
    def heads(self) -> range:
        return range(self.registration.first_head, self.registration.first_head + self.registration.heads)

    def address(self, layer: int, block: int, head: int) -> int:
        asked = self.registration
        start = asked.layer_addresses[layer] + asked.block_ids[block - asked.first_block] * asked.block_stride
        return start + (head - asked.first_head) * HEAD_BYTES

    def assert_right(self) -> None:
        """What the first answer calls delivered lies where it belongs, and nothing beside what was asked for."""
        asked = self.registration
        match self.answers[0]:
            case Done(bytes=moved, early_bytes=early):
                delivered = len(asked.block_ids)
                assert moved == delivered * LAYERS * asked.heads * HEAD_BYTES >= early >= 0
            case Failed(delivered_blocks=delivered):
                pass
            case Cancelled():
                delivered = 0
        wanted = set()
        for layer in range(LAYERS):
            for block in range(asked.first_block, asked.first_block + len(asked.block_ids)):
                for head in self.heads:
                    at = self.address(layer, block, head) - TARGET_START
                    wanted.add(at)
                    if block < asked.first_block + delivered:
                        content = Content.of(self.number, layer, block, head, tokens_in(block, self.tokens))
                        assert self.memory[at : at + HEAD_BYTES] == bytes(content), (layer, block, head)
        for at in range(0, len(self.memory), HEAD_BYTES):
            if at not in wanted:
                assert self.memory[at : at + HEAD_BYTES] == bytes([UNTOUCHED]) * HEAD_BYTES, "outside of what was asked"


class Mailbox:
    """Where the producer's messages arrive."""

    def __init__(self, shares: dict[str, Share]) -> None:
        self._shares = shares
        self.others: list[Outcome] = []  # answers to those who never had a share

    def send(self, address: str, message: Message) -> None:
        assert isinstance(message, Outcome)
        for share in self._shares.values():
            if share.registration.reply_to == address and share.registration.transfer_id == message.transfer_id:
                share.answers.append(message)
                return
        self.others.append(message)


@dataclass
class Write:
    share: Share
    pieces: list[Piece]
    unwanted: bool
    over: threading.Event = field(default_factory=threading.Event)
    lost: bool = False


class Engine:
    """A transfer engine whose writes last until they are ended. `changed` is notified when one begins."""

    segment = "here"

    def __init__(self, cache: Cache, shares: dict[str, Share]) -> None:
        self._cache = cache
        self._shares = shares  # by segment
        self.changed = threading.Condition()
        self.in_flight: list[Write] = []
        self.bytes_landed = 0

    def register(self, address: int, length: int) -> None:
        raise AssertionError("the connector's class registers memory, not the producer")

    def close(self) -> None:
        raise AssertionError("a producer keeps its engines")

    def write(self, segment: str, pieces: Sequence[Piece], wanted: Callable[[], bool] = always) -> None:
        share = self._shares[segment]
        write = Write(share, list(pieces), share.unwanted)
        with self.changed:
            self.in_flight.append(write)
            self.changed.notify_all()
        assert write.over.wait(LIMIT_S), "the test never ended the write"
        if write.lost:
            raise TransferError(f"writing {len(pieces)} pieces to {segment} failed: code -1")

    def end(self, write: Write, lost: bool) -> None:
        """The write returns. Of a lost one only the first half has arrived."""
        self.assert_right(write)
        for piece in write.pieces[: len(write.pieces) // 2] if lost else write.pieces:
            at = piece.target - TARGET_START
            write.share.memory[at : at + piece.length] = self._cache.read(piece.source, piece.length)
            self.bytes_landed += 0 if lost else piece.length
        self.in_flight.remove(write)
        write.lost = lost
        write.over.set()

    def assert_right(self, write: Write) -> None:
        """At every moment of a write: what it reads is final and in a live block, and goes where it belongs."""
        share, asked = write.share, write.share.registration
        assert write.pieces or not asked.heads
        assert asked.prompt == PROMPT, "its tokens are others"
        assert not write.unwanted, "it began after a cancellation, or to a lost peer"
        assert not share.answers, f"a write to {asked.segments} after its answer {share.answers}"
        assert sum(other.share is share for other in self.in_flight) == 1, "two writes of one share"
        for piece in write.pieces:
            for source in range(piece.source, piece.source + piece.length, HEAD_BYTES):
                found = Content(*self._cache.read(source, HEAD_BYTES))
                owner = self._cache.owner_at(source)
                assert owner is not None, f"{found} lies in a block that was freed"
                assert owner.transfer_id == asked.transfer_id
                head = found.head_and_tokens >> 4
                final = tokens_in(found.block, share.tokens)
                assert found == Content.of(owner.number, found.layer, found.block, head, final), "not final"
                assert head in share.heads
                assert found.block >= asked.first_block
                assert piece.target + source - piece.source == share.address(found.layer, found.block, head)
