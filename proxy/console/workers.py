"""What several workers know, asked by one of them: each answers on a socket of its own in a folder that they share.

A question and its answer are one line of JSON each. Only processes of the same user get at the folder. A worker that
does not answer in time is left out, and the page shows who did.
"""

import asyncio
import contextlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import structlog

LIMIT_S = 2.0
MOST_BYTES = 16 * 1024 * 1024  # of one line; a thousand requests are one

log = structlog.get_logger()


class Workers:
    """`answer` knows what this process does; `folder` is None where it is the only one."""

    def __init__(self, folder: Path | None, answer: Callable[[list[Any]], Any]) -> None:
        self._folder = folder
        self._answer = answer
        self._own = folder / f"console-{os.getpid()}.sock" if folder else None
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        if self._own is None:
            return
        try:
            self._server = await asyncio.start_unix_server(self._serve, self._own, limit=MOST_BYTES)
        except OSError as error:  # the path of a socket has 107 bytes at most
            log.warning("the console shows one worker at a time", socket=str(self._own), error=str(error))

    async def close(self) -> None:
        if self._server is not None and self._own is not None:
            self._server.close()
            self._own.unlink(missing_ok=True)

    async def ask(self, *question: Any) -> list[Any]:
        """The answers of all, this one's first."""
        others = [path for path in self._folder.glob("console-*.sock") if path != self._own] if self._folder else []
        told = await asyncio.gather(*(_ask(path, question) for path in sorted(others)))
        return [self._answer(list(question)), *(answer for answer in told if answer is not None)]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.closing(writer), contextlib.suppress(ConnectionError, TimeoutError):
            async with asyncio.timeout(LIMIT_S):
                if line := await reader.readline():
                    writer.write(json.dumps(self._answer(json.loads(line))).encode() + b"\n")
                    await writer.drain()


def _forget(path: Path) -> None:
    path.unlink(missing_ok=True)


async def _ask(path: Path, question: tuple[Any, ...]) -> Any:
    try:
        async with asyncio.timeout(LIMIT_S):
            reader, writer = await asyncio.open_unix_connection(path, limit=MOST_BYTES)
            with contextlib.closing(writer):
                writer.write(json.dumps(question).encode() + b"\n")
                line = await reader.readline()
                return json.loads(line) if line else None
    except ConnectionRefusedError:  # of one that has died
        _forget(path)
    except (OSError, TimeoutError) as error:
        log.warning("a worker did not tell the console", socket=path.name, error=repr(error))
    return None
