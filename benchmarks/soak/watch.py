"""Watches a load until it ends: a sample every few seconds, lines of progress, an alarm when nothing is answered."""

import subprocess
import time
from collections.abc import Callable, Sequence

from benchmarks.soak.options import DRAIN_S, Options
from benchmarks.soak.sample import Sample

PROGRESS_S = 30.0
END_LIMIT_S = DRAIN_S + 60.0  # the load test waits for its open streams, then writes its report
POLL_S = 0.2
MIB = 1 << 20


class Hang(Exception):
    """Nothing goes on any more; the text says who has what in hand."""


class Watch:
    """`take` makes a sample at the given time; `keep` gets each."""

    def __init__(self, options: Options, take: Callable[[float], Sample], keep: Callable[[Sample], None]) -> None:
        self._options = options
        self._take = take
        self._keep = keep
        self._progress_at = 0.0
        self._started = time.monotonic()

    @property
    def now(self) -> float:
        return time.monotonic() - self._started

    def follow(self, load: "subprocess.Popen[bytes]") -> int:
        """Returns: the load's exit status. Raises: Hang."""
        last_answer = LastAnswer()
        while load.poll() is None:
            sample = self._sample()
            last_answer.see(sample)
            silence = sample.at - last_answer.at
            if silence > self._options.hang_after_s and sample.at < self._options.duration_s:
                raise Hang(f"no request was answered for {silence:.0f} s: {who(sample)}")
            if sample.at > self._options.duration_s + END_LIMIT_S:
                raise Hang(f"the load test does not end: {who(sample)}")
            self._wait(load, sample.at + self._options.interval_s)
        return load.returncode

    def settle(self, before: Sample) -> None:
        """Until every instance has as many blocks in use as before, and the proxy nothing in hand; not for ever."""
        limit = self.now + self._options.settle_s
        while not _at_rest(sample := self._sample(), before) and sample.at < limit:
            time.sleep(1.0)

    def _sample(self) -> Sample:
        sample = self._take(self.now)
        self._keep(sample)
        if sample.at >= self._progress_at:
            print(progress(sample, self._options), flush=True)
            self._progress_at += PROGRESS_S
        return sample

    def _wait(self, load: "subprocess.Popen[bytes]", until: float) -> None:
        while self.now < until and load.poll() is None:
            time.sleep(POLL_S)


class LastAnswer:
    """`at`: when the proxy had last counted another answer, whether good or bad; a failure is no hang."""

    def __init__(self) -> None:
        self.at = 0.0
        self._ended: int | None = None

    def see(self, sample: Sample) -> None:
        if sample.requests is not None:
            ended = sample.requests.answered + sum(sample.requests.others.values())
            if ended != self._ended:
                self.at, self._ended = sample.at, ended


def longest_silence(samples: Sequence[Sample], until: float) -> float:
    """Seconds without an answer, at most, before `until`; to the width of the samples."""
    last, longest = LastAnswer(), 0.0
    for sample in samples:
        longest = max(longest, min(sample.at, until) - last.at)
        last.see(sample)
    return longest


def who(sample: Sample) -> str:
    """What each part had in hand."""
    parts = list(sample.silent)
    if sample.requests is not None:
        parts.append(f"the proxy has {sample.requests.in_flight} requests in flight")
    for name, instance in sample.instances.items():
        parts.append(f"{name} {instance.running} running, {instance.waiting} waiting, {instance.blocks} blocks in use")
    return "; ".join(parts)


def progress(sample: Sample, options: Options) -> str:
    minutes, seconds = divmod(int(sample.at), 60)
    total_minutes, total_seconds = divmod(int(options.duration_s), 60)
    parts = [f"{minutes:02d}:{seconds:02d} of {total_minutes:02d}:{total_seconds:02d}"]
    if sample.requests is not None:
        failed = sum(sample.requests.others.values())
        parts.append(f"{sample.requests.answered} answered, {failed} not, {sample.requests.in_flight} in flight")
    parts.append("MiB: " + ", ".join(f"{name} {memory // MIB}" for name, memory in sample.memory.items()))
    return "  ".join([*parts, *sample.silent])


def _at_rest(sample: Sample, before: Sample) -> bool:
    return (
        sample.requests is not None
        and sample.requests.in_flight == 0
        and all(
            name in sample.instances and sample.instances[name].blocks == instance.blocks
            for name, instance in before.instances.items()
        )
    )
