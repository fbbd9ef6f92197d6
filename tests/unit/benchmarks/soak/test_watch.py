"""Following a load: its end, a hang, and the blocks that come back late."""

import subprocess
from collections.abc import Callable
from dataclasses import replace

import pytest

from benchmarks.soak.options import Options, parse
from benchmarks.soak.sample import Instance, Requests, Sample
from benchmarks.soak.watch import Hang, Watch, progress, who

IDLE = Instance(running=0, waiting=0, blocks=0, preemptions=0, failed_transfers=0)
BUSY = Instance(running=30, waiting=2, blocks=400, preemptions=0, failed_transfers=0)
EMPTY = Sample(0.0, {"decode-0": 5 << 20}, {"decode-0": "11"}, Requests(0, {}, 0), {"decode-0": IDLE})
STUCK = replace(EMPTY, requests=Requests(7, {}, 3), instances={"decode-0": BUSY})


@pytest.fixture
def options() -> Options:
    return parse(["--interval", "0.01s", "--hang-after", "0.3s", "--settle", "0.1s"])


def test_the_loads_status_is_told(options: Options, load: Callable[[str], "subprocess.Popen[bytes]"]) -> None:
    kept: list[Sample] = []
    watch = Watch(replace(options, hang_after_s=60.0), lambda at: replace(EMPTY, at=at), kept.append)
    assert watch.follow(load("raise SystemExit(3)")) == 3
    assert [one.at for one in kept] == sorted(one.at for one in kept)


def test_a_hang_says_who_has_what_in_hand(options: Options, load: Callable[[str], "subprocess.Popen[bytes]"]) -> None:
    watch = Watch(options, lambda at: replace(STUCK, at=at), lambda one: None)
    with pytest.raises(Hang, match=r"the proxy has 3 requests in flight; decode-0 30 running, 2 waiting, 400 blocks"):
        watch.follow(load("input()"))


def test_failures_are_no_hang(options: Options, load: Callable[[str], "subprocess.Popen[bytes]"]) -> None:
    process = load("input()")
    counted = 0

    def take(at: float) -> Sample:
        nonlocal counted
        counted += 1
        if at > 3 * options.hang_after_s:
            process.kill()
        return replace(STUCK, at=at, requests=Requests(7, {"timeout": counted}, 3))

    assert Watch(options, take, lambda one: None).follow(process) < 0


def test_it_waits_until_blocks_are_given_back(options: Options, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    states = iter([STUCK, replace(EMPTY, instances={"decode-0": BUSY}), EMPTY])
    kept: list[Sample] = []
    Watch(replace(options, settle_s=60.0), lambda at: replace(next(states), at=at), kept.append).settle(EMPTY)
    assert kept[-1].instances == EMPTY.instances
    assert next(states, None) is None


def test_it_does_not_wait_for_ever(options: Options, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    kept: list[Sample] = []
    Watch(options, lambda at: replace(STUCK, at=at), kept.append).settle(EMPTY)
    assert kept[-1].at >= options.settle_s


def test_a_silent_part_is_named() -> None:
    sample = replace(EMPTY, requests=None, instances={}, silent=["proxy: timed out"])
    assert who(sample) == "proxy: timed out"
    assert progress(replace(sample, at=75.0), parse([])) == "01:15 of 15:00  MiB: decode-0 5  proxy: timed out"
