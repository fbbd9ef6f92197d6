"""A fleet whose producers take their time: python -m benchmarks.fleet.queued_fleet 8100 100 1250

Arguments: the port, how many instances there are, and how many tokens a producer computes in a second. One prompt comes
after the other, by the proxy's number for it; a consumer answers once the producer of its transfer has.
"""

import asyncio
import heapq
import json
import sys
from itertools import count

from aiohttp import web

from benchmarks.fleet.records import address
from benchmarks.proxy.upstreams.answers import whole, whole_stream
from proxy.routing.prefill_order import PRIORITY_HEADER

BYTES_PER_TOKEN = 4
ANSWER = whole()
STREAM = whole_stream(2)


class Producer:
    def __init__(self, tokens_per_s: float) -> None:
        self._tokens_per_s = tokens_per_s
        self._waiting: list[tuple[int, int, float, asyncio.Event]] = []
        self._numbers = count()
        self._task: asyncio.Task[None] | None = None

    async def compute(self, tokens: int, number: int) -> None:
        done = asyncio.Event()
        heapq.heappush(self._waiting, (number, next(self._numbers), tokens / self._tokens_per_s, done))
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._run())
        await done.wait()

    async def _run(self) -> None:
        due = asyncio.get_running_loop().time()
        while self._waiting:
            *_, seconds, done = heapq.heappop(self._waiting)
            due += seconds  # not from when this woke up: lateness must not add up
            await asyncio.sleep(due - asyncio.get_running_loop().time())
            done.set()


class Instances:
    def __init__(self, tokens_per_s: float) -> None:
        self._tokens_per_s = tokens_per_s
        self._producers: dict[str, Producer] = {}
        self._transfers: dict[str, asyncio.Event] = {}

    async def answer(self, request: web.Request) -> web.StreamResponse:
        if request.method != "POST":
            return web.json_response({})
        body = json.loads(await request.read())
        transfer = (body.get("kv_transfer_params") or {}).get("transfer_id")
        done = self._transfers.setdefault(transfer, asyncio.Event()) if transfer else None
        if PRIORITY_HEADER not in request.headers:
            if transfer and done is not None:
                await done.wait()
                del self._transfers[transfer]
            return web.Response(body=STREAM, content_type="text/event-stream")
        here = str(request.url.host)
        producer = self._producers.setdefault(here, Producer(self._tokens_per_s))
        await producer.compute(len(body["prompt"]) // BYTES_PER_TOKEN, int(request.headers[PRIORITY_HEADER]))
        if done is not None:
            done.set()
        return web.Response(body=ANSWER, content_type="application/json")


async def _serve(port: int, instances: int, tokens_per_s: float) -> None:
    app = web.Application(client_max_size=16 << 20)
    app.router.add_route("*", "/{path:.*}", Instances(tokens_per_s).answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    for number in range(instances):
        await web.TCPSite(runner, address(number), port).start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])))
