"""From which prompt length on a producer is worth its transfer: the proxy's PROXY_LOCAL_PROMPT_TOKENS.

A prompt that the consumer computes alone makes every stream there wait for it; one that comes from a producer has its
first token later by what a transfer adds. So each prompt is sent, over either way, while a stream runs on the consumer,
and both prices are taken: its own TTFT, and the longest gap of that stream.
"""

import asyncio
import dataclasses
from collections.abc import Sequence

from benchmarks.connector.client import Client
from benchmarks.connector.run import Run
from benchmarks.connector.topology.routes import Route, Way
from benchmarks.errors import RequestFailed
from benchmarks.tables import Row

LENGTHS = (16, 32, 64, 128, 256, 512, 1024)
STREAM_PROMPT_TOKENS = 16
STREAM_TOKENS = 80


async def measure(run: Run, client: Client, stage: str, pairs: Sequence[Route]) -> None:
    """Adds two rows a round to `threshold` for each length. Raises: OutOfTime."""
    [pair] = [route for route in pairs if route.name == "ours"]
    alone = Route("consumer alone", pair.decode_url, ways=[Way(way.consumer_pin) for way in pair.ways])
    warm_up = await client.stream(alone, run.prompts.next(STREAM_PROMPT_TOKENS), STREAM_TOKENS)
    until_it_streams = warm_up.ttft_s + sum(warm_up.itl_s[: STREAM_TOKENS // 4])
    for tokens in LENGTHS:
        for number in range(-run.options.warm_up, run.options.rounds):
            for route in (alone, pair) if number % 2 else (pair, alone):
                row = await _request(run, client, alone, route, tokens, until_it_streams)
                if number >= 0:
                    run.results.add("threshold", stage=stage, route=route.name, prompt_tokens=tokens, **row)
        run.results.write()
        print(f"{stage}: {tokens} tokens done", flush=True)


async def _request(run: Run, client: Client, alone: Route, route: Route, tokens: int, until_it_streams: float) -> Row:
    running = asyncio.create_task(client.stream(alone, run.prompts.next(STREAM_PROMPT_TOKENS), STREAM_TOKENS))
    try:
        await asyncio.sleep(until_it_streams)
        first_token = await client.first_token(route, run.prompts.next(tokens))
        return dataclasses.asdict(first_token) | {"longest_gap_s": max((await running).itl_s)}
    except RequestFailed as failure:
        return {"failed": str(failure)}
    finally:
        running.cancel()
