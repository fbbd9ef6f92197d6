"""Bytes in, bytes out, no HTTP library in between."""

import asyncio
import json
from typing import Any

from tests.unit.proxy.conftest import PATIENCE_S, RunningProxy


def post(body: dict[str, Any], *headers: str, path: str = "/v1/completions", version: str = "1.1") -> bytes:
    content = json.dumps(body).encode()
    head = (
        f"POST {path} HTTP/{version}",
        "Host: x",
        "Content-Type: application/json",
        f"Content-Length: {len(content)}",
    )
    return "\r\n".join((*head, *headers, "", "")).encode() + content


def get(path: str, *headers: str, method: str = "GET", version: str = "1.1") -> bytes:
    return "\r\n".join((f"{method} {path} HTTP/{version}", "Host: x", *headers, "", "")).encode()


async def connected(proxy: RunningProxy) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    host, port = proxy.url.removeprefix("http://").split(":")
    return await asyncio.open_connection(host, int(port))


async def answered(proxy: RunningProxy, request: bytes) -> tuple[bytes, dict[str, str], bytes]:
    """Status line, headers and what comes after them until the proxy closes the connection."""
    reader, writer = await connected(proxy)
    try:
        writer.write(request)
        return split(await asyncio.wait_for(reader.read(), PATIENCE_S))
    finally:
        writer.close()


def split(answer: bytes) -> tuple[bytes, dict[str, str], bytes]:
    head, separator, body = answer.partition(b"\r\n\r\n")
    assert separator, answer
    status, *lines = head.split(b"\r\n")
    headers: dict[str, str] = {}
    for line in lines:
        name, _, value = line.decode().partition(": ")
        headers[name.lower()] = f"{headers[name.lower()]}, {value}" if name.lower() in headers else value
    return status, headers, body
