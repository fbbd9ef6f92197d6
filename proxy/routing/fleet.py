"""The instances as discovery last saw them, what each has in hand, and what each is thought to hold of past prompts."""

import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import count

from proxy.errors import BadRequest, NoInstance
from proxy.request.prompt import Prompt
from proxy.routing import dispatch
from proxy.routing.dispatch import Demand, Load, Policy, Route
from proxy.routing.pairing import PAIR, Candidates
from proxy.routing.prefill_order import FACTORS, PrefillOrder
from proxy.routing.prefix_cache import PrefixCache
from proxy.routing.shared_store import SharedStore
from stack.instances.record import Instance

# Of each instance: four million tokens, 4 MB. To remember more than it holds costs little, to remember less costs hits
# that it would have given (docs/benchmarks/2026-11-22-dispatch.md).
BLOCKS_REMEMBERED = 32768
# Of all instances together: 130 MB, a quarter of what the proxy's container has. Beyond 32 instances each has its part.
BLOCKS_IN_ALL = 32 * BLOCKS_REMEMBERED


@dataclass(frozen=True)
class View:
    """One state of etcd's keyspace; times are Unix seconds.

    revision: etcd's, 0 before the first answer. stale_since: when etcd was lost; the view keeps serving. stale_reason:
    why, in words.
    superseded: instance id -> the id that took over its URL; unreadable: key -> what is wrong with its record.
    """

    instances: tuple[Instance, ...] = ()
    superseded: Mapping[str, str] = field(default_factory=dict)
    unreadable: Mapping[str, str] = field(default_factory=dict)
    revision: int = 0
    stale_since: float | None = None
    stale_reason: str | None = None

    @property
    def known(self) -> bool:
        """Whether etcd has answered at least once."""
        return self.revision > 0

    @cached_property
    def usable(self) -> tuple[Instance, ...]:
        return tuple(instance for instance in self.instances if instance.instance_id not in self.superseded)

    def candidates(self, model: str) -> Candidates:
        """Who may serve it. Found once, but for names that nobody serves, of which there is no end."""
        known = self._candidates.get(model)
        if known is None:
            known = Candidates(self.usable, model)
            if known.serving:
                self._candidates[model] = known
        return known

    @cached_property
    def _candidates(self) -> dict[str, Candidates]:
        return {}

    @cached_property
    def served_names(self) -> frozenset[str]:
        """Of all models and adapters."""
        return frozenset(name for instance in self.usable for name in instance.served_models)

    @cached_property
    def base_models(self) -> tuple[str, ...]:
        """What a request without a model gets, from each of the instances: vLLM's first name that is not an adapter."""
        return tuple(sorted({name for instance in self.usable if (name := base_model(instance)) is not None}))


class Fleet:
    """Both legs of a request begin and end here, each with the tokens that its route names.

    order_factor, clock: of the order of prompts at each producer; Unix time, in seconds.
    """

    def __init__(
        self,
        policy: Policy = dispatch.SPLIT_ALL,
        blocks_remembered: int = BLOCKS_REMEMBERED,
        order_factor: int = FACTORS["shortest"],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.view = View()
        self._policy = policy
        self._blocks_remembered = blocks_remembered
        self._loads: dict[str, Load] = {}
        self._of_others: Mapping[str, Load] = {}
        self._together: dict[str, Load] = {}  # only kept up while others have something
        self._caches: dict[str, PrefixCache] = {}
        self._stores: dict[str, SharedStore] = {}
        self._order_factor = order_factor
        self._clock = clock
        self._orders: dict[str, PrefillOrder] = {}
        self._dispatches = count(1)

    def update(self, view: View) -> None:
        self.view = view
        known = {instance.instance_id for instance in view.instances}
        self._loads = {name: load for name, load in self._loads.items() if load.outstanding or name in known}
        stores = {instance.store for instance in view.instances if instance.store}
        blocks = min(self._blocks_remembered, BLOCKS_IN_ALL // max(len(known) + len(stores), 1))
        self._stores = {name: self._stores.get(name) or SharedStore(blocks) for name in stores}
        for store in self._stores.values():
            store.resize(blocks)
        self._caches = {name: self._caches[name] if name in self._caches else PrefixCache(blocks) for name in known}
        for instance in view.instances:
            cache = self._caches[instance.instance_id]
            cache.capacity, cache.store = blocks, self._stores.get(instance.store)
        self._orders = {name: order for name, order in self._orders.items() if name in known}

        self.others_have(self._of_others)

    def others_have(self, loads: Mapping[str, Load]) -> None:
        """What other proxies have in hand at the same instances, until the next call; by instance id."""
        self._of_others = loads
        both = self._loads.keys() | loads.keys() if loads else ()
        self._together = {name: _sum(self._loads.get(name, dispatch.IDLE), loads.get(name)) for name in both}

    def in_hand(self) -> Mapping[str, Load]:
        """What this proxy has, where it has anything; by instance id."""
        return {name: load for name, load in self._loads.items() if load.outstanding}

    def route(self, demand: Demand, avoid: Collection[str] = frozenset()) -> Route:
        """As `dispatch.choose`."""
        if not self.view.known:
            raise NoInstance(PAIR, "Discovery has not reached etcd yet.")
        candidates = self.view.candidates(demand.model)
        return dispatch.choose_among(candidates, self._in_all, self._caches, demand, self._policy, avoid, self._orders)

    def engines_beside(self, instance_ids: Collection[str]) -> set[str]:
        """These, and the other engines of their servers."""
        servers = {each.server for each in self.view.instances if each.instance_id in instance_ids}
        return {*instance_ids, *(each.instance_id for each in self.view.instances if each.server in servers)}

    def model_left_out(self) -> str:
        """The model of a request that names none: the only one, whatever adapters it has, or none before there is any.

        Raises: BadRequest: there are several.
        """
        base_models = self.view.base_models
        if len(base_models) > 1:
            served = ", ".join(base_models)
            raise BadRequest(f"Missing required parameter: 'model'. There are several: {served}.", "model")
        return base_models[0] if base_models else ""

    def outstanding(self, instance_id: str) -> int:
        return self._loads.get(instance_id, dispatch.IDLE).outstanding

    def in_all(self, instance_id: str) -> Load:
        """With what other proxies have told."""
        return self._in_all.get(instance_id, dispatch.IDLE)

    @property
    def _in_all(self) -> Mapping[str, Load]:
        return self._together if self._of_others else self._loads

    def streams(self, instance_id: str) -> int:
        """Requests for which it makes tokens, or computes the prompt itself."""
        return self._loads.get(instance_id, dispatch.IDLE).streams

    def outstanding_tokens(self, instance_id: str) -> int:
        return self._loads.get(instance_id, dispatch.IDLE).tokens

    def begin(self, instance: Instance, tokens: int = 0, *, awaits_cache: bool = False) -> None:
        """One more request is on its way to `instance`; every `begin` has its `end`, with the same tokens.

        awaits_cache: it makes no tokens until `cache_came`, which is before its `end`.
        """
        name = instance.instance_id
        load = self._loads.get(name, dispatch.IDLE)
        to_come = load.to_come + awaits_cache
        self._set(name, Load(load.outstanding + 1, next(self._dispatches), load.tokens + tokens, to_come))

    def end(self, instance: Instance, tokens: int = 0) -> None:
        self._change(instance, outstanding=-1, tokens=-tokens)

    def prefilled(self, instance: Instance, tokens: int) -> None:
        """Of a request that goes on so many tokens are no longer in hand: its `end` is without them."""
        self._change(instance, tokens=-tokens)

    def cache_came(self, consumer: Instance) -> None:
        """For a request that awaited it, or it will not come."""
        self._change(consumer, to_come=-1)

    def _change(self, instance: Instance, outstanding: int = 0, tokens: int = 0, to_come: int = 0) -> None:
        name = instance.instance_id
        load = self._loads[name]
        self._set(
            name,
            Load(load.outstanding + outstanding, load.last_used, load.tokens + tokens, load.to_come + to_come),
        )

    def _set(self, name: str, load: Load) -> None:
        self._loads[name] = load
        if self._of_others:
            self._together[name] = _sum(load, self._of_others.get(name))

    def order(self, producer: Instance) -> PrefillOrder:
        """In which it computes the prompts that were sent there."""
        order = self._orders.get(producer.instance_id)
        if order is None:
            order = self._orders[producer.instance_id] = PrefillOrder(self._order_factor, self._clock)
        return order

    def holds(self, instance: Instance, prompt: Prompt) -> None:
        """`instance` has this prompt in its prefix cache, or will have it before it comes to any later prompt."""
        if (cache := self._caches.get(instance.instance_id)) is not None:
            cache.insert(prompt.blocks)

    def would_load(self, producer: Instance, prompt: Prompt) -> bool:
        """Whether a part of the prompt is thought to lie in a store and not in the producer's own cache."""
        store, cache = self._stores.get(producer.store), self._caches.get(producer.instance_id)
        return store is not None and cache is not None and store.matched(prompt.blocks) > cache.matched(prompt.blocks)

    def saved(self, instance: Instance, prompt: Prompt) -> None:
        """`instance` has computed it, or had it: a store that it shares has it too, if it can."""
        if (store := self._stores.get(instance.store)) is not None:
            store.saved(prompt.blocks)

    def loaded(self, producer: Instance, tokens: int | None) -> None:
        """What a producer found that `would_load`; None where it did not say."""
        if (store := self._stores.get(producer.store)) is not None and tokens is not None:
            store.expected(came=tokens > 0)


def _sum(own: Load, others: Load | None) -> Load:
    if others is None:
        return own
    return Load(
        own.outstanding + others.outstanding,
        own.last_used,
        own.tokens + others.tokens,
        own.to_come + others.to_come,
    )


def base_model(instance: Instance) -> str | None:
    """Its first served name that is no adapter."""
    adapters = {adapter.id for adapter in instance.adapters}
    return next((name for name in instance.served_models if name not in adapters), None)
