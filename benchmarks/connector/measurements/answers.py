"""Whether a pair says what the single server says, and whether that server says the same in other steps.

It is asked twice more. Once with the prompt in its prefix cache, where it keeps one: it computes only the end, as a
consumer does. Once beside others which leave room in a step for half of the prompt only: it computes it in two parts,
which counts where it keeps no cache, as of models with a state. What differs then is the noise of its own sums. This is
each pair's first contact too, which takes longer.
"""

import asyncio
import dataclasses
from collections.abc import Sequence

from benchmarks.connector.client import Client
from benchmarks.connector.options import Options
from benchmarks.connector.run import Run
from benchmarks.connector.topology.routes import Route
from benchmarks.errors import RequestFailed
from benchmarks.tables import Row

ANSWER_TOKENS = 16
SHORT_PROMPT_TOKENS = 500
AGAIN, BESIDE = "single again", "single beside others"
OTHERS_TOKENS = 4 * ANSWER_TOKENS  # answered to each of the others: they go on for longer than the answer
UNDER_WAY_S = 0.05  # a step of the first of the others takes longer


async def compare(run: Run, client: Client, stage: str, single: Sequence[Route], pairs: Sequence[Route]) -> None:
    """Adds a row for every prompt and route to `answers`; `equal` counts tokens up to the first other one.

    Raises: OutOfTime.
    """
    again = [dataclasses.replace(route, name=name) for route in single for name in (AGAIN, BESIDE)]
    for tokens in _lengths(run.options):
        prompt = run.prompts.next(tokens)
        expected = None
        for route in (*single, *again, *pairs):
            if route.name == BESIDE:
                row = await _beside(
                    client, route, prompt, [run.prompts.next(each) for each in _others(run.options, tokens)]
                )
            else:
                row = await _answer(client, route, prompt)
            if route in single:
                expected = row.get("answer")
            elif expected and "answer" in row:
                row["equal"] = equal_tokens(expected, row["answer"])
            run.results.add("answers", stage=stage, route=route.name, prompt_tokens=tokens, **row)
    run.results.write()


def _lengths(options: Options) -> list[int]:
    wanted = options.prompt_tokens if "latency" in options.measurements else ()
    room = options.max_model_len - ANSWER_TOKENS
    return sorted({min(tokens, room) for tokens in (SHORT_PROMPT_TOKENS, *wanted)})


async def _answer(client: Client, route: Route, prompt: Sequence[int]) -> Row:
    try:
        return {"answer": (await client.stream(route, prompt, ANSWER_TOKENS)).tokens}
    except RequestFailed as failure:
        return {"failed": str(failure)}


def _others(options: Options, tokens: int) -> tuple[int, int]:
    """Tokens of the prompts of two others: one fills a step, during which the second and ours arrive; in the next one
    the second leaves room for half of ours."""
    step, room = options.max_num_batched_tokens, options.max_model_len - OTHERS_TOKENS
    return min(step, room), min(step - min(step, tokens) // 2, room)


async def _beside(client: Client, route: Route, prompt: Sequence[int], others: Sequence[Sequence[int]]) -> Row:
    beside = []
    try:
        for other in others:
            beside.append(asyncio.create_task(client.stream(route, other, OTHERS_TOKENS)))
            await asyncio.sleep(UNDER_WAY_S)
        row = await _answer(client, route, prompt)
    finally:
        for task in beside:
            task.cancel()
        ended = await asyncio.gather(*beside, return_exceptions=True)
    failed = next((each for each in ended if isinstance(each, RequestFailed)), None)
    return {"failed": f"a request beside: {failed}"} if failed else row


def equal_tokens(expected: Sequence[int], answer: Sequence[int]) -> int:
    """Up to the first other one."""
    differing = (at for at, (one, other) in enumerate(zip(expected, answer, strict=True)) if one != other)
    return next(differing, len(expected))
