"""Where `python -m proxy` listens, and the one line that it ends with where it cannot."""

import asyncio
import os
import socket
import sys
from asyncio.subprocess import PIPE
from collections.abc import Iterator
from pathlib import Path

import pytest

from proxy.server import _listen
from stack.configuration.settings import REPOSITORY
from tests.etcd_process import EtcdProcess
from tests.unit.proxy.process.proxy_process import PATIENCE_S, proxy_process
from tests.unit.proxy.scripted import ScriptedServer


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
