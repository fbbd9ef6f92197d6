"""What surrounds a producer's rank, simulated step by step: vLLM's block pool, memory, transfer engine, consumers.

Every byte tells which prompt, layer, block and head it belongs to and how far it was computed, so that each write can
be judged by itself. A write lasts until the test ends it; whoever waits for quiet knows that until then nothing moves.
"""

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from connector.engine import TransferError
from connector.layout import KVLayout, Piece
from connector.messages import Cancelled, Done, Failed, Message, Outcome, Register

LIMIT_S = 2.0  # for what must happen at all; no verdict depends on how fast
LAYERS, HEADS, HEAD_BYTES, BLOCK_TOKENS = 2, 2, 4, 4
NUM_BLOCKS = 16  # few, so that blocks are soon used again
SOURCE_START, TARGET_START = 4096, 77
UNTOUCHED = 0xEE


class Content(NamedTuple):
    """The bytes of one head of one block of one layer."""

    prompt: int
    layer: int
    block: int
    head_and_tokens: int

    @classmethod
    def of(cls, prompt: int, layer: int, block: int, head: int, tokens: int) -> "Content":
        return cls(prompt, layer, block, head << 4 | tokens)


def layout(start: int, heads: range) -> KVLayout:
    page = len(heads) * HEAD_BYTES
    addresses = tuple(start + layer * NUM_BLOCKS * page for layer in range(LAYERS))
    return KVLayout(addresses, page, HEAD_BYTES, heads.start, len(heads), NUM_BLOCKS)


SOURCE = layout(SOURCE_START, range(HEADS))


def tokens_in(block: int, tokens: int) -> int:
    return max(0, min(BLOCK_TOKENS, tokens - block * BLOCK_TOKENS))


@dataclass
class Request:
    """A prefill request in vLLM's scheduler. Two of them may carry the same transfer (`n` > 1)."""

    request_id: str
    number: int  # of its transfer and prompt
    tokens: int
    known: bool = False  # the connector has been told of it
    scheduled: int = 0
    table: list[int] = field(default_factory=list)
    ended: bool = False
    reported: bool = False  # the connector has let its blocks go

    @property
    def transfer_id(self) -> str:
        return f"t{self.number}"


class Device:
    """The producer's KV cache. `owner` is who may count on a block's content."""

    def __init__(self) -> None:
        self.bytes = bytearray([UNTOUCHED]) * (LAYERS * NUM_BLOCKS * HEADS * HEAD_BYTES)
        self.owner: dict[int, Request] = {}

    def compute(self, request: Request, table: Sequence[int], layer: int, end: int) -> None:
        """One layer of one step: K and V of the prompt's tokens up to `end`."""
        for block, block_id in enumerate(table):
            for head in range(HEADS):
                at = SOURCE.address(layer, block_id, head) - SOURCE_START
                self.bytes[at : at + HEAD_BYTES] = bytes(
                    Content.of(request.number, layer, block, head, tokens_in(block, end))
                )

    def read(self, address: int, length: int) -> memoryview:
        at = address - SOURCE_START
        return memoryview(bytes(self.bytes[at : at + length]))

    def owner_of(self, address: int) -> Request | None:
        block_id = (address - SOURCE_START) // SOURCE.block_stride % NUM_BLOCKS
        return self.owner.get(block_id)


@dataclass
class Share:
    """One rank of a consumer, and what it has learnt of one transfer."""

    registration: Register
    number: int  # of the prompt
    tokens: int
    bytes: bytearray = field(
        default_factory=lambda: bytearray([UNTOUCHED]) * (LAYERS * NUM_BLOCKS * HEADS * HEAD_BYTES)
    )
    answers: list[Outcome] = field(default_factory=list)
    asked: int = 1  # messages that may each have an answer
    gone: bool = False

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
        expected: dict[int, Content] = {}
        for layer in range(LAYERS):
            for block in range(asked.first_block, asked.first_block + len(asked.block_ids)):
                for head in self.heads:
                    content = Content.of(self.number, layer, block, head, tokens_in(block, self.tokens))
                    expected[self.address(layer, block, head) - TARGET_START] = content
                    if block < asked.first_block + delivered:
                        at = self.address(layer, block, head) - TARGET_START
                        assert bytes(self.bytes[at : at + HEAD_BYTES]) == bytes(content), (layer, block, head)
        for at in range(0, len(self.bytes), HEAD_BYTES):
            if at not in expected:
                assert self.bytes[at : at + HEAD_BYTES] == bytes([UNTOUCHED]) * HEAD_BYTES, "outside of what was asked"


@dataclass
class Write:
    share: Share
    pieces: list[Piece]
    to_a_lost_peer: bool
    over: threading.Event = field(default_factory=threading.Event)
    lost: bool = False


class Engine:
    """A transfer engine whose writes last until they are ended. `changed` is notified when one begins."""

    segment = "here"

    def __init__(self, device: Device, shares: dict[str, Share]) -> None:
        self._device = device
        self._shares = shares  # by segment
        self.changed = threading.Condition()
        self.in_flight: list[Write] = []
        self.bytes_landed = 0

    def register(self, address: int, length: int) -> None:
        raise AssertionError("the connector's class registers memory, not the producer")

    def write(self, segment: str, pieces: Sequence[Piece]) -> None:
        share = self._shares[segment]
        write = Write(share, list(pieces), share.gone)
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
            write.share.bytes[at : at + piece.length] = self._device.read(piece.source, piece.length)
            self.bytes_landed += 0 if lost else piece.length
        self.in_flight.remove(write)
        write.lost = lost
        write.over.set()

    def assert_right(self, write: Write) -> None:
        """At every moment of a write: what it reads is final and in a live block, and goes where it belongs."""
        share, asked = write.share, write.share.registration
        assert write.pieces or not asked.heads
        assert not write.to_a_lost_peer
        assert not share.answers, f"a write to {asked.segments} after its answer {share.answers}"
        assert sum(other.share is share for other in self.in_flight) == 1, "two writes of one share"
        for piece in write.pieces:
            assert piece.length % HEAD_BYTES == 0
            for offset in range(0, piece.length, HEAD_BYTES):
                source = piece.source + offset
                found = Content(*self._device.read(source, HEAD_BYTES))
                owner = self._device.owner_of(source)
                assert owner is not None, f"{found} lies in a block that was freed"
                assert owner.transfer_id == asked.transfer_id
                head = found.head_and_tokens >> 4
                final = tokens_in(found.block, share.tokens)
                assert found == Content.of(owner.number, found.layer, found.block, head, final), "not final"
                assert head in share.heads
                assert found.block >= asked.first_block
                assert piece.target + offset == share.address(found.layer, found.block, head)


class Mailbox:
    """Where the producer's messages arrive."""

    def __init__(self, shares: dict[str, Share]) -> None:
        self._shares = shares  # by segment
        self.others: list[Outcome] = []  # answers to those who never had a share

    def send(self, address: str, message: Message) -> None:
        assert isinstance(message, Outcome)
        for share in self._shares.values():
            if share.registration.reply_to == address and share.registration.transfer_id == message.transfer_id:
                share.answers.append(message)
                return
        self.others.append(message)
