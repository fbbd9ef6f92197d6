"""The console's memory: what is kept of a request, what is counted, and how much of it there can be."""

import json
import tracemalloc

import pytest

from proxy.routing.dispatch import Route
from proxy.telemetry.history import MOST_REQUESTS, SLOT_S, SLOTS, Asked, Ended, History, class_of, seconds_of
from proxy.telemetry.request_facts import AttemptFacts, RequestFacts
from tests.unit.proxy.scripted import instance

MOST_BYTES = 12_000_000  # of what `fill` makes of a history: names as long as they may be, 64 pairs in every slot
PAIRS = 64
PRODUCERS = [instance("prefill", f"p{number}") for number in range(8)]
CONSUMERS = [instance("decode", f"d{number}") for number in range(8)]
MOVED = {"bytes": 4096, "early_bytes": 1024, "tokens": 4, "seconds": 0.2, "exposed_seconds": 0.05, "transport": "tcp"}


TIMELINE = json.dumps([[[99, 99, 10**10, -(10**7), 10**6, 9]] * 64, [[10**5, -(10**7), 10**6]] * 16])


class Clock:
    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


def tried(facts: RequestFacts, number: int = 0, answered: float | None = 0.5) -> None:
    route = Route(CONSUMERS[number // 8 % 8], PRODUCERS[number % 8], "disaggregated", 4, 8)
    attempt = AttemptFacts(route, f"{number:032x}", 0.1, 0.3)
    attempt.answered_at = answered
    facts.tried(attempt)


def split(number: int = 0, timeline: str = "") -> RequestFacts:
    facts = RequestFacts(0.0, stream=True)
    tried(facts, number)
    facts.moved(json.loads(json.dumps(MOVED | ({"timeline": timeline} if timeline else {}))))
    return facts


def ended(status: int = 200, outcome: str = "ok", events: int = 12) -> Ended:
    return Ended(status, outcome, None if outcome == "ok" else "why", events, 100)


ASKED = Asked("id", "", "/v1/completions", "m")


def counted(history: History) -> dict[tuple[str, ...], float]:
    return {names: value for slot in history.slots() for names, value in slot.told()}


def test_a_request_counts_once_in_each_way() -> None:
    history = History(Clock())
    history.ended(ASKED, ended(), split(), 1.5)
    assert counted(history) == {
        ("events",): 12,
        ("status", "200"): 1,
        ("path", "disaggregated", "disaggregated"): 1,
        ("ttft", str(class_of(0.5))): 1,
        ("itl", str(class_of(0.1))): 1,
        ("flow", "p0", "d0", "tcp", "requests"): 1,
        ("flow", "p0", "d0", "tcp", "bytes"): 4096,
        ("flow", "p0", "d0", "tcp", "early_bytes"): 1024,
        ("flow", "p0", "d0", "tcp", "seconds"): 0.2,
    }


def test_a_try_that_failed_counts_for_its_own_pair() -> None:
    facts = RequestFacts(0.0)
    tried(facts, 0, None)
    tried(facts, 9, None)
    history = History(Clock())
    history.leg_failed("unreachable")
    history.ended(ASKED, ended(502, "instance_unreachable"), facts, 1.0)
    found = counted(history)
    assert found["leg", "unreachable"] == found["outcome", "instance_unreachable"] == 1
    assert found["flow", "p0", "d0", "", "failed"] == found["flow", "p1", "d1", "", "failed"] == 1


def test_a_cache_that_did_not_arrive_is_no_flow() -> None:
    facts = split()
    facts.moved(MOVED | {"bytes": 0})
    history = History(Clock())
    history.ended(ASKED, ended(), facts, 1.0)
    flow = {names[4:]: value for names, value in counted(history).items() if names[0] == "flow"}
    assert flow == {("requests",): 1, ("recomputed",): 1}


def test_what_was_put_together_for_a_request_is_made_again_the_same() -> None:
    facts = split()
    facts.comment()
    before = dict(facts.dispatch), facts.headers(), facts.phases_ms()
    facts.told()
    assert (facts.dispatch, facts.headers(), facts.phases_ms()) == before


def test_what_was_refused_before_a_route_is_kept_too() -> None:
    history = History(Clock())
    history.ended(ASKED._replace(model=None), ended(429, "too_busy", 0), RequestFacts(0.0), 0.001)
    assert counted(history)["status", "429"] == 1
    assert [past.ended.status for past in history.since(0)] == [429]


def test_they_are_found_by_time_key_and_id() -> None:
    clock = Clock()
    history = History(clock)
    for name in ("a", "b", "a"):
        clock.now += 1
        history.ended(ASKED._replace(request_id=name), ended(), split(), 1.0)
    assert [past.key for past in history.since(clock.now - 1)] == [3, 2]
    for found in (history.of_id("a"), history.of_key("3")):
        assert found is not None
        assert found.key == 3
    assert history.of_id("c") is history.of_key("4") is None


def test_what_is_old_is_not_told() -> None:
    clock = Clock()
    history = History(clock)
    history.ended(ASKED, ended(), split(), 1.0)
    clock.now += SLOT_S * (SLOTS + 1)
    assert list(history.slots()) == []
    clock.now -= 2 * SLOT_S * SLOTS  # set back: it counts on in the last slot
    history.ended(ASKED, ended(), split(), 1.0)
    assert [dict(slot.told())["status", "200"] for slot in history.slots()] == [2]


def test_slots_that_began_before_are_left_out() -> None:
    clock = Clock()
    history = History(clock)
    for _ in range(3):
        clock.now += SLOT_S
        history.ended(ASKED, ended(), split(), 1.0)
    first, *others = (slot.start for slot in history.slots())
    assert [slot.start for slot in history.slots(first + 1)] == others


def test_long_texts_are_cut() -> None:
    history = History(Clock())
    history.ended(ASKED._replace(model="m" * 10_000), ended()._replace(failure="f" * 10_000), split(), 1.0)
    [past] = history.since(0)
    assert len(past.asked.model or "") == len(past.ended.failure or "") == 201


def fill(history: History, clock: Clock) -> None:
    for number in range(2 * SLOTS * PAIRS):
        if number % PAIRS == 0:
            clock.now += SLOT_S
        asked = Asked(f"{number:0128d}", "k" * 64, "/v1/completions", f"{number}" + "m" * 10_000)
        history.ended(
            asked, Ended(500 + number % 9, "failed", f"{number}" + "f" * 10_000, 9, 9), split(number, TIMELINE), 1.0
        )


def test_memory_is_bounded() -> None:
    clock = Clock()
    history = History(clock)
    tracemalloc.start()
    try:
        fill(history, clock)
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    print(f"{taken / 1e6:.1f} MB")
    assert len(history.since(0)) == MOST_REQUESTS
    assert len(list(history.slots())) <= SLOTS + 1
    assert taken < MOST_BYTES


@pytest.mark.parametrize("seconds", [0.0, 1e-5, 0.0123, 1.0, 300.0])
def test_classes_are_five_percent_wide(seconds: float) -> None:
    assert seconds_of(class_of(seconds)) == pytest.approx(max(seconds, 1e-5), rel=0.026)
