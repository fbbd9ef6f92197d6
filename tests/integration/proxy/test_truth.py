"""What the proxy tells of a request to real servers is the same in headers, the stream's last comment and its log."""

import json
from typing import Any

import aiohttp
import pytest

from tests.real_stack import MODEL, RealStack, wait_until

KV_BYTES_PER_TOKEN = 2 * 30 * 3 * 64 * 4  # keys and values, layers, KV heads, head size, float32
LOGGED_WITHIN_S = 10


def request_line(stack: RealStack, request_id: str) -> dict[str, Any]:
    """The one line that the proxy's log has of it."""
    log = stack.folder / "logs" / "proxy-0.log"  # supervisord writes it
    wait_until(lambda: f'"{request_id}"' in log.read_text(), LOGGED_WITHIN_S, f"{request_id} is logged")
    logged = [json.loads(line) for line in log.read_text().splitlines() if f'"{request_id}"' in line]
    (line,) = [each for each in logged if each["event"] == "request"]
    return dict(line)


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
async def test_of_one_request(stack: RealStack, stream: bool) -> None:
    request_id, prompt = f"told-{stream}", stack.english[50_000 + 1000 * stream :][:333]
    body = {"model": MODEL, "prompt": prompt, "max_tokens": 8, "ignore_eos": True, "stream": stream}
    async with (
        aiohttp.ClientSession(headers={"X-Request-Id": request_id}) as session,
        session.post(stack.api_url + "/v1/completions", json=body) as answer,
    ):
        text = await answer.text()
    assert answer.status == 200, text
    line = request_line(stack, request_id)
    at_once = ("path", "reason", "producer", "consumer", "transfer_id", "first_token")
    at_the_end = ("transport", "kv_bytes", "kv_tokens")  # a stream may begin before its cache has come
    told = {name: answer.headers.get(f"X-PD-{name.replace('_', '-')}") for name in (*at_once, *at_the_end)}
    assert {name: told[name] for name in at_once} == {name: str(line[name]) for name in at_once}
    assert all(told[name] in (str(line[name]), None if stream else "") for name in at_the_end)
    assert (line["path"], line["first_token"]) == ("disaggregated", "producer")
    assert (line["transport"], line["kv_tokens"]) == ("tcp", len(prompt))
    assert line["kv_bytes"] >= len(prompt) * KV_BYTES_PER_TOKEN
    assert answer.headers["X-Request-Id"] == request_id
    timing = dict(part.split(";dur=") for part in answer.headers["Server-Timing"].split(", "))
    assert {f"{phase}_ms": float(ms) for phase, ms in timing.items()} == {
        f"{phase}_ms": line[f"{phase}_ms"]
        for phase in ("queue", "prefill", "transfer", "first_step" if stream else "answer")
    }
    if stream:
        comment = json.loads(text.rpartition("\n: pd ")[2])
        assert comment.pop("duration_ms") <= line["duration_ms"]
        assert comment == {name: line[name] for name in comment}
        assert comment["second_token_ms"] > 0
        assert comment.keys() >= {
            *at_once,
            *at_the_end,
            "request_id",
            "queue_ms",
            "prefill_ms",
            "transfer_ms",
            "first_step_ms",
        }
