"""A pair and a single server, scripted, with the routes to them; and a run that needs no servers."""

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest

from benchmarks.connector import page
from benchmarks.connector.client import Client, open_client
from benchmarks.connector.options import parse
from benchmarks.connector.prompts import Prompts
from benchmarks.connector.run import Run
from benchmarks.connector.topology.routes import Route, Way
from benchmarks.deadline import Deadline
from benchmarks.results import Results
from tests.unit.benchmarks.scripted_vllm import FACTS, ScriptedVllm, serve, url

ABOUT = {
    "title": "A test",
    "command": "python -m benchmarks.connector latency",
    "started": "2026-01-01",
    "machine": {"CPU": "none"},
    "versions": {"commit": "none"},
}


@dataclass
class Scripted:
    producer: ScriptedVllm
    consumer: ScriptedVllm
    single: ScriptedVllm
    pair: Route
    alone: Route


@pytest.fixture
async def scripted() -> AsyncIterator[Scripted]:
    producer, consumer, single = ScriptedVllm(), ScriptedVllm(cached_tokens=31, facts=FACTS), ScriptedVllm()
    servers = [await serve(vllm) for vllm in (producer, consumer, single)]
    pair = Route("ours", url(servers[1]), url(servers[0]), [Way(consumer_params={"producer": {"engine_id": "p-1"}})])
    yield Scripted(producer, consumer, single, pair, Route("single", url(servers[2])))
    for server in servers:
        await server.close()


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    async with open_client(10.0, Deadline(30.0)) as opened:
        yield opened


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Run]:
    """A run of the given options whose servers somebody else has started."""

    def make(*words: str) -> Run:
        options = parse([*words, "--out", str(tmp_path)])
        nothing = cast(Any, None)
        results = Results(tmp_path, "run", ABOUT, page.render)
        return Run(options, nothing, "", nothing, nothing, Prompts(1), results, Deadline(30.0))

    return make
