"""A consumer's scheduler with what its workers have told it, and what it has sent."""

from collections.abc import Sequence
from typing import Any

from connector.cache.layout import CacheGroup, CacheLayer, KVLayout
from connector.control.messages import Done, Register
from connector.scheduling.consumer_scheduler import ConsumerScheduler
from connector.scheduling.steps import ConsumerStep, RankAddress
from tests.unit.connector.fake_layouts import FULL
from tests.unit.connector.fakes import Outbox
from tests.unit.connector.scheduling.vllm_requests import decode, output

HEAD = 32
CONSUMER = ["tcp://d:1", "tcp://d:2"]
DONE = Done("t1", 0, 96, 32, 3, 0.5, 0.1, "tcp")


def rank_at(number: int, groups: Sequence[CacheGroup], layers: Sequence[CacheLayer]) -> RankAddress:
    layout = KVLayout(tuple(groups), tuple(layers), 99, "same")
    return RankAddress(CONSUMER[number], {"tcp": f"d-{number}"}, "host", layout)


def attention(name: str, address: int, first_head: int = 0, heads: int = 1, all_heads: int = 2) -> CacheLayer:
    return CacheLayer(name, 0, address, 2 * heads * HEAD, HEAD, first_head, heads, all_heads)


# Two ranks with one of two heads each, in two layers.
RANKS = [
    rank_at(
        number, [FULL], [attention("a", 1000 + 2000 * number, number), attention("b", 2000 + 2000 * number, number)]
    )
    for number in range(2)
]


class Consumer:
    def __init__(self, ranks: Sequence[RankAddress] = RANKS) -> None:
        self.outbox = Outbox()
        self.published: list[dict[str, Any]] = []
        self.scheduler = ConsumerScheduler(False, self.outbox.send, self.published.append)
        self.scheduler.set_ranks(list(ranks))

    def add(self, added: Any) -> Any:
        self.scheduler.on_new_request(added)
        return added

    def registered(self, number: int = 1) -> Any:
        """A request whose load is under way."""
        one = self.add(decode(number))
        self.scheduler.blocks_allocated(one, [[20, 21, 22]], 10)
        return one

    def registers(self) -> list[tuple[str, Register]]:
        return [(there, message) for there, message in self.outbox.sent if isinstance(message, Register)]

    def assert_nothing_left(self) -> None:
        scheduler = self.scheduler
        assert not scheduler._asked
        assert not scheduler._registered
        assert not scheduler._facts
        assert not scheduler._abandoned
        assert scheduler.held.blocks == 0
        assert scheduler.build_step(output()) == ConsumerStep(True)
