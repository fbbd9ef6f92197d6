"""What the proxy refuses by itself, always in OpenAI's error form and without bothering an instance."""

from dataclasses import dataclass
from typing import Any

import pytest

from tests.unit.proxy.conftest import StartStack
from tests.unit.proxy.scripted import MODEL, prefilled

GOOD: dict[str, Any] = {"model": MODEL, "prompt": "San Francisco is a"}
FORM = {"Content-Type": "application/x-www-form-urlencoded"}


@dataclass(frozen=True)
class Case:
    name: str
    request: dict[str, Any]
    status: int
    code: str
    param: str | None = None
    path: str = "/v1/completions"
    method: str = "POST"


CASES = [
    Case("no JSON", {"data": b"{'model'"}, 400, "invalid_request"),
    Case("empty", {"data": b""}, 400, "invalid_request"),
    Case("broken UTF-8", {"data": b'{"model": "\xff"}'}, 400, "invalid_request"),
    Case("cut UTF-16", {"data": '{"model": "x"}'.encode("utf-16")[:-1]}, 400, "invalid_request"),
    Case("deeply nested", {"data": b"[" * 100_000}, 400, "invalid_request"),
    Case("a list", {"json": []}, 400, "invalid_request"),
    Case("model is a number", {"json": {"model": 1, "prompt": "x"}}, 400, "invalid_request", "model"),
    Case("model is a book", {"json": {"model": "x" * 2000, "prompt": "x"}}, 400, "invalid_request", "model"),
    Case("unknown model", {"json": GOOD | {"model": "x"}}, 404, "model_not_found", "model"),
    Case("KV parameters", {"json": GOOD | {"kv_transfer_params": {}}}, 400, "invalid_request", "kv_transfer_params"),
    Case("too large", {"data": b" " * 5000}, 413, "request_too_large"),
    Case("a form", {"data": {"model": MODEL}, "headers": FORM}, 400, "invalid_request"),
    Case("text", {"json": GOOD, "headers": {"Content-Type": "text/plain"}}, 400, "invalid_request"),
    Case("unknown path", {"json": {}}, 404, "not_found", path="/v1/embeddings"),
    Case("wrong method", {}, 405, "method_not_allowed", method="GET"),
    Case("unknown model object", {}, 404, "model_not_found", "model", "/v1/models/org/x", "GET"),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
async def test_refusals(case: Case, start_stack: StartStack) -> None:
    stack = await start_stack([prefilled()], [prefilled()], proxy_max_body_bytes=4096)
    if case.name == "deeply nested":
        stack.proxy.app.config["MAX_CONTENT_LENGTH"] = None
    async with stack.proxy.client.request(case.method, stack.proxy.url + case.path, **case.request) as answer:
        shown = (await answer.json())["error"]
        assert (answer.status, shown["code"], shown["param"]) == (case.status, case.code, case.param)
        assert shown["type"] == "invalid_request_error"
        assert shown["message"]
        assert answer.headers["X-Request-Id"]
        assert "X-PD-Transfer-Id" not in answer.headers
    assert stack.producers[0].received == stack.consumers[0].received == []
    assert await stack.proxy.metric("pd_proxy_requests_in_flight") == 0
