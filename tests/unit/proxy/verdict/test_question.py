"""What the proxy's own question finds, at scripted instances; and what a failed connection shows."""

import errno
import json
from collections.abc import AsyncIterator, Awaitable, Callable

import aiohttp
import pytest
from aiohttp.client_reqrep import ConnectionKey

from proxy.errors import AnswerBroken, InstanceUnreachable, ProxyError, TooManyConnections
from proxy.settings import ProxySettings
from proxy.verdict import evidence
from proxy.verdict.circuit import Finding, Question
from proxy.verdict.question import Questions
from stack.configuration.environment import load
from stack.instances.record import Adapter
from tests.unit.proxy.scripted import Script, ScriptedServer, breaks, error, hangs, instance, replies

OK = replies(200, b"")
TOKEN = replies(200, {"choices": [{"text": " city"}]})
StartServer = Callable[[Script, Script], Awaitable[ScriptedServer]]


@pytest.fixture
async def questions() -> AsyncIterator[Questions]:
    asked = Questions(load(ProxySettings))
    yield asked
    await asked.close()


@pytest.fixture
async def start_server() -> AsyncIterator[StartServer]:
    """`await start_server(of /health, of completions)`"""
    started: list[ScriptedServer] = []

    async def start(health: Script, script: Script) -> ScriptedServer:
        server = ScriptedServer("decode", "d0", script)
        server.health = health
        started.append(await server.start())
        return server

    yield start
    for server in started:
        await server.stop()


@pytest.mark.parametrize(
    ("health", "completion", "question", "finding"),
    [
        (OK, TOKEN, "token", "well"),
        (OK, error(500, "x"), "health", "well"),
        (OK, error(503, "busy"), "token", "alive"),
        (OK, error(429, "busy"), "token", "alive"),
        (OK, error(404, "no such model"), "token", "alive"),
        (OK, error(500, "x"), "token", "ill"),
        (OK, error(401, "another key"), "token", "ill"),
        (OK, replies(503, b""), "token", "ill"),
        (OK, replies(307, b"", Location="/x"), "token", "ill"),
        (OK, breaks(), "token", "ill"),
        (OK, hangs(), "token", "silent"),
        (replies(503, b""), TOKEN, "health", "ill"),
        (replies(404, b""), TOKEN, "token", "ill"),
        (breaks(), TOKEN, "token", "ill"),
        (hangs(), TOKEN, "token", "silent"),
    ],
)
async def test_what_is_found(
    health: Script,
    completion: Script,
    question: Question,
    finding: Finding,
    questions: Questions,
    start_server: StartServer,
) -> None:
    server = await start_server(health, completion)
    within_s = 0.2 if finding == "silent" else 10.0
    assert await questions.ask(server.record, question, within_s) == finding


async def test_where_nobody_listens_it_is_ill(questions: Questions) -> None:
    assert await questions.ask(instance("decode", "d0"), "token", 10.0) == "ill"


async def test_an_adapter_is_not_what_is_asked_for(questions: Questions, start_server: StartServer) -> None:
    models: list[str] = []

    async def notes(request: aiohttp.web.Request) -> aiohttp.web.StreamResponse:
        models.append(json.loads(await request.read())["model"])
        return await TOKEN(request)

    server = await start_server(OK, notes)
    adapter = Adapter(id="adapter", root="/adapter", parent="base")
    record = server.record.model_copy(update={"served_models": ("adapter", "base"), "adapters": (adapter,)})
    assert await questions.ask(record, "token", 10.0) == "well"
    assert models == ["base"]


def not_connected(number: int) -> aiohttp.ClientConnectorError:
    key = ConnectionKey("127.0.0.1", 1, False, True, None, None, None)
    return aiohttp.ClientConnectorError(key, OSError(number, "no"))


@pytest.mark.parametrize(
    ("failure", "shown"),
    [
        (not_connected(errno.ECONNREFUSED), InstanceUnreachable),
        (aiohttp.ConnectionTimeoutError(), InstanceUnreachable),
        (aiohttp.ServerDisconnectedError(), AnswerBroken),
        (not_connected(errno.EMFILE), TooManyConnections),
        (not_connected(errno.EADDRNOTAVAIL), TooManyConnections),
    ],
    ids=["refused", "timeout", "closed", "no file", "no port"],
)
def test_what_a_failed_connection_shows(failure: aiohttp.ClientError, shown: type[ProxyError]) -> None:
    """An instance does not get the blame when the proxy has no socket left."""
    assert type(evidence.lost(instance("decode", "d0"), failure)) is shown
