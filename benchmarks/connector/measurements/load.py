"""So many users at once, each sending its next request when it has its answer."""

import asyncio
from collections.abc import Sequence

from benchmarks.connector.client import Client, Stream
from benchmarks.connector.run import Run
from benchmarks.connector.topology.routes import Route
from benchmarks.errors import RequestFailed

Prompts = Sequence[Sequence[Sequence[int]]]  # of each user, one for each request


def prompts(run: Run, users: int) -> Prompts:
    """To be made before a load: making one keeps the client from reading what others receive."""
    options = run.options
    return [
        [run.prompts.next(options.load_prompt_tokens) for _ in range(options.requests_per_user)] for _ in range(users)
    ]


async def send(client: Client, route: Route, by_user: Prompts, output_tokens: int) -> list[Stream | RequestFailed]:
    """Returns: what came of each prompt, user by user.

    Raises: OutOfTime: then this load is not complete, and nothing of it is kept.
    """

    async def user(own: Sequence[Sequence[int]]) -> list[Stream | RequestFailed]:
        return [await _request(client, route, prompt, output_tokens) for prompt in own]

    tasks = [asyncio.create_task(user(own)) for own in by_user]
    try:
        return [outcome for outcomes in await asyncio.gather(*tasks) for outcome in outcomes]
    finally:
        for task in tasks:
            task.cancel()


async def _request(client: Client, route: Route, prompt: Sequence[int], output_tokens: int) -> Stream | RequestFailed:
    try:
        return await client.stream(route, prompt, output_tokens)
    except RequestFailed as failure:
        return failure
