"""Memory of a proxy with so many open streams, each with an event a second; one proxy at a time, started anew."""

import time
from collections import Counter
from contextlib import ExitStack

from benchmarks.errors import CannotStart
from benchmarks.proxy import stage
from benchmarks.proxy.clients import streams
from benchmarks.proxy.clients.stream_client import Job
from benchmarks.proxy.proxies.peers import Peer
from benchmarks.proxy.run import Run
from benchmarks.proxy.upstreams.upstream import Upstream

OPEN_WITHIN_S = 4.0
SETTLE_S = 3.0
EVENT_EVERY_US = 1_000_000
LONGER_THAN_THE_RUN_S = 3600
SAMPLES = 10


def measure(run: Run) -> None:
    """Adds rows for each proxy to the table `memory`: idle, open, and closed again. Raises: CannotStart, OutOfTime."""
    with stage.paced(run) as upstream:
        for peer in run.peers:
            _measure(run, upstream, peer)
            run.results.write()
            print(f"memory: {peer.name} done", flush=True)


def _measure(run: Run, upstream: Upstream, peer: Peer) -> None:
    errors: Counter[str] = Counter()
    with stage.running(run, upstream, [peer]) as (_, target):
        assert target.tree is not None
        tree = target.tree
        run.results.add("memory", peer=peer.name, state="idle", streams=0, rss_mb=[tree.rss_mb()])
        opened = 0
        try:
            with ExitStack() as stack:
                for number in run.options.open_streams:
                    stack.enter_context(streams.held(_job(run, target.port, number - opened), run.layout.load, errors))
                    opened = number
                    time.sleep(SETTLE_S)
                    samples = []
                    for _ in range(SAMPLES):
                        run.deadline.left()
                        samples.append(tree.rss_mb())
                        time.sleep(run.options.hold_seconds / SAMPLES)
                    run.results.add("memory", peer=peer.name, state="open", streams=number, rss_mb=samples)
        except CannotStart as error:
            errors[str(error)] += 1
        time.sleep(SETTLE_S)
        rss_mb = [tree.rss_mb()]
        run.results.add("memory", peer=peer.name, state="closed", streams=0, rss_mb=rss_mb, errors=dict(errors))


def _job(run: Run, port: int, streams_more: int) -> Job:
    """Streams that end when the load generator is told to."""
    seconds, tokens = LONGER_THAN_THE_RUN_S, LONGER_THAN_THE_RUN_S
    return Job(port, streams_more, seconds, 0, OPEN_WITHIN_S, tokens, EVENT_EVERY_US, run.options.prompt_bytes)
