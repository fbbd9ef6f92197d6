"""One server for all instances of a fleet: python -m benchmarks.fleet.scripted_fleet 8100 1000

Arguments: the port, the same for all, and how many addresses of the loopback there are to listen on. It answers at
once, as `benchmarks.proxy.upstreams.paced_upstream` does, and its `/metrics` is as long as a vLLM server's.
"""

import asyncio
import sys

import uvloop

from benchmarks.fleet.records import address
from benchmarks.proxy.upstreams.paced_upstream import Vllm
from benchmarks.scripted_http import BACKLOG

_LINE = 'vllm:request_time_seconds_bucket{{engine="0",le="{0}",model_name="benchmark"}} {0}.0\n'
METRICS = (
    "".join(_LINE.format(number) for number in range(1000))
    + 'vllm:kv_cache_usage_perc{engine="0",model_name="benchmark"} 0.5\n'
).encode()


class Instance(Vllm):
    def answer(self, method: bytes, path: bytes, body: bytes) -> None:
        if path == b"/metrics":
            self.write_whole(METRICS)
        else:
            super().answer(method, path, body)


async def _serve(port: int, instances: int) -> None:
    loop = asyncio.get_running_loop()
    for number in range(instances):
        await loop.create_server(Instance, address(number), port, backlog=BACKLOG)
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(_serve(*map(int, sys.argv[1:])))
