"""Looks once a second at what producers and consumers have in hand, and keeps what `matching` needs of it.

Parts begin with the clock, so that workers of one proxy, of which each knows what it sent itself, can be put together:
what was sent adds up, and a producer was busy in a second in which any of them says so. With PROXY_PEERS a proxy counts
what the others have told. Of consumers' caches it knows what was asked for a console or a scrape; nobody is asked here.
"""

import asyncio
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from proxy.instances.gauges import Gauges
from proxy.ratio.matching import PART_S, PARTS, Part
from proxy.routing.admission import Prefills
from proxy.routing.fleet import Fleet, View, base_model
from proxy.routing.pairing import of_role
from proxy.telemetry.history import History
from stack.instances.record import Instance

PERIOD_S = 1.0

Json = dict[str, Any]


@dataclass
class Seen:
    """Of one model in one part, by one process, as JSON takes it. looked, busy: a bit for each second, of each producer
    in which it had a prompt in hand. streams: the sum of all looks. caches, itls: sums, and of how many."""

    looked: int = 0
    busy: dict[str, int] = field(default_factory=dict)
    computed: int = 0
    waiting: int = 0
    streams: int = 0
    consumers: int = 0
    cache_usage: float = 0.0
    caches: int = 0
    itl_s: float = 0.0
    itls: int = 0


class Pairs:
    """The producers and consumers of each model that has both, in one view."""

    def __init__(self, view: View) -> None:
        self.view = view
        found: defaultdict[str, list[Instance]] = defaultdict(list)
        for instance in view.usable:
            found[base_model(instance) or instance.model].append(instance)
        self.of_model = {
            name: pair
            for name, instances in sorted(found.items())
            if all(pair := (of_role(instances, "prefill"), of_role(instances, "decode")))
        }


class Watch:
    """From its making to its `close`, in a running loop. Args: prefills: by instance id; clock: of Unix seconds."""

    def __init__(
        self,
        fleet: Fleet,
        prefills: Mapping[str, Prefills],
        gauges: Gauges,
        history: History,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._fleet = fleet
        self._prefills = prefills
        self._gauges = gauges
        self._history = history
        self._clock = clock
        self._pairs = Pairs(fleet.view)
        self._parts: deque[tuple[int, dict[str, Seen]]] = deque(maxlen=PARTS + 1)
        self._computed: Mapping[str, int] = {}  # by instance id, at the last look
        self._since = clock()
        self._timer = asyncio.get_running_loop().call_soon(self._again)

    def close(self) -> None:
        self._timer.cancel()

    def told(self) -> list[tuple[int, dict[str, Json]]]:
        """When each part began that has been watched from its beginning, and what was seen, by model."""
        return [
            (start, {name: asdict(seen) for name, seen in models.items()})
            for start, models in self._parts
            if start >= self._since
        ]

    def look(self) -> None:
        second = int(self._clock())
        start = second - second % PART_S
        if not self._parts or self._parts[-1][0] < start:
            if self._parts:
                self._count_streams(*self._parts[-1])
            self._parts.append((start, {}))
        if self._pairs.view is not self._fleet.view:
            self._pairs = Pairs(self._fleet.view)
        models, bit = self._parts[-1][1], 1 << second % PART_S
        before, self._computed = self._computed, {name: each.computed for name, each in self._prefills.items()}
        for model, (producers, consumers) in self._pairs.of_model.items():
            seen = models.setdefault(model, Seen())
            seen.looked |= bit
            seen.waiting = 0
            for name in (each.instance_id for each in producers):
                if self._fleet.in_all(name).outstanding:
                    seen.busy[name] = seen.busy.get(name, 0) | bit
                if (prefills := self._prefills.get(name)) is not None:
                    seen.waiting += prefills.tokens
                    seen.computed += max(0, prefills.computed - before.get(name, 0))
            seen.streams += sum(self._fleet.in_all(each.instance_id).streams for each in consumers)
            seen.consumers = len(consumers)
            usage = [said["cache_usage"] for said in self._gauges.lately(consumers) if "cache_usage" in said]
            seen.cache_usage += sum(usage)
            seen.caches += len(usage)

    def _again(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(PERIOD_S, self._again)
        self.look()

    def _count_streams(self, start: int, models: Mapping[str, Seen]) -> None:
        """Of a part that is over: what the streams that ended in it waited from token to token."""
        totals: defaultdict[str, float] = defaultdict(float)
        counts: Counter[str] = Counter()
        for slot in self._history.slots(start):
            if slot.start < start + PART_S:
                for name, (seconds, count) in slot.itl_of.items():
                    totals[name] += seconds
                    counts[name] += count
        for model, seen in models.items():
            weights = {each.model for pair in self._pairs.of_model.get(model, ()) for each in pair}
            seen.itl_s = sum(totals[name] for name in weights)
            seen.itls = sum(counts[name] for name in weights)


def windows(told: Iterable[Iterable[tuple[int, Mapping[str, Json]]]], now: float) -> dict[str, list[Part]]:
    """Of each model the last PARTS that are over, the oldest first. Args: told: by each worker; now: Unix seconds."""
    last = int(now) // PART_S * PART_S
    found: defaultdict[str, defaultdict[int, list[Seen]]] = defaultdict(lambda: defaultdict(list))
    for worker in told:
        for start, models in worker:
            if last - PARTS * PART_S <= start < last:
                for model, seen in models.items():
                    found[model][start].append(Seen(**seen))
    return {model: [_together(seen) for _, seen in sorted(parts.items())] for model, parts in found.items()}


def _together(told: list[Seen]) -> Part:
    looked = 0
    busy: Counter[str] = Counter()
    for seen in told:
        looked |= seen.looked
        for name, bits in seen.busy.items():
            busy[name] |= bits
    caches, itls = sum(seen.caches for seen in told), sum(seen.itls for seen in told)
    return Part(
        busy=sum(bits.bit_count() for bits in busy.values()) / looked.bit_count(),
        computed=sum(seen.computed for seen in told),
        waiting=sum(seen.waiting for seen in told),
        streams=sum(seen.streams / seen.looked.bit_count() for seen in told),
        itl_s=sum(seen.itl_s for seen in told) / itls if itls else None,
        cache_usage=sum(seen.cache_usage for seen in told) / caches if caches else None,
        consumers=max(seen.consumers for seen in told),
    )
