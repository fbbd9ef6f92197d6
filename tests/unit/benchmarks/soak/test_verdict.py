"""Which lines of a soak's report fail, and why."""

from dataclasses import replace
from typing import Any

import pytest

from benchmarks.soak.options import Options, parse
from benchmarks.soak.sample import Instance, Requests, Sample
from benchmarks.soak.verdict import Ended, Line, lines

MIB = 1 << 20
INSTANCE = Instance(running=0, waiting=0, blocks=0, preemptions=0, failed_transfers=0)
SUMMARY = {"outcomes": {"completed": 900, "failed": 0, "cut_off": 0, "cancelled": 0}, "errors": {}}
GOOD = Ended(at=930.0, status=0, hang=None, summary=SUMMARY)


@pytest.fixture
def options() -> Options:
    return parse(["--duration", "15m"])


def course(leak_mib_per_hour: float = 0.0) -> list[Sample]:
    """15 minutes in which a request is answered every second."""
    return [
        Sample(
            at=float(at),
            memory={"decode-0": int((2000 + leak_mib_per_hour * at / 3600) * MIB), "proxy-0": 70 * MIB},
            identities={"decode-0": "11", "proxy-0": "12"},
            requests=Requests(answered=at, others={"timeout": 3}, in_flight=100 if at < 900 else 0),
            instances={"decode-0": INSTANCE if at in (0, 900) else replace(INSTANCE, running=30, blocks=400)},
        )
        for at in range(0, 905, 5)
    ]


def failed(found: list[Line]) -> list[str]:
    return [line.name for line in found if line.passed is False]


def test_a_good_run_meets_every_line(options: Options) -> None:
    found = lines(options, course(), GOOD)
    assert all(line.passed for line in found)
    assert [line.name for line in found][:3] == ["no hang", "load test", "requests"]


@pytest.mark.parametrize(
    ("last", "name"),
    [
        ({"instances": {"decode-0": replace(INSTANCE, blocks=4)}}, "decode-0: blocks in use at the end"),
        ({"instances": {"decode-0": replace(INSTANCE, failed_transfers=1)}}, "decode-0: transfers failed"),
        ({"instances": {}}, "decode-0: blocks in use"),
        ({"requests": Requests(900, {"timeout": 4}, 0)}, "proxy: failed"),
        ({"requests": Requests(900, {"timeout": 3}, 2)}, "proxy: in flight at the end"),
        ({"requests": None}, "proxy"),
        ({"identities": {"decode-0": "99", "proxy-0": "12"}}, "restarts"),
        ({"identities": {"proxy-0": "12"}}, "restarts"),
    ],
)
def test_what_is_wrong_at_the_end_fails_its_own_line(options: Options, last: dict[str, Any], name: str) -> None:
    samples = course()
    samples[-1] = replace(samples[-1], **last)
    assert failed(lines(options, samples, GOOD)) == [name]


def test_a_restart_in_the_middle_is_seen(options: Options) -> None:
    samples = course()
    samples[50:] = [replace(sample, identities={**sample.identities, "decode-0": "99"}) for sample in samples[50:]]
    (line,) = (line for line in lines(options, samples, GOOD) if line.name == "restarts")
    assert (line.measured, line.passed) == ("decode-0", False)


def test_a_sample_that_nobody_answered_is_no_restart(options: Options) -> None:
    samples = course()
    samples[50] = replace(samples[50], identities={}, memory={}, requests=None, silent=["supervisord: away"])
    assert failed(lines(options, samples, GOOD)) == []


def test_a_leak_fails_the_line_of_its_service_alone(options: Options) -> None:
    found = lines(options, course(leak_mib_per_hour=600), GOOD)
    assert failed(found) == ["memory of decode-0"]
    (line,) = (line for line in found if line.passed is False)
    assert line.measured == "+80.0 MiB in 8 min, +600.0 MiB/h"


def test_the_load_generator_may_keep_its_newest_requests(options: Options) -> None:
    """One is answered each second: 480 in the window, with 4 KiB for each."""
    kept = [replace(one, memory={"load": (100 * MIB) + int(one.at * 12288)}) for one in course()]
    (line,) = (line for line in lines(options, kept, GOOD) if line.name == "memory of load")
    assert (line.measured, line.wanted) == ("+5.6 MiB in 8 min, +42.2 MiB/h", "flat: at most +5.9 MiB")
    assert line.passed is True
    full = [replace(one, requests=Requests(20_000 + int(one.at), {}, 0)) for one in kept[1:-1]]
    (line,) = (line for line in lines(options, [course()[0], *full, kept[-1]], GOOD) if line.name == "memory of load")
    assert line.passed is False


def test_a_short_run_judges_no_memory() -> None:
    samples = [sample for sample in course(leak_mib_per_hour=6000) if sample.at <= 85 or sample.at == 900]
    found = lines(parse(["--duration", "90s"]), samples, GOOD)
    assert failed(found) == []
    assert {line.passed for line in found if line.name.startswith("memory")} == {None}


def test_silence_is_a_hang_even_when_it_ended(options: Options) -> None:
    samples = [
        replace(sample, requests=Requests(300, {}, 100)) if 300 <= sample.at < 400 else sample for sample in course()
    ]
    (line,) = (line for line in lines(options, samples, GOOD) if line.name == "no hang")
    assert line.passed is False
    assert line.measured == "at most 100 s without an answer"


@pytest.mark.parametrize(
    ("ended", "names", "said"),
    [
        (
            Ended(600.0, None, "nothing for 60 s: decode-0 30 running", None),
            ["no hang", "load test", "requests"],
            "30 running",
        ),
        (Ended(930.0, 1, None, None), ["load test", "requests"], "no run.json"),
        (
            Ended(930.0, 1, None, {"outcomes": {**SUMMARY["outcomes"], "failed": 2}, "errors": {"TimedOut": 2}}),
            ["load test", "requests"],
            "900 completed, 2 failed (2 TimedOut)",
        ),
        (Ended(930.0, 0, None, {"outcomes": {"completed": 0}, "errors": {}}), ["requests"], "none was sent"),
    ],
)
def test_what_the_load_test_says_counts(options: Options, ended: Ended, names: list[str], said: str) -> None:
    found = lines(options, course(), ended)
    assert failed(found) == names
    assert any(said in line.measured for line in found)


def test_an_interrupted_run_is_judged_until_then(options: Options) -> None:
    samples = [sample for sample in course(leak_mib_per_hour=600) if sample.at <= 700]
    found = lines(options, [*samples, replace(course()[-1], at=720.0)], Ended(700.0, None, None, SUMMARY))
    assert failed(found) == ["load test", "memory of decode-0"]
    assert "+46.7 MiB in 5 min, +600.0 MiB/h" in [line.measured for line in found]
