"""What the page shows of fifteen minutes is the same however it was summed, and each look sums little."""

from collections.abc import Mapping
from typing import Any

from proxy.console.minutes import AT_ONCE, POINTS, LastMinutes
from proxy.console.totals import POINT_S, ToldSlot
from proxy.telemetry.history import SLOT_S

BEGIN = 1_000_000 * POINT_S


class Worker:
    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.slots: dict[int, list[list[Any]]] = {}

    def count(self, at: int, *names: str, value: int = 1) -> None:
        self.slots.setdefault(at // SLOT_S * SLOT_S, []).append([*names, value])

    def told(self, since: int, until: int) -> Mapping[str, Any]:
        slots: list[ToldSlot] = [(at, rows) for at, rows in sorted(self.slots.items()) if since <= at < until]
        return {"worker": self.pid, "slots": slots}


class Workers:
    def __init__(self, *workers: Worker) -> None:
        self.there = list(workers)
        self.asked: list[tuple[int, int]] = []

    async def ask(self, since: int, until: int) -> list[Mapping[str, Any]]:
        self.asked.append((since, until))
        return [each.told(since, until) for each in self.there]


def busy(pid: int, seconds: int) -> Worker:
    worker = Worker(pid)
    for at in range(BEGIN, BEGIN + seconds):
        worker.count(at, "status", "200")
        worker.count(at, "ttft", str(at % 7))
    return worker


async def test_the_same_as_at_once() -> None:
    one = Workers(busy(1, 2000), busy(2, 1500))
    kept = LastMinutes()
    for now in range(BEGIN, BEGIN + 2000, 37):
        told, _ = await kept.told(one.ask, now)
        at_once, _ = await LastMinutes().told(one.ask, now)
        assert told == at_once
    assert len(told["points"]) == POINTS
    assert told["requests"] == sum(point["requests_per_s"] for point in told["points"]) * POINT_S


async def test_no_look_sums_more_than_it_must() -> None:
    one = Workers(busy(1, 900))
    kept, now = LastMinutes(), BEGIN + 900
    await kept.told(one.ask, now)
    assert max(until - since for since, until in one.asked) == AT_ONCE * POINT_S
    for later in (0, 5, POINT_S):
        one.asked.clear()
        await kept.told(one.ask, now + later)
        assert sum(until - since for since, until in one.asked) <= 2 * POINT_S


async def test_a_worker_that_did_not_answer_counts_at_the_next_look() -> None:
    first, second = busy(1, 600), busy(2, 600)
    one = Workers(first)
    kept, now = LastMinutes(), BEGIN + 600
    assert (await kept.told(one.ask, now))[0]["requests"] == 600
    one.there.append(second)
    await kept.told(one.ask, now)
    assert (await kept.told(one.ask, now))[0]["requests"] == 1200


async def test_what_is_old_is_forgotten() -> None:
    one = Workers(busy(1, 60))
    kept = LastMinutes()
    assert (await kept.told(one.ask, BEGIN + 60))[0]["statuses"] == [["200", 60]]
    told, _ = await kept.told(one.ask, BEGIN + 60 + POINTS * POINT_S)
    assert (told["statuses"], told["requests"], told["ttft_ms"]["p50"]) == ([], 0, None)
