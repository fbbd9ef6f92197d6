"""Logs are JSON, one line an event, on stdout; what libraries log goes the same way."""

import asyncio
import atexit
import json
import logging
import os
import sys
import threading
from datetime import UTC, datetime
from typing import BinaryIO

import orjson
import structlog

# What is logged under this name are fields of the line itself: structlog hands each keyword on four times, which for
# the two dozen of a request costs five times what it takes to write them.
FIELDS = "fields"


def configure(level: str) -> None:
    """level: debug, info, warning or error."""
    structlog.configure(
        processors=[_line_renderer()],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=lambda *_: _Lines(sys.stdout.buffer),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[
                structlog.processors.add_log_level,
                structlog.processors.TimeStamper(fmt="iso", utc=True),
                _add_pid,
                structlog.stdlib.add_logger_name,
            ],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                structlog.processors.JSONRenderer(),
            ],
        )
    )
    logging.basicConfig(level=logging.WARNING, handlers=[handler])


class _Lines:
    """Writes what is logged in one turn of the event loop together, and at once where there is no loop."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._lock = threading.Lock()  # for what threads log
        self._unwritten: list[bytes] = []
        atexit.register(self._write)

    def line(self, line: bytes) -> None:
        with self._lock:
            self._unwritten += (line, b"\n")
            if len(self._unwritten) > 2:
                return
        try:
            asyncio.get_running_loop().call_soon(self._write)
        except RuntimeError:
            self._write()

    debug = info = warning = error = critical = exception = line

    def _write(self) -> None:
        with self._lock:
            lines, self._unwritten = b"".join(self._unwritten), []
        self._stream.write(lines)
        self._stream.flush()


def _line_renderer() -> structlog.typing.Processor:
    """All that a line needs in one step: a line a request is a noticeable part of what a request costs."""
    pid = os.getpid()  # once: to ask for it is a system call, and each worker configures its own logs

    def render(logger: structlog.typing.WrappedLogger, method: str, event: structlog.typing.EventDict) -> bytes:
        if "exc_info" in event:
            event = structlog.processors.format_exc_info(logger, method, event)
        if (fields := event.pop(FIELDS, None)) is not None:
            event.update(fields)
        event["level"] = method
        event["timestamp"] = datetime.now(UTC)
        event["pid"] = pid
        try:
            return orjson.dumps(event, default=repr, option=orjson.OPT_UTC_Z)
        except TypeError:  # half of a surrogate pair, as a client may have put into a name, or a very large number
            event["timestamp"] = f"{event['timestamp'].replace(tzinfo=None).isoformat()}Z"
            return json.dumps(event, default=repr).encode()

    return render


def _add_pid(
    logger: structlog.typing.WrappedLogger, method: str, event: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    """Tells one worker from another."""
    event["pid"] = os.getpid()
    return event
