"""A scripted upstream with proxies before it, started and ended together."""

import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

from benchmarks.errors import CannotStart
from benchmarks.processes import Launch
from benchmarks.proxy.clients import console_tabs
from benchmarks.proxy.cpus import pinned
from benchmarks.proxy.proxies.peers import Peer
from benchmarks.proxy.proxies.process_tree import ProcessTree
from benchmarks.proxy.report.summary import DIRECT
from benchmarks.proxy.run import Run
from benchmarks.proxy.upstreams import instant_upstream
from benchmarks.proxy.upstreams.answers import DONE, KV_TRANSFER_PARAMS, MODEL, PATH, request_bodies
from benchmarks.proxy.upstreams.upstream import LOOPBACK, Upstream
from stack import etcd
from stack.configuration.settings import REPOSITORY
from stack.instances.record import PREFIX, Instance, Role

POLL_S = 0.1
START_LIMIT_S = 45.0
PROBE_TIMEOUT_S = 5.0
WARM_UP_REQUESTS = 20


@dataclass(frozen=True)
class Target:
    """Something that answers on `port`; the upstream itself has no `tree`. `console`: as of the peer."""

    name: str
    port: int
    tree: ProcessTree | None = None
    console: bool = False

    def cpu_s(self) -> float:
        return self.tree.cpu_s() if self.tree else 0.0


@contextmanager
def instant(run: Run) -> Iterator[Upstream]:
    """nginx, which answers at once. Raises: CannotStart, OutOfTime."""
    upstream = Upstream(next(run.ports), next(run.ports), run.etcd)
    folder = run.scratch / f"nginx-{upstream.prefill_port}"
    yield from _upstream(
        run, upstream, instant_upstream.launch(run.options.nginx, folder, upstream, run.layout.upstream)
    )


@contextmanager
def paced(run: Run) -> Iterator[Upstream]:
    """paced_upstream.py, a process for each of its CPUs. Raises: CannotStart, OutOfTime."""
    upstream = Upstream(next(run.ports), next(run.ports), run.etcd)
    arguments = map(str, (upstream.prefill_port, upstream.decode_port, len(run.layout.upstream)))
    command = pinned(run.layout.upstream, sys.executable, "-m", "benchmarks.proxy.upstreams.paced_upstream", *arguments)
    yield from _upstream(run, upstream, Launch("paced-upstream", command, {}, REPOSITORY))


@contextmanager
def running(run: Run, upstream: Upstream, peers: Sequence[Peer]) -> Iterator[list[Target]]:
    """The upstream itself, and `peers` before it, each warm. Raises: CannotStart, OutOfTime."""
    launches: list[Launch] = []
    targets = [Target(DIRECT, upstream.decode_port)]
    for peer in peers:
        port = next(run.ports)
        launch = peer.launch(port, upstream, run.layout.proxy)
        launches.append(launch)
        run.processes.start([launch])
        targets.append(Target(peer.name, port, ProcessTree(run.processes.pid(launch.name)), peer.console))
    try:
        for target in targets:
            _wait(run, target.name, target.port)
        yield targets
    finally:
        run.processes.end([launch.name for launch in launches])


def looked_at(run: Run, target: Target) -> AbstractContextManager[None]:
    """While a load runs in the body, the target's console is open if that is what it is here for."""
    return console_tabs.opened(target.port, run.layout.load) if target.console else nullcontext()


def in_turn(targets: Sequence[Target], rounds: int) -> Iterator[tuple[int, Target]]:
    """Every target once a round, and no target always after the same one's load. Yields: round, target."""
    for number in range(rounds):
        shift = number % len(targets)
        for target in (*targets[shift:], *targets[:shift]):
            yield number, target


def _upstream(run: Run, upstream: Upstream, launch: Launch) -> Iterator[Upstream]:
    run.processes.start([launch])
    try:
        _wait(run, launch.name, upstream.decode_port)
        _register(upstream)
        yield upstream
    finally:
        run.processes.end([launch.name])


def _wait(run: Run, name: str, port: int) -> None:
    """Until requests are answered in full, and some more to make everything warm. Raises: CannotStart, OutOfTime."""
    limit = time.monotonic() + START_LIMIT_S
    bodies = iter(request_bodies(WARM_UP_REQUESTS, 100, 2, 0))
    body = next(bodies)
    while True:
        run.deadline.left()
        run.processes.check()
        if time.monotonic() > limit:
            raise CannotStart(f"{name} has not answered a request in full within {START_LIMIT_S:g} s; see its log")
        if not _answers(port, body):
            time.sleep(POLL_S)
        elif (following := next(bodies, None)) is None:
            return
        else:
            body = following


def _answers(port: int, body: bytes) -> bool:
    request = urllib.request.Request(f"http://{LOOPBACK}:{port}{PATH}", body, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=PROBE_TIMEOUT_S) as answer:
            return DONE in answer.read()  # a comment may follow it
    except (urllib.error.URLError, OSError):
        return False


def _register(upstream: Upstream) -> None:
    """The records that our launchers would write; those of an upstream before it go."""
    client = etcd.connect(upstream.etcd)
    try:
        client.delete_prefix(PREFIX)
        for instance in (_instance("prefill", upstream.prefill_url), _instance("decode", upstream.decode_url)):
            client.put(instance.key, instance.model_dump_json())
    finally:
        client.close()


def _instance(role: Role, url: str) -> Instance:
    return Instance(
        role=role,
        instance_id=f"{role}-{url.rpartition(':')[2]}",
        url=url,
        served_models=(MODEL,),
        model=MODEL,
        max_model_len=32768,
        block_size=16,
        dtype="bfloat16",
        tensor_parallel_size=1,
        fingerprint="the same",
        kv_transfer=KV_TRANSFER_PARAMS,
        vllm_version="",
        connector_version="",
        started_at=time.time(),
    )
