"""/console/api/ratio: what one process has seen, what another one tells, and what is made of both."""

import asyncio
import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any, get_args

import pytest

from proxy.console import routes
from proxy.ratio.matching import PART_S, PARTS, Says
from proxy.ratio.watch import Seen
from tests.unit.proxy.conftest import RunningProxy, Stack, StartStack
from tests.unit.proxy.scripted import MODEL, prefilled, streams

ALL = (1 << PART_S) - 1  # every second of a part


def seen(proxy: RunningProxy, parts: list[tuple[int, dict[str, Any]]]) -> None:
    """In place of what it has seen itself."""
    watch: Any = proxy.gateway.watch
    watch.close()
    watch.told = lambda: parts


def window(one: Seen) -> list[tuple[int, dict[str, Any]]]:
    """PARTS like this one, up to now and a few more, so that the test may take a while."""
    last = int(time.time()) // PART_S * PART_S
    return [(last - number * PART_S, {MODEL: asdict(one)}) for number in range(-2, PARTS + 1)]


async def ratio(stack: Stack) -> Any:
    async with stack.proxy.client.get(stack.proxy.url + "/console/api/ratio") as answer:
        assert answer.status == 200
        return await answer.json()


async def test_a_proxy_that_has_just_begun(start_stack: StartStack) -> None:
    stack = await start_stack([prefilled()], [streams()])
    told = await ratio(stack)
    assert (len(told["workers"]), told["tpot_ms"]) == (1, 200)
    (verdict,) = told["verdicts"]
    assert (verdict["model"], verdict["says"], verdict["minutes"]) == (MODEL, "unknown", 2)


async def test_what_it_has_seen_is_judged(start_stack: StartStack) -> None:
    stack = await start_stack([prefilled()], [streams()] * 2)
    seen(stack.proxy, window(Seen(ALL, {"p0": ALL}, 3000, 1500, 0, 2, 3.0, 2 * PART_S, 0.5, 10)))
    (verdict,) = (await ratio(stack))["verdicts"]
    assert verdict == {
        "model": MODEL,
        "minutes": 2,
        "says": "wrong",
        "producers": {"number": 1, "use": 1.5, "wanted": 3, "change": 2},
        "consumers": {"number": 2, "use": 0.25, "wanted": 1, "change": -1},
        "tokens_waiting": 1500,
        "wait_ms": 15000,
        "cache_usage": 0.05,
        "itl_ms": 50,
    }


async def test_workers_answer_alike(start_stack: StartStack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two, of which each saw half of what kept the producer busy."""
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    stack = await start_stack([prefilled()], [streams()])
    halves = [
        window(Seen(ALL, {"p0": bits}, 1000, waiting, 0, 1, 3.0, PART_S))
        for bits, waiting in ((ALL & 0x15555555, 0), (ALL & 0x2AAAAAAA, 500))
    ]

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert json.loads(await reader.readline()) == ["ratio"]
        writer.write(json.dumps({"worker": 1, "parts": halves[1]}).encode() + b"\n")
        await writer.drain()
        writer.close()

    answers = []
    async with await asyncio.start_unix_server(serve, tmp_path / "console-1.sock"):
        for _ in range(2):
            seen(stack.proxy, halves[0])
            answers.append((await ratio(stack))["verdicts"])
            halves.reverse()
    assert answers[0] == answers[1]
    assert answers[0][0]["producers"] == {"number": 1, "use": 1.25, "wanted": 2, "change": 1}


@pytest.mark.parametrize("says", get_args(Says))
def test_every_verdict_has_its_words_in_both_languages(says: str) -> None:
    assert (routes.PAGE / "words.js").read_text().count(f"ratio_{says}: ") == 2
