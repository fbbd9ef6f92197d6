"""The producer's rank on stand-ins: a test lets it compute, release and preempt, and consumers register and cancel."""

from collections.abc import Callable
from typing import Any

from connector.cache.layout import NULL_BLOCK, Kind, KVLayout
from connector.control.messages import Cancel, GroupBlocks, Register
from connector.mooncake.engines import Engines
from connector.mooncake.rank_cache import RankCache
from connector.scheduling.steps import Chunk, ProducerStep, Released
from connector.telling.stats import TransferStats
from connector.transfer.producer import Pace, Producer
from tests.unit.connector.fake_layouts import PAGE, SOURCE, TARGET, fill_page, page_of, places
from tests.unit.connector.fakes import (
    LIMIT_S,
    ArrayMemory,
    FakeEngine,
    ImmediateFences,
    LateFences,
    Outbox,
    never_opened,
    until,
)

Tables = list[int] | tuple[list[int], ...]  # by group; a list where there is only one
LONG_S = 3600.0
PROMPT, HERE, THERE = 10, [20, 21, 5], [9, 10, 3]


class Rank:
    """A producer that computes content which tells transfer, layer and block of the prompt."""

    def __init__(
        self,
        patience: float = LONG_S,
        senders: int = 2,
        fences: ImmediateFences | LateFences | None = None,
        min_stream_tokens: int = 0,
        write_timeout: float = LIMIT_S * 10,
        outbox: Outbox | None = None,
        layouts: tuple[KVLayout, KVLayout] = (SOURCE, TARGET),
    ) -> None:
        self.source, self.target = layouts
        self.engine = FakeEngine()
        self.outbox = outbox or Outbox("tcp://p:1")
        self.stats = TransferStats()
        self.finished: list[str] = []
        self._ends: dict[int, int] = {}
        self.producer = Producer(
            engine_id="p",
            rank=0,
            cache=RankCache(self.source, ArrayMemory(self.engine.source), Engines({"tcp": self.engine}, never_opened)),
            wire=self.outbox,
            fences=fences or ImmediateFences(),
            pace=Pace(patience, write_timeout, min_stream_tokens, senders),
            stats=self.stats,
        )

    def begin_chunk(self, number: int, prompt_tokens: int, tables: Tables, end: int, request: str = "") -> None:
        """The first half of a step that computes one chunk; nothing of it is in memory yet."""
        tokens = end - self._ends.get(number, 0)
        part = Chunk(f"t{number}", request or f"r{number}", prompt_tokens, by_group(tables), end, tokens)
        self._ends[number] = end
        self.producer.begin_step(ProducerStep(idle=False, chunks=[part]))

    def compute(self, number: int, tables: Tables, end: int, layer: int) -> None:
        """The layer's cache is written up to token `end`. A state is in its last block only."""
        group = self.source.groups[self.source.layers[layer].group]
        table = by_group(tables)[self.source.layers[layer].group]
        for position in range(group.blocks(end)):
            last = position == group.blocks(end) - 1
            if table[position] != NULL_BLOCK and (last or group.kind is not Kind.STATE):
                written = self.content(number, layer, position, end)
                fill_page(self.engine.source, self.source, layer, table[position], written)

    def chunk(self, number: int, prompt_tokens: int, tables: Tables, end: int, request: str = "") -> None:
        """One step that computes one chunk, layer by layer."""
        self.begin_chunk(number, prompt_tokens, tables, end, request)
        for layer in range(len(self.source.layers)):
            self.compute(number, tables, end, layer)
            self.producer.layer_computed(layer)
        self.producer.step_computed()

    def content(self, number: int, layer: int, position: int, end: int) -> bytes:
        """Of a block when the prompt is computed up to token `end`."""
        own = self.source.layers[layer]
        state = self.source.groups[own.group].kind is Kind.STATE
        return content(number, layer, end if state else position, own.page)

    def release(self, number: int, request: str = "", complete: bool = True) -> None:
        released = Released(f"t{number}", request or f"r{number}", complete)
        self.producer.begin_step(ProducerStep(idle=True, released=[released]))

    def preempt(self, *requests: str) -> None:
        """As vLLM does: the next step may overwrite the blocks."""
        self.producer.rewrite_blocks_of(list(requests))
        self._ends = {number: end for number, end in self._ends.items() if f"r{number}" not in requests}
        self.producer.begin_step(ProducerStep(idle=False, preempted=list(requests)))

    def register(
        self, number: int, blocks: list[int], first_block: int = 0, tokens: int = PROMPT, **changes: Any
    ) -> Register:
        """Args: blocks: of the only group; with several they come as `groups`."""
        fields: dict[str, Any] = {
            "transfer_id": f"t{number}",
            "engine_id": "p",
            "fingerprint": self.target.facts,
            "reply_to": f"tcp://d{number}:1",
            "rank": 0,
            "shares": 1,
            "segments": {"tcp": f"segment{number}"},
            "host_identity": "",
            "tokens": tokens,
            "groups": [GroupBlocks(first_block, blocks)],
            "layers": places(self.target),
        }
        registration = Register(**(fields | changes))
        self.producer.on_message(registration)
        return registration

    def cancel(self, number: int) -> None:
        self.producer.on_message(Cancel(f"t{number}", f"tcp://d{number}:1"))

    def tick(self) -> bool:
        self.producer.on_tick()
        return True

    def collect(self) -> list[str]:
        self.finished += self.producer.take_finished(0.0)
        return self.finished

    def until_released(self, *requests: str) -> None:
        """Every one of these requests, each once, and no other."""
        until(lambda: len(self.collect()) >= len(requests))
        assert sorted(self.finished) == sorted(requests)

    def assert_arrived(self, number: int, blocks: list[int], first_block: int = 0, segment: str = "") -> None:
        self.assert_groups_arrived(number, [GroupBlocks(first_block, blocks)], PROMPT, segment)

    def assert_groups_arrived(self, number: int, groups: list[GroupBlocks], tokens: int, segment: str = "") -> None:
        target = self.engine.target(segment or f"segment{number}")
        for layer, own in enumerate(self.target.layers):
            wanted = groups[own.group]
            for position, block in enumerate(wanted.block_ids, start=wanted.first):
                expected = self.content(number, layer, position, tokens)
                assert page_of(target, self.target, layer, block) == expected, (own.name, position)

    def assert_nothing_left(self) -> None:
        assert not self.producer._transfers.all()
        until(lambda: not self.producer._senders._queue)  # a sender may still have to find out that nothing is to do
        assert self.producer.take_finished(0.0) == set()


def by_group(tables: Tables) -> tuple[list[int], ...]:
    return tables if isinstance(tables, tuple) else (tables,)


def content(number: int, layer: int, block: int, length: int = PAGE) -> bytes:
    pattern = bytes([number, layer, block, 0xAA, block, layer, number, 0x55])
    return (pattern * (length // len(pattern) + 1))[:length]


NewRank = Callable[..., Rank]


def consumer_first(rank: Rank) -> None:
    rank.register(1, THERE)
    rank.chunk(1, PROMPT, HERE[:2], 6)
    rank.chunk(1, PROMPT, HERE, 10)
    rank.release(1)
