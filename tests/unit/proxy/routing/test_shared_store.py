"""What a prompt costs where a part of it lies in a store that instances share."""

import pytest

from proxy.request.prompt import Prompt
from proxy.routing import fleet as fleet_module
from proxy.routing.dispatch import SPLIT_ALL, Demand
from proxy.routing.fleet import Fleet, View
from proxy.routing.shared_store import LOADED_TOKEN, SharedStore
from tests.unit.proxy.scripted import MODEL, instance

STORE = "store-master:50051/1a2b"
P0, P1 = (instance("prefill", name).model_copy(update={"store": STORE}) for name in ("p0", "p1"))
ALONE, D0 = instance("prefill", "alone"), instance("decode", "d0")
PROMPT = Prompt(1000, [b"a", b"b", b"c"], 300.0)
LOADED = int(900 * LOADED_TOKEN)


def a_store() -> SharedStore:
    store = SharedStore(10)
    store.saved(PROMPT.blocks)
    return store


def test_what_is_in_no_store_is_computed() -> None:
    assert SharedStore(10).missing(PROMPT, 0) == 1000
    assert SharedStore(10).missing(PROMPT, 2) == 400


def test_what_is_there_costs_a_load() -> None:
    assert a_store().missing(PROMPT, 0) == 100 + LOADED
    assert a_store().missing(PROMPT, 1) == 100 + int(600 * LOADED_TOKEN)


def test_an_instances_own_cache_costs_nothing() -> None:
    assert a_store().missing(PROMPT, 3) == 100


def test_a_longer_prompt_is_found_as_far_as_it_is_there() -> None:
    longer = Prompt(1300, [*PROMPT.blocks, b"d"], 300.0)
    assert a_store().missing(longer, 0) == 400 + LOADED


def test_what_did_not_come_of_late_is_relied_on_less_and_less() -> None:
    store = a_store()
    costs = []
    for _ in range(20):
        costs.append(store.missing(PROMPT, 0))
        store.expected(came=False)
    assert costs == sorted(set(costs)), "each is more than the last"
    assert costs[-1] > 0.95 * PROMPT.tokens
    for _ in range(20):
        store.expected(came=True)
    assert store.missing(PROMPT, 0) < 1.1 * (100 + LOADED)


def test_what_was_saved_since_the_last_look_is_seen() -> None:
    store = SharedStore(10)
    assert store.matched(PROMPT.blocks) == 0
    store.saved(PROMPT.blocks)
    assert store.matched(PROMPT.blocks) == 3


def fleet_of_two() -> Fleet:
    fleet = Fleet(SPLIT_ALL)
    fleet.update(View((P0, P1, ALONE, D0), revision=1))
    return fleet


def test_any_producer_of_the_store_may_take_what_one_has_computed() -> None:
    fleet = fleet_of_two()
    fleet.holds(P0, PROMPT)
    fleet.saved(P0, PROMPT)
    demand = Demand(MODEL, PROMPT)
    assert (fleet.route(demand).producer, fleet.route(demand).prefill_tokens) == (P0, 100)
    fleet.begin(P0, 500)
    assert (fleet.route(demand).producer, fleet.route(demand).prefill_tokens) == (P1, 100 + LOADED)
    assert fleet.would_load(P1, PROMPT)
    assert not fleet.would_load(P0, PROMPT)
    assert not fleet.would_load(ALONE, PROMPT)


def test_instances_of_another_store_know_nothing_of_it() -> None:
    other = P1.model_copy(update={"store": "store-master:50051/of another model"})
    fleet = Fleet(SPLIT_ALL)
    fleet.update(View((P0, other, D0), revision=1))
    fleet.saved(P0, PROMPT)
    fleet.begin(P0, 5000)
    route = fleet.route(Demand(MODEL, PROMPT))
    assert (route.producer, route.prefill_tokens) == (other, 1000)


def test_the_store_outlives_whoever_saved() -> None:
    fleet = fleet_of_two()
    fleet.saved(P0, PROMPT)
    fleet.update(View((P1, D0), revision=2))
    assert fleet.route(Demand(MODEL, PROMPT)).prefill_tokens == 100 + LOADED
    fleet.update(View((ALONE, D0), revision=3))
    fleet.update(View((P1, D0), revision=4))
    assert fleet.route(Demand(MODEL, PROMPT)).prefill_tokens == 1000, "while nobody used it another may have come"


def test_what_is_remembered_of_a_store_is_bounded_with_what_is_of_its_instances(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fleet_module, "BLOCKS_IN_ALL", 8)
    fleet = Fleet(SPLIT_ALL, blocks_remembered=4)
    fleet.update(View((P0, D0), revision=1))
    fleet.saved(P0, PROMPT)
    assert fleet.route(Demand(MODEL, PROMPT)).prefill_tokens == 400 + int(600 * LOADED_TOKEN)
    more = tuple(P1.model_copy(update={"instance_id": f"p{number}"}) for number in range(1, 6))
    fleet.update(View((P0, *more, D0), revision=2))
    fleet.saved(P0, PROMPT)
    assert fleet.route(Demand(MODEL, PROMPT)).prefill_tokens == 700 + int(300 * LOADED_TOKEN), "its first block"
    fleet.update(View((P0, D0), revision=3))
    fleet.saved(P0, PROMPT)
    assert fleet.route(Demand(MODEL, PROMPT)).prefill_tokens == 400 + int(600 * LOADED_TOKEN)


def test_answers_say_what_is_to_be_expected() -> None:
    fleet = fleet_of_two()
    fleet.saved(P0, PROMPT)
    fleet.loaded(P1, 900)
    fleet.loaded(P1, None)
    assert fleet.route(Demand(MODEL, PROMPT)).prefill_tokens == 100 + LOADED
    fleet.loaded(P1, 0)
    assert fleet.route(Demand(MODEL, PROMPT)).prefill_tokens > 100 + LOADED
