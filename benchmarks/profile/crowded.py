"""What an instance takes beside the other one, on processors and memory that they may share."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from benchmarks.profile.asking import ANSWER, CONTEXT, SHORT, Asking
from planner.fit import Sample

PROMPTS_TOKENS = (64, 512)  # that are computed beside another instance's work, the longer ones as such work too
SPLIT_TOKENS = (64, 256, 512, 1024)
SPLIT_ANSWER = 3  # tokens: with one alone nothing moves


@dataclass(frozen=True)
class Crowded:
    """Seconds of the same, while the other instance rests and while it computes.

    prompt_tokens: of prompts whose first tokens these are, 0: gaps of a stream, of which gaps_alone_s and gaps_beside_s
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
    """Seconds to the first token of a prompt that the producer alone is asked for, and of one that both are."""

    alone: Sample
    both: Sample


async def crowded(asking: Asking) -> list[Crowded]:
    lengths = _of_one_step(asking, PROMPTS_TOKENS)
    return [
        await _beside(asking, tokens, lengths[-1] if beside_prompts else 0)
        for tokens in (0, *lengths)
        for beside_prompts in (True, False)
    ]


async def split(asking: Asking) -> list[Split]:
    """By turns, so that neither has a better hour."""
    found = []
    for tokens in _of_one_step(asking, SPLIT_TOKENS):
        alone_s: list[float] = []
        both_s = await asking.repeated(partial(_by_turns, asking, tokens, alone_s))
        alone = Sample("alone", f"a prompt of {tokens:,} tokens of the producer alone", alone_s, {})
        both = Sample("split", f"a prompt of {tokens:,} tokens that the consumer waits for", both_s, {})
        found.append(Split(alone, both))
    return found


def _of_one_step(asking: Asking, lengths: Sequence[int]) -> list[int]:
    """Shorter ones in place of those that do not fit: what differs by length is not seen from one."""
    most = min(asking.limits.step_tokens, asking.limits.request_tokens // 2)
    return sorted({min(tokens, most) for tokens in lengths})


async def _by_turns(asking: Asking, tokens: int, alone_s: list[float]) -> float:
    alone_s.append(await asking.first_token(asking.routes.producer, tokens))
    return (await asking.ask(asking.routes.pair, asking.prompts.next(tokens), SPLIT_ANSWER)).ttft_s


async def _beside(asking: Asking, tokens: int, others_tokens: int) -> Crowded:
    """A prompt, 0: a stream, at the consumer beside prompts, 0: streams, at the producer, one after another."""
    gaps_alone_s: list[float] = []
    gaps_beside_s: list[float] = []

    async def measure(gaps_s: list[float]) -> float:
        if tokens:
            return await asking.first_token(asking.routes.consumer, tokens)
        return await asking.step(1, CONTEXT, gaps_s)

    async def beside() -> float:
        lasts = 1 if others_tokens else ANSWER + round(2 * tokens * asking.token_s / asking.step_s)
        others = asyncio.ensure_future(_again_and_again(asking, others_tokens or SHORT, lasts))
        await asking.sleep(2 * SHORT * asking.token_s)
        found = await measure(gaps_beside_s)
        if others.done():  # without them it was measured alone
            others.result()
        others.cancel()
        await asyncio.gather(others, return_exceptions=True)
        await asking.first_token(asking.routes.producer, SHORT)  # it computes what was cancelled no more
        return found

    what = f"a prompt of {tokens:,} tokens" if tokens else "a stream"
    what += f" beside {'prompts' if others_tokens else 'streams'}"
    alone = Sample("alone", what, await asking.repeated(partial(measure, gaps_alone_s)), {})
    crowded = Sample("beside", what, await asking.repeated(beside), {})
    return Crowded(tokens, bool(others_tokens), alone, crowded, gaps_alone_s, gaps_beside_s)


async def _again_and_again(asking: Asking, tokens: int, answer: int) -> None:
    """Two at a time: while one is on its way back or there the other one is computed."""

    async def again_and_again() -> None:
        while True:
            await asking.ask(asking.routes.producer, asking.prompts.next(tokens), answer)

    await asyncio.gather(again_and_again(), again_and_again())
