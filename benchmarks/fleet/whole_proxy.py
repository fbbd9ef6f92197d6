"""The proxy as a process before the whole fleet: a request's CPU and TTFT, memory, and what its status paths take."""

import asyncio
import os
import sys
import time
import urllib.error

import aiohttp

from benchmarks.errors import CannotStart
from benchmarks.fleet.records import fleet, register
from benchmarks.fleet.run import Run
from benchmarks.processes import Launch
from benchmarks.proxy.proxies.process_tree import ProcessTree
from benchmarks.proxy.upstreams.answers import PATH, request_bodies
from stack.configuration.settings import REPOSITORY
from stack.network.direct_http import open_directly

POLL_S = 0.1
STATUS_PATHS = ("/instances", "/metrics", "/instances/targets", "/ready", "/v1/models", "/console/api/map")
TIMES = 7  # that each status path is asked
AT_ONCE = 2  # requests
PROMPT_BYTES = 4096
JSON = {"Content-Type": "application/json"}


def measure(run: Run) -> None:
    """Adds rows to the tables `requests` and `status` for each size. Raises: CannotStart, OutOfTime."""
    port, most = next(run.ports), max(run.options.instances)
    server = (sys.executable, "-m", "benchmarks.fleet.scripted_fleet", str(port), str(most))
    run.processes.start([Launch("scripted-fleet", server, dict(os.environ), REPOSITORY)])
    for number in run.options.instances:
        _measure(run, number, port)
        run.results.write()
        print(f"proxy: {number} instances done", flush=True)
    run.processes.end(["scripted-fleet"])


def _measure(run: Run, number: int, instance_port: int) -> None:
    register(run.etcd, fleet(number, instance_port))
    port, name = next(run.ports), f"proxy-{number}"
    variables = {"ETCD_ENDPOINT": run.etcd, "PROXY_PORT": str(port), "PROXY_LOG_LEVEL": "warning"}
    run.processes.start([Launch(name, (sys.executable, "-m", "proxy"), os.environ | variables, REPOSITORY)])
    try:
        url = f"http://127.0.0.1:{port}"
        wait_for(run, url + "/ready")
        tree = ProcessTree(run.processes.pid(name))
        idle_mb = tree.rss_mb()
        bodies = request_bodies(2 * run.options.requests, PROMPT_BYTES, tokens=2, interval_us=0)
        asyncio.run(_send(url, bodies[: run.options.requests]))  # connections to all instances, and warm
        before = tree.cpu_s()
        ttft_s = asyncio.run(_send(url, bodies[run.options.requests :]))
        cpu_s = (tree.cpu_s() - before) / run.options.requests
        run.results.add("requests", instances=number, ttft_s=ttft_s, cpu_s=cpu_s, idle_mb=idle_mb, rss_mb=tree.rss_mb())
        for path in STATUS_PATHS:
            run.deadline.left()
            sizes, seconds = zip(*(_asked(url + path) for _ in range(TIMES)), strict=True)
            run.results.add("status", instances=number, path=path, bytes=max(sizes), seconds=list(seconds))
    finally:
        run.processes.end([name])


def wait_for(run: Run, url: str) -> None:
    """Returns once `url` answers. Raises: CannotStart, OutOfTime."""
    while True:
        run.deadline.left()
        run.processes.check()
        try:
            with open_directly(url, timeout_s=1):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(POLL_S)


def _asked(url: str) -> tuple[int, float]:
    began = time.perf_counter()
    with open_directly(url, timeout_s=60) as answer:
        size = len(answer.read())
    return size, time.perf_counter() - began


async def _send(url: str, bodies: list[bytes]) -> list[float]:
    """TTFT of each, in seconds. Raises: CannotStart: one failed."""
    left, ttft_s = iter(bodies), []

    async def client(session: aiohttp.ClientSession) -> None:
        for body in left:
            began = time.perf_counter()
            async with session.post(url + PATH, data=body, headers=JSON) as answer:
                if answer.status != 200:
                    raise CannotStart(f"the proxy answered {answer.status}: {(await answer.text())[:200]}")
                await answer.content.readany()
                ttft_s.append(time.perf_counter() - began)
                await answer.read()

    async with aiohttp.ClientSession() as session:
        await asyncio.gather(*(client(session) for _ in range(AT_ONCE)))
    return ttft_s
