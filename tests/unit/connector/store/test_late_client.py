"""An instance whose store answers at once, later, or never."""

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from connector.store.late_client import LateClient
from stack.store import cluster
from tests.unit.connector.fakes import LIMIT_S


@dataclass
class Master:
    """Clients of it are set up while it answers; while it hangs they wait."""

    answers: bool = True
    hangs: threading.Event = field(default_factory=threading.Event)  # when set it does not
    refuses_memory: bool = False
    keeps_memory: bool = False
    clients: list["Client"] = field(default_factory=list)

    def client(self) -> "Client":
        self.clients.append(Client(self))
        return self.clients[-1]


@dataclass
class Client:
    master: Master
    buffers: list[tuple[int, int]] = field(default_factory=list)
    closed: bool = False
    groups: list[list[str] | None] = field(default_factory=list)  # of each put
    failures: list[int | Exception] = field(default_factory=list)  # of the next loads' first keys

    def setup(self, *arguments: Any) -> int:
        assert arguments[:2] == ("host", "P2PHANDSHAKE")
        assert self.master.hangs.wait(LIMIT_S)
        return 0 if self.master.answers else -1

    def register_buffer(self, address: int, length: int) -> int:
        self.buffers.append((address, length))
        return -1 if self.master.refuses_memory else 0

    def unregister_buffer(self, address: int) -> int:
        if self.master.keeps_memory:
            return -600
        self.buffers = [buffer for buffer in self.buffers if buffer[0] != address]
        return 0

    def batch_is_exist(self, keys: list[str]) -> list[int]:
        return [1] * len(keys)

    def batch_get_into_multi_buffers(
        self, keys: list[str], buffers: list[list[int]], sizes: list[list[int]]
    ) -> list[int]:
        assert len(keys) == len(buffers) == len(sizes)
        loaded = [sum(of_key) for of_key in sizes]
        if not self.failures:
            return loaded
        failure = self.failures.pop(0)
        if isinstance(failure, Exception):
            raise failure
        return [failure, *loaded[1:]]

    def batch_put_from_multi_buffers(
        self, keys: list[str], buffers: list[list[int]], sizes: list[list[int]], config: Any
    ) -> list[int]:
        assert len(keys) == len(buffers) == len(sizes)
        self.groups.append(getattr(config, "group_ids", None))
        return [0] * len(keys)

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def master() -> Iterator[Master]:
    made = Master()
    made.hangs.set()
    yield made
    made.hangs.set()


def late(master: Master, first_try_s: float = LIMIT_S) -> LateClient:
    made = LateClient(master.client, first_try_s, between_tries_s=0.01)
    assert made.setup("host", "P2PHANDSHAKE") == 0
    return made


def asked(client: LateClient) -> list[list[int]]:
    return [
        client.batch_is_exist(["a", "b"]),
        client.batch_get_into_multi_buffers(["a"], [[0]], [[32]]),
        client.batch_put_from_multi_buffers(["a"], [[0]], [[32]], "config"),
    ]


WITHOUT, WITH = [[0, 0], [-1], [-200]], [[1, 1], [32], [0]]


def until_joined(client: LateClient) -> None:
    over = threading.Event()
    for _ in range(int(LIMIT_S / 0.01)):
        if client._joined is not None:
            return
        over.wait(0.01)
    raise AssertionError("it has not joined")


def test_a_store_that_answers_is_joined_at_the_start(master: Master) -> None:
    client = late(master)

    assert client.register_buffer(1, 32) == 0
    assert (asked(client), len(master.clients), master.clients[0].buffers) == (WITH, 1, [(1, 32)])
    client.close()
    assert master.clients[0].closed


@pytest.mark.parametrize("memory", [False, True], ids=["no answer", "no memory"])
def test_without_an_answer_there_is_nothing_in_the_store_until_there_is_one(master: Master, memory: bool) -> None:
    master.answers = False
    client = late(master)
    assert [client.register_buffer(1, 32), client.register_buffer(33, 32)] == [0, 0]
    assert asked(client) == WITHOUT

    master.refuses_memory, master.answers = memory, True
    if memory:
        while not master.clients[-1].buffers:
            threading.Event().wait(0.01)
        assert asked(client) == WITHOUT, "what it cannot write to it does not load"
        master.refuses_memory = False
    until_joined(client)
    assert asked(client) == WITH
    assert master.clients[-1].buffers == [(1, 32), (33, 32)]
    assert [each.closed for each in master.clients] == [True] * (len(master.clients) - 1) + [False]


def test_while_none_of_two_masters_leads_nobody_looks_for_one(master: Master, monkeypatch: pytest.MonkeyPatch) -> None:
    leads = threading.Event()
    told: list[str] = []

    def has_leader(address: str) -> bool:
        told.append(address)
        return leads.is_set()

    monkeypatch.setattr(cluster, "has_leader", has_leader)
    client = LateClient(master.client, LIMIT_S, between_tries_s=0.01)
    client.setup("host", "P2PHANDSHAKE", 0, 0, "tcp", "", "etcd://10.0.0.7:2379")
    assert (asked(client), master.clients) == (WITHOUT, [])

    leads.set()
    until_joined(client)
    assert (asked(client), len(master.clients), set(told)) == (WITH, 1, {"etcd://10.0.0.7:2379"})


def test_a_start_does_not_wait_for_a_store_that_hangs(master: Master) -> None:
    master.hangs.clear()
    client = late(master, first_try_s=0.01)
    assert asked(client) == WITHOUT

    client.close()
    master.hangs.set()
    for thread in threading.enumerate():
        if thread.name == "store-join":
            thread.join(LIMIT_S)
    assert [each.closed for each in master.clients] == [True], "nobody joins for an instance that has ended"
    assert asked(client) == WITHOUT


@pytest.mark.parametrize("groups", [None, [f"group {key}" for key in range(5)]], ids=["no groups", "groups"])
def test_large_batches_go_in_parts_each_with_its_own_keys_and_groups(master: Master, groups: list[str] | None) -> None:
    client = late(master)
    keys, buffers, sizes = [str(key) for key in range(5)], [[0] * 500] * 5, [[2] * 500] * 5  # two keys fit

    assert client.batch_get_into_multi_buffers(keys, buffers, sizes) == [1000] * 5
    assert client.batch_put_from_multi_buffers(keys, buffers, sizes, SimpleNamespace(group_ids=groups)) == [0] * 5
    assert master.clients[0].groups == ([groups[:2], groups[2:4], groups[4:]] if groups else [None] * 3)


def over(protocol: str, master: Master) -> LateClient:
    made = LateClient(master.client, LIMIT_S, between_tries_s=0.01)
    assert made.setup("host", "P2PHANDSHAKE", 0, 0, protocol, "", "10.0.0.7:50051") == 0
    assert [made.register_buffer(1, 32), made.register_buffer(33, 32)] == [0, 0]
    return made


def load(client: LateClient) -> list[int]:
    return client.batch_get_into_multi_buffers(["a", "b"], [[0], [32]], [[32], [32]])


@pytest.mark.parametrize(("protocol", "failure"), [("tcp", -800), ("rdma", -704), ("rdma", -900)])
def test_a_load_that_fails_without_reads_under_way_changes_nothing(master: Master, protocol: str, failure: int) -> None:
    client = over(protocol, master)
    master.clients[0].failures.append(failure)

    assert load(client) == [failure, 32]
    assert (asked(client), master.clients[0].buffers) == (WITH, [(1, 32), (33, 32)])


@pytest.mark.parametrize("failure", [-800, MemoryError()], ids=["failed", "not known"])
def test_after_a_load_over_rdma_whose_reads_may_go_on_mooncake_has_no_memory_left(
    master: Master, failure: int | Exception
) -> None:
    client = over("rdma", master)
    master.clients[0].failures.append(failure)

    if isinstance(failure, int):
        assert load(client) == [failure, 32]
    else:
        with pytest.raises(MemoryError):
            load(client)
    assert (asked(client), master.clients[0].buffers) == (WITHOUT, [])
    client.close()
    assert ([each.closed for each in master.clients], len(master.clients)) == ([False], 1)


def test_a_load_over_rdma_does_not_return_while_mooncake_keeps_the_memory(master: Master) -> None:
    client = over("rdma", master)
    master.clients[0].failures.append(-800)
    master.keeps_memory = True
    thread = threading.Thread(target=load, args=(client,))
    thread.start()

    thread.join(0.2)
    assert thread.is_alive()
    assert asked(client) == WITHOUT
    client.close()
    thread.join(LIMIT_S)
    assert not thread.is_alive()
