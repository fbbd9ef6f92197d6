"""TTFT and ITL under load: so many users at once, each sending its next request when it has its answer.

Only one route is under load at a time; the routes take turns.
"""

import asyncio
from collections.abc import Sequence

from benchmarks.connector.client import Client
from benchmarks.connector.errors import RequestFailed
from benchmarks.connector.page import Row
from benchmarks.connector.routes import Route
from benchmarks.connector.run import Run


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

    async def user() -> list[Row]:
        return [await _request(run, client, route) for _ in range(run.options.requests_per_user)]

    tasks = [asyncio.create_task(user()) for _ in range(users)]
    try:
        return [row for rows in await asyncio.gather(*tasks) for row in rows]
    finally:
        for task in tasks:
            task.cancel()


async def _request(run: Run, client: Client, route: Route) -> Row:
    prompt = run.prompts.next(run.options.load_prompt_tokens)
    try:
        stream = await client.stream(route, prompt, run.options.load_output_tokens)
    except RequestFailed as failure:
        return {"failed": str(failure)}
    return {"ttft_s": stream.ttft_s, "itl_s": stream.itl_s}
