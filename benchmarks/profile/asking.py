"""How a stack is asked for what is measured: requests of fresh prompts, alone or beside running streams, repeated."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from statistics import median

from benchmarks.connector.client import Stream
from benchmarks.connector.prompts import Prompts
from benchmarks.connector.topology.routes import Route
from benchmarks.errors import RequestFailed
from benchmarks.profile.windows import gaps_while_all_run
from planner.fit import STRICT, uncertainty

Ask = Callable[[Route, Sequence[int], int], Awaitable[Stream]]
Sleep = Callable[[float], Awaitable[None]]
Look = Callable[[Stream, float, float], float]  # from one moment to another
LENGTHS = (16, 64, 256, 512, 1024, 2048, 4096, 8192, 16384)
LONG = 256  # tokens of the shortest prompt whose time is mostly its own, not that of a step or a request
CONTEXT = 64  # tokens of prompts whose answers are looked at
ANSWER = 48  # tokens of a stream whose gaps are looked at
SHORT = 8  # tokens of a prompt that costs hardly more than a step
STREAMS = 4  # beside which a prompt, or a transfer, is measured
MOST_REPEATS = 3  # times as many as were asked for, where these do not tell the median


@dataclass(frozen=True)
class Limits:
    """Of the servers: tokens of a step, of a request, of the KV cache. repeats: of each measurement, at least.

    longest_s: no measurement's prompts may take longer to compute; longer ones are left out. graph_tokens: of the
    largest step that runs as a CUDA graph, 0: none does.
    """

    step_tokens: int
    request_tokens: int
    kv_tokens: int
    repeats: int = 5
    longest_s: float = 20.0
    graph_tokens: int = 0


@dataclass(frozen=True)
class Routes:
    """consumer, producer: alone. pair: both. proxy: what the proxy makes of a request."""

    consumer: Route
    producer: Route
    pair: Route
    proxy: Route


class Asking:
    """token_s, step_s: about, of a token of a prompt and of a step: known when prompts, and streams, were measured."""

    def __init__(
        self, ask: Ask, routes: Routes, limits: Limits, prompts: Prompts, sleep: Sleep = asyncio.sleep
    ) -> None:
        self.ask, self.routes, self.limits = ask, routes, limits
        self.prompts, self.sleep = prompts, sleep
        self.token_s, self.step_s = 0.0, float("inf")

    async def repeated(self, measure: Callable[[], Awaitable[float]]) -> list[float]:
        """In seconds; more often where they differ, as when a cache arrives within a step does, which is chance."""
        found = [await measure() for _ in range(self.limits.repeats)]
        while uncertainty(found) > STRICT.uncertain and len(found) < MOST_REPEATS * self.limits.repeats:
            found.append(await measure())
        return found

    def lengths(self) -> list[int]:
        """The powers of two, and whole steps."""
        step = self.limits.step_tokens
        wanted = sorted({*LENGTHS, step, 2 * step, 4 * step})
        return [tokens for tokens in wanted if tokens + ANSWER <= self.limits.request_tokens]

    async def first_token(self, route: Route, tokens: int) -> float:
        return (await self.ask(route, self.prompts.next(tokens), 1)).ttft_s

    async def step(self, sequences: int, context: int, gaps_s: list[float] | None = None) -> float:
        """Appends to `gaps_s` what it is the median of."""
        found = gaps_while_all_run(await self._run(sequences, context, self.answer(sequences, context)))
        if gaps_s is not None:
            gaps_s += found
        return median(found)

    def answer(self, sequences: int, context: int) -> int:
        """The first of them must still run when the last one's prompt has been computed, step by step."""
        return ANSWER + -(-sequences * context // self.limits.step_tokens) + sequences

    async def beside_streams(self, route: Route, prompt: Sequence[int], answer: int, look: Look) -> float:
        """What `look` sees in streams beside which one request runs, which begins when all of them do."""
        begun_s = STREAMS * CONTEXT * self.token_s
        lasts = round(2 * len(prompt) * self.token_s / self.step_s) + 2 * ANSWER
        running = asyncio.ensure_future(self._run(STREAMS, CONTEXT, lasts))
        await self.sleep(2 * begun_s)
        asked = await self.ask(route, prompt, answer)
        streams = await running
        until = asked.started + asked.ttft_s + sum(asked.itl_s)
        seen = median(look(stream, asked.started, until) for stream in streams)
        if not seen:
            raise RequestFailed(f"{STREAMS} streams had ended before a prompt of {len(prompt):,} tokens was answered")
        return seen

    async def _run(self, sequences: int, context: int, answer: int) -> list[Stream]:
        prompts = [self.prompts.next(context) for _ in range(sequences)]
        return list(await asyncio.gather(*(self.ask(self.routes.consumer, prompt, answer) for prompt in prompts)))
