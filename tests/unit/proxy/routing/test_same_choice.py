"""What makes the choice of instances fast does not change it: for any fleet it is that of the plain functions."""

from collections.abc import Callable
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.errors import ModelNotFound, NoInstance
from proxy.request.prompt import Prompt
from proxy.routing.dispatch import Demand, Load, Policy, Route, choose, choose_among
from proxy.routing.pairing import Candidates, adapter_identity, mismatch
from proxy.routing.prefill_order import PrefillOrder
from proxy.routing.prefix_cache import PrefixCache
from proxy.routing.shared_store import SharedStore
from stack.instances.record import Adapter, Engine, Instance, Role
from tests.unit.proxy.routing.plain_dispatch import plain_choose
from tests.unit.proxy.scripted import MODEL, instance

MODELS = (MODEL, "other", "poet")
ROLES: tuple[Role, ...] = ("prefill", "decode", "aggregated")
NUMBERS = st.integers(0, 5)


@st.composite
def instances(draw: st.DrawFn) -> list[Instance]:
    made = []
    for number in range(draw(st.integers(0, 9))):
        role = draw(st.sampled_from(ROLES))
        adapters = draw(st.sampled_from([(), ("1",), ("2",)]))
        name = f"{role[0]}{number}"
        changes: dict[str, Any] = {
            "served_models": (draw(st.sampled_from(MODELS[:2])), *("poet" for _ in adapters)),
            "adapters": tuple(Adapter(id="poet", root="/poet", parent=MODEL, identity=each) for each in adapters),
            "fingerprint": draw(st.sampled_from(["same", "same", "another"])),
        }
        if draw(st.booleans()):  # one of several engines of a server
            changes |= {"server_id": f"server-{name}", "engines": (Engine(rank=0, pin=0),)}
        made.append(instance(role, name, **changes))
    return made


@st.composite
def prompts(draw: st.DrawFn) -> Prompt:
    """Prefixes are a tree, as digests of ever longer prefixes are."""
    path = draw(st.lists(st.integers(0, 1), max_size=6))
    blocks = [hash(tuple(path[: end + 1])) for end in range(len(path))]
    return Prompt(draw(st.integers(0, 700)), blocks, draw(st.sampled_from([0.0, 50.0, 100.0])))


@st.composite
def stores(draw: st.DrawFn) -> SharedStore:
    store = SharedStore(draw(st.integers(1, 16)))
    for prompt in draw(st.lists(prompts(), max_size=4)):
        store.saved(prompt.blocks)
    for came in draw(st.lists(st.booleans(), max_size=3)):
        store.expected(came=came)
    return store


@st.composite
def held(draw: st.DrawFn, store: SharedStore) -> PrefixCache:
    cache = PrefixCache(draw(st.integers(1, 8)), draw(st.sampled_from([store, None])))
    for prompt in draw(st.lists(prompts(), max_size=4)):
        cache.insert(prompt.blocks)
    return cache


@st.composite
def orders(draw: st.DrawFn) -> PrefillOrder:
    order = PrefillOrder(8, clock=lambda: 1000.0)
    for tokens in draw(st.lists(st.integers(1, 500), max_size=3)):
        order.enter(tokens, 100.0)
    return order


def some(draw: Any, fleet: list[Instance], value: st.SearchStrategy[Any]) -> dict[str, Any]:
    return {each.instance_id: draw(value) for each in fleet if draw(st.booleans())}


LOADS = st.builds(
    lambda outstanding, last_used, tokens, to_come: Load(outstanding, last_used, tokens, min(to_come, outstanding)),
    NUMBERS,
    NUMBERS,
    st.integers(0, 3).map(lambda number: 100 * number),
    NUMBERS,
)
DEMANDS = st.builds(Demand, st.sampled_from(MODELS), prompts(), NUMBERS, st.booleans(), st.booleans())
POLICIES = st.builds(
    Policy, st.sampled_from([0, 96, 400]), st.sampled_from(["refuse", "local"]), st.sampled_from([1, 4])
)


def outcome(route: Callable[[], Route]) -> Any:
    try:
        return route()
    except (NoInstance, ModelNotFound) as error:
        return type(error), str(error), getattr(error, "missing", None)


@given(fleet=instances(), data=st.data())
@settings(max_examples=400, deadline=None)
def test_the_choice_is_that_of_the_plain_functions(fleet: list[Instance], data: st.DataObject) -> None:
    draw = data.draw
    loads, caches = some(draw, fleet, LOADS), some(draw, fleet, held(draw(stores())))
    waiting = {name: order for name, order in some(draw, fleet, orders()).items() if name.startswith("p")}
    policy = draw(POLICIES)
    known = {model: Candidates(fleet, model) for model in MODELS}
    for demand in draw(st.lists(DEMANDS, min_size=1, max_size=3)):
        avoid = set(some(draw, fleet, st.none()))
        what = loads, caches, demand, policy, avoid, waiting
        plain = outcome(lambda: plain_choose(fleet, *what))  # noqa: B023
        assert outcome(lambda: choose(fleet, *what)) == plain  # noqa: B023
        assert outcome(lambda: choose_among(known[demand.model], *what)) == plain  # noqa: B023


@given(fleet=instances(), model=st.sampled_from(MODELS))
def test_a_consumers_producers_are_those_that_do_not_differ(fleet: list[Instance], model: str) -> None:
    candidates = Candidates(fleet, model)
    for consumer in candidates.consumers.instances:
        fitting = [
            each for each in candidates.serving if each.role == "prefill" and mismatch(each, consumer, model) is None
        ]
        assert list(candidates.producers_for(consumer).instances) == fitting
        assert all(adapter_identity(each, model) == adapter_identity(consumer, model) for each in fitting)
