"""Logs are JSON, one line an event, on stdout; what libraries log goes the same way."""

import logging
import os
import sys
from datetime import UTC, datetime

import orjson
import structlog


def configure(level: str) -> None:
    """level: debug, info, warning or error."""
    structlog.configure(
        processors=[_line_renderer()],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.BytesLoggerFactory(sys.stdout.buffer),
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


def _line_renderer() -> structlog.typing.Processor:
    """All that a line needs in one step: a line a request is a noticeable part of what a request costs."""
    pid = os.getpid()  # once: to ask for it is a system call, and each worker configures its own logs

    def render(logger: structlog.typing.WrappedLogger, method: str, event: structlog.typing.EventDict) -> bytes:
        if "exc_info" in event:
            event = structlog.processors.format_exc_info(logger, method, event)
        event["level"] = method
        event["timestamp"] = datetime.now(UTC)
        event["pid"] = pid
        return orjson.dumps(event, default=repr, option=orjson.OPT_UTC_Z)

    return render


def _add_pid(
    logger: structlog.typing.WrappedLogger, method: str, event: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    """Tells one worker from another."""
    event["pid"] = os.getpid()
    return event
