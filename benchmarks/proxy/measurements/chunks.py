"""Streamed chunks a second: at a pace that every proxy can follow, and at one that most cannot.

Events that a proxy is too late for come to it, and leave it, several in one piece: `reads` are the client's, so events
a read say how far it was behind, and the delay says for how long. What one event alone costs is seen at the slow pace.
"""

from benchmarks.proxy import stage
from benchmarks.proxy.clients import streams
from benchmarks.proxy.clients.stream_client import Job
from benchmarks.proxy.run import Run
from benchmarks.proxy.stage import Target
from benchmarks.tables import Row

STREAM_S = 4.0


def measure(run: Run) -> None:
    """Adds a row for each load to the table `chunks`. Raises: CannotStart, OutOfTime."""
    options = run.options
    with stage.paced(run) as upstream, stage.running(run, upstream, run.peers) as targets:
        for interval_ms in options.chunk_intervals_ms:
            for number, target in stage.in_turn(targets, options.rounds):
                row = _load(run, target, interval_ms)
                run.results.add("chunks", peer=target.name, interval_ms=interval_ms, round=number, **row)
                run.results.write()
            print(f"chunks: {interval_ms} ms done", flush=True)


def _load(run: Run, target: Target, interval_ms: int) -> Row:
    options = run.options
    tokens, seconds = round(STREAM_S * 1000 / interval_ms), STREAM_S + options.chunk_seconds
    job = Job(
        target.port,
        options.chunk_streams,
        seconds,
        STREAM_S,
        STREAM_S,
        tokens,
        interval_ms * 1000,
        options.prompt_bytes,
    )
    before = target.cpu_s()
    load = streams.load(job, run.layout.load, run.deadline)
    return {
        "offered_per_s": options.chunk_streams * 1000 / interval_ms,
        "events_per_s": load.events_per_s,
        "events": load.events,
        "reads": load.reads,
        "delay_p50_ms": load.delays.percentile_ms(50),
        "delay_p99_ms": load.delays.percentile_ms(99),
        "cpu_s": target.cpu_s() - before,
        "requests": load.requests,
        "errors": dict(load.errors),
    }
