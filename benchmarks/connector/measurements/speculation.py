"""TPOT under load with speculative decoding, and how much of what the drafts guessed was right.

The routes take turns with the same prompts, so that their answers and what was guessed can be compared. What counts
are the guesses of the server that decodes.
"""

import dataclasses
from collections.abc import Sequence

from benchmarks.connector.client import Client, Stream, without_a_cache
from benchmarks.connector.measurements import guesses, load
from benchmarks.connector.measurements.answers import equal_tokens
from benchmarks.connector.measurements.load import Prompts
from benchmarks.connector.run import Run
from benchmarks.connector.topology.routes import Route
from benchmarks.errors import RequestFailed
from benchmarks.tables import Row

REQUESTS, LOADS = "speculation", "guesses"
WARM_UP_TOKENS = 16
Outcome = Stream | RequestFailed


async def measure(run: Run, client: Client, stage: str, routes: Sequence[Route]) -> None:
    """Adds a row for every request to `speculation`, and one for every load to `guesses`.

    Raises: OutOfTime, RequestFailed: a server does not say what it guessed.
    """
    for users in run.options.users:
        for route in routes:  # kernels that a batch of this size is the first to need
            await load.send(client, route, load.prompts(run, users), WARM_UP_TOKENS)
        for number in range(run.options.load_rounds):
            shift = number % len(routes)  # so that no route is always the first
            rounds = await _round(run, client, [*routes[shift:], *routes[:shift]], users)
            for row in _rows(routes, rounds):
                run.results.add(REQUESTS, stage=stage, users=users, round=number, **row)
            for route in routes:
                outcomes, found = rounds[route.name]
                counts = dataclasses.asdict(found) | _requests(route, outcomes)
                run.results.add(LOADS, stage=stage, route=route.name, users=users, round=number, **counts)
            run.results.write()
        print(f"{stage}: {users} users done", flush=True)


Loads = dict[str, tuple[list[Outcome], guesses.Guesses]]  # by the route's name


async def _round(run: Run, client: Client, routes: Sequence[Route], users: int) -> Loads:
    prompts = load.prompts(run, users)
    return {route.name: await _load(run, client, route, prompts) for route in routes}


async def _load(run: Run, client: Client, route: Route, prompts: Prompts) -> tuple[list[Outcome], guesses.Guesses]:
    before = await guesses.read(client, route.decode_url)
    outcomes = await load.send(client, route, prompts, run.options.load_output_tokens)
    found = await guesses.read(client, route.decode_url) - before
    return [_checked(route, outcome) for outcome in outcomes], found


def _checked(route: Route, outcome: Outcome) -> Outcome:
    return (without_a_cache(route, outcome) or outcome) if isinstance(outcome, Stream) else outcome


def _rows(routes: Sequence[Route], rounds: Loads) -> list[Row]:
    """`equal` counts tokens up to the first that the single server's answer to the same prompt has not."""
    rows = []
    for route in routes:
        outcomes = rounds[route.name][0]
        expected = rounds["single"][0] if "single" in rounds else [None] * len(outcomes)
        for at, (outcome, other) in enumerate(zip(outcomes, expected, strict=True)):
            rows.append({"route": route.name, "request": at, **_row(outcome, other)})
    return rows


def _row(outcome: Outcome, expected: Outcome | None) -> Row:
    if isinstance(outcome, RequestFailed):
        return {"failed": str(outcome)}
    row: Row = {"ttft_s": outcome.ttft_s, "itl_s": outcome.itl_s, "tokens": len(outcome.tokens)}
    if isinstance(expected, Stream) and expected is not outcome:
        row["equal"] = equal_tokens(expected.tokens, outcome.tokens)
    return row


def _requests(route: Route, outcomes: Sequence[Outcome]) -> dict[str, int]:
    """How many were answered, and how many of them began on this server with a cache from another."""
    answered = sum(isinstance(outcome, Stream) for outcome in outcomes)
    return {"answered": answered, "loaded": answered if route.prefill_url else 0}
