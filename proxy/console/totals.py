"""Counts of several slots and several workers, added up for the page."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from proxy.telemetry.history import SLOT_S, seconds_of

POINT_S = 15  # of the charts
LATE_S = 60  # what the map calls now
FLOW = ("requests", "failed", "recomputed", "bytes", "early_bytes", "seconds")
QUANTILES = {"p50": 0.5, "p95": 0.95}

Json = dict[str, Any]
# As a worker tells them: when it began, and [*names, value] each.
ToldSlot = tuple[int, list[list[Any]]]
Summed = Mapping[tuple[str, ...], float]


def add_up(slots: Iterable[ToldSlot]) -> Summed:
    total: dict[tuple[str, ...], float] = defaultdict(float)
    for _, counts in slots:
        for *names, value in counts:
            total[tuple(names)] += value
    return total


def whole(total: Summed) -> Json:
    """Of all the time that is shown; times in ms."""
    return {
        "requests": _requests(total),
        "ttft_ms": quantiles(total, "ttft"),
        "itl_ms": quantiles(total, "itl"),
        "paths": _listed(total, "path"),
        "statuses": _listed(total, "status"),
        "outcomes": _listed(total, "outcome"),
        "legs": _listed(total, "leg"),
    }


def late_since(now: float) -> float:
    """When the first slot begins that is not over before the last LATE_S."""
    return now - LATE_S - SLOT_S


def flows_of(slots: Iterable[ToldSlot], now: float) -> list[Json]:
    """What went from producers to consumers within LATE_S; bytes_per_s: over all of it, moving_bytes_per_s: while
    something moved."""
    flows: dict[tuple[str, str], Json] = defaultdict(lambda: {"transports": {}, **dict.fromkeys(FLOW, 0)})
    for names, value in add_up(slot for slot in slots if slot[0] >= late_since(now)).items():
        if names[0] != "flow":
            continue
        _, producer, consumer, transport, what = names
        flow = flows[producer, consumer]
        flow[what] += value
        if what == "bytes":
            flow["transports"][transport] = value
    return [
        {
            "producer": producer,
            "consumer": consumer,
            "requests": flow["requests"],
            "failed": flow["failed"],
            "recomputed": flow["recomputed"],
            "bytes": flow["bytes"],
            "bytes_per_s": flow["bytes"] / LATE_S,
            "moving_bytes_per_s": flow["bytes"] / flow["seconds"] if flow["seconds"] else None,
            "early_share": flow["early_bytes"] / flow["bytes"] if flow["bytes"] else None,
            "transports": sorted(flow["transports"], key=lambda name: -flow["transports"][name]),
        }
        for (producer, consumer), flow in sorted(flows.items())
    ]


def quantiles(counts: Summed, name: str) -> dict[str, float | None]:
    """In ms, as exact as the classes in which they were counted."""
    classes = sorted((seconds_of(names[1]), value) for names, value in counts.items() if names[0] == name)
    return {label: _quantile(classes, part) for label, part in QUANTILES.items()}


def _quantile(classes: list[tuple[float, float]], part: float) -> float | None:
    left = part * sum(count for _, count in classes)
    for seconds, count in classes:
        left -= count
        if left <= 0:
            return round(1000 * seconds, 2)
    return None


def point(start: int, counts: Summed) -> Json:
    """Of the POINT_S that begin then; times in ms, rates per second."""
    refused = sum(value for names, value in counts.items() if names == ("status", "429"))
    failed = sum(value for names, value in counts.items() if names[0] == "status" and names[1] >= "500")
    return {
        "at": start,
        "requests_per_s": _requests(counts) / POINT_S,
        "events_per_s": counts.get(("events",), 0) / POINT_S,
        "ttft_ms": quantiles(counts, "ttft"),
        "itl_ms": quantiles(counts, "itl"),
        "refused": refused,
        "failed": failed,
    }


def _requests(counts: Summed) -> float:
    return sum(value for names, value in counts.items() if names[0] == "status")


def _listed(counts: Summed, name: str) -> list[list[Any]]:
    """[*names, count], the most first."""
    found = [[*names[1:], value] for names, value in counts.items() if names[0] == name]
    return sorted(found, key=lambda each: (-each[-1], *each[:-1]))
