"""An engine in place of the one whose peers may still write. Mooncake's own: tests/integration and tests/rdma."""

from itertools import count

import pytest

from connector.mooncake.engine import TransferError
from connector.mooncake.engines import Engines
from connector.telling.stats import TransferStats
from connector.transfer.revocation import AFTER_A_PEERS_END, BY_A_SILENT_PEER, Revocation
from tests.unit.connector.fakes import FakeEngine, until

MEMORY = [(4096, 10), (8192, 20)]


class Engine(FakeEngine):
    def __init__(self, segment: str) -> None:
        super().__init__()
        self.segment = segment
        self.registered: list[tuple[int, int]] = []
        self.closed = False

    def register(self, address: int, length: int) -> None:
        self.registered.append((address, length))

    def close(self) -> None:
        self.closed = True


class Rank:
    def __init__(self) -> None:
        self._numbers = count()
        self.etcd_away = False
        self.stats = TransferStats()
        self.opened = [self._open("rdma"), self._open("tcp")]
        self.engines = Engines(dict(zip(("rdma", "tcp"), self.opened, strict=True)), self._open_engine)
        for address, length in MEMORY:
            self.engines.register(address, length)
        self.told = self.engines.segments  # what peers know
        self.revocation = Revocation(self.engines, self.stats)

    def _open(self, transport: str) -> Engine:
        return Engine(f"d-{transport}-{next(self._numbers)}")

    def _open_engine(self, transport: str) -> Engine:
        if self.etcd_away:
            raise TransferError("Mooncake did not start: etcd is away")
        self.opened.append(self._open(transport))
        return self.opened[-1]


@pytest.fixture
def rank(monkeypatch: pytest.MonkeyPatch) -> Rank:
    monkeypatch.setattr("connector.transfer.revocation.REOPEN_PAUSE_S", 0.01)
    return Rank()


def test_all_ways_into_the_memory_are_new_behind_a_silent_peer(rank: Rank) -> None:
    until(lambda: rank.revocation.over(rank.told, BY_A_SILENT_PEER))
    assert [engine.closed for engine in rank.opened] == [True, True, False, False]
    assert set(rank.engines.segments.values()) == {engine.segment for engine in rank.opened[2:]}
    assert rank.engines.segments.keys() == {"rdma", "tcp"}
    assert all(engine.registered == MEMORY for engine in rank.opened)


def test_a_peer_that_has_ended_costs_only_tcp_and_once(rank: Rank) -> None:
    for _ in range(2):
        until(lambda: rank.revocation.over(rank.told, AFTER_A_PEERS_END))
    assert [engine.segment for engine in rank.opened if not engine.closed] == ["d-rdma-0", "d-tcp-2"]
    assert rank.engines.segments == {"rdma": "d-rdma-0", "tcp": "d-tcp-2"}
    taken = rank.stats.take()
    assert taken is not None
    assert taken["counted"] == [["revocations", "tcp", 1]]


def test_nothing_is_done_where_nothing_can_come(rank: Rank) -> None:
    assert rank.revocation.over(rank.told, frozenset())
    assert rank.revocation.over({}, BY_A_SILENT_PEER)
    assert len(rank.opened) == 2


def test_blocks_do_not_wait_for_etcd_and_the_engine_comes_back_with_it(rank: Rank) -> None:
    rank.etcd_away = True
    until(lambda: rank.revocation.over(rank.told, AFTER_A_PEERS_END))
    assert rank.engines.segments == {"rdma": "d-rdma-0"}
    rank.etcd_away = False
    until(lambda: "tcp" in rank.engines.segments)
    assert rank.engines.segments["tcp"] not in rank.told.values()
    assert rank.opened[-1].registered == MEMORY
