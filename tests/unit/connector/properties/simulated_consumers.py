"""A producer's consumers and the network to them, simulated: writes last until the test ends them, and are judged."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from types import SimpleNamespace
from typing import Any, NamedTuple

import msgspec

from connector.cache.layout import KVLayout
from connector.cache.pieces import Piece
from connector.control.messages import Cancelled, Done, Failed, LayerPlace, Message, Outcome, Register
from connector.mooncake.engine import TransferError
from connector.mooncake.polled_write import always
from connector.scheduling.consumer_scheduler import ConsumerScheduler
from connector.scheduling.steps import RankAddress
from tests.unit.connector.fakes import LIMIT_S
from tests.unit.connector.properties.simulated_cache import (
    UNTOUCHED,
    Model,
    Place,
    Served,
    Tables,
    heads_of,
    lacking,
    memory_of,
    place_of_head,
)
from tests.unit.connector.properties.simulated_vllm import Cache

TARGET_START = 77
# What a registration may say that the producer must refuse.
LIES: dict[str, Callable[[Register], dict[str, Any]]] = {
    "another layout": lambda asked: {"fingerprint": "other"},
    "another producer": lambda asked: {"engine_id": "the one before"},
    "an unknown layer": lambda asked: {"layers": [*asked.layers, LayerPlace("other", 0, 8, 0, 1)]},
    "more heads": lambda asked: {"layers": [LayerPlace("l0", 0, 8, 0, 9)]},
    "a group less": lambda asked: {"groups": asked.groups[1:]},
    "no block": lambda asked: {"groups": [msgspec.structs.replace(group, block_ids=[]) for group in asked.groups]},
    "a block more": lambda asked: {
        "groups": [msgspec.structs.replace(group, block_ids=[*group.block_ids, 1]) for group in asked.groups]
    },
    "another transport": lambda asked: {"segments": {"rdma": "impostor"}},
}


class Unit(NamedTuple):
    """One head of one block of one layer at the consumer."""

    layer: int
    head: int
    place: Place
    length: int


@dataclass
class Plan:
    """What a transfer's consumer asks for: a prompt of which it holds the first `held` blocks of the groups' common
    size. `extra` tokens more make it another prompt, and so does another digest."""

    tokens: int
    held: int
    extra: int
    same_tokens: bool
    descending: bool  # the blocks that it has free
    checksum: bool

    def shares(self, number: int, served: Served) -> "list[Share]":
        """What its ranks ask of the one rank of the producer."""
        model = served.model
        num_blocks = 1 + model.blocks_of_a_request
        layouts = [
            model.layout(rank, served.consumer_ranks, TARGET_START, num_blocks, served.there)
            for rank in range(served.consumer_ranks)
        ]
        sent: list[tuple[str, Message]] = []
        scheduler = ConsumerScheduler(self.checksum, lambda *message: sent.append(message), lambda facts: None)
        scheduler.set_ranks(
            [
                RankAddress(f"tcp://d{number}.{rank}:1", {"tcp": f"segment{number}.{rank}"}, "", layout)
                for rank, layout in enumerate(layouts)
            ]
        )
        tables, held, moved = self._ask(number, served, scheduler)
        places = lacking(model, tables, held, moved)
        return [
            Share(msgspec.structs.replace(message, prompt=message.prompt if self.same_tokens else "others"), number).of(
                model, layouts[message.rank], places
            )
            for address, message in sent
            if address == f"tcp://p{served.rank}:1" and isinstance(message, Register)
        ]

    def _ask(self, number: int, served: Served, scheduler: ConsumerScheduler) -> tuple[Sequence[list[int]], int, int]:
        """Returns: the tables of the blocks that it got for the prompt, and how many tokens are held and moved."""
        tokens = self.tokens + self.extra
        producer = {"engine_id": "p", "control": [f"tcp://p{rank}:1" for rank in range(served.producer_ranks)]}
        request: Any = SimpleNamespace(
            request_id=f"d{number}",
            prompt_token_ids=[number] * self.tokens,
            num_prompt_tokens=tokens,
            kv_transfer_params={"transfer_id": f"t{number}", "do_remote_prefill": True, "producer": producer},
        )
        scheduler.on_new_request(request)
        held = min(self.held, (tokens - served.model.left_out - 1) // served.model.alignment) * served.model.alignment
        coming, later = scheduler.tokens_from_producer(request, held)
        assert later
        free = list(range(1, 1 + served.model.blocks_of_a_request))
        tables = Tables(served.model, free[::-1] if self.descending else free)
        tables.load(held)
        tables.load(held + coming)
        scheduler.blocks_allocated(request, tables.tables, coming)
        # vLLM computes the last token itself: what comes must be of use for that, and no state may contain it.
        lacking(served.model, tables.tables, held, min(held + coming, tokens - 1))
        moved = tokens - served.model.left_out
        assert held + coming == moved
        return tables.tables, held, moved


@dataclass
class Share:
    """One rank of a consumer, and what it has learnt of one transfer."""

    registration: Register
    number: int  # of the prompt
    model: Model = field(init=False)
    memory: bytearray = field(init=False)
    units: dict[int, Unit] = field(init=False)  # what this producer's rank is to fill, by address
    everything: set[int] = field(init=False)  # addresses of what all of them are to fill together
    answers: list[Outcome] = field(default_factory=list)
    asked: int = 1  # messages that may each have an answer
    gone: bool = False
    unwanted: bool = False  # nothing more may be written
    believed: bool = False  # its first answer was found right

    def of(self, model: Model, layout: KVLayout, places: Sequence[tuple[Place, int]]) -> "Share":
        self.model, self.memory, self.units = model, memory_of(layout, TARGET_START), {}
        self.everything = set()
        asked = {
            place.name: range(place.first_head, place.first_head + place.heads) for place in self.registration.layers
        }
        for number, layer in enumerate(layout.layers):
            for place, block in places:
                if place[0] == layer.group:
                    for head in heads_of(layer):
                        at = place_of_head(layer, block, head)
                        assert at not in self.everything
                        self.everything.add(at)
                        if head in asked.get(layer.name, ()):
                            self.units[at] = Unit(number, head, place, layer.head_bytes)
        return self

    @cached_property
    def size(self) -> int:
        return sum(unit.length for unit in self.units.values())

    def content(self, unit: Unit) -> bytes:
        """What a computation of the moved tokens, and of no more, leaves there."""
        return self.model.content(self.number, unit.layer, unit.head, unit.place[1], self.registration.tokens)

    def assert_right(self) -> None:
        """What the first answer calls delivered lies where it belongs, and nothing beside what was asked for."""
        first = self.registration.groups[0].first
        match self.answers[0]:
            case Done(bytes=moved, early_bytes=early):
                assert moved == self.size >= early >= 0
                delivered = list(self.units)
            case Failed(delivered_blocks=blocks):
                assert 0 <= blocks <= len(self.registration.groups[0].block_ids)
                delivered = [
                    at for at, unit in self.units.items() if unit.place[0] == 0 and unit.place[1] < first + blocks
                ]
            case Cancelled():
                delivered = []
        for at in delivered:
            unit, here = self.units[at], at - TARGET_START
            assert self.memory[here : here + unit.length] == self.content(unit), unit
        outside = bytearray(self.memory)
        for at, unit in self.units.items():
            outside[at - TARGET_START : at - TARGET_START + unit.length] = bytes([UNTOUCHED]) * unit.length
        assert set(outside) == {UNTOUCHED}, "outside of what was asked"


class Mailbox:
    """Where the producer's messages arrive."""

    address = "tcp://p:1"

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

    def watch(self, address: str) -> None:
        pass


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
        assert write.pieces
        assert asked.prompt != "others", "its tokens are others"
        assert not write.unwanted, "it began after a cancellation, or to a lost peer"
        assert not share.answers, f"a write to {asked.segments} after its answer {share.answers}"
        assert sum(other.share is share for other in self.in_flight) == 1, "two writes of one share"
        for piece in write.pieces:
            target, end = piece.target, piece.target + piece.length
            while target < end:
                assert target in share.units, "outside of what was asked"
                unit = share.units[target]
                self._assert_final(share, unit, piece.source + target - piece.target)
                target += unit.length
            assert target == end, "outside of what was asked"

    def _assert_final(self, share: Share, unit: Unit, source: int) -> None:
        assert self._cache.read(source, unit.length) == share.content(unit), f"not final: {unit}"
        layer = self._cache.layout.layers[unit.layer]
        block, rest = divmod(source - place_of_head(layer, 0, unit.head), layer.block_stride)
        assert rest == 0
        owner, place = self._cache.owner.get(block, (None, None))
        assert owner is not None, f"{unit} lies in a block that was freed"
        assert (owner.transfer_id, place) == (share.registration.transfer_id, unit.place)
