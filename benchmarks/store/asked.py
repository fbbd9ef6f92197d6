"""One request to one server: its TTFT, and where the cache of its prompt came from, as that server counts it."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks import exposition
from benchmarks.connector.client import Client
from benchmarks.connector.topology.routes import Route
from benchmarks.errors import CannotStart, RequestFailed
from benchmarks.tables import Row

LOCAL, STORED = "vllm:prefix_cache_hits_total", "vllm:external_prefix_cache_hits_total"
FAILED_KEYS = "vllm:mooncake_store_operation_failed_keys_total"  # not there without a store
BUSY = ("vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:kv_cache_usage_perc")
POLL_S = 0.1
# A step's figures are there after the next one. Of a prompt of less than a block none changes: nothing is looked for.
STEP_PROMPT = [100]


@dataclass(frozen=True)
class Hits:
    """Tokens of prompts whose cache a server has found in its own blocks and in the store, since its start.

    Those of a load that fails are counted among them, and are computed after all; so are keys that failed.
    """

    local: int
    stored: int
    failed_keys: int = 0


async def at_rest(client: Client, route: Route) -> Hits:
    """Once no block is in use: none waits to be saved, and what was loaded has arrived.

    Raises: RequestFailed, OutOfTime; CannotStart: the server does not count them.
    """
    while True:
        await client.stream(route, STEP_PROMPT, 1)
        found = exposition.totals(await client.metrics(route.decode_url))
        if missing := [name for name in (*BUSY, LOCAL, STORED) if name not in found]:
            raise CannotStart(f"{route.decode_url}/metrics: no {missing[0]}: expected a vLLM that counts it")
        if not any(found[name] for name in BUSY):
            return Hits(int(found[LOCAL]), int(found[STORED]), int(found.get(FAILED_KEYS, 0)))
        await asyncio.sleep(POLL_S)


async def ask(client: Client, route: Route, prompt: Sequence[int], expected: Hits) -> Row:
    """A row of the results. A cache that came from elsewhere than `expected` makes it one of a failed request.

    Raises: OutOfTime, CannotStart.
    """
    try:
        before = await at_rest(client, route)
        stream = await client.stream(route, prompt, 1)
        after = await at_rest(client, route)
    except RequestFailed as failure:
        return {"failed": str(failure)}
    found = Hits(after.local - before.local, after.stored - before.stored, after.failed_keys - before.failed_keys)
    row: Row = {"ttft_s": stream.ttft_s, "local_tokens": found.local, "store_tokens": found.stored}
    row |= {"token": stream.tokens[0]} if stream.tokens else {}
    if found != expected:
        return {**row, "failed": f"{_words(found)} instead of {_words(expected)}"}
    return row


def _words(hits: Hits) -> str:
    found = f"{hits.local:,} tokens found locally and {hits.stored:,} in the store"
    return f"{found}, with {hits.failed_keys:,} blocks that failed" if hits.failed_keys else found
