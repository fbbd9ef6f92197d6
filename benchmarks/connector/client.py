"""Sends requests as the proxy does, both legs of a disaggregated one at the same moment, and takes the times.

The clock starts when the bodies are ready to be sent: writing 30,000 tokens as JSON is no part of a transfer.
"""

import asyncio
import json
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeVar

import aiohttp

from benchmarks.connector.routes import Route
from benchmarks.connector.servers import SERVED_MODEL
from benchmarks.deadline import Deadline
from benchmarks.errors import RequestFailed

T = TypeVar("T")
COMPLETIONS = "/v1/completions"
JSON = {"Content-Type": "application/json"}
LONGEST_ERROR = 300


@dataclass(frozen=True)
class FirstToken:
    """`ttft_s` is the time of a request for one token; `prefill_s` that of the producer's leg, None without one.

    Such a request is not streamed, because only a whole answer carries `transfer`, the connector's facts.
    """

    ttft_s: float
    prefill_s: float | None
    cached_tokens: int
    transfer: dict[str, Any] | None


@dataclass(frozen=True)
class Stream:
    """`itl_s` are the gaps between events with tokens, one value for each gap."""

    ttft_s: float
    itl_s: list[float]
    tokens: list[int]


class Client:
    """Requests end after `timeout_s`, or with the run's time."""

    def __init__(self, session: aiohttp.ClientSession, timeout_s: float, deadline: Deadline) -> None:
        self._session = session
        self._timeout_s = timeout_s
        self._deadline = deadline

    async def first_token(self, route: Route, prompt: Sequence[int]) -> FirstToken:
        """Raises: RequestFailed, OutOfTime."""

        async def decode(body: bytes) -> tuple[float, dict[str, Any]]:
            answer = await self._post(route.decode_url, body)
            return time.perf_counter(), answer

        started, (ended, answer), prefilled = await self._legs(route, decode, prompt, max_tokens=1)
        details = answer["usage"].get("prompt_tokens_details") or {}
        cached = details.get("cached_tokens") or 0
        if route.prefill_url and not cached:
            raise RequestFailed(f"{route.name}: no KV cache came from the producer, the consumer computed it")
        prefill_s = prefilled - started if prefilled is not None else None
        return FirstToken(ended - started, prefill_s, cached, answer.get("kv_transfer_params"))

    async def stream(self, route: Route, prompt: Sequence[int], output_tokens: int) -> Stream:
        """Raises: RequestFailed, OutOfTime."""
        arrivals: list[float] = []
        tokens: list[int] = []

        async def decode(body: bytes) -> None:
            async with self._answer(route.decode_url, body) as response:
                async for line in response.content:
                    if new := _token_ids(line):
                        arrivals.append(time.perf_counter())
                        tokens.extend(new)

        streamed = {"stream": True, "return_token_ids": True}
        started, _, _ = await self._legs(route, decode, prompt, max_tokens=output_tokens, **streamed)
        if len(tokens) != output_tokens:
            raise RequestFailed(f"{route.name}: {len(tokens)} tokens came instead of {output_tokens}")
        return Stream(arrivals[0] - started, [later - earlier for earlier, later in pairwise(arrivals)], tokens)

    async def _legs(
        self, route: Route, decode: Callable[[bytes], Awaitable[T]], prompt: Sequence[int], **to_decode: Any
    ) -> tuple[float, T, float | None]:
        """Run `decode`, with the body for the server that answers, and the producer's leg beside it if there is one.

        Returns: when they started, what `decode` returned, when the producer had answered.
        """
        if not route.prefill_url:
            body = _body(prompt, **to_decode)
            return time.perf_counter(), await decode(body), None
        transfer_id = uuid.uuid4().hex
        to_consumer = {"do_remote_prefill": True, "transfer_id": transfer_id, **route.consumer_params}
        to_producer = {"do_remote_decode": True, "do_remote_prefill": False, "transfer_id": transfer_id}
        consumer_body = _body(prompt, **to_decode, kv_transfer_params=to_consumer)
        producer_body = _body(prompt, max_tokens=1, kv_transfer_params=to_producer)
        started = time.perf_counter()
        producer_leg = asyncio.ensure_future(self._prefill(route.prefill_url, producer_body))
        consumer_leg = asyncio.ensure_future(decode(consumer_body))
        try:
            prefilled, decoded = await asyncio.gather(producer_leg, consumer_leg)
        finally:  # one that failed must not leave the other behind
            producer_leg.cancel()
            consumer_leg.cancel()
        return started, decoded, prefilled

    async def _prefill(self, url: str, body: bytes) -> float:
        await self._post(url, body)
        return time.perf_counter()

    async def _post(self, url: str, body: bytes) -> dict[str, Any]:
        async with self._answer(url, body) as response:
            answer: dict[str, Any] = await response.json()
        return answer

    @asynccontextmanager
    async def _answer(self, url: str, body: bytes) -> AsyncIterator[aiohttp.ClientResponse]:
        timeout = aiohttp.ClientTimeout(total=min(self._timeout_s, self._deadline.left()))
        try:
            async with self._session.post(url + COMPLETIONS, data=body, headers=JSON, timeout=timeout) as response:
                if response.status != 200:
                    text = (await response.text())[:LONGEST_ERROR]
                    raise RequestFailed(f"{url}: HTTP {response.status} {text!r}")
                yield response
        except (aiohttp.ClientError, TimeoutError) as error:
            self._deadline.left()  # OutOfTime is the better name for what happened
            raise RequestFailed(f"{url}: {type(error).__name__} {error}".rstrip()) from error


@asynccontextmanager
async def open_client(timeout_s: float, deadline: Deadline) -> AsyncIterator[Client]:
    # A connection each: 32 users have 64 requests in flight. Servers close idle connections after 5 s.
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=3)
    async with aiohttp.ClientSession(connector=connector) as session:
        yield Client(session, timeout_s, deadline)


def _body(prompt: Sequence[int], **parameters: Any) -> bytes:
    # Without ignore_eos a prompt of random tokens may be answered by the end of the text at any moment.
    common = {"model": SERVED_MODEL, "prompt": list(prompt), "temperature": 0, "ignore_eos": True}
    return json.dumps({**common, **parameters}).encode()


def _token_ids(line: bytes) -> list[int]:
    """Of one line of the event stream. Raises: RequestFailed: the event is an error."""
    if not line.startswith(b"data: {"):
        return []
    event = json.loads(line.removeprefix(b"data: "))
    if "error" in event:
        raise RequestFailed(f"error in the stream: {json.dumps(event['error'])[:LONGEST_ERROR]}")
    return [token for choice in event["choices"] for token in choice.get("token_ids") or ()]
