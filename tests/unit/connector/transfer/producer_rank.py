"""The producer's rank on stand-ins: a test lets it compute, release and preempt, and consumers register and cancel."""

from collections.abc import Callable
from typing import Any

from connector.control.messages import Cancel, Register
from connector.mooncake.engines import Engines
from connector.telling.stats import TransferStats
from connector.transfer.producer import Producer
from connector.transfer.steps import Chunk, ProducerStep, Released
from tests.unit.connector.fakes import (
    BLOCK_TOKENS,
    LAYERS,
    LIMIT_S,
    SOURCE,
    TARGET,
    ArrayMemory,
    FakeEngine,
    ImmediateFences,
    LateFences,
    Outbox,
    fill_page,
    never_opened,
    page_of,
    until,
)

LONG_S = 3600.0


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
    ) -> None:
        self.engine = FakeEngine()
        self.outbox = outbox or Outbox()
        self.stats = TransferStats()
        self.finished: list[str] = []
        self._ends: dict[int, int] = {}
        self.watched: list[str] = []
        self.producer = Producer(
            engine_id="p",
            rank=0,
            engines=Engines({"tcp": self.engine}, never_opened),
            layout=SOURCE,
            memory=ArrayMemory(self.engine.source),
            block_size=BLOCK_TOKENS,
            fingerprint="same",
            address="tcp://p:1",
            send=self.outbox.send,
            watch=self.watched.append,
            fences=fences or ImmediateFences(),
            patience=patience,
            min_stream_tokens=min_stream_tokens,
            sender_threads=senders,
            write_timeout=write_timeout,
            stats=self.stats,
        )

    def chunk(self, number: int, prompt_tokens: int, block_ids: list[int], end: int, request: str = "") -> None:
        """One step that computes one chunk, layer by layer."""
        part = Chunk(
            f"t{number}", request or f"r{number}", prompt_tokens, block_ids, end, end - self._ends.get(number, 0)
        )
        self._ends[number] = end
        self.producer.begin_step(ProducerStep(idle=False, chunks=[part]))
        for layer in range(LAYERS):
            for block in range(-(-end // BLOCK_TOKENS)):
                fill_page(self.engine.source, SOURCE, layer, block_ids[block], content(number, layer, block))
            self.producer.layer_computed(layer)
        self.producer.step_computed()

    def release(self, number: int, request: str = "", complete: bool = True) -> None:
        released = Released(f"t{number}", request or f"r{number}", complete)
        self.producer.begin_step(ProducerStep(idle=True, released=[released]))

    def preempt(self, *requests: str) -> None:
        """As vLLM does: the next step may overwrite the blocks."""
        self.producer.rewrite_blocks_of(list(requests))
        self._ends = {number: end for number, end in self._ends.items() if f"r{number}" not in requests}
        self.producer.begin_step(ProducerStep(idle=False, preempted=list(requests)))

    def register(self, number: int, blocks: list[int], first_block: int = 0, **changes: Any) -> Register:
        fields: dict[str, Any] = {
            "transfer_id": f"t{number}",
            "engine_id": "p",
            "fingerprint": "same",
            "reply_to": f"tcp://d{number}:1",
            "rank": 0,
            "shares": 1,
            "segments": {"tcp": f"segment{number}"},
            "host_identity": "",
            "first_head": 0,
            "heads": SOURCE.heads,
            "layer_addresses": list(TARGET.layer_addresses),
            "block_stride": TARGET.block_stride,
            "first_block": first_block,
            "block_ids": blocks,
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
        target = self.engine.target(segment or f"segment{number}")
        for layer in range(LAYERS):
            for offset, block in enumerate(blocks):
                expected = content(number, layer, first_block + offset)
                assert page_of(target, TARGET, layer, block) == expected, (layer, offset)

    def assert_nothing_left(self) -> None:
        assert not self.producer._transfers
        until(lambda: not self.producer._senders._queue)  # a sender may still have to find out that nothing is to do
        assert self.producer.take_finished(0.0) == set()


def content(number: int, layer: int, block: int) -> bytes:
    return bytes([number, layer, block, 0xAA, block, layer, number, 0x55])


NewRank = Callable[..., Rank]
PROMPT, HERE, THERE = 10, [20, 21, 5], [9, 10, 3]


def consumer_first(rank: Rank) -> None:
    rank.register(1, THERE)
    rank.chunk(1, PROMPT, HERE[:2], 6)
    rank.chunk(1, PROMPT, HERE, 10)
    rank.release(1)
