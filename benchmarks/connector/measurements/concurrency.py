"""TTFT and ITL under load. Only one route is under load at a time; the routes take turns."""

from collections.abc import Sequence

from benchmarks.connector.client import Client, Stream
from benchmarks.connector.measurements import load
from benchmarks.connector.run import Run
from benchmarks.connector.topology.routes import Route
from benchmarks.errors import RequestFailed
from benchmarks.tables import Row


async def measure(run: Run, client: Client, stage: str, routes: Sequence[Route]) -> None:
    """Adds a row for every request to the table `concurrency`. Raises: OutOfTime."""
    for users in run.options.users:
        for number in range(run.options.load_rounds):
            for route in routes:
                outcomes = await load.send(client, route, load.prompts(run, users), run.options.load_output_tokens)
                for row in map(_row, outcomes):
                    run.results.add("concurrency", stage=stage, route=route.name, users=users, round=number, **row)
                run.results.write()
        print(f"{stage}: {users} users done", flush=True)


def _row(outcome: Stream | RequestFailed) -> Row:
    if isinstance(outcome, RequestFailed):
        return {"failed": str(outcome)}
    return {"ttft_s": outcome.ttft_s, "itl_s": outcome.itl_s, "tokens": len(outcome.tokens)}
