"""The producer's rank with nothing held back: prefills, senders and consumers run at once, as fast as they can.

`test_transfer_properties_producer` chooses the order of events; here the threads do. Whatever happens: every request is
released once, whoever registered or cancelled gets an answer and is never written to after it, what is called delivered
has arrived, and nothing is left.
"""

import random
import threading
import time
from collections.abc import Callable, Sequence

import pytest

from connector.cache.pieces import Piece
from connector.control.messages import Cancelled, Done, Failed, Outcome
from connector.mooncake.engines import Engines
from connector.mooncake.polled_write import always
from connector.mooncake.rank_cache import RankCache
from tests.unit.connector.fake_layouts import BLOCK_TOKENS, LAYERS, PAGE, SOURCE, TARGET, fill_page, page_of
from tests.unit.connector.fakes import ArrayMemory, FakeEngine, never_opened
from tests.unit.connector.transfer.producer_rank import Rank, content

PROMPT = 11
BLOCKS = -(-PROMPT // BLOCK_TOKENS)


class WatchedEngine(FakeEngine):
    """Notes a write that begins after its consumer was answered, or that returns after that."""

    def __init__(self, rank: Rank) -> None:
        super().__init__()
        self._rank = rank
        self.late: list[str] = []

    def write(self, segment: str, pieces: Sequence[Piece], wanted: Callable[[], bool] = always) -> None:
        transfer_id = segment.replace("segment", "t")
        if self._rank.outbox.answers_to(transfer_id):
            self.late.append(segment)
        time.sleep(0.001)  # a write takes its time, in which the other threads go on
        try:
            super().write(segment, pieces, wanted)
        finally:
            if self._rank.outbox.answers_to(transfer_id):
                self.late.append(segment)


class Request:
    """A prefill request as vLLM schedules it: blocks are taken from a pool and rewritten when it is preempted."""

    def __init__(self, number: int, rank: Rank, free: list[int]) -> None:
        self.number = number
        self._rank = rank
        self._free = free
        self.table: list[int] = []
        self.end = 0
        self.released = False
        self.registered = False
        self.cancelled = False
        self.there = list(range(number * BLOCKS, (number + 1) * BLOCKS))

    def chunk(self) -> None:
        if self.released:
            return
        self.end = min(self.end + 3, PROMPT)
        while len(self.table) * BLOCK_TOKENS < self.end:
            self.table.append(self._free.pop(0))
        self._rank.chunk(self.number, PROMPT, list(self.table), self.end)
        if self.end == PROMPT:
            self.release(complete=True)

    def release(self, complete: bool) -> None:
        if not self.released:
            self.released = True
            self._rank.release(self.number, complete=complete)

    def preempt(self) -> None:
        if self.released or not self.table:
            return
        self._rank.preempt(f"r{self.number}")
        for layer in range(LAYERS):
            for block in self.table:
                fill_page(self._rank.engine.source, SOURCE, layer, block, b"\xff" * PAGE)
        self._free += self.table
        self.table, self.end = [], 0

    def register(self) -> None:
        if not self.registered:
            self.registered = True
            self._rank.register(self.number, self.there, tokens=PROMPT)

    def cancel(self) -> None:
        self.cancelled = True
        self._rank.cancel(self.number)

    def assert_right(self, answers: list[Outcome]) -> None:
        """What the first answer says has arrived; it is the one that the consumer believes."""
        assert bool(answers) == (self.registered or self.cancelled)
        if not answers or not self.registered:
            return
        match answers[0]:
            case Done():
                delivered = BLOCKS
            case Failed(delivered_blocks=blocks):
                delivered = blocks
            case Cancelled():
                delivered = 0
        target = self._rank.engine.target(f"segment{self.number}")
        for layer in range(LAYERS):
            for block in range(delivered):
                assert page_of(target, TARGET, layer, self.there[block]) == content(self.number, layer, block)


@pytest.mark.parametrize("seed", range(5))
def test_both_sides_at_once(seed: int) -> None:
    """Consumers register and cancel from another thread while the prefills run and are preempted."""
    rank = Rank(senders=8)
    engine = rank.engine = WatchedEngine(rank)
    engines = Engines({"tcp": engine}, never_opened)
    rank.producer._senders._cache = RankCache(SOURCE, ArrayMemory(engine.source), engines)
    free = list(range(SOURCE.num_blocks))
    requests = [Request(number, rank, free) for number in range(16)]
    cancelled = random.Random(seed).sample(requests, 4)
    preemptions = random.Random(seed)

    def consumers() -> None:
        for request in random.Random(seed).sample(requests, len(requests)):
            request.register()
            if request in cancelled:
                request.cancel()

    there = threading.Thread(target=consumers, daemon=True)
    try:
        there.start()
        while not all(request.released for request in requests):
            for request in requests:
                request.chunk()
                if preemptions.random() < 0.3:
                    preemptions.choice(requests).preempt()
            rank.collect()
        there.join()
        rank.until_released(*(f"r{request.number}" for request in requests))
        for request in requests:
            request.assert_right(rank.outbox.answers_to(f"t{request.number}"))
        rank.assert_nothing_left()
        assert engine.late == []
    finally:
        rank.producer.close()
