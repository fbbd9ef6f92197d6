"""The two legs of a request, posted one by one to the servers themselves, as the proxy would post them together."""

import asyncio
import uuid
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

from tests.integration.answers import Tokens, greedy
from tests.integration.failures.failure_stack import CANCEL_TIMEOUT_S, SEEN_LIMIT_S, TIMEOUT_S, Server
from tests.real_stack import wait_until

# A transfer may hold its request for no longer than its bounds; the rest is for computing on a busy machine.
ANSWER_LIMIT_S = TIMEOUT_S + CANCEL_TIMEOUT_S + 60
COUNTED_LIMIT_S = 10.0

Count = TypeVar("Count", int, Counter[str])


@dataclass
class Transfer:
    """One prompt on its way; each leg is a task, whose cancellation closes the connection as a client would."""

    prompt: Tokens
    id: str = field(default_factory=lambda: uuid.uuid4().hex)

    def prefill(self, server: Server, **more: Any) -> "asyncio.Task[Tokens]":
        parameters = {"do_remote_decode": True, "transfer_id": self.id}
        return self._post(server, **{"max_tokens": 1, **more}, kv_transfer_params=parameters)

    def decode(self, server: Server, producer: dict[str, Any]) -> "asyncio.Task[Tokens]":
        """`producer`: its transfer record."""
        parameters = {"do_remote_prefill": True, "transfer_id": self.id, "producer": producer}
        return self._post(server, kv_transfer_params=parameters)

    def _post(self, server: Server, **more: Any) -> "asyncio.Task[Tokens]":
        return asyncio.create_task(answer(server, self.prompt, **more))


async def answer(server: Server, prompt: Tokens, **more: Any) -> Tokens:
    """Greedy; without more it is a plain server's, which computes all of the prompt by itself."""
    async with asyncio.timeout(ANSWER_LIMIT_S):
        (tokens,) = await greedy(server.url, [prompt], at_once=1, **more)
    return tokens


async def abort(leg: "asyncio.Task[Tokens]") -> None:
    """Close the connection, which is how vLLM learns that nobody waits any more."""
    assert leg.cancel(), "the leg has ended already"
    with suppress(asyncio.CancelledError):
        await leg


async def until(condition: Callable[[], bool], what: str) -> None:
    """Wait for a moment by looking, while legs go on."""
    await asyncio.to_thread(wait_until, condition, SEEN_LIMIT_S, what)


async def until_equal(count: Callable[[], Count], expected: Count) -> None:
    """A server's counts follow what happened by a step or two."""
    await asyncio.to_thread(wait_until, lambda: count() == expected, COUNTED_LIMIT_S, f"the count is {expected}")


async def until_reported(server: Server, *words: str) -> None:
    """Wait for a line of the server's log with all of `words`."""
    await until(lambda: server.reports(*words), f"{server.name} reports {', '.join(words)}")
