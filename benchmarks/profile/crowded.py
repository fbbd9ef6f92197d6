"""What an instance takes beside the other one, on processors and memory that they may share."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial

from benchmarks.connector.topology.routes import Route
from benchmarks.profile.asking import ANSWER, CONTEXT, SHORT, Asking
from planner.fit import Sample
from planner.profile import BESIDE

STREAMS_EACH = (
    2  # whose gaps are looked at, and beside which prompts are computed: for one GPUs have kernels of its own
)
PROMPTS_TOKENS = (64, 512)  # that are computed beside another instance's work, the longer ones as such work too
SPLIT_TOKENS = (64, 256, 512, 1024)
SPLIT_ANSWER = 3  # tokens: with one alone nothing moves
GOLDEN = 0.618034  # of a step: by so much later each repeat begins, so that any number of them is spread over one


@dataclass(frozen=True)
class Crowded:
    """Seconds of the same, while the other instance rests and while it computes.

    prompt_tokens: of prompts whose first tokens these are, 0: gaps of streams, of which gaps_alone_s and gaps_beside_s
    are all. beside_prompts: those are what the other one computes, else streams.
    """

    prompt_tokens: int
    beside_prompts: bool
    alone: Sample
    beside: Sample
    gaps_alone_s: Sequence[float] = ()
    gaps_beside_s: Sequence[float] = ()


@dataclass(frozen=True)
class Split:
    """Seconds to the first token of a prompt that the producer alone is asked for, and of one that both are.

    beside_streams: the consumer computes those meanwhile, and passes on what comes at the end of a step.
    """

    alone: Sample
    both: Sample
    prompt_tokens: int = 0
    beside_streams: bool = False


async def crowded(asking: Asking) -> list[Crowded]:
    lengths = _of_one_step(asking, PROMPTS_TOKENS)
    return [
        await _crowded(asking, tokens, lengths[-1] if beside_prompts else 0)
        for tokens in (0, *lengths)
        for beside_prompts in (True, False)
    ]


async def split(asking: Asking) -> list[Split]:
    return [
        await _split(asking, tokens, beside_streams)
        for beside_streams in (False, True)
        for tokens in _of_one_step(asking, SPLIT_TOKENS)
    ]


def _of_one_step(asking: Asking, lengths: Sequence[int]) -> list[int]:
    """Shorter ones in place of those that do not fit: what differs by length is not seen from one."""
    most = min(asking.limits.step_tokens, asking.limits.request_tokens // 2)
    return sorted({min(tokens, most) for tokens in lengths})


async def _crowded(asking: Asking, tokens: int, others_tokens: int) -> Crowded:
    """A prompt, 0: streams, at the consumer beside prompts, 0: streams, at the producer, one after another."""
    gaps_alone_s: list[float] = []
    gaps_beside_s: list[float] = []

    async def measure(gaps_s: list[float]) -> float:
        if tokens:
            return await asking.first_token(asking.routes.consumer, tokens)
        return await asking.step(STREAMS_EACH, CONTEXT, gaps_s)

    async def beside() -> float:
        others = asking.routes.producer, others_tokens or SHORT, 1 if others_tokens else _lasting(asking, tokens)
        return await _while_others_run(asking, *others, partial(measure, gaps_beside_s))

    what = f"a prompt of {tokens:,} tokens" if tokens else f"{STREAMS_EACH} streams"
    what += f" beside {'prompts' if others_tokens else 'streams'}"
    alone = Sample("alone", what, await asking.repeated(partial(measure, gaps_alone_s)), {})
    crowded = Sample(BESIDE, what, await asking.repeated(beside), {})
    return Crowded(tokens, bool(others_tokens), alone, crowded, gaps_alone_s, gaps_beside_s)


async def _split(asking: Asking, tokens: int, beside_streams: bool) -> Split:
    """By turns, so that neither has a better hour."""
    alone_s: list[float] = []

    async def alone() -> float:
        return await asking.first_token(asking.routes.producer, tokens)

    async def both() -> float:
        if beside_streams:
            await asking.sleep(len(alone_s) * GOLDEN % 1.0 * asking.step_s)
        return (await asking.ask(asking.routes.pair, asking.prompts.next(tokens), SPLIT_ANSWER)).ttft_s

    async def measured(measure: Callable[[], Awaitable[float]]) -> float:
        if not beside_streams:
            return await measure()
        others = asking.routes.consumer, SHORT, _lasting(asking, tokens)
        return await _while_others_run(asking, *others, measure)

    async def by_turns() -> float:
        alone_s.append(await measured(alone))
        return await measured(both)

    both_s = await asking.repeated(by_turns)
    where = f", beside {STREAMS_EACH} streams of the consumer" if beside_streams else ""
    one = Sample("alone", f"a prompt of {tokens:,} tokens of the producer alone{where}", alone_s, {})
    two = Sample("split", f"a prompt of {tokens:,} tokens that the consumer waits for{where}", both_s, {})
    return Split(one, two, tokens, beside_streams)


def _lasting(asking: Asking, tokens: int) -> int:
    """Tokens of an answer during which such a prompt is computed, even if slowly."""
    return ANSWER + round(2 * tokens * asking.token_s / asking.step_s)


async def _while_others_run(
    asking: Asking, route: Route, tokens: int, answer: int, measure: Callable[[], Awaitable[float]]
) -> float:
    """What is measured while another instance is asked for the same again and again."""
    others = asyncio.ensure_future(_again_and_again(asking, route, tokens, answer))
    await asking.sleep(2 * SHORT * asking.token_s)
    found = await measure()
    if others.done():  # without them it was measured alone
        others.result()
    others.cancel()
    await asyncio.gather(others, return_exceptions=True)
    await asking.first_token(route, SHORT)  # it computes what was cancelled no more
    return found


async def _again_and_again(asking: Asking, route: Route, tokens: int, answer: int) -> None:
    """Several at a time: while one is on its way back or there another one is computed."""

    async def again_and_again() -> None:
        while True:
            await asking.ask(route, asking.prompts.next(tokens), answer)

    await asyncio.gather(*(again_and_again() for _ in range(STREAMS_EACH)))
