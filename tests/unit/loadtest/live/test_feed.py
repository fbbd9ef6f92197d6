"""What the page is told of a run: while it goes on, when it is over, and nothing of the run before."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest

from loadtest.figures.record import RequestRecord
from loadtest.figures.summary import summarize
from loadtest.live import judgement
from loadtest.live.feed import Feed
from loadtest.live.timeline import Timeline
from loadtest.recording.collector import Collector
from loadtest.runs.manifest import manifest, plain_settings
from loadtest.runs.run_folder import Run
from loadtest.settings import LoadTestSettings
from stack.configuration.environment import load
from tests.unit.loadtest.live.made_requests import completed, poisson

ZERO = 1_000_000.0


@dataclass
class Recording:
    """A run's recording without Locust; `now` is its clock."""

    base: Path
    collector: Collector = field(default_factory=Collector)
    folder: Path | None = None
    run: Run | None = None
    zero: float = 0.0
    cpu_share: float | None = None
    now: float = ZERO
    runs: int = 0

    def begin(self, **variables: Any) -> Run:
        settings = load(LoadTestSettings, **variables)
        self.runs += 1
        self.folder = self.base / f"run-{self.runs}"
        self.folder.mkdir()
        (self.folder / "requests.jsonl").touch()
        self.run = Run(manifest=manifest(settings), settings=plain_settings(settings))
        self.zero = self.now
        self.collector.begin()
        return self.run


@pytest.fixture
def recording(tmp_path: Path) -> Recording:
    return Recording(tmp_path)


@pytest.fixture
def feed(recording: Recording) -> Feed:
    return Feed(cast(Any, recording), report_interval_s=3.0, clock=lambda: recording.now)


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """How many requests were read into the timeline and how many were judged."""
    done = {"read": 0, "judged": 0}

    def counted(name: str, function: Callable[..., Any], of: int) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            done[name] += len(arguments[of])
            return function(*arguments, **named)

        return call

    monkeypatch.setattr(Timeline, "add", counted("read", Timeline.add, of=1))
    monkeypatch.setattr(judgement, "of_newest", counted("judged", judgement.of_newest, of=0))
    return done


def test_before_the_first_run_there_is_nothing(feed: Feed) -> None:
    assert feed.answer() == {}


def test_a_run_that_goes_on(recording: Recording, feed: Feed) -> None:
    recording.begin(loadtest_warmup_s=5.0, loadtest_slo_ttft_s=0.5)
    recording.now += 30.0
    for request in poisson(100, rate=5):
        recording.collector.add(request)
    answer = feed.answer()
    assert answer["run"] == "run-1"
    assert answer["files"] == ["requests.jsonl"]
    assert answer["until_s"] == 30.0
    assert answer["warmup_s"] == 5.0
    assert answer["slo"]["ttft_s"] == 0.5
    assert "TTFT ≤ 0.5 s" in answer["slo"]["text"]
    assert sum(value or 0 for value in answer["windows"]["completed_per_s"]) * answer["width_s"] == pytest.approx(100)
    # A worker's report may be three seconds old, so that nothing after 26 s is known for sure.
    known = [answer["windows"]["completed_per_s"][window] is not None for window in range(16)]
    assert known == [True] * 13 + [False] * 3


def test_when_a_run_is_over_its_totals_are_the_reports(recording: Recording, feed: Feed) -> None:
    run = recording.begin()
    requests = poisson(200, rate=5)
    for request in requests:
        recording.collector.add(request)
    summary = summarize(requests, run.slo)
    said = {"saturation": "TTFT grew", "generator_limit": "one core"}
    recording.run = run.model_copy(update={"summary": summary.model_copy(update=said)})
    recording.now += 1000.0
    answer = feed.answer()
    assert answer["totals"]["ttft_p99_s"] == summary.ttft_s.p99
    assert answer["totals"]["good_per_s"] == summary.goodput_per_s
    assert answer["warnings"] == [
        "The load is more than the servers can do: TTFT grew.",
        "The figures may be the load generator's own: one core.",
    ]
    assert answer["until_s"] == max(request.ended for request in requests)
    assert None not in answer["windows"]["offered_per_s"][:-1]


def test_nothing_of_one_run_is_in_the_next(recording: Recording, feed: Feed) -> None:
    recording.begin()
    for request in poisson(120, rate=5):  # some of them wait to be read
        recording.collector.add(request)
    recording.begin()
    assert feed.answer()["totals"]["ended"] == 0
    recording.collector.add(completed(0, 0.5))
    answer = feed.answer()
    assert answer["run"] == "run-2"
    assert answer["totals"]["ended"] == 1
    assert answer["width_s"] == 2.0


def test_every_request_is_read_once(recording: Recording, feed: Feed, work: dict[str, int]) -> None:
    recording.begin()
    for count, request in enumerate(poisson(5000, rate=50), start=1):
        recording.now = ZERO + request.ended
        recording.collector.add(request)
        if count % 100 == 0:
            feed.answer()
            feed.answer()
    assert work["read"] == 5000
    # 100 s long: judged every ten seconds, and no more than so many requests of the newest.
    assert judgement.NEWEST * 5 < work["judged"] <= judgement.NEWEST * 11


def test_a_load_that_is_too_much_is_said_in_words(recording: Recording, feed: Feed) -> None:
    recording.begin()
    # TTFT grows by a tenth of the time that has passed.
    for index in range(600):
        recording.collector.add(completed(index, index / 5, ttft=0.1 + index / 50))
    recording.now += 130.0
    (warning,) = feed.answer()["warnings"]
    assert warning.startswith("The load is more than the servers can do: TTFT grew with the time")


def test_a_generator_that_is_late_is_said_in_words(recording: Recording, feed: Feed) -> None:
    recording.begin()
    for index in range(100):
        at = index / 5
        recording.collector.add(
            RequestRecord(index=index, outcome="completed", scheduled=at, started=at + 0.2, ended=at + 0.4)
        )
    recording.now += 30.0
    (warning,) = feed.answer()["warnings"]
    assert warning.startswith("The figures may be the load generator's own: requests started late")


@pytest.mark.parametrize(
    ("stages", "growth", "warned"), [("60:5,70:5", 0.0, 0), ("60:5,70:5", 0.2, 1), ("60:5,70:1-9", 0.2, 0)]
)
def test_a_load_in_stages_is_judged_by_the_present_one(
    recording: Recording, feed: Feed, stages: str, growth: float, warned: int
) -> None:
    """A step of TTFT between two stages is none of the second; in a ramp it grows with the load."""
    recording.begin(loadtest_stages=stages)
    for index in range(600):
        at = index / 5
        ttft = 0.1 if at < 60 else 2.0 + growth * (at - 60)
        recording.collector.add(completed(index, at, ttft=ttft))
    recording.now += 130.0
    assert len(feed.answer()["warnings"]) == warned
