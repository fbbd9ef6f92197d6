"""Several workers on one picture: each answers on its own socket, and one that cannot is left out."""

import asyncio
import json
import os
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from proxy.console import workers as module
from proxy.console.workers import Workers


@pytest.fixture
async def here(tmp_path: Path) -> AsyncIterator[Workers]:
    workers = Workers(tmp_path, lambda question: {"here": question})
    await workers.start()
    yield workers
    await workers.close()


async def serve(path: Path, answer: Any) -> asyncio.Server:
    """Another worker's socket. Args: answer: None: it reads and says nothing."""

    async def one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        question = json.loads(await reader.readline())
        if answer is not None:
            writer.write(json.dumps({answer: question}).encode() + b"\n")
            await writer.drain()
            writer.close()
        else:
            await reader.read()
            writer.close()

    return await asyncio.start_unix_server(one, path)


async def test_all_are_asked_the_same(here: Workers, tmp_path: Path) -> None:
    async with await serve(tmp_path / "console-1.sock", "there"):
        assert await here.ask("requests", 1.5) == [{"here": ["requests", 1.5]}, {"there": ["requests", 1.5]}]


async def test_a_worker_answers_others(here: Workers, tmp_path: Path) -> None:
    asking = Workers(tmp_path, lambda question: "asking")
    asking._own = tmp_path / "console-0.sock"
    assert await asking.ask("counts") == ["asking", {"here": ["counts"]}]


async def test_one_that_died_is_forgotten(here: Workers, tmp_path: Path) -> None:
    dead = tmp_path / "console-1.sock"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(dead))
    assert await here.ask("counts") == [{"here": ["counts"]}]
    assert not dead.exists()


async def test_one_that_says_nothing_is_left_out(
    here: Workers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LIMIT_S", 0.05)
    async with await serve(tmp_path / "console-1.sock", None):
        assert await here.ask("counts") == [{"here": ["counts"]}]


async def test_a_folder_whose_name_is_too_long_is_done_without(tmp_path: Path) -> None:
    folder = tmp_path / ("x" * 120)
    folder.mkdir()
    workers = Workers(folder, lambda question: "own")
    await workers.start()
    assert await workers.ask("counts") == ["own"]
    await workers.close()


async def test_alone_there_is_nobody_to_ask() -> None:
    workers = Workers(None, lambda question: os.getpid())
    await workers.start()
    assert await workers.ask("counts") == [os.getpid()]
    await workers.close()
