"""What /ready, /instances and /v1/models say about a view."""

from proxy.instances.records import view_of
from proxy.routing.fleet import Fleet, View
from proxy.routing.partners import NAMED
from proxy.status import describe, readiness, scrape_targets, served_models
from stack.instances.record import Adapter, Instance
from tests.unit.proxy.conftest import StartStack
from tests.unit.proxy.scripted import MODEL, instance, prefilled

P0 = instance("prefill", "p0", "http://a:1", transports=("rdma", "tcp"), pipeline_parallel_size=2)
D0 = instance("decode", "d0", "http://b:1")
OTHER_D = instance("decode", "d1", "http://c:1", fingerprint="x", block_size=16, max_model_len=2048, started_at=900.5)


def view(*instances: Instance) -> View:
    return view_of({each.key: each.model_dump_json().encode() for each in instances}, 7)


def test_readiness() -> None:
    assert readiness(view(P0, D0)) == {"status": "ready", "missing": [], "reason": None, "stale": False}
    assert readiness(view(P0))["missing"] == ("decode",)
    assert readiness(view(P0, OTHER_D))["reason"] == (
        "No prefill and decode instance fit together: different block_size 32 and 16 (p0, d1)."
    )
    assert readiness(View())["reason"] == "Discovery has not reached etcd yet."


def test_an_aggregated_instance_is_enough() -> None:
    alone = instance("aggregated", "a0", kv_transfer={})
    assert readiness(view(alone))["status"] == "ready"
    assert readiness(view(alone, P0))["status"] == "ready"
    fleet = Fleet()
    fleet.update(view(alone, P0))
    shown = {each["instance_id"]: each for each in describe(fleet, now=1010.0)["instances"]}
    assert (shown["a0"]["role"], shown["a0"]["pairs_with"], shown["a0"]["not_paired"]) == ("aggregated", [], [])
    assert shown["p0"]["not_paired"] == ["no decode instance is available"]


def test_why_an_instance_is_not_paired() -> None:
    fleet = Fleet()
    fleet.update(view(P0, D0, OTHER_D))
    fleet.begin(P0)
    shown = {each["instance_id"]: each for each in describe(fleet, now=1010.0)["instances"]}
    assert (shown["p0"]["vllm_version"], shown["p0"]["connector_version"]) == ("0.32.0", "0.1.0")
    assert (shown["p0"]["transports"], shown["d0"]["transports"]) == (("rdma", "tcp"), ())
    assert (shown["p0"]["pipeline_parallel_size"], shown["d0"]["pipeline_parallel_size"]) == (2, 1)
    assert shown["p0"]["pairs_with"] == ["d0"]
    assert shown["p0"]["not_paired"] == ["different block_size 32 and 16 (p0, d1)"]
    assert shown["d1"]["pairs_with"] == []
    assert (shown["p0"]["age_s"], shown["p0"]["outstanding"]) == (10.0, 1)


def test_the_newest_instance_at_a_url_is_the_one() -> None:
    restarted = instance("decode", "d2", D0.url, started_at=2000.0)
    seen = view(P0, D0, restarted)
    assert [each.instance_id for each in seen.usable] == ["d2", "p0"]
    fleet = Fleet()
    fleet.update(seen)
    [old] = [each for each in describe(fleet, 0.0)["instances"] if each["instance_id"] == "d0"]
    assert old["not_paired"] == ["d2 has taken over http://b:1"]


def test_a_record_that_cannot_be_read_is_shown_and_not_used() -> None:
    seen = view_of({P0.key: P0.model_dump_json().encode(), "/pd/v1/instances/decode/x": b'{"role": "both"}'}, 7)
    assert seen.usable == (P0,)
    assert "role: Input should be 'prefill', 'decode' or 'aggregated'" in seen.unreadable["/pd/v1/instances/decode/x"]


def test_models_are_merged() -> None:
    """In vLLM's own words where an instance passes them on; all can take `max_model_len`."""
    adapter = Adapter(id="adapter", root="/adapters/1", parent=MODEL)
    bare = {"object": "model", "created": 1000, "owned_by": "vllm", "permission": [{"allow_view": True}]}
    cards = (
        {**bare, "id": MODEL, "root": "/models/it", "parent": None, "max_model_len": 4096},
        {**bare, "id": "adapter", "root": "/adapters/1", "parent": MODEL, "max_model_len": None},
    )
    adapted = instance("decode", "d3", served_models=(MODEL, "adapter"), adapters=(adapter,), models=cards)
    assert list(served_models(view(adapted)).values()) == list(cards)
    shorter = tuple(card | {"created": 900, "max_model_len": card["max_model_len"] and 2048} for card in cards)
    models = served_models(
        view(adapted.model_copy(update={"instance_id": "d1", "url": "", "models": shorter}), adapted)
    )
    assert models == {MODEL: shorter[0], "adapter": shorter[1]}
    assert served_models(view(OTHER_D))[MODEL] == {
        "id": MODEL,
        "object": "model",
        "created": 900,
        "owned_by": "vllm",
        "root": MODEL,
        "parent": None,
        "max_model_len": 2048,
    }


def test_which_adapters_a_pair_does_not_share() -> None:
    one, other, shared = (Adapter(id=name, root="/", parent=MODEL, identity="1") for name in ("one", "other", "shared"))
    changed = shared.model_copy(update={"identity": "2"})
    producer = instance("prefill", "p0", served_models=(MODEL, "one", "shared"), adapters=(one, shared))
    consumer = instance(
        "decode", "d0", "http://b:1", served_models=(MODEL, "other", "shared"), adapters=(other, changed)
    )
    fleet = Fleet()
    fleet.update(view(producer, consumer))
    for shown in describe(fleet, now=1010.0)["instances"]:
        assert len(shown["pairs_with"]) == 1
        assert shown["not_paired"] == [
            "`one` is served by p0, not by d0",
            "`other` is served by d0, not by p0",
            "different weights of the adapter `shared`: 1 and 2 (p0, d0)",
        ]


def test_of_many_partners_some_are_named_and_all_are_counted() -> None:
    producers = [instance("prefill", f"p{number:02}", f"http://p{number}:1") for number in range(NAMED + 8)]
    strangers = [
        instance("prefill", f"x{number:02}", f"http://x{number}:1", fingerprint="x", block_size=16)
        for number in range(NAMED + 2)
    ]
    fleet = Fleet()
    fleet.update(view(D0, *producers, *strangers))
    shown = {each["instance_id"]: each for each in describe(fleet, now=1010.0)["instances"]}
    assert shown["d0"]["pairs_with"] == [each.instance_id for each in producers[:NAMED]]
    assert (shown["d0"]["pairs_with_count"], shown["d0"]["not_paired_count"]) == (NAMED + 8, NAMED + 2)
    assert shown["d0"]["not_paired"][0] == "different block_size 16 and 32 (x00, d0)"
    assert len(shown["d0"]["not_paired"]) == NAMED
    assert (shown["p00"]["pairs_with"], shown["p00"]["pairs_with_count"]) == (["d0"], 1)
    assert (shown["x00"]["pairs_with_count"], shown["x00"]["not_paired_count"]) == (0, 1)


def test_instances_without_a_common_model_are_told_so() -> None:
    stranger = instance("decode", "d1", served_models=("another",))
    assert "they serve no model in common" in readiness(view(P0, stranger))["reason"]


async def test_the_paths_over_a_socket(start_stack: StartStack) -> None:
    stack = await start_stack([prefilled()], [prefilled()])
    shown = {}
    for path in ("/health", "/ready", "/instances", "/v1/models", f"/v1/models/{MODEL}"):
        async with stack.proxy.client.get(stack.proxy.url + path) as answer:
            assert answer.status == 200, path
            shown[path] = await answer.json()
    assert shown["/health"] == {"status": "alive"}
    assert [each["pairs_with"] for each in shown["/instances"]["instances"]] == [["d0"], ["p0"]]
    assert shown["/v1/models"]["data"] == [shown[f"/v1/models/{MODEL}"]]
    assert await stack.proxy.metric('pd_proxy_instances{role="prefill"}') == 1
    assert await stack.proxy.metric("pd_proxy_discovery_stale") == 0


def test_prometheus_is_told_of_every_usable_instance() -> None:
    restarted = instance("decode", "d2", "http://[::1]:8200", started_at=2000.0)
    old = instance("decode", "d0", "http://[::1]:8200")
    assert scrape_targets(view(P0, old, restarted)) == [
        {"targets": ["[::1]:8200"], "labels": {"role": "decode", "instance": "d2", "model": MODEL}},
        {"targets": ["a:1"], "labels": {"role": "prefill", "instance": "p0", "model": MODEL}},
    ]


async def test_the_targets_are_asked_for_with_a_key_where_keys_are_set(start_stack: StartStack) -> None:
    proxy = (await start_stack([prefilled()], [], proxy_api_keys="prometheus:secret")).proxy
    async with proxy.client.get(proxy.url + "/instances/targets") as answer:
        assert answer.status == 401
    headers = {"Authorization": "Bearer secret"}
    async with proxy.client.get(proxy.url + "/instances/targets", headers=headers) as answer:
        assert answer.content_type == "application/json"
        assert [each["labels"]["instance"] for each in await answer.json()] == ["p0"]
