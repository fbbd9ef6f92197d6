"""`python -m proxy` as it is deployed: environment, etcd, logs, signals."""

import asyncio
import json
import os
import signal
import socket
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from proxy.server import _listen
from stack import etcd
from tests.etcd_process import EtcdProcess
from tests.unit.proxy.conftest import without_comment
from tests.unit.proxy.http.raw import post, split
from tests.unit.proxy.scripted import DONE, MODEL, ScriptedServer, prefilled, replies, streams, token

REPOSITORY = Path(__file__).parents[3]
PATIENCE_S = 30.0
STREAM = {"model": MODEL, "prompt": "San Francisco is a", "stream": True}
JSON = {"Content-Type": "application/json"}  # what the bodies are that are given as bytes
SEEDS_BODY = """{
  "model": "SmolLM2-135M-Instruct",
  "prompt": "San Francisco is a",
  "max_tokens": 1000
}"""


@pytest.fixture
async def producer() -> AsyncIterator[ScriptedServer]:
    started = await ScriptedServer("prefill", "p0", prefilled()).start()
    yield started
    await started.stop()


@pytest.fixture
async def consumer() -> AsyncIterator[ScriptedServer]:
    started = await ScriptedServer("decode", "d0", replies(200, {"choices": [{"text": " city"}]})).start()
    yield started
    await started.stop()


@dataclass
class ProxyProcess:
    url: str
    process: Process
    client: aiohttp.ClientSession

    async def ready(self, status: int = 200, url: str | None = None) -> dict[str, Any]:
        """Waits until /ready answers `status`, at `url` if that is another."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                try:
                    async with self.client.get((url or self.url) + "/ready") as answer:
                        state: dict[str, Any] = await answer.json()
                        if answer.status == status:
                            return state
                except aiohttp.ClientConnectorError:
                    assert self.process.returncode is None
                await asyncio.sleep(0.02)

    async def ended(self) -> tuple[int, list[dict[str, Any]]]:
        """Its status and its log, every line of which is JSON."""
        output, _ = await asyncio.wait_for(self.process.communicate(), PATIENCE_S)
        assert self.process.returncode is not None
        return self.process.returncode, [json.loads(line) for line in output.splitlines()]


@asynccontextmanager
async def proxy_process(
    etcd_server: EtcdProcess, *servers: ScriptedServer, **variables: str
) -> AsyncIterator[ProxyProcess]:
    with etcd.connect(etcd_server.endpoint) as registry:
        for each in servers:
            registry.put(each.record.key, each.record.model_dump_json())
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(REPOSITORY), "PROXY_PORT": str(port)}
    environment |= {"ETCD_ENDPOINT": etcd_server.endpoint, "PROXY_LOCAL_PROMPT_TOKENS": "0"} | variables
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", "proxy", env=environment, stdout=PIPE)
    try:
        async with aiohttp.ClientSession(headers=JSON) as client:
            running = ProxyProcess(f"http://127.0.0.1:{port}", process, client)
            if servers:
                await running.ready()
            yield running
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


async def test_the_seed_documents_curl(
    etcd_server: EtcdProcess, producer: ScriptedServer, consumer: ScriptedServer
) -> None:
    async with proxy_process(etcd_server, producer, consumer) as proxy:
        curl = await asyncio.create_subprocess_exec(
            *("curl", "-s", f"{proxy.url}/v1/completions", "-H", "Content-Type: application/json", "-d", SEEDS_BODY),
            stdout=PIPE,
        )
        output, _ = await asyncio.wait_for(curl.communicate(), PATIENCE_S)
        assert json.loads(output) == {"choices": [{"text": " city"}]}
        proxy.process.send_signal(signal.SIGTERM)
        status, log = await proxy.ended()

    assert status == 0
    [line] = [each for each in log if each["event"] == "request"]
    assert line["level"] == "info"
    assert {name: line[name] for name in ("endpoint", "model", "status", "outcome", "producer", "consumer")} == {
        "endpoint": "/v1/completions",
        "model": MODEL,
        "status": 200,
        "outcome": "ok",
        "producer": "p0",
        "consumer": "d0",
    }


async def test_no_key_and_every_request_id_is_logged(
    etcd_server: EtcdProcess, producer: ScriptedServer, consumer: ScriptedServer
) -> None:
    keys = {"PROXY_API_KEYS": "alice:sk-alices-own", "OPENAI_API_KEY": "sk-the-stacks-own", "PROXY_LOG_LEVEL": "debug"}
    given = {"right": "Bearer sk-alices-own", "wrong": "Bearer sk-of-nobody", "odd": "Basic sk-of-nobody"}
    async with proxy_process(etcd_server, producer, consumer, **keys) as proxy:
        for name, authorization in given.items():
            headers = {"Authorization": authorization, "X-Request-Id": f"request-{name}"}
            async with proxy.client.post(f"{proxy.url}/v1/completions", data=SEEDS_BODY, headers=headers) as answer:
                assert answer.status == (200 if name == "right" else 401)
                assert "sk-" not in await answer.text()
        assert consumer.received[0].headers["Authorization"] == "Bearer sk-the-stacks-own"
        proxy.process.send_signal(signal.SIGTERM)
        _, log = await proxy.ended()
    assert "sk-" not in json.dumps(log)
    logged = {line["request_id"]: line["client"] for line in log if line["event"] == "request"}
    assert logged == {"request-right": "alice", "request-wrong": None, "request-odd": None}


async def test_503_when_an_instance_is_gone_and_back_when_it_is_back(
    etcd_server: EtcdProcess, producer: ScriptedServer, consumer: ScriptedServer
) -> None:
    body = {"model": MODEL, "prompt": "x"}
    async with proxy_process(etcd_server, producer, consumer) as proxy:
        with etcd.connect(etcd_server.endpoint) as registry:
            registry.delete(consumer.record.key)
            assert (await proxy.ready(503))["missing"] == ["decode"]
            async with proxy.client.post(proxy.url + "/v1/completions", json=body) as answer:
                assert answer.status == 503
            registry.put(consumer.record.key, consumer.record.model_dump_json())
            await proxy.ready()
            async with proxy.client.post(proxy.url + "/v1/completions", json=body) as answer:
                assert answer.status == 200


async def test_sigterm_lets_a_stream_finish(
    etcd_server: EtcdProcess, producer: ScriptedServer, consumer: ScriptedServer
) -> None:
    more = asyncio.Event()
    consumer.script = streams(token(" city"), more, token(" of"), DONE)
    async with proxy_process(etcd_server, producer, consumer) as proxy:
        async with proxy.client.post(proxy.url + "/v1/completions", json=STREAM) as answer:
            seen = await answer.content.readuntil(b"\n\n")
            proxy.process.send_signal(signal.SIGTERM)
            await _refuses_connections(proxy.url)
            more.set()
            seen += await answer.read()
        assert without_comment(seen) == token(" city") + token(" of") + DONE
        status, _ = await proxy.ended()
    assert status == 0


async def test_who_sends_no_more_gets_its_answer_and_who_has_left_none(
    etcd_server: EtcdProcess, producer: ScriptedServer, consumer: ScriptedServer
) -> None:
    more = asyncio.Event()
    consumer.script = streams(token(" city"), more, token(" of"), DONE)
    async with proxy_process(etcd_server, producer, consumer) as proxy:
        port = int(proxy.url.rpartition(":")[2])
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(post(STREAM, version="1.0"))
        writer.write_eof()
        seen = await asyncio.wait_for(reader.readuntil(token(" city")), PATIENCE_S)
        more.set()
        seen += await asyncio.wait_for(reader.read(), PATIENCE_S)
        writer.close()
        _, _, events = split(seen)
        assert without_comment(events).replace(b": alive\n\n", b"") == token(" city") + token(" of") + DONE

        consumer.script = streams(token(" city"), asyncio.Event())
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(post(STREAM))
        await asyncio.wait_for(reader.readuntil(b" city"), PATIENCE_S)
        writer.close()
        await asyncio.wait_for(consumer.cancelled.wait(), PATIENCE_S)


async def test_the_grace_ends_with_an_error_event(
    etcd_server: EtcdProcess, producer: ScriptedServer, consumer: ScriptedServer
) -> None:
    consumer.script = streams(token(" city"), asyncio.Event())
    async with proxy_process(etcd_server, producer, consumer, PROXY_SHUTDOWN_GRACE_S="0.3") as proxy:
        async with proxy.client.post(proxy.url + "/v1/completions", json=STREAM) as answer:
            await answer.content.readuntil(b"\n\n")
            proxy.process.send_signal(signal.SIGTERM)
            last = await asyncio.wait_for(answer.read(), PATIENCE_S)
        assert json.loads(last.removeprefix(b"data: "))["error"]["code"] == "shutting_down"
        status, log = await proxy.ended()
    assert status == 0
    assert [each["outcome"] for each in log if each["event"] == "request"] == ["shutting_down"]
    await asyncio.wait_for(consumer.cancelled.wait(), PATIENCE_S)


async def test_it_leaves_although_a_client_does_not_read(
    etcd_server: EtcdProcess, producer: ScriptedServer, consumer: ScriptedServer
) -> None:
    consumer.script = streams(*[token("x" * 60_000)] * 1000, DONE)
    async with (
        proxy_process(etcd_server, producer, consumer, PROXY_SHUTDOWN_GRACE_S="0.3") as proxy,
        proxy.client.post(proxy.url + "/v1/completions", json=STREAM) as answer,
    ):
        assert answer.status == 200
        proxy.process.send_signal(signal.SIGTERM)
        status, log = await proxy.ended()
    assert status == 0
    assert [each["outcome"] for each in log if each["event"] == "request"] == ["shutting_down"]
    assert log[-1]["event"] == "stopped"


async def test_two_workers_serve_one_port_and_count_together(
    etcd_server: EtcdProcess, producer: ScriptedServer, consumer: ScriptedServer
) -> None:
    async with proxy_process(etcd_server, producer, consumer, PROXY_WORKERS="2") as proxy:
        for _ in range(40):  # over a new connection each, which either worker may take
            async with (
                aiohttp.ClientSession(headers=JSON) as client,
                client.post(f"{proxy.url}/v1/completions", data=SEEDS_BODY) as answer,
            ):
                assert answer.status in (200, 503)  # 503: that worker has not reached etcd yet
        async with proxy.client.get(proxy.url + "/metrics") as answer:
            text = await answer.text()
        shown = sum(float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if "pd_proxy_requests_total{" in line)
        async with proxy.client.get(proxy.url + "/console/api/requests") as answer:
            rows = (await answer.json())["requests"]
        async with proxy.client.get(proxy.url + "/console/api/now") as answer:
            now = await answer.json()
        async with proxy.client.get(proxy.url + "/console/api/requests/" + rows[-1]["request_id"]) as answer:
            assert (await answer.json())["key"] == rows[-1]["key"]
        proxy.process.send_signal(signal.SIGTERM)
        status, log = await proxy.ended()
    assert status == 0
    served = [each["pid"] for each in log if each["event"] == "request"]
    assert len(set(served)) == 2
    assert shown == len(served) == len(rows) == now["requests"] == 40
    assert {row["worker"] for row in rows} == set(now["workers"]) == set(served)


async def test_workers_end_with_a_supervisor_that_is_killed(
    etcd_server: EtcdProcess, producer: ScriptedServer, consumer: ScriptedServer
) -> None:
    more = asyncio.Event()
    consumer.script = streams(token(" city"), more, token(" of"), DONE)
    async with proxy_process(etcd_server, producer, consumer, PROXY_WORKERS="2") as proxy:
        async with proxy.client.post(proxy.url + "/v1/completions", json=STREAM) as answer:
            seen = await answer.content.readuntil(b"\n\n")
            proxy.process.kill()
            await _refuses_connections(proxy.url)
            more.set()
            seen += await answer.read()
        assert without_comment(seen) == token(" city") + token(" of") + DONE
        status, log = await proxy.ended()  # its output ends with the last of them
    assert status == -signal.SIGKILL
    (served,) = [each["pid"] for each in log if each["event"] == "request"]
    # The other one may not have been up yet, and then has nothing to let finish.
    assert served in [each["pid"] for each in log if each["event"] == "shutting down"]


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


async def test_a_bad_variable_ends_the_start_with_one_line() -> None:
    assert (await _start_error("http")).startswith("PROXY_PORT='http': ")


async def test_a_port_in_use_ends_the_start_with_one_line(taken_port: int) -> None:
    expected = f"PROXY_PORT={taken_port}: cannot listen on 127.0.0.1:{taken_port}: Address already in use\n"
    assert await _start_error(str(taken_port)) == expected


@pytest.mark.parametrize(
    ("variables", "line"),
    [
        (
            {"BIND_ADDRESS": "192.0.2.7"},
            "BIND_ADDRESS='192.0.2.7': expected an address to listen on; this machine has no such address\n",
        ),
        (
            {"PROXY_LISTEN_HOST": "2001:db8::7"},
            "PROXY_LISTEN_HOST='2001:db8::7': expected an address to listen on; this machine has no such address\n",
        ),
        (
            {"ETCD_ENDPOINT": "https://127.0.0.1:2379"},
            "ETCD_ENDPOINT='https://127.0.0.1:2379': expected one plain-text endpoint, host:port, e.g. 127.0.0.1:2379 "
            "or [::1]:2379; etcd is not spoken to over TLS here\n",
        ),
    ],
    ids=["another machine's address", "the same for the proxy alone", "etcd over TLS"],
)
async def test_an_address_that_cannot_be_used_ends_the_start_with_one_line(
    variables: dict[str, str], line: str
) -> None:
    assert await _start_error("8000", **variables) == line


async def test_it_serves_both_families_at_once_and_finds_its_etcd_over_ipv6(
    tmp_path: Path, producer: ScriptedServer, consumer: ScriptedServer
) -> None:
    server = EtcdProcess(tmp_path, "::1")
    server.start()
    try:
        async with proxy_process(server, producer, consumer, BIND_ADDRESS="::", PROXY_WORKERS="2") as proxy:
            for url in (proxy.url, proxy.url.replace("127.0.0.1", "[::1]")):
                await proxy.ready(url=url)  # another worker may answer, which has yet to hear from etcd
    finally:
        server.stop()


@pytest.mark.parametrize(("host", "families"), [("::", {4, 6}), ("::1", {6}), ("127.0.0.1", {4}), ("0.0.0.0", {4})])
def test_only_what_is_for_all_addresses_listens_on_both_families(host: str, families: set[int]) -> None:
    (listener,) = _listen(host, 0, workers=1)
    with listener:
        port = listener.getsockname()[1]
        reached = {version for version, local in ((4, "127.0.0.1"), (6, "::1")) if _connects(local, port)}
    assert reached == families


def _connects(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), PATIENCE_S).close()
    except ConnectionRefusedError:
        return False
    return True


async def _start_error(port: str, **variables: str) -> str:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "proxy"),
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(REPOSITORY), "PROXY_PORT": port} | variables,
        stdout=PIPE,
        stderr=PIPE,
    )
    output, errors = await asyncio.wait_for(process.communicate(), PATIENCE_S)
    assert (process.returncode, output, errors.count(b"\n")) == (2, b"", 1)
    return errors.decode()


async def _refuses_connections(url: str) -> None:
    host, port = url.removeprefix("http://").split(":")
    async with asyncio.timeout(PATIENCE_S):
        while True:
            try:
                _, writer = await asyncio.open_connection(host, int(port))
            except ConnectionRefusedError:
                return
            writer.close()
            await asyncio.sleep(0.02)
