"""Whether a pair says what the single server says, and whether that server says the same twice.

The second time it has the prompt in its prefix cache, where it keeps one, and computes only the end, as a consumer
does: what differs then is the noise of its own sums. This is each pair's first contact too, which takes longer.
"""

from collections.abc import Sequence

from benchmarks.connector.client import Client
from benchmarks.connector.options import Options
from benchmarks.connector.run import Run
from benchmarks.connector.topology.routes import Route
from benchmarks.errors import RequestFailed
from benchmarks.tables import Row

ANSWER_TOKENS = 16
SHORT_PROMPT_TOKENS = 500
AGAIN = "single again"


async def compare(run: Run, client: Client, stage: str, single: Sequence[Route], pairs: Sequence[Route]) -> None:
    """Adds a row for every prompt and route to `answers`; `equal` counts tokens up to the first other one.

    Raises: OutOfTime.
    """
    again = [Route(AGAIN, route.decode_url) for route in single]
    for tokens in _lengths(run.options):
        prompt = run.prompts.next(tokens)
        expected = None
        for route in (*single, *again, *pairs):
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


def equal_tokens(expected: Sequence[int], answer: Sequence[int]) -> int:
    """Up to the first other one."""
    differing = (at for at, (one, other) in enumerate(zip(expected, answer, strict=True)) if one != other)
    return next(differing, len(expected))
