"""TTFT of one request at a time: the routes take turns, request by request, so that all see the same machine."""

import dataclasses
from collections.abc import Sequence

from benchmarks.connector.client import Client
from benchmarks.connector.run import Run
from benchmarks.connector.topology.routes import Route
from benchmarks.errors import RequestFailed
from benchmarks.tables import Row


async def measure(
    run: Run, client: Client, table: str, stage: str, routes: Sequence[Route], prompt_tokens: Sequence[int]
) -> None:
    """Adds a row for every request to `table`. Raises: OutOfTime."""
    for tokens in prompt_tokens:
        for number in range(-run.options.warm_up, run.options.rounds):
            shift = number % len(routes)  # so that no route always follows the same one
            for route in (*routes[shift:], *routes[:shift]):
                row = await _request(client, route, run.prompts.next(tokens))
                if number >= 0:
                    run.results.add(table, stage=stage, route=route.name, prompt_tokens=tokens, **row)
            run.results.write()
        print(f"{stage}: {tokens} tokens done", flush=True)


async def _request(client: Client, route: Route, prompt: Sequence[int]) -> Row:
    try:
        return dataclasses.asdict(await client.first_token(route, prompt))
    except RequestFailed as failure:
        return {"failed": str(failure)}
