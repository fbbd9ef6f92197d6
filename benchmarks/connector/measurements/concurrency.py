"""TTFT and ITL under load: so many users at once, each sending its next request when it has its answer.

Only one route is under load at a time; the routes take turns.
"""

import asyncio
from collections.abc import Sequence

from benchmarks.connector.client import Client
from benchmarks.connector.run import Run
from benchmarks.connector.topology.routes import Route
from benchmarks.errors import RequestFailed
from benchmarks.tables import Row


async def measure(run: Run, client: Client, stage: str, routes: Sequence[Route]) -> None:
    """Adds a row for every request to the table `concurrency`. Raises: OutOfTime."""
    for users in run.options.users:
        for number in range(run.options.load_rounds):
            for route in routes:
                for row in await _load(run, client, route, users):
                    run.results.add("concurrency", stage=stage, route=route.name, users=users, round=number, **row)
                run.results.write()
        print(f"{stage}: {users} users done", flush=True)


async def _load(run: Run, client: Client, route: Route, users: int) -> list[Row]:
    """Raises: OutOfTime: then this load is not complete, and nothing of it is kept."""
    options = run.options
    # Made before, because making one keeps the client from reading what others receive.
    prompts = [
        [run.prompts.next(options.load_prompt_tokens) for _ in range(options.requests_per_user)] for _ in range(users)
    ]

    async def user(own: list[list[int]]) -> list[Row]:
        return [await _request(client, route, prompt, options.load_output_tokens) for prompt in own]

    tasks = [asyncio.create_task(user(own)) for own in prompts]
    try:
        return [row for rows in await asyncio.gather(*tasks) for row in rows]
    finally:
        for task in tasks:
            task.cancel()


async def _request(client: Client, route: Route, prompt: Sequence[int], output_tokens: int) -> Row:
    try:
        stream = await client.stream(route, prompt, output_tokens)
    except RequestFailed as failure:
        return {"failed": str(failure)}
    return {"ttft_s": stream.ttft_s, "itl_s": stream.itl_s, "tokens": len(stream.tokens)}
