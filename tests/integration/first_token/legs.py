"""Both legs of greedy requests, the consumer's streamed token by token, and who computed first tokens."""

import asyncio
import json
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from connector.control.control_key import ControlKey
from tests.integration.caches.servers import Trio
from tests.real_stack import first_tokens, wait_until
from tests.tiny_servers.instances import NAME, TIMEOUT, Tokens, complete, token_ids

CACHE_BYTES = 4 << 20
ANSWER_TOKENS = 8
SEEN_LIMIT_S = 30
PRODUCER = ("producer", "")


@dataclass
class Request:
    """One prompt to both sides. `more`: parameters of both legs; `only_decode`: of the consumer's alone."""

    prompt: Tokens
    more: dict[str, Any] = field(default_factory=dict)
    only_decode: dict[str, Any] = field(default_factory=dict)
    transfer_id: str = field(default_factory=lambda: uuid.uuid4().hex)


@dataclass(frozen=True)
class Legs:
    """The legs of requests to the trio's producer and consumer."""

    trio: Trio
    key: ControlKey

    async def expected(self, request: Request) -> Tokens:
        """What the plain server answers. It uses no block from before."""
        async with aiohttp.ClientSession(timeout=TIMEOUT) as session:
            salted = {"max_tokens": ANSWER_TOKENS, "cache_salt": uuid.uuid4().hex}
            more = salted | request.more | request.only_decode
            return token_ids(await complete(session, self.trio.plain, request.prompt, **more))

    async def prefill(self, request: Request) -> None:
        transfer = {"do_remote_decode": True, "transfer_id": request.transfer_id}
        async with aiohttp.ClientSession(timeout=TIMEOUT) as session:
            more = request.more | {"max_tokens": 1, "kv_transfer_params": transfer}
            await complete(session, self.trio.producer, request.prompt, **more)

    @asynccontextmanager
    async def stream(
        self, request: Request, record: dict[str, Any] | None = None
    ) -> AsyncIterator[AsyncIterator[Tokens]]:
        """Tokens of the consumer's leg, event by event; it is aborted when the context is left."""
        producer = record or self.trio.producer.record
        transfer = {"do_remote_prefill": True, "producer": producer, "transfer_id": request.transfer_id}
        body = {"model": NAME, "prompt": request.prompt, "temperature": 0, "max_tokens": ANSWER_TOKENS}
        body |= {"ignore_eos": True, "return_token_ids": True, "stream": True, "kv_transfer_params": transfer}
        body |= request.more | request.only_decode
        async with (
            aiohttp.ClientSession(timeout=TIMEOUT) as session,
            session.post(self.trio.consumer.url + "/v1/completions", json=body) as response,
        ):
            assert response.status == 200, await response.text()
            yield _tokens(response)

    async def decode(self, request: Request, record: dict[str, Any] | None = None) -> Tokens:
        async with self.stream(request, record) as events:
            return [token async for event in events for token in event]

    async def both(self, request: Request) -> Tokens:
        _, answer = await asyncio.gather(self.prefill(request), self.decode(request))
        return answer

    async def all(self, requests: Sequence[Request]) -> list[Tokens]:
        return list(await asyncio.gather(*map(self.both, requests)))

    async def counted(self) -> Counter[tuple[str, str]]:
        """First tokens by who computed them and why. Figures are those of a step, so the consumer makes one."""
        await asyncio.to_thread(wait_until, self.trio.consumer.is_idle, SEEN_LIMIT_S, "the consumer is idle")
        return first_tokens(self.trio.consumer.url)


async def _tokens(response: aiohttp.ClientResponse) -> AsyncIterator[Tokens]:
    async for line in response.content:
        if line.startswith(b"data: {"):
            event = json.loads(line[6:])
            assert "error" not in event, event
            for choice in event["choices"]:
                if tokens := choice.get("token_ids"):
                    yield tokens
