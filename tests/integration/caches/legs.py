"""The two legs of one request to a trio, each for itself, and what a test sees of the servers between them."""

import asyncio
from contextlib import suppress
from typing import Any

import aiohttp

from tests.integration.caches import answers
from tests.integration.caches.answers import Answer
from tests.integration.caches.servers import Trio
from tests.real_stack import metrics, wait_until
from tests.tiny_servers.instances import Server, Tokens

SEEN_LIMIT_S = 30


async def prefill(trio: Trio, prompt: Tokens, transfer_id: str) -> None:
    """The producer's leg."""
    transfer = {"do_remote_decode": True, "transfer_id": transfer_id}
    await answers.plain(trio.producer, [prompt], max_tokens=1, kv_transfer_params=transfer)


async def decode(trio: Trio, prompt: Tokens, transfer_id: str, **more: Any) -> Answer:
    """The consumer's leg."""
    transfer = {"do_remote_prefill": True, "producer": trio.producer.record, "transfer_id": transfer_id}
    (answer,) = await answers.plain(trio.consumer, [prompt], kv_transfer_params=transfer, **more)
    return answer


def held(server: Server) -> float:
    """Blocks that it keeps for transfers."""
    return metrics(server.url)["pd_kv_blocks_held"]


async def seen(condition: Any, what: str) -> None:
    await asyncio.to_thread(wait_until, condition, SEEN_LIMIT_S, what)


async def abort(leg: "asyncio.Task[Any]") -> None:
    """Close its connections, which is how vLLM learns that nobody waits any more."""
    assert leg.cancel(), "it has ended already"
    with suppress(asyncio.CancelledError, aiohttp.ClientError):
        await leg
