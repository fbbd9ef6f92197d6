"""Sends requests as the proxy does, both legs of a disaggregated one at the same moment, and takes the times.

The clock starts when the bodies are ready to be sent: writing 30,000 tokens as JSON is no part of a transfer.
"""

import asyncio
import json
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import aiohttp

from benchmarks.connector.topology.routes import Route, Way
from benchmarks.connector.topology.servers import SERVED_MODEL
from benchmarks.deadline import Deadline
from benchmarks.errors import RequestFailed

COMPLETIONS, METRICS = "/v1/completions", "/metrics"
JSON = {"Content-Type": "application/json"}
# What our connector says of a transfer, to whoever names it (connector/telling/transfer_facts.py).
RANK_HEADER = "X-data-parallel-rank"  # which of a server's engines vLLM gives a request
TRANSFER_ID_HEADER, FACTS_HEADER, FACTS_COMMENT = "X-PD-Transfer-Id", "X-PD-Transfer-Facts", b": pd-transfer "
FIRST_TOKENS = 2  # fewest of a request whose first token may be the producer's
LONGEST_ERROR = 300


@dataclass(frozen=True)
class FirstToken:
    """Of a stream of two tokens: the first may come before the cache has, and the second waits for it.

    `second_s` is the gap between them, `prefill_s` the time of the producer's leg, None without one; `transfer` are
    the connector's facts.
    """

    ttft_s: float
    second_s: float
    prefill_s: float | None
    cached_tokens: int
    transfer: dict[str, Any] | None


@dataclass(frozen=True)
class Stream:
    """`itl_s` are the gaps between events with tokens, one value for each gap; `started` is `time.perf_counter`'s."""

    ttft_s: float
    itl_s: list[float]
    tokens: list[int]
    cached_tokens: int
    prefill_s: float | None
    transfer: dict[str, Any] | None
    started: float = 0.0


def without_a_cache(route: Route, stream: Stream) -> RequestFailed | None:
    """A disaggregated request that was computed twice is no measurement of a transfer."""
    if route.prefill_url and not stream.cached_tokens:
        return RequestFailed(f"{route.name}: no KV cache came from the producer, the consumer computed it")
    return None


class Client:
    """Requests end after `timeout_s`, or with the run's time; `model` is the name that servers know."""

    def __init__(
        self, session: aiohttp.ClientSession, timeout_s: float, deadline: Deadline, model: str = SERVED_MODEL
    ) -> None:
        self._session = session
        self._model = model
        self._timeout_s = timeout_s
        self._deadline = deadline
        self._sent: Counter[str] = Counter()  # by the route's name

    async def first_token(self, route: Route, prompt: Sequence[int]) -> FirstToken:
        """Raises: RequestFailed, OutOfTime."""

        stream = await self.stream(route, prompt, FIRST_TOKENS)
        if failure := without_a_cache(route, stream):
            raise failure
        second_s = sum(stream.itl_s)  # none where both came at once
        return FirstToken(stream.ttft_s, second_s, stream.prefill_s, stream.cached_tokens, stream.transfer)

    async def stream(self, route: Route, prompt: Sequence[int], output_tokens: int) -> Stream:
        """Raises: RequestFailed, OutOfTime."""
        told, way = _Told(), self._next_way(route)

        async def decode(body: bytes, transfer_id: str) -> None:
            headers = {TRANSFER_ID_HEADER: transfer_id, **_pinned(way.consumer_pin)}
            async with self._answer(route.decode_url, body, headers) as response:
                told.facts_so_far(response.headers.get(FACTS_HEADER))
                async for line in response.content:
                    told.line(line)

        streamed = {"stream": True, "return_token_ids": True, "stream_options": {"include_usage": True}}
        started, prefilled = await self._legs(route, way, decode, prompt, max_tokens=output_tokens, **streamed)
        if len(told.tokens) != output_tokens:
            raise RequestFailed(f"{route.name}: {len(told.tokens)} tokens came instead of {output_tokens}")
        gaps = [later - earlier for earlier, later in pairwise(told.arrivals)]
        prefill_s = prefilled - started if prefilled is not None else None
        ttft_s = told.arrivals[0] - started
        return Stream(ttft_s, gaps, told.tokens, told.cached_tokens, prefill_s, told.transfer, started)

    async def metrics(self, url: str) -> str:
        """A server's /metrics as it says them. Raises: RequestFailed, OutOfTime."""
        timeout = aiohttp.ClientTimeout(total=min(self._timeout_s, self._deadline.left()))
        try:
            async with self._session.get(url + METRICS, timeout=timeout, raise_for_status=True) as response:
                return await response.text()
        except (aiohttp.ClientError, TimeoutError) as error:
            raise RequestFailed(f"{url}{METRICS}: {type(error).__name__} {error}".rstrip()) from error

    def _next_way(self, route: Route) -> Way:
        number = self._sent[route.name]
        self._sent[route.name] += 1
        return route.ways[number % len(route.ways)]

    async def _legs(
        self,
        route: Route,
        way: Way,
        decode: Callable[[bytes, str], Awaitable[None]],
        prompt: Sequence[int],
        **to_decode: Any,
    ) -> tuple[float, float | None]:
        """Run `decode`, with the body for the server that answers and the transfer's id, and the producer's leg beside
        it if there is one.

        Returns: when they started, when the producer had answered.
        """
        transfer_id = uuid.uuid4().hex
        if not route.prefill_url:
            body = self._body(prompt, **to_decode)
            started = time.perf_counter()
            await decode(body, transfer_id)
            return started, None
        to_consumer = {"do_remote_prefill": True, "transfer_id": transfer_id, **way.consumer_params}
        to_producer = {"do_remote_decode": True, "do_remote_prefill": False, "transfer_id": transfer_id}
        consumer_body = self._body(prompt, **to_decode, kv_transfer_params=to_consumer)
        producer_body = self._body(prompt, max_tokens=1, kv_transfer_params=to_producer)
        started = time.perf_counter()
        producer_leg = asyncio.ensure_future(self._prefill(route.prefill_url, way, producer_body))
        consumer_leg = asyncio.ensure_future(decode(consumer_body, transfer_id))
        try:
            prefilled, _ = await asyncio.gather(producer_leg, consumer_leg)
        finally:  # one that failed must not leave the other behind
            producer_leg.cancel()
            consumer_leg.cancel()
        return started, prefilled

    async def _prefill(self, url: str, way: Way, body: bytes) -> float:
        async with self._answer(url, body, _pinned(way.producer_pin)) as response:
            await response.read()
        return time.perf_counter()

    def _body(self, prompt: Sequence[int], **parameters: Any) -> bytes:
        # Without ignore_eos a prompt of random tokens may be answered by the end of the text at any moment.
        common = {"model": self._model, "prompt": list(prompt), "temperature": 0, "ignore_eos": True}
        return json.dumps({**common, **parameters}).encode()

    @asynccontextmanager
    async def _answer(self, url: str, body: bytes, headers: Mapping[str, str]) -> AsyncIterator[aiohttp.ClientResponse]:
        timeout = aiohttp.ClientTimeout(total=min(self._timeout_s, self._deadline.left()))
        try:
            sent = {**JSON, **headers}
            async with self._session.post(url + COMPLETIONS, data=body, headers=sent, timeout=timeout) as response:
                if response.status != 200:
                    text = (await response.text())[:LONGEST_ERROR]
                    raise RequestFailed(f"{url}: HTTP {response.status} {text!r}")
                yield response
        except (aiohttp.ClientError, TimeoutError) as error:
            self._deadline.left()  # OutOfTime is the better name for what happened
            raise RequestFailed(f"{url}: {type(error).__name__} {error}".rstrip()) from error


@asynccontextmanager
async def open_client(timeout_s: float, deadline: Deadline, model: str = SERVED_MODEL) -> AsyncIterator[Client]:
    # A connection each: 32 users have 64 requests in flight. Servers close idle connections after 5 s.
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=3)
    async with aiohttp.ClientSession(connector=connector) as session:
        yield Client(session, timeout_s, deadline, model)


def _pinned(pin: int | None) -> dict[str, str]:
    return {} if pin is None else {RANK_HEADER: str(pin)}


class _Told:
    """What a stream says, line by line."""

    def __init__(self) -> None:
        self.arrivals: list[float] = []
        self.tokens: list[int] = []
        self.cached_tokens = 0
        self.transfer: dict[str, Any] | None = None

    def facts_so_far(self, text: str | None) -> None:
        if text:
            self.transfer = json.loads(text)

    def line(self, line: bytes) -> None:
        """Raises: RequestFailed: the event is an error."""
        if line.startswith(FACTS_COMMENT):
            self.facts_so_far(line.removeprefix(FACTS_COMMENT).decode())
        if not line.startswith(b"data: {"):
            return
        arrived = time.perf_counter()
        event = json.loads(line.removeprefix(b"data: "))
        if "error" in event:
            raise RequestFailed(f"error in the stream: {json.dumps(event['error'])[:LONGEST_ERROR]}")
        if new := [token for choice in event["choices"] for token in choice.get("token_ids") or ()]:
            self.arrivals.append(arrived)
            self.tokens.extend(new)
        if usage := event.get("usage"):
            self.cached_tokens = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
