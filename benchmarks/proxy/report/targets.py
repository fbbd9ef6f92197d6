"""The targets of this benchmark, each with what a run has measured; one whose proxies were not measured is left out."""

from collections.abc import Iterator, Sequence
from typing import Any

from benchmarks.proxy.report.summary import DIRECT, added, cpu_s_per_1000, events_per_cpu_s, median, times
from benchmarks.tables import Row, groups

Line = tuple[str, str, str, str]
OURS, OURS_2, ROUTER = "ours", "ours-2-workers", "vllm-router"
DEMOS = ("seed", "toy")
# Who is compared with whom, and the share of requests/s and TTFT that it may cost.
COSTS = (("ours", "ours-before", 0.02), ("ours-console-open", "ours", 0.05))
ADDED_TTFT_MS = 1.5
TIMES_DEMOS = 4.0
TIMES_ROUTER_CPU = 4.0
SECOND_WORKER = 1.8
DRIFT = 0.02


def lines(document: dict[str, Any]) -> list[Line]:
    """What, the target, what was measured, whether it is met."""
    return [
        *_latency(document.get("latency", [])),
        *_throughput(document.get("throughput", [])),
        *_chunks(document.get("chunks", [])),
        *_memory(document.get("memory", [])),
    ]


def _latency(rows: Sequence[Row]) -> Iterator[Line]:
    loads = groups(rows, "streams", "peer")
    ttft = added(loads.get((1, OURS), []), loads.get((1, DIRECT), []), "ttft_p50_ms")
    if ttft is not None:
        target = f"at most {ADDED_TTFT_MS} ms"
        yield "added TTFT P50, one stream", target, f"{ttft:.2f} ms", _met(ttft <= ADDED_TTFT_MS)
    for streams, peers in _by_peer(rows, "streams"):
        for one, other, share in COSTS:
            ratio = times(peers.get(one, []), peers.get(other, []), "ttft_p50_ms")
            if ratio is not None:
                what = f"TTFT P50 with {streams} streams, `{one}` against `{other}`"
                yield what, f"at most {1 + share:g} times", f"{ratio:.3f} times", _met(ratio <= 1 + share)


def _throughput(rows: Sequence[Row]) -> Iterator[Line]:
    for connections, peers in _by_peer(rows, "connections"):
        ours = median(peers.get(OURS, []), "requests_per_s")
        for demo in DEMOS:
            what = f"requests/s at {connections} against `{demo}`"
            yield from _at_least(what, ours, median(peers.get(demo, []), "requests_per_s"), TIMES_DEMOS)
        two = median(peers.get(OURS_2, []), "requests_per_s")
        yield from _at_least(f"requests/s at {connections}, two workers against one", two, ours, SECOND_WORKER)
        for one, other, share in COSTS:
            ratio = times(peers.get(one, []), peers.get(other, []), "requests_per_s")
            if ratio is not None:
                what = f"requests/s at {connections}, `{one}` against `{other}`"
                yield what, f"at least {1 - share:g} times", f"{ratio:.3f} times", _met(ratio >= 1 - share)
        cpu, router = cpu_s_per_1000(peers.get(OURS, [])), cpu_s_per_1000(peers.get(ROUTER, []))
        if cpu and router:
            what = f"CPU per request at {connections} against `{ROUTER}`"
            ratio = cpu / router
            yield what, f"at most {TIMES_ROUTER_CPU:g} times", f"{ratio:.1f} times", _met(ratio <= TIMES_ROUTER_CPU)


def _chunks(rows: Sequence[Row]) -> Iterator[Line]:
    """What an event costs at each pace; how many a second come through at the fastest, which not all can follow."""
    for interval_ms, peers in _by_peer(rows, "interval_ms"):
        ours = peers.get(OURS, [])
        for demo in DEMOS:
            other = peers.get(demo, [])
            what = f"streamed events a CPU second, one every {interval_ms} ms, against `{demo}`"
            yield from _at_least(what, events_per_cpu_s(ours), events_per_cpu_s(other), TIMES_DEMOS)
            what = f"streamed events/s, one every {interval_ms} ms, against `{demo}`"
            if interval_ms == min(row["interval_ms"] for row in rows):
                yield from _at_least(what, median(ours, "events_per_s"), median(other, "events_per_s"), TIMES_DEMOS)


def _memory(rows: Sequence[Row]) -> Iterator[Line]:
    opened = [row for row in rows if row["peer"] == OURS and row["state"] == "open"]
    if opened:
        rss, streams = opened[-1]["rss_mb"], opened[-1]["streams"]
        drift = (rss[-1] - rss[0]) / rss[0]
        what = f"memory while {streams:,} streams are open in one process"
        yield what, f"grows at most {DRIFT:.0%}", f"{drift:+.1%}", _met(drift <= DRIFT)


def _by_peer(rows: Sequence[Row], load: str) -> Iterator[tuple[int, dict[str, list[Row]]]]:
    for (size,), group in groups(rows, load).items():
        yield size, {peer: own for (peer,), own in groups(group, "peer").items()}


def _at_least(what: str, ours: float | None, other: float | None, times: float) -> Iterator[Line]:
    if ours and other:
        yield what, f"at least {times:g} times", f"{ours / other:.1f} times", _met(ours / other >= times)


def _met(met: bool) -> str:
    return "yes" if met else "**no**"
