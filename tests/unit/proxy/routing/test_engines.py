"""Engines of one server are chosen as servers of their own would be."""

from hypothesis import given
from hypothesis import strategies as st

from proxy.request.prompt import Prompt
from proxy.routing.dispatch import Demand, Policy, Route
from proxy.routing.fleet import Fleet, View
from stack.instances.record import Instance, Role
from tests.unit.proxy.instances.test_engines import server
from tests.unit.proxy.scripted import MODEL, instance

BLOCK_TOKENS = 100.0
SPLIT = Policy(local_prompt_tokens=0, no_producer="refuse")


def fleet_of(*instances: Instance, policy: Policy = SPLIT) -> Fleet:
    fleet = Fleet(policy)
    fleet.update(View(instances, revision=1))
    return fleet


def engines(role: Role, name: str, count: int) -> tuple[Instance, ...]:
    return server(role, name, f"http://{name}:1", range(count)).by_engine()


def servers(role: Role, name: str, count: int) -> tuple[Instance, ...]:
    return tuple(instance(role, f"{name}_dp{rank}", f"http://{name}{rank}:1") for rank in range(count))


def demand(number: int, tokens: int) -> Demand:
    """Prompts of one number begin alike."""
    blocks = [bytes([number, place]) for place in range(tokens // int(BLOCK_TOKENS))]
    return Demand(MODEL, Prompt(tokens, blocks, BLOCK_TOKENS), output_tokens=50)


def named(route: Route) -> tuple[str | None, str, int]:
    return route.producer.instance_id if route.producer else None, route.consumer.instance_id, route.prefill_tokens


requests = st.lists(st.tuples(st.integers(0, 3), st.integers(1, 2000), st.booleans()), max_size=20)


@given(producers=st.integers(1, 4), consumers=st.integers(1, 4), asked=requests)
def test_as_servers_of_their_own(producers: int, consumers: int, asked: list[tuple[int, int, bool]]) -> None:
    """Of any requests, some of which stay: by what each engine has in hand, and holds."""
    together = fleet_of(*engines("prefill", "p", producers), *engines("decode", "d", consumers))
    apart = fleet_of(*servers("prefill", "p", producers), *servers("decode", "d", consumers))
    for number, tokens, stays in asked:
        routes = [fleet.route(demand(number, tokens)) for fleet in (together, apart)]
        assert named(routes[0]) == named(routes[1])
        for fleet, route in zip((together, apart), routes, strict=True):
            assert route.producer is not None
            for each, work in ((route.producer, route.prefill_tokens), (route.consumer, route.decode_tokens)):
                fleet.begin(each, work)
                fleet.holds(each, demand(number, tokens).prompt)
                if not stays:
                    fleet.end(each, work)


@given(counts=st.lists(st.integers(1, 4), min_size=1, max_size=3), failed=st.sets(st.integers(0, 11)))
def test_what_failed_takes_its_servers_engines_with_it(counts: list[int], failed: set[int]) -> None:
    """For that request; an engine without a server is not touched."""
    known = tuple(each for number, count in enumerate(counts) for each in engines("prefill", f"p{number}", count))
    gone = {each.instance_id for place, each in enumerate(known) if place in failed}
    found = fleet_of(*known).engines_beside(gone)
    assert found >= gone
    hit = {each.server for each in known if each.instance_id in gone}
    assert found == {each.instance_id for each in known if each.server in hit}


def test_an_endpoint_whose_engine_vllm_chooses_has_no_pair() -> None:
    """No consumer could be told where the prompt is computed; the consumer's own engine matters to nobody."""
    asked = Demand(MODEL, demand(0, 1000).prompt, takes_rank=False)
    fleet = fleet_of(*engines("prefill", "p", 2), *engines("decode", "d", 2))
    route = fleet.route(asked)
    assert (route.producer, route.reason, route.consumer.instance_id) == (None, "rank_not_taken", "d_dp0")
    single = fleet_of(*engines("prefill", "p", 2), instance("prefill", "q"), *engines("decode", "d", 2))
    assert named(single.route(asked)) == ("q", "d_dp0", 1000)
    short = fleet_of(*engines("prefill", "p", 2), instance("decode", "d"), policy=Policy(2000, "refuse"))
    assert short.route(asked).reason == "short_prompt"
