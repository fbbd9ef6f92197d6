"""Log lines: JSON with its time, level and process, and none is lost."""

import json
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from typing import Any

PROGRAM = """
import asyncio, threading
import structlog
from proxy.telemetry import logs

logs.configure("info")
log = structlog.get_logger()

async def main():
    log.debug("hidden")
    log.info("first", answer=42)
    log.info("second")
    thread = threading.Thread(target=lambda: log.warning("of a thread"))
    thread.start()
    thread.join()
    await asyncio.sleep(0)
    try:
        raise ValueError("what was wrong")
    except ValueError as error:
        log.error("failed", exc_info=error)

log.info("before")
asyncio.run(main())
log.info("after", model="half of a pair: \\ud800", tokens=2**70)
"""


def test_every_line_is_written_in_order() -> None:
    result = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True, timeout=60)
    lines: list[dict[str, Any]] = [json.loads(line) for line in result.stdout.splitlines()]
    assert [line["event"] for line in lines] == ["before", "first", "second", "of a thread", "failed", "after"]
    assert [line["level"] for line in lines] == ["info", "info", "info", "warning", "error", "info"]
    assert {line["pid"] for line in lines} != {os.getpid()}
    assert lines[1]["answer"] == 42
    assert "ValueError: what was wrong" in lines[4]["exception"]
    assert (lines[5]["model"], lines[5]["tokens"]) == ("half of a pair: \ud800", 2**70)
    for line in lines:
        assert line["timestamp"].endswith("Z")
        assert abs(datetime.fromisoformat(line["timestamp"]) - datetime.now(UTC)) < timedelta(hours=1)
