"""Requests a second over both legs when the upstream answers at once: what one core of a proxy can do.

Each answer is a stream of 100 events that arrives in one piece.
"""

from collections import Counter

from benchmarks.proxy import stage
from benchmarks.proxy.clients import wrk
from benchmarks.proxy.run import Run
from benchmarks.proxy.upstreams.answers import whole_stream
from benchmarks.proxy.upstreams.instant_upstream import TOKENS

WARM_UP_S = 1.0


def measure(run: Run) -> None:
    """Adds a row for each load to the table `throughput`. Raises: CannotStart, OutOfTime."""
    options = run.options
    script = wrk.write_script(run.scratch, options.prompt_bytes, TOKENS)
    with stage.instant(run) as upstream, stage.running(run, upstream, run.peers) as targets:
        for target in targets:
            wrk.run(options.wrk, script, target.port, options.connections[0], WARM_UP_S, run.layout.load)
        for connections in options.connections:
            for number, target in stage.in_turn(targets, options.rounds):
                run.deadline.left()
                before = target.cpu_s()
                with stage.looked_at(run, target):
                    result = wrk.run(
                        options.wrk, script, target.port, connections, options.throughput_seconds, run.layout.load
                    )
                run.results.add(
                    "throughput",
                    peer=target.name,
                    connections=connections,
                    round=number,
                    requests=result.requests,
                    requests_per_s=result.requests_per_s,
                    p50_ms=result.p50_ms,
                    p99_ms=result.p99_ms,
                    cpu_s=target.cpu_s() - before,
                    errors=dict(_errors(result)),
                )
                run.results.write()
            print(f"throughput: {connections} connections done", flush=True)


def _errors(result: wrk.Result) -> Counter[str]:
    """wrk does not look into answers; an answer that breaks off with a good status is short."""
    errors = Counter(result.errors)
    if not errors and result.bytes_per_request < len(whole_stream(TOKENS)):
        errors["answers too short"] = result.requests
    return errors
