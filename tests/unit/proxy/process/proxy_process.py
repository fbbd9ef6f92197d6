"""`python -m proxy` in a process of its own, with its environment, its etcd and its log."""

import asyncio
import json
import os
import socket
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp

from stack import etcd
from stack.configuration.settings import REPOSITORY
from tests.etcd_process import EtcdProcess
from tests.unit.proxy.scripted import ScriptedServer

PATIENCE_S = 30.0
JSON = {"Content-Type": "application/json"}  # what the bodies are that are given as bytes


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
