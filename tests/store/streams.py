"""Streams that run while something fails, and the longest time in which one of them got nothing."""

import asyncio
import itertools
import json
import logging
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from tests.store.servers import Servers
from tests.tiny_servers.instances import NAME, Server, Tokens, complete

log = logging.getLogger(__name__)

STREAM_TOKENS = 600
BEGUN_TOKENS = 20  # of a stream that is running
BEGIN_LIMIT_S = 60.0


@dataclass
class Stream:
    """The answer to one short prompt, again and again: of less than a block, for which nothing is looked up."""

    name: str
    prompt: Tokens
    answers: list[Tokens] = field(default_factory=list)  # the last one is still coming
    at: list[float] = field(default_factory=list)

    async def run(self, session: aiohttp.ClientSession, server: Server, producer: Server | None) -> None:
        while True:
            transfer = {"transfer_id": uuid.uuid4().hex}
            theirs = {"do_remote_decode": True, **transfer}
            if producer is None:
                await self._read(session, server, {})
                continue
            ours = {"do_remote_prefill": True, "producer": producer.record, **transfer}
            await asyncio.gather(
                complete(session, producer, self.prompt, max_tokens=1, kv_transfer_params=theirs),
                self._read(session, server, {"kv_transfer_params": ours}),
            )

    async def _read(self, session: aiohttp.ClientSession, server: Server, more: dict[str, Any]) -> None:
        body = {"model": NAME, "prompt": self.prompt, "temperature": 0, "max_tokens": STREAM_TOKENS, "stream": True}
        body |= {"ignore_eos": True, "return_token_ids": True, **more}
        self.answers.append([])
        async with session.post(server.url + "/v1/completions", json=body) as response:
            assert response.status == 200, (response.status, await response.text())
            async for line in response.content:
                if not line.startswith(b"data: {"):
                    continue
                event = json.loads(line.removeprefix(b"data: "))
                assert "error" not in event, event
                self.answers[-1] += event["choices"][0]["token_ids"]
                self.at.append(time.monotonic())

    def longest_gap(self, since: float, until: float) -> float:
        """In seconds."""
        times = [since, *(at for at in self.at if since < at < until), until]
        return max(later - earlier for earlier, later in itertools.pairwise(times))


@dataclass
class Running:
    """One stream of each kind of server."""

    streams: list[Stream]

    @contextmanager
    def measured(self) -> Iterator[dict[str, float]]:
        """When it is left: the longest gap of each stream meanwhile, in seconds."""
        gaps: dict[str, float] = {}
        began = time.monotonic()
        yield gaps
        ended = time.monotonic()
        gaps |= {stream.name: round(stream.longest_gap(began, ended), 3) for stream in self.streams}
        log.warning("longest gaps within %.1f s: %s", ended - began, gaps)


@asynccontextmanager
async def streams(servers: Servers, prompt: Tokens) -> AsyncIterator[Running]:
    """They are running; afterwards each has answered as the plain server does."""
    running = Running([Stream(name, prompt) for name in ("producer", "consumer", "aggregated")])
    where: list[tuple[Server, Server | None]] = [
        (servers.second, None),
        (servers.consumer, servers.first),
        (servers.aggregated, None),
    ]
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None)) as session:
        tasks = [
            asyncio.create_task(stream.run(session, *servers_of))
            for stream, servers_of in zip(running.streams, where, strict=True)
        ]
        try:
            await _until_begun(running, tasks)
            yield running
            for task in tasks:
                if task.done():
                    task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
    (whole,) = await servers.expected([prompt], max_tokens=STREAM_TOKENS)
    for stream in running.streams:
        for answer in stream.answers:
            assert answer == whole[: len(answer)], f"{stream.name}'s text"


async def _until_begun(running: Running, tasks: list["asyncio.Task[None]"]) -> None:
    deadline = time.monotonic() + BEGIN_LIMIT_S
    while not all(len(stream.at) >= BEGUN_TOKENS for stream in running.streams):
        for task in tasks:
            if task.done():
                task.result()
        assert time.monotonic() < deadline, [len(stream.at) for stream in running.streams]
        await asyncio.sleep(0.1)


async def timed(servers: Servers, producer: Server, prompts: list[Tokens]) -> tuple[list[Tokens], float]:
    """Answers to requests that are posted at once, and how long the longest took, in seconds."""
    began = time.monotonic()
    found = await servers.by(producer, prompts)
    return found, time.monotonic() - began
