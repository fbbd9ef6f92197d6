"""What each instance has in hand and holds, over the life of requests and instances."""

import pytest

from proxy.errors import NoInstance
from proxy.request.prompt import Prompt
from proxy.routing import fleet as fleet_module
from proxy.routing.dispatch import Demand, Policy
from proxy.routing.fleet import Fleet, View
from stack.instances.record import Instance
from tests.unit.proxy.scripted import MODEL, instance

P0, P1 = instance("prefill", "p0"), instance("prefill", "p1")
D0, D1 = instance("decode", "d0"), instance("decode", "d1")
LONG = Demand(MODEL, Prompt(1000, [b"a", b"b"], 400.0), output_tokens=100)


def fleet_of(*instances: Instance) -> Fleet:
    fleet = Fleet(Policy(local_prompt_tokens=64, no_producer="refuse"))
    fleet.update(View(instances, revision=1))
    return fleet


def test_before_the_first_view() -> None:
    with pytest.raises(NoInstance, match="not reached etcd"):
        Fleet().route(LONG)


def test_each_leg_counts_until_it_ends() -> None:
    fleet = fleet_of(P0, P1, D0, D1)
    route = fleet.route(LONG)
    assert route.producer == P0
    fleet.begin(P0, route.prefill_tokens)
    fleet.begin(D0, route.decode_tokens)
    assert [fleet.outstanding_tokens(name) for name in ("p0", "p1", "d0", "d1")] == [1000, 0, 1100, 0]
    second = fleet.route(LONG)
    assert (second.producer, second.consumer) == (P1, D1)
    fleet.end(P0, route.prefill_tokens)
    fleet.end(D0, route.decode_tokens)
    assert [(fleet.outstanding(name), fleet.outstanding_tokens(name)) for name in ("p0", "d0")] == [(0, 0), (0, 0)]


def test_a_prompt_that_an_instance_holds() -> None:
    fleet = fleet_of(P0, P1, D0)
    fleet.holds(P1, LONG.prompt)
    assert (fleet.route(LONG).producer, fleet.route(LONG).prefill_tokens) == (P1, 200)
    fleet.holds(D0, LONG.prompt)
    assert fleet.route(LONG).reason == "disaggregated"
    short_rest = Demand(MODEL, Prompt(820, [b"a", b"b"], 400.0))
    assert fleet.route(short_rest).reason == "prefix_on_consumer"


def test_an_instance_that_is_gone_holds_nothing() -> None:
    fleet = fleet_of(P0, P1, D0)
    fleet.holds(P1, LONG.prompt)
    fleet.begin(P1, 200)
    fleet.update(View((P0, D0), revision=2))
    fleet.holds(P1, LONG.prompt)
    assert fleet.outstanding_tokens("p1") == 200, "its request has not ended yet"
    fleet.end(P1, 200)
    fleet.update(View((P0, P1, D0), revision=3))
    assert (fleet.route(LONG).producer, fleet.route(LONG).prefill_tokens) == (P0, 1000)


def test_an_update_keeps_what_the_others_hold() -> None:
    fleet = fleet_of(P0, P1, D0)
    fleet.holds(P1, LONG.prompt)
    fleet.update(View((P0, P1, D0, D1), revision=2))
    assert fleet.route(LONG).producer == P1


def test_all_instances_together_remember_a_bounded_number_of_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fleet_module, "BLOCKS_IN_ALL", 8)
    fleet = Fleet(blocks_remembered=4)
    fleet.update(View((P0, D0), revision=1))
    prompts = [Prompt(400, [hash((number, place)) for place in range(4)], 100.0) for number in range(3)]
    for prompt in prompts:
        fleet.holds(P0, prompt)
        fleet.holds(D0, prompt)
    assert fleet.route(Demand(MODEL, prompts[2])).prefill_tokens == 1
    fleet.update(View((P0, P1, D0, D1), revision=2))
    fleet.holds(P0, prompts[0])
    assert fleet.route(Demand(MODEL, prompts[0])).prefill_tokens == 200  # half of its blocks, the first ones
    assert fleet.route(Demand(MODEL, prompts[2])).prefill_tokens == 400
