"""The stack of the bad day: two producers, one consumer, and proxies that know as many of them as a test wants."""

import asyncio
import json
import os
import socket
from asyncio.subprocess import DEVNULL
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from stack.configuration.settings import REPOSITORY
from stack.instances.record import Instance, Role
from tests import etcd_http
from tests.etcd_process import EtcdProcess
from tests.integration.failures.failure_stack import CHUNK_TOKENS, KV_CACHE_BYTES, MAX_NUM_SEQS, PATIENCE_S, Server
from tests.real_stack import RealStack

PYTHON = REPOSITORY / ".stack/venv/proxy/bin/python"
START_S = 60.0
MOST_REQUESTS = 8  # that a server takes, at work and waiting; no other test comes near
TIMEOUT = aiohttp.ClientTimeout(total=120)


class BadDayStack(RealStack):
    def __post_init__(self) -> None:
        super().__post_init__()
        prefill, decode, control = (int(self.variables[f"{name}_PORT"]) for name in ("PREFILL", "DECODE", "CONTROL"))
        self.variables |= {
            "STACK_SERVICES": "etcd,prefill,decode,proxy",
            # The second producer listens on the ports after the first's.
            "DECODE_PORT": str(decode + 20),
            "CONTROL_PORT": str(control + 40),
            "PREFILL_REPLICAS": "2",
            "VLLM_EXTRA_ARGS": f"--max-num-seqs {MAX_NUM_SEQS} --max-num-queued-reqs {MOST_REQUESTS}",
            "MAX_NUM_BATCHED_TOKENS": str(CHUNK_TOKENS),
            "KV_CACHE_BYTES": str(KV_CACHE_BYTES),
            "TRANSFER_PATIENCE_S": str(PATIENCE_S),
            "TRANSFER_CHECKSUM": "true",  # without it a lost write would be a wrong answer
        }
        self.producers = tuple(
            Server(self, f"prefill-{number}", f"http://127.0.0.1:{prefill + number}") for number in range(2)
        )
        self.consumer = Server(self, "decode-0", f"http://127.0.0.1:{decode + 20}")

    @property
    def servers(self) -> tuple[Server, ...]:
        return *self.producers, self.consumer


@dataclass(frozen=True)
class HttpAnswer:
    status: int
    headers: Mapping[str, str]
    raw: bytes

    @property
    def body(self) -> dict[str, Any]:
        body: dict[str, Any] = json.loads(self.raw)
        return body

    @property
    def error(self) -> dict[str, Any]:
        """OpenAI's error object."""
        error: dict[str, Any] = self.body["error"]
        assert error.keys() == {"message", "type", "param", "code"}
        return error

    @property
    def tokens(self) -> list[int]:
        assert self.status == 200, self.raw
        return list(self.body["choices"][0]["token_ids"])


@dataclass
class Proxy:
    url: str
    client: aiohttp.ClientSession

    @classmethod
    @asynccontextmanager
    async def at(cls, url: str) -> AsyncIterator["Proxy"]:
        async with aiohttp.ClientSession(timeout=TIMEOUT) as client:
            yield cls(url, client)

    async def post(self, body: dict[str, Any] | bytes, path: str = "/v1/completions") -> HttpAnswer:
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        async with self.client.post(self.url + path, data=raw, headers={"Content-Type": "application/json"}) as answer:
            return HttpAnswer(answer.status, answer.headers, await answer.read())

    async def get(self, path: str) -> HttpAnswer:
        async with self.client.get(self.url + path) as answer:
            return HttpAnswer(answer.status, answer.headers, await answer.read())

    @asynccontextmanager
    async def stream(self, body: dict[str, Any]) -> AsyncIterator[aiohttp.ClientResponse]:
        """Closed without a word when the context is left before the stream's end."""
        async with self.client.post(self.url + "/v1/completions", json=body | {"stream": True}) as answer:
            assert answer.status == 200, await answer.read()
            try:
                yield answer
            finally:
                answer.close()

    async def metric(self, line: str) -> float:
        """The value of the series that /metrics shows as `line`."""
        for shown in (await self.get("/metrics")).raw.decode().splitlines():
            if shown.startswith(line + " "):
                return float(shown.rsplit(" ", 1)[1])
        return 0.0


@asynccontextmanager
async def proxy_of(folder: Path, *instances: Instance, **variables: str) -> AsyncIterator[Proxy]:
    """A proxy that knows these instances alone, from an etcd of its own."""
    registry = EtcdProcess(folder)
    registry.start()
    try:
        for each in instances:
            etcd_http.put(f"http://{registry.endpoint}", each.key, each.model_dump_json())
        port = _free_port()
        environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(REPOSITORY), "PROXY_PORT": str(port)}
        environment |= {"ETCD_ENDPOINT": registry.endpoint} | variables
        process = await asyncio.create_subprocess_exec(PYTHON, "-m", "proxy", env=environment, stdout=DEVNULL)
        try:
            async with Proxy.at(f"http://127.0.0.1:{port}") as proxy:
                async with asyncio.timeout(START_S):
                    while not await _knows(proxy, len(instances)):  # noqa: ASYNC110
                        await asyncio.sleep(0.05)
                yield proxy
        finally:
            process.kill()
            await process.wait()
    finally:
        registry.stop()


async def _knows(proxy: Proxy, count: int) -> bool:
    try:
        return len((await proxy.get("/instances")).body["instances"]) == count
    except aiohttp.ClientConnectorError:
        return False


def absent(role: Role, like: Instance) -> Instance:
    """The record of an instance that fits the others and comes first among equals, at whose address nobody listens."""
    return like.model_copy(
        update={"role": role, "instance_id": f"absent-{role}", "url": f"http://127.0.0.1:{_free_port()}"}
    )


def _free_port() -> int:
    """One that the kernel picks, so none that a server of the stack left when it was killed."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
