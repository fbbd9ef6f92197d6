"""The lines of the report that can fail, from what was seen of the stack and what the load test says of itself."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.soak.options import Options
from benchmarks.soak.sample import Sample
from benchmarks.soak.trend import Trend, trend
from benchmarks.soak.watch import longest_silence
from loadtest.recording.collector import KEPT_IN_MEMORY

SHORTEST_WINDOW_S = 240.0  # in less, a heap that fills cannot be told from one that leaks
BYTES_OF_A_REQUEST = 4096  # of 100 tokens: loadtest/recording/collector.py
LOAD = "load"  # the load generator's name beside the services'
MIB = 1 << 20


@dataclass(frozen=True)
class Line:
    """`passed` is None where the run cannot tell."""

    name: str
    measured: str
    wanted: str
    passed: bool | None


@dataclass(frozen=True)
class Ended:
    """How the load ended, `at` so many seconds. `summary`: the one of its run.json.

    `status`: its exit status, None when it was ended, for a `hang` or because somebody interrupted the soak.
    """

    at: float
    status: int | None
    hang: str | None
    summary: Mapping[str, Any] | None


def lines(options: Options, samples: Sequence[Sample], ended: Ended) -> list[Line]:
    """`samples`: the first from before the load, the last from when all had come to rest."""
    until = min(ended.at, options.duration_s)
    return [
        _hang(options, samples, ended, until),
        *_load(ended),
        *_proxy(samples),
        *_instances(samples),
        _restarts(samples),
        *_memory(samples, options.judged_from_s, until),
    ]


def memory_trends(samples: Sequence[Sample], since: float, until: float) -> dict[str, Trend | None]:
    """By member, over the window that counts."""
    window = [sample for sample in samples if since <= sample.at <= until]
    names = dict.fromkeys(name for sample in samples for name in sample.memory)
    expected = {LOAD: _kept_by_the_load(samples[0], window)}
    return {
        name: trend([(s.at, s.memory[name]) for s in window if name in s.memory], expected.get(name, 0.0))
        for name in names
    }


def _kept_by_the_load(first: Sample, window: Sequence[Sample]) -> float:
    """Bytes of the newest requests, of which the load generator keeps a bounded number in memory."""
    begun = first.requests.answered if first.requests else 0
    kept = [min(sample.requests.answered - begun, KEPT_IN_MEMORY) for sample in window if sample.requests]
    return (kept[-1] - kept[0]) * BYTES_OF_A_REQUEST if kept else 0.0


def _hang(options: Options, samples: Sequence[Sample], ended: Ended, until: float) -> Line:
    wanted = f"never {options.hang_after_s:g} s without an answer"
    if ended.hang is not None:
        return Line("no hang", ended.hang, wanted, passed=False)
    silence = longest_silence(samples, until)
    return Line("no hang", f"at most {silence:.0f} s without an answer", wanted, silence <= options.hang_after_s)


def _load(ended: Ended) -> list[Line]:
    how = f"ended after {ended.at:.0f} s" if ended.status is None else f"exit status {ended.status}"
    exit_status = Line("load test", how, "exit status 0", ended.status == 0)
    if ended.summary is None:
        return [exit_status, Line("requests", "the load test has left no run.json", "all completed", passed=False)]
    outcomes = ended.summary["outcomes"]
    bad = {name: number for name, number in outcomes.items() if number and name in ("failed", "cut_off")}
    causes = ", ".join(f"{number} {cause}" for cause, number in ended.summary["errors"].items())
    measured = ", ".join(f"{number} {name}" for name, number in outcomes.items() if number) or "none was sent"
    measured += f" ({causes})" if causes else ""
    return [exit_status, Line("requests", measured, "all completed", not bad and outcomes["completed"] > 0)]


def _proxy(samples: Sequence[Sample]) -> list[Line]:
    first, last = samples[0].requests, samples[-1].requests
    if first is None or last is None:
        return [Line("proxy", "did not answer", "nothing in flight at the end", passed=False)]
    others = {cause: number - first.others.get(cause, 0) for cause, number in last.others.items()}
    causes = ", ".join(f"{number} {cause}" for cause, number in others.items() if number)
    return [
        Line("proxy: failed", causes or "0", "0", not causes),
        Line("proxy: in flight at the end", str(last.in_flight), "0", last.in_flight == 0),
    ]


def _instances(samples: Sequence[Sample]) -> list[Line]:
    found = []
    for name, first in samples[0].instances.items():
        last = samples[-1].instances.get(name)
        if last is None:
            found.append(Line(f"{name}: blocks in use", "did not answer", str(first.blocks), passed=False))
            continue
        found.append(
            Line(f"{name}: blocks in use at the end", str(last.blocks), str(first.blocks), last.blocks == first.blocks)
        )
        failed = last.failed_transfers - first.failed_transfers
        found.append(Line(f"{name}: transfers failed", str(failed), "0", failed == 0))
    return found


def _restarts(samples: Sequence[Sample]) -> Line:
    first = samples[0].identities
    anew = {
        name
        for sample in samples
        for name, identity in first.items()
        if sample.identities and sample.identities.get(name) != identity
    }
    return Line("restarts", ", ".join(sorted(anew)) or "none", "none", not anew)


def _memory(samples: Sequence[Sample], since: float, until: float) -> list[Line]:
    found = []
    for name, seen in memory_trends(samples, since, until).items():
        if seen is None or until - since < SHORTEST_WINDOW_S:
            wanted = f"judged in a window of {SHORTEST_WINDOW_S:g} s or more"
            found.append(Line(f"memory of {name}", "too short to tell", wanted, passed=None))
            continue
        measured = f"{seen.grown / MIB:+.1f} MiB in {seen.seconds / 60:.0f} min, {seen.per_hour / MIB:+.1f} MiB/h"
        measured += "" if seen.grown <= 0 or seen.has_trend else ", no trend"
        found.append(
            Line(f"memory of {name}", measured, f"flat: at most +{seen.allowance / MIB:.1f} MiB", seen.is_flat)
        )
    return found
