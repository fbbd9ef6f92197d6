"""The consumer's rank on stand-ins: a test lets it wait, abort and hear of its producers."""

from connector.cache.heads import Source, sources
from connector.cache.layout import KVLayout
from connector.control.messages import Done, GroupBlocks
from connector.mooncake.engines import Engines
from connector.mooncake.rank_cache import RankCache
from connector.scheduling.steps import ConsumerStep, Load
from connector.telling.stats import TransferStats
from connector.transfer.consumer import Consumer
from tests.unit.connector.fake_layouts import HEADS, MEMORY_BYTES, TARGET
from tests.unit.connector.fakes import Access, ArrayMemory, Outbox, never_opened, registrations

LONG_S = 3600.0
BLOCKS = [7, 8, 3]
PRODUCERS = ["tcp://p-rank0:1", "tcp://p-rank1:1"]
GROUPS = [GroupBlocks(0, BLOCKS)]
TOKENS = 12
ONE_TO_ONE = sources(2, 2, {HEADS})
TWO_TO_ONE = sources(1, 2, {HEADS})
DONE = Done("t1", 0, 96, 32, 3, 0.5, 0.1, "tcp")


class Rank:
    """Of a consumer with two ranks: number `rank`, which waits for two ranks of a producer or for one."""

    def __init__(
        self, timeout: float = LONG_S, cancel_timeout: float = LONG_S, rank: int = 0, layout: KVLayout = TARGET
    ) -> None:
        self.layout = layout
        self.outbox = Outbox("tcp://d:1")
        self.stats = TransferStats()
        self.memory = bytearray(MEMORY_BYTES)
        self.access = Access()
        self.segments = dict(self.access.segments)
        self.consumer = Consumer(
            rank=rank,
            cache=RankCache(layout, ArrayMemory(self.memory), Engines({}, never_opened)),
            wire=self.outbox,
            timeout=timeout,
            cancel_timeout=cancel_timeout,
            revoked=self.access.over,
            stats=self.stats,
        )

    def load(self, number: int = 1, plan: list[list[Source]] = ONE_TO_ONE, groups: list[GroupBlocks] = GROUPS) -> None:
        self.consumer.begin_step(ConsumerStep(idle=True, loads=[self.new_load(number, plan, groups)]))

    def new_load(
        self, number: int = 1, plan: list[list[Source]] = ONE_TO_ONE, groups: list[GroupBlocks] = GROUPS
    ) -> Load:
        asked = registrations(f"t{number}", groups, TOKENS, plan, self.segments, self.layout)
        blocks = tuple(group.block_ids for group in groups)
        return Load(f"t{number}", f"r{number}", TOKENS, blocks, PRODUCERS, asked)

    def abort(self, number: int = 1) -> None:
        self.consumer.begin_step(ConsumerStep(idle=True, aborted=[f"t{number}"]))

    def tick(self) -> bool:
        self.consumer.on_tick()
        return True

    def revoked(self) -> set[str]:
        """What was asked for, which is done now."""
        asked = self.access.asked
        self.access.revoke()
        self.consumer.on_tick()
        return asked

    def failures(self) -> dict[str, int]:
        taken = self.stats.take()
        rows = taken["counted"] if taken is not None else []
        return {cause: number for name, cause, *_, number in rows if name == "failed_shares"}

    def assert_nothing_left(self) -> None:
        assert not self.consumer._waiting
        assert not self.consumer._outcomes
        assert self.consumer.take_finished(0.0) == set()
        assert self.consumer.take_invalid_blocks() == set()
        assert self.consumer.take_failed() == set()
        assert self.consumer.take_done() == {}
