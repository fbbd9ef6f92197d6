"""One, two and four proxies before one scripted fleet: TTFT, with each knowing only its own requests and with all told.

Requests come open loop, as a Poisson process, each to a proxy at random. What they wait for is the queue of scripted
producers, so that the times say what the choices cost and not how fast this machine is.
"""

import asyncio
import json
import os
import random
import sys
import time
from collections.abc import Sequence

import aiohttp

from benchmarks.errors import CannotStart
from benchmarks.fleet.records import fleet, register
from benchmarks.fleet.run import Run
from benchmarks.fleet.whole_proxy import JSON, wait_for
from benchmarks.processes import Launch
from benchmarks.proxy.proxies.process_tree import ProcessTree
from benchmarks.proxy.upstreams.answers import MODEL, PATH
from stack.configuration.settings import REPOSITORY

INSTANCES = 100
TOKENS_PER_S = 1250
LENGTHS, WEIGHTS = (500, 1000, 2000, 4000), (4, 3, 2, 1)  # tokens; 1,300 in the mean
BUSY = 0.85
SETUPS = ((1, False), (2, False), (4, False), (2, True), (4, True))


def measure(run: Run) -> None:
    """Adds a row to the table `peers` for each setup. Raises: CannotStart, OutOfTime."""
    port = next(run.ports)
    server = (sys.executable, "-m", "benchmarks.fleet.queued_fleet", str(port), str(INSTANCES), str(TOKENS_PER_S))
    run.processes.start([Launch("queued-fleet", server, dict(os.environ), REPOSITORY)])
    register(run.etcd, fleet(INSTANCES, port))
    for number, told in SETUPS:
        run.deadline.left()
        _measure(run, number, told)
        run.results.write()
        print(f"peers: {number} proxies, {'told' if told else 'by themselves'}: done", flush=True)
    run.processes.end(["queued-fleet"])


def _measure(run: Run, number: int, told: bool) -> None:
    ports = [next(run.ports) for _ in range(number)]
    addresses = [f"127.0.0.1:{port}" for port in ports]
    variables = {"ETCD_ENDPOINT": run.etcd, "PROXY_LOG_LEVEL": "warning", "PROXY_LOCAL_PROMPT_TOKENS": "0"}
    if told:
        variables["PROXY_PEERS"] = ",".join(addresses)
    names = [f"proxy-{place}-of-{number}" for place in range(number)]
    run.processes.start(
        Launch(name, (sys.executable, "-m", "proxy"), os.environ | variables | {"PROXY_PORT": str(port)}, REPOSITORY)
        for name, port in zip(names, ports, strict=True)
    )
    try:
        for each in addresses:
            wait_for(run, f"http://{each}/ready")
        trees = [ProcessTree(run.processes.pid(name)) for name in names]
        before = sum(tree.cpu_s() for tree in trees)
        ttft_s = asyncio.run(_send(addresses, run.options.seconds))
        cpu_s = sum(tree.cpu_s() for tree in trees) - before
        run.results.add("peers", proxies=number, told=told, ttft_s=ttft_s, cpu_s=cpu_s / len(ttft_s))
    finally:
        run.processes.end(names)


async def _send(addresses: Sequence[str], seconds: float) -> list[float]:
    """TTFT of each request, in seconds. The same requests, at the same times, for any number of proxies."""
    dice, spread, ttft_s = random.Random(1), random.Random(2), []
    mean_tokens = sum(length * weight for length, weight in zip(LENGTHS, WEIGHTS, strict=True)) / sum(WEIGHTS)
    per_s = BUSY * TOKENS_PER_S * (INSTANCES / 2) / mean_tokens

    async def request(session: aiohttp.ClientSession, number: int, tokens: int, proxy: str) -> None:
        prompt = f"{number:06} {'word ' * tokens}"[: 4 * tokens]
        body = json.dumps({"model": MODEL, "prompt": prompt, "max_tokens": 2, "stream": True})
        began = time.perf_counter()
        async with session.post(f"http://{proxy}{PATH}", data=body, headers=JSON) as answer:
            if answer.status != 200:
                raise CannotStart(f"the proxy answered {answer.status}: {(await answer.text())[:200]}")
            await answer.content.readany()
            ttft_s.append(time.perf_counter() - began)
            await answer.read()

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session, asyncio.TaskGroup() as group:
        began = due = time.perf_counter()
        number = 0
        while due < began + seconds:
            due += dice.expovariate(per_s)
            await asyncio.sleep(max(due - time.perf_counter(), 0))
            (tokens,) = dice.choices(LENGTHS, WEIGHTS)
            group.create_task(request(session, number, tokens, spread.choice(addresses)))
            number += 1
    return ttft_s
