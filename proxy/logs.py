"""Logs are JSON, one line an event, on stdout; what libraries log goes the same way."""

import logging
import os
import sys

import orjson
import structlog


def configure(level: str) -> None:
    """level: debug, info, warning or error."""
    shared: list[structlog.typing.Processor] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _pid_adder(),
    ]
    structlog.configure(
        # orjson: a line a request is a noticeable part of what a request costs.
        processors=[*shared, structlog.processors.format_exc_info, structlog.processors.JSONRenderer(orjson.dumps)],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.BytesLoggerFactory(sys.stdout.buffer),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.add_logger_name],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                structlog.processors.JSONRenderer(),
            ],
        )
    )
    logging.basicConfig(level=logging.WARNING, handlers=[handler])


def _pid_adder() -> structlog.typing.Processor:
    """Tells one worker from another; each configures its own logs, and to ask for a pid is a system call."""
    pid = os.getpid()

    def add_pid(
        logger: structlog.typing.WrappedLogger, method: str, event: structlog.typing.EventDict
    ) -> structlog.typing.EventDict:
        event["pid"] = pid
        return event

    return add_pid
