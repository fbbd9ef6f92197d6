"""What the console shows: the last requests, and counts of the last fifteen minutes. Of this process, in memory.

Neither grows with the load: MOST_REQUESTS requests, each the facts that were made for its headers and log line anyway,
and SLOTS slots of SLOT_S seconds with counts under few names. Prompts and answers are not kept, and texts that a client
or an instance can make long are cut. `tests/unit/proxy/telemetry/test_history.py` has the bound in bytes.
"""

import math
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from typing import NamedTuple

from proxy.telemetry.request_facts import RequestFacts

MOST_REQUESTS = 1000
SLOT_S = 5
SLOTS = 180  # fifteen minutes
MOST_CHARACTERS = 200
# Times are counted in classes whose bounds are 5 % apart, so that those of several processes can be added up.
CLASS_RATIO = 1.05
SHORTEST_S = 1e-5
FINE = ("ok", "client_left")  # outcomes that are nobody's failure
_PER_CLASS = 1 / math.log(CLASS_RATIO)


class Asked(NamedTuple):
    """Who asked for what; `client` is the name of the key, empty where there are none."""

    request_id: str
    client: str
    endpoint: str
    model: str | None


class Ended(NamedTuple):
    """How it went. failure: in words; events: of a stream; size: of the answer, in bytes."""

    status: int
    outcome: str
    failure: str | None
    events: int
    size: int


class PastRequest(NamedTuple):
    """`at` is its end, in Unix seconds; `key` is unique in this process; `itl_s` as of `_itl_s`."""

    key: int
    at: float
    duration_s: float
    asked: Asked
    ended: Ended
    facts: RequestFacts
    itl_s: float | None


@dataclass(slots=True)
class Flow:
    """What one producer sent to one consumer; sizes in bytes."""

    requests: int = 0
    failed: int = 0
    recomputed: int = 0
    bytes: int = 0
    early_bytes: int = 0
    seconds: float = 0.0


_Ending = tuple[int, str, str | None, str]  # status, outcome, path and the reason for it
_FLOW = tuple(each.name for each in fields(Flow))


class Slot:
    """`start` in Unix seconds. Adding up costs each request more than anything else here: one name for all that is
    counted together, and numbers for classes; `told` takes it apart when somebody looks.
    """

    __slots__ = ("endings", "events", "flows", "itl", "itl_of", "legs", "start", "ttft")

    def __init__(self, start: int) -> None:
        self.start = start
        self.endings: defaultdict[_Ending, int] = defaultdict(int)
        self.events = 0  # of streams
        self.ttft: defaultdict[int, int] = defaultdict(int)  # by class
        self.itl: defaultdict[int, int] = defaultdict(int)
        self.itl_of: dict[str, tuple[float, int]] = {}  # by the consumer's model: their sum, and of how many streams
        self.legs: defaultdict[str, int] = defaultdict(int)  # that failed, by cause
        self.flows: defaultdict[tuple[str, str, str], Flow] = defaultdict(Flow)  # producer, consumer, transport

    def told(self) -> Iterator[tuple[tuple[str, ...], float]]:
        """("status", "200"), 1 and ("flow", producer, consumer, transport, "bytes"), 4096 and so on."""
        counts: defaultdict[tuple[str, ...], float] = defaultdict(int)
        for (status, outcome, path, reason), number in self.endings.items():
            counts["status", str(status)] += number
            if outcome != "ok":
                counts["outcome", outcome] += number
            if path is not None:
                counts["path", path, reason] += number
        yield from counts.items()
        if self.events:
            yield ("events",), self.events
        for name, classes in (("ttft", self.ttft), ("itl", self.itl)):
            for number, count in classes.items():
                yield (name, str(number)), count
        for cause, count in self.legs.items():
            yield ("leg", cause), count
        for names, flow in self.flows.items():
            for what in _FLOW:
                if value := getattr(flow, what):
                    yield ("flow", *names, what), value


class History:
    """Args: clock: of Unix seconds."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._requests: deque[PastRequest] = deque(maxlen=MOST_REQUESTS)
        self._slots: deque[Slot] = deque(maxlen=SLOTS)
        self._key = 0

    def ended(self, asked: Asked, ended: Ended, facts: RequestFacts, duration_s: float) -> PastRequest:
        """Once a request, at its end: nothing waits for it any more."""
        self._key += 1
        now = self._clock()
        if asked.model is not None and len(asked.model) > MOST_CHARACTERS:
            asked = asked._replace(model=_cut(asked.model))
        if ended.failure is not None:
            ended = ended._replace(failure=_cut(ended.failure))
        itl = _itl_s(facts.ttft_s, duration_s, ended) if facts.stream else None
        past = PastRequest(self._key, now, duration_s, asked, ended, facts, itl)
        self._requests.append(past)
        _count(past, self._slot(now))
        return past

    def leg_failed(self, cause: str) -> None:
        """Also of a request that another instance then answered."""
        self._slot(self._clock()).legs[cause] += 1

    def since(self, at: float) -> list[PastRequest]:
        """Those that ended at this time or later, the last one first."""
        found = []
        for past in reversed(self._requests):
            if past.at < at:
                break
            found.append(past)
        return found

    def of_key(self, key: str) -> PastRequest | None:
        """Compared as text: whoever asks may have sent a number that is too long to be read."""
        return next((past for past in self._requests if str(past.key) == key), None)

    def of_id(self, request_id: str) -> PastRequest | None:
        """The last: a client may give several the same."""
        return next((past for past in reversed(self._requests) if past.asked.request_id == request_id), None)

    def slots(self, since: float = 0.0) -> Iterator[Slot]:
        """Of the last fifteen minutes, without those in which nothing was, and those that began before `since`."""
        oldest = max(self._clock() - SLOT_S * SLOTS, since)
        return (slot for slot in self._slots if slot.start >= oldest)

    def _slot(self, now: float) -> Slot:
        start = int(now // SLOT_S) * SLOT_S
        # A clock that is set back counts on in the slot that is there.
        if not self._slots or self._slots[-1].start < start:
            self._slots.append(Slot(start))
        return self._slots[-1]


def class_of(seconds: float) -> int:
    return round(math.log(seconds / SHORTEST_S) * _PER_CLASS) if seconds > SHORTEST_S else 0


def seconds_of(name: str | int) -> float:
    """The middle of a class, whose number may come as text from another process."""
    return float(SHORTEST_S * CLASS_RATIO ** int(name))


def _count(past: PastRequest, slot: Slot) -> None:
    facts, ended = past.facts, past.ended
    path = facts.path
    slot.endings[ended.status, ended.outcome, path, facts.reason] += 1
    if path is None:
        return
    if facts.stream:
        slot.events += ended.events
        if (ttft := facts.ttft_s) is not None:
            slot.ttft[class_of(ttft)] += 1
            if (itl := past.itl_s) is not None:
                slot.itl[class_of(itl)] += 1
                if facts.attempt is not None:
                    model = facts.attempt.route.consumer.model
                    seconds, streams = slot.itl_of.get(model, (0.0, 0))
                    slot.itl_of[model] = seconds + itl, streams + 1
    if path == "disaggregated" or facts.earlier:
        _count_flows(past, slot.flows)


def _itl_s(ttft_s: float | None, duration_s: float, ended: Ended) -> float | None:
    """Of a whole stream the mean time between its events: its last one is the end's, not a token's."""
    gaps = ended.events - 2
    if ttft_s is None or gaps < 1 or ended.outcome != "ok":
        return None
    return max(0.0, duration_s - ttft_s) / gaps


def _count_flows(past: PastRequest, flows: defaultdict[tuple[str, str, str], Flow]) -> None:
    facts, transfer = past.facts, past.facts.transfer
    for attempt in facts.earlier:
        if producer := attempt.route.producer:
            flow = flows[producer.instance_id, attempt.route.consumer.instance_id, ""]
            flow.requests += 1
            flow.failed += 1
    if facts.attempt is None or (producer := facts.attempt.route.producer) is None:
        return
    moved = transfer.get("bytes")
    transport = str(transfer.get("transport", "")) if moved else ""
    flow = flows[producer.instance_id, facts.attempt.route.consumer.instance_id, transport]
    flow.requests += 1
    if past.ended.outcome not in FINE:
        flow.failed += 1
    elif moved:
        flow.bytes += moved
        flow.early_bytes += transfer.get("early_bytes", 0)
        flow.seconds += transfer.get("seconds", 0.0)
    elif moved == 0:
        flow.recomputed += 1


def _cut(text: str) -> str:
    return text if len(text) <= MOST_CHARACTERS else text[:MOST_CHARACTERS] + "…"
