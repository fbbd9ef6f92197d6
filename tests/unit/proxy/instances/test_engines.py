"""Records of servers with data-parallel engines: each engine is an instance, of one record."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from proxy.instances.instance_session import RANK_HEADER, pinned
from proxy.instances.records import view_of
from proxy.routing.fleet import Fleet, View
from proxy.status import describe, scrape_targets
from stack.instances.record import Engine, Instance, Role, engine_id
from tests.etcd_process import EtcdProcess
from tests.unit.proxy.instances.followed import following, names, put
from tests.unit.proxy.scripted import instance


def server(role: Role, name: str, url: str, ranks: range, **more: Any) -> Instance:
    """The record of one with these engines."""
    engines = [
        Engine(
            rank=rank,
            pin=number if len(ranks) > 1 else None,
            kv_transfer={"engine_id": engine_id(name, rank), "control": [f"tcp://{name}:{rank}"]},
        )
        for number, rank in enumerate(ranks)
    ]
    return instance(role, name, url, kv_transfer={}, engines=engines, **more)


def seen(*records: Instance) -> View:
    return view_of({each.key: each.model_dump_json().encode() for each in records}, 1)


HYBRID = server("prefill", "p", "http://p:1", range(2, 4))


def test_each_engine_is_an_instance() -> None:
    view = seen(HYBRID, instance("decode", "d", "http://d:1"))
    assert [each.instance_id for each in view.usable] == ["d", "p_dp2", "p_dp3"]
    _, first, second = view.usable
    assert [(each.server, each.data_parallel_rank, each.pin) for each in (first, second)] == [("p", 2, 0), ("p", 3, 1)]
    assert second.kv_transfer == {"engine_id": "p_dp3", "control": ["tcp://p:3"]}
    assert {first.key, second.key} == {HYBRID.key}


def test_a_request_says_to_which_engine_it_goes() -> None:
    _, second = HYBRID.by_engine()
    assert pinned({"X-Request-Id": "r"}, second) == {"X-Request-Id": "r", RANK_HEADER: "1"}
    (alone,) = server("prefill", "p", "http://p:1", range(3, 4)).by_engine()  # external: vLLM has no choice
    for each in (alone, instance("prefill", "p0")):
        assert pinned({"X-Request-Id": "r"}, each) == {"X-Request-Id": "r"}


def test_what_is_shown_of_them() -> None:
    fleet = Fleet()
    fleet.update(seen(HYBRID, instance("decode", "d", "http://d:1")))
    shown = {each["instance_id"]: each for each in describe(fleet, 0.0)["instances"]}
    assert (shown["p_dp3"]["server"], shown["p_dp3"]["data_parallel_rank"]) == ("p", 3)
    assert (shown["d"]["server"], shown["d"]["data_parallel_rank"]) == ("d", None)
    assert shown["d"]["pairs_with"] == ["p_dp2", "p_dp3"]


def test_prometheus_asks_a_server_once() -> None:
    """Its page has what all of its engines count, which would be added up twice."""
    targets = scrape_targets(seen(HYBRID, instance("decode", "d", "http://d:1")))
    assert [(each["targets"], each["labels"]["instance"]) for each in targets] == [(["d:1"], "d"), (["p:1"], "p")]


def test_a_server_that_is_back_takes_over_all_engines_of_the_one_before() -> None:
    """And those of one server do not take over from each other."""
    again = server("prefill", "q", HYBRID.url, range(2, 4), started_at=HYBRID.started_at + 1)
    view = seen(HYBRID, again)
    assert [each.instance_id for each in view.usable] == ["q_dp2", "q_dp3"]
    assert view.superseded == {"p_dp2": "q", "p_dp3": "q"}


async def test_they_come_and_go_with_their_record(etcd_server: EtcdProcess, registry: Any) -> None:
    put(registry, HYBRID)
    async with following(etcd_server.endpoint) as views:
        await views.until(lambda view: names(view) == {"p_dp2", "p_dp3"})
        assert views.all[-1].stale_since is None, "their record is registered"
        registry.delete(HYBRID.key)
        await views.until(lambda view: names(view) == set())


ROLES: tuple[Role, ...] = ("prefill", "decode", "aggregated")
records = st.lists(st.tuples(st.sampled_from(ROLES), st.integers(0, 5), st.integers(0, 4)), max_size=5).map(
    lambda servers: [
        server(role, f"s{number}", f"http://s{number}:1", range(first, first + count))
        if count
        else instance(role, f"s{number}", f"http://s{number}:1")
        for number, (role, first, count) in enumerate(servers)
    ]
)


@given(records)
def test_no_two_are_reached_in_the_same_way(found: list[Instance]) -> None:
    """Nor have the same name; and what a consumer is told of one is of that engine."""
    usable = seen(*found).usable
    assert len(usable) == sum(len(each.engines) or 1 for each in found)
    assert len({(each.url, each.pin) for each in usable}) == len({each.instance_id for each in usable}) == len(usable)
    for each in usable:
        if each.data_parallel_rank is not None:
            assert each.kv_transfer["engine_id"] == each.instance_id
