"""The measurements of a profile: each is a request or a few, some times over, and says of what its time is made.

Prompts and answers are measured at the consumer, which computes both when nobody else does, as an aggregated server
with the same options would. Transfers go from the producer to it.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any

from benchmarks.connector.client import Stream
from benchmarks.connector.prompts import Prompts
from benchmarks.connector.topology.routes import Route
from benchmarks.errors import RequestFailed
from benchmarks.profile.windows import gaps_while_all_run, longest_gap, shared_step
from planner.fit import STRICT, Sample, uncertainty
from planner.simulation.costs import pairs

Ask = Callable[[Route, Sequence[int], int], Awaitable[Stream]]
Sleep = Callable[[float], Awaitable[None]]
Look = Callable[[Stream, float, float], float]  # from one moment to another
LENGTHS = (16, 64, 256, 512, 1024, 2048, 4096, 8192, 16384)
BATCHES = (1, 2, 4, 8, 16, 32, 64)
CONTEXTS = (64, 1024, 4096)
ANSWER = 48  # tokens of a stream whose gaps are looked at
SHORT = 8  # tokens of a prompt that costs hardly more than a step
STREAMS = 4  # beside which a prompt, or a transfer, is measured
CROWD_TOKENS = 512  # of a prompt that is computed beside another instance's work
MOST_REPEATS = 3  # times as many as were asked for, where these do not tell the median
JOIN = "join"  # the kind of sample
OF_PROMPTS = ("request_s", "step_s", "prompt_token_s", "prompt_pair_s")


@dataclass(frozen=True)
class Limits:
    """Of the servers: tokens of a step, of a request, of the KV cache. repeats: of each measurement, at least.

    longest_s: no measurement's prompts may take longer to compute; longer ones are left out.
    """

    step_tokens: int
    request_tokens: int
    kv_tokens: int
    repeats: int = 5
    longest_s: float = 20.0


@dataclass(frozen=True)
class Routes:
    """consumer, producer: alone. pair: both. proxy: what the proxy makes of a request."""

    consumer: Route
    producer: Route
    pair: Route
    proxy: Route


@dataclass(frozen=True)
class Moved:
    """Of one length: seconds to the second token, and of them those that the connector calls exposed, of each repeat.

    bytes_per_token: of KV cache.
    """

    tokens: int
    second_s: Sequence[float]
    exposed_s: Sequence[float]
    bytes_per_token: float
    transport: str


@dataclass(frozen=True)
class Crowded:
    """Seconds of the same, while the other instance rests and while it computes. requests: whole ones in it, with
    their way to the instance and back. gaps_alone_s, gaps_beside_s: of a stream, all of them."""

    alone: Sample
    beside: Sample
    requests: int
    gaps_alone_s: Sequence[float] = ()
    gaps_beside_s: Sequence[float] = ()


class Measuring:
    def __init__(
        self, ask: Ask, routes: Routes, limits: Limits, prompts: Prompts, sleep: Sleep = asyncio.sleep
    ) -> None:
        self._ask, self._routes, self._limits = ask, routes, limits
        self._prompts, self._sleep = prompts, sleep
        # About, of a token of a prompt and of a step: known when prompts, and streams, have been measured.
        self._token_s, self._step_s = 0.0, float("inf")

    async def prompts(self) -> list[Sample]:
        """Time to the first token by length; longer than a step they are computed in several."""
        found = []
        for tokens in self._lengths():
            if tokens * self._token_s > self._limits.longest_s:
                break
            await self._first_token(self._routes.consumer, tokens)  # what is made at the first of its kind
            seconds = await self._repeated(partial(self._first_token, self._routes.consumer, tokens))
            self._token_s = max(self._token_s, median(seconds) / tokens if tokens >= LENGTHS[2] else 0.0)
            steps = -(-tokens // self._limits.step_tokens)
            parts = dict(zip(OF_PROMPTS, (1.0, steps, tokens, pairs(0, tokens)), strict=True))
            found.append(Sample("prefill", f"a prompt of {tokens:,} tokens", seconds, parts))
        return found

    async def streams(self) -> list[Sample]:
        """A step's time by how many sequences decode, and how long their contexts are."""
        found = []
        for context in CONTEXTS:
            for sequences in BATCHES:
                if not self._bears(sequences, context):
                    break
                seconds = await self._repeated(partial(self._step, sequences, context))
                self._step_s = min(self._step_s, median(seconds))
                middle = context + self._answer(sequences, context) / 2
                parts = {"step_s": 1.0, "sequence_s": sequences, "context_token_s": sequences * middle}
                found.append(Sample("decode", f"{sequences} streams after {context:,} tokens", seconds, parts))
        return found

    async def mixed(self) -> list[Sample]:
        """The one step that a prompt and running streams share, as the streams' gaps show it."""

        async def share(tokens: int) -> float:
            return await self._beside_streams(self._routes.consumer, self._prompts.next(tokens), 1, shared_step)

        found = []
        for tokens in self._lengths():
            if tokens + STREAMS > self._limits.step_tokens or tokens < LENGTHS[2]:
                continue
            seconds = await self._repeated(partial(share, tokens))
            context = STREAMS * (CONTEXTS[0] + ANSWER / 2)
            parts = {"step_s": 1.0, "sequence_s": STREAMS, "context_token_s": context}
            parts |= {"prompt_token_s": tokens, "prompt_pair_s": pairs(0, tokens)}
            found.append(Sample("mixed", f"a prompt of {tokens:,} tokens beside {STREAMS} streams", seconds, parts))
        return found

    async def crowded(self) -> list[Crowded]:
        """What the consumer computes beside the producer, on processors and memory that they may share."""
        tokens = self._crowd_tokens()

        async def a_prompt(_: list[float]) -> float:
            return await self._first_token(self._routes.consumer, tokens)

        a_stream = partial(self._step, 1, CONTEXTS[0])
        lasts = ANSWER + round(2 * tokens * self._token_s / self._step_s)
        return [
            await self._crowded("a prompt beside streams", a_prompt, SHORT, lasts, requests=1),
            await self._crowded("a stream beside streams", a_stream, SHORT, lasts),
            await self._crowded("a stream beside prompts", a_stream, tokens, 1),
        ]

    async def _crowded(
        self, what: str, measure: Callable[[list[float]], Awaitable[float]], tokens: int, answer: int, requests: int = 0
    ) -> Crowded:
        """Beside requests of so many tokens at the producer, one after another."""
        gaps_alone_s: list[float] = []
        gaps_beside_s: list[float] = []

        async def beside() -> float:
            others = asyncio.ensure_future(self._again_and_again(tokens, answer))
            await self._sleep(2 * SHORT * self._token_s)
            found = await measure(gaps_beside_s)
            if others.done():  # without them it was measured alone
                others.result()
            others.cancel()
            await asyncio.gather(others, return_exceptions=True)
            await self._first_token(self._routes.producer, SHORT)  # it computes what was cancelled no more
            return found

        alone = Sample("alone", what, await self._repeated(partial(measure, gaps_alone_s)), {})
        crowded = Sample("beside", what, await self._repeated(beside), {})
        return Crowded(alone, crowded, requests, gaps_alone_s, gaps_beside_s)

    async def awaited(self) -> Crowded:
        """What the producer computes while the consumer waits for it, and looks whether it has come."""
        tokens = self._crowd_tokens()

        async def awaited() -> float:
            asked = await self._ask(self._routes.pair, self._prompts.next(tokens), 3)
            assert asked.prefill_s is not None
            return asked.prefill_s

        alone = await self._repeated(partial(self._first_token, self._routes.producer, tokens))
        what = "a prompt that the other instance waits for"
        beside = Sample("beside", what, await self._repeated(awaited), {})
        return Crowded(Sample("alone", what, alone, {}), beside, requests=1)

    def _crowd_tokens(self) -> int:
        return min(CROWD_TOKENS, self._limits.step_tokens, self._limits.request_tokens // 2)

    async def _again_and_again(self, tokens: int, answer: int) -> None:
        """Two at a time: while one is on its way back or there the other one is computed."""

        async def again_and_again() -> None:
            while True:
                await self._ask(self._routes.producer, self._prompts.next(tokens), answer)

        await asyncio.gather(again_and_again(), again_and_again())

    async def proxy_s(self) -> float:
        """What the way through the proxy adds to a first token."""
        repeats = range(2 * self._limits.repeats)
        through = [await self._first_token(self._routes.proxy, SHORT) for _ in repeats]
        directly = [await self._first_token(self._routes.consumer, SHORT) for _ in repeats]
        return max(0.0, median(through) - median(directly))

    async def transfers(self) -> list[Moved]:
        found = []
        for tokens in self._moved_lengths():
            facts: list[dict[str, Any]] = []
            second_s = await self._repeated(partial(self._second_token, tokens, facts))
            found.append(
                Moved(
                    tokens,
                    second_s,
                    [each["exposed_seconds"] for each in facts],
                    facts[0]["bytes"] / facts[0].get("tokens", tokens),
                    facts[0]["transport"],
                )
            )
        return found

    async def joins(self) -> list[Sample]:
        """The longest gap of running streams while a KV cache arrives beside them, and joins them.

        The producer has it in its prefix cache: computing it would slow down streams on the same GPU or cores.
        """

        async def join(tokens: int) -> float:
            prompt = self._prompts.next(tokens)
            await self._ask(self._routes.producer, prompt, 1)
            return await self._beside_streams(self._routes.pair, prompt, 3, longest_gap)

        found = []
        for tokens in self._moved_lengths():
            seconds = await self._repeated(partial(join, tokens))
            context = STREAMS * (CONTEXTS[0] + ANSWER / 2) + tokens
            parts = {"step_s": 1.0, "sequence_s": STREAMS + 1.0, "context_token_s": context}
            parts |= {"join_s": 1.0, "join_token_s": tokens}
            found.append(Sample(JOIN, f"{tokens:,} tokens that come to {STREAMS} streams", seconds, parts))
        return found

    async def _repeated(self, measure: Callable[[], Awaitable[float]]) -> list[float]:
        """In seconds; more often where they differ, as when a cache arrives within a step does, which is chance."""
        found = [await measure() for _ in range(self._limits.repeats)]
        while uncertainty(found) > STRICT.uncertain and len(found) < MOST_REPEATS * self._limits.repeats:
            found.append(await measure())
        return found

    def _lengths(self) -> list[int]:
        """The powers of two, and whole steps."""
        step = self._limits.step_tokens
        wanted = sorted({*LENGTHS, step, 2 * step, 4 * step})
        return [tokens for tokens in wanted if tokens + ANSWER <= self._limits.request_tokens]

    def _moved_lengths(self) -> Iterator[int]:
        for tokens in self._lengths():
            if tokens >= LENGTHS[2] and tokens * self._token_s <= self._limits.longest_s:
                yield tokens

    def _bears(self, sequences: int, context: int) -> bool:
        tokens = context + self._answer(sequences, context)
        fits = sequences * tokens <= 0.8 * self._limits.kv_tokens and tokens <= self._limits.request_tokens
        return fits and sequences * context * self._token_s <= self._limits.longest_s

    def _answer(self, sequences: int, context: int) -> int:
        """The first of them must still run when the last one's prompt has been computed, step by step."""
        return ANSWER + -(-sequences * context // self._limits.step_tokens) + sequences

    async def _first_token(self, route: Route, tokens: int) -> float:
        return (await self._ask(route, self._prompts.next(tokens), 1)).ttft_s

    async def _step(self, sequences: int, context: int, gaps_s: list[float] | None = None) -> float:
        """Appends to `gaps_s` what it is the median of."""
        found = gaps_while_all_run(await self._run(sequences, context))
        if gaps_s is not None:
            gaps_s += found
        return median(found)

    async def _run(self, sequences: int, context: int, answer: int | None = None) -> list[Stream]:
        prompts = [self._prompts.next(context) for _ in range(sequences)]
        answer = answer or self._answer(sequences, context)
        return list(await asyncio.gather(*(self._ask(self._routes.consumer, prompt, answer) for prompt in prompts)))

    async def _beside_streams(self, route: Route, prompt: Sequence[int], answer: int, look: Look) -> float:
        """What `look` sees in streams beside which one request runs, which begins when all of them do."""
        begun_s = STREAMS * CONTEXTS[0] * self._token_s
        lasts = round(2 * len(prompt) * self._token_s / self._step_s) + 2 * ANSWER
        running = asyncio.ensure_future(self._run(STREAMS, CONTEXTS[0], lasts))
        await self._sleep(2 * begun_s)
        asked = await self._ask(route, prompt, answer)
        streams = await running
        until = asked.started + asked.ttft_s + sum(asked.itl_s)
        seen = median(look(stream, asked.started, until) for stream in streams)
        if not seen:
            raise RequestFailed(f"{STREAMS} streams had ended before a prompt of {len(prompt):,} tokens was answered")
        return seen

    async def _second_token(self, tokens: int, facts: list[dict[str, Any]]) -> float:
        """Appends to `facts` what the connector says of the transfer."""
        stream = await self._ask(self._routes.pair, self._prompts.next(tokens), 3)
        facts.append(_facts(stream))
        return stream.itl_s[0]


def _facts(stream: Stream) -> dict[str, Any]:
    """Raises: RequestFailed: nothing has moved."""
    if stream.transfer is None or not stream.transfer.get("bytes"):
        raise RequestFailed("no KV cache came from the producer, the consumer computed it")
    return stream.transfer
