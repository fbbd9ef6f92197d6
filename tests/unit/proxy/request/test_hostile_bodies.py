"""Bodies that are JSON and yet made to break something: whoever gets them, an error is never the proxy's own."""

import json
from typing import Any

import pytest

from tests.unit.proxy.conftest import StartStack
from tests.unit.proxy.scripted import MODEL, prefilled, replies

DEEP = 900  # what Python's parser still takes
HOSTILE: dict[str, str] = {
    "deep list": "[" * DEEP + "]" * DEEP,
    "deep object": '{"a":' * DEEP + "0" + "}" * DEEP,
    "lone surrogate": '"\\ud800"',
    "lone surrogate as a name": '{"\\ud800": "\\udfff"}',
    "large integer": "9" * 4000,
    "not a number": "NaN",
    "infinity": "-Infinity",
    "large float": "1e999",
    "null": "null",
    "list of nulls": "[null, [null], {}]",
    "object": '{"": {}}',
    "control characters": '"\\u0000\\r\\nX-Injected: 1\\u2028"',
    "negative": "-1",
}
FIELDS = {
    "/v1/completions": (
        "model",
        "prompt",
        "stream",
        "max_tokens",
        "n",
        "echo",
        "priority",
        "cache_salt",
        "stop",
        "unknown",
    ),
    "/v1/chat/completions": ("model", "messages", "tools", "stream", "max_completion_tokens", "response_format", "n"),
}


@pytest.mark.parametrize("hostile", HOSTILE)
async def test_no_body_is_an_internal_error(hostile: str, start_stack: StartStack) -> None:
    answers = replies(200, {"choices": [{"text": " city"}]})
    stack = await start_stack([prefilled()], [answers])
    for path, fields in FIELDS.items():
        for name in fields:
            good: dict[str, Any] = {"model": MODEL, "prompt": "x", "messages": [{"role": "user", "content": "x"}]}
            members = {key: json.dumps(value) for key, value in good.items()} | {name: HOSTILE[hostile]}
            body = "{" + ", ".join(f"{json.dumps(key)}: {value}" for key, value in members.items()) + "}"
            async with stack.proxy.post(path, data=body.encode()) as answer:
                shown = await answer.text()
                assert answer.status in (200, 400, 404), (path, name, shown)
                assert "X-Injected" not in answer.headers
    for content in HOSTILE.values():
        message = f'{{"model": "{MODEL}", "messages": [{{"role": "user", "content": {content}}}]}}'
        async with stack.proxy.post("/v1/chat/completions", data=message.encode()) as answer:
            assert answer.status in (200, 400), await answer.text()
    assert await stack.proxy.metric("pd_proxy_requests_in_flight") == 0
