"""Added TTFT and ITL: streams of a fixed pace, so many at once, read through each proxy and directly, in turn.

One stream at a time gets its 100 events in one piece, so that a round has hundreds of them.
"""

from benchmarks.proxy import stage
from benchmarks.proxy.clients import streams
from benchmarks.proxy.clients.stream_client import Job
from benchmarks.proxy.run import Run
from benchmarks.proxy.stage import Target
from benchmarks.tables import Row

TOKENS_IN_ONE_PIECE = 100


def measure(run: Run) -> None:
    """Adds a row for each load to the table `latency`. Raises: CannotStart, OutOfTime."""
    with stage.paced(run) as upstream, stage.running(run, upstream, run.peers) as targets:
        for connections in run.options.streams:
            for number, target in stage.in_turn(targets, run.options.rounds):
                row = _load(run, target, connections)
                run.results.add("latency", peer=target.name, streams=connections, round=number, **row)
                run.results.write()
            print(f"latency: {connections} streams done", flush=True)


def _load(run: Run, target: Target, connections: int) -> Row:
    before = target.cpu_s()
    with stage.looked_at(run, target):
        load = streams.load(_job(run, target.port, connections), run.layout.load, run.deadline)
    return {
        "requests": load.requests,
        "ttft_p50_ms": load.ttft.percentile_ms(50),
        "ttft_p99_ms": load.ttft.percentile_ms(99),
        "whole_p50_ms": load.whole.percentile_ms(50),
        "itl_p50_ms": load.gaps.percentile_ms(50),
        "itl_p99_ms": load.gaps.percentile_ms(99),
        "delay_p50_ms": load.delays.percentile_ms(50),
        "delay_p99_ms": load.delays.percentile_ms(99),
        "cpu_s": target.cpu_s() - before,
        "errors": dict(load.errors),
    }


def _job(run: Run, port: int, connections: int) -> Job:
    options = run.options
    if connections == 1:
        return Job(port, 1, options.latency_seconds / 3, 0.3, 0.0, TOKENS_IN_ONE_PIECE, 0, options.prompt_bytes)
    stream_s = options.tokens * options.interval_ms / 1000
    return Job(
        port,
        connections,
        options.latency_seconds,
        min(stream_s, options.latency_seconds / 3),
        stream_s,
        options.tokens,
        round(options.interval_ms * 1000),
        options.prompt_bytes,
    )
