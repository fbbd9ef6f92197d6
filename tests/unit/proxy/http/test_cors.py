"""Pages in a browser: who may read an answer, what a preflight is told. The values are Starlette's, which vLLM uses."""

from typing import Any

import pytest

from proxy.http.cors import Cors
from proxy.settings import ProxySettings
from stack.configuration.environment import ConfigError, load
from tests.unit.proxy.conftest import StartStack
from tests.unit.proxy.http.raw import answered, get, post
from tests.unit.proxy.scripted import DONE, MODEL, error, prefilled, replies, streams, token

PAGE = "http://localhost:3000"
ORIGIN = f"Origin: {PAGE}"
CLOSE = "Connection: close"
WHOLE = {"model": MODEL, "prompt": "San Francisco is a"}
METHODS = "DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT, QUERY"
KEYS = {"proxy_api_keys": "alice:key-1"}


def preflight(path: str = "/v1/chat/completions", *headers: str) -> bytes:
    asked = ("Access-Control-Request-Method: POST", "Access-Control-Request-Headers: authorization,content-type")
    return get(path, ORIGIN, *asked, *headers, CLOSE, method="OPTIONS")


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/models", "/unknown"])
async def test_a_preflight_needs_no_key(path: str, start_stack: StartStack) -> None:
    stack = await start_stack([prefilled()], [prefilled()], **KEYS)
    status, headers, body = await answered(stack.proxy, preflight(path))
    assert (status, body) == (b"HTTP/1.1 200 OK", b"OK")
    assert headers["access-control-allow-origin"] == "*"
    assert headers["access-control-allow-methods"] == METHODS
    assert headers["access-control-allow-headers"] == "authorization,content-type"
    assert headers["access-control-max-age"] == "600"
    assert headers["content-type"] == "text/plain; charset=utf-8"
    assert "access-control-allow-credentials" not in headers


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/models"])
async def test_other_options_are_refused_as_before(path: str, start_stack: StartStack) -> None:
    stack = await start_stack([prefilled()], [prefilled()])
    status, headers, _ = await answered(stack.proxy, get(path, ORIGIN, CLOSE, method="OPTIONS"))
    assert status.startswith(b"HTTP/1.1 405")
    assert headers["access-control-allow-origin"] == "*"


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (post(WHOLE, ORIGIN, CLOSE), 200),
        (post(WHOLE | {"stream": True}, ORIGIN, CLOSE), 200),
        (get("/v1/models", ORIGIN, CLOSE), 200),
        (get("/instances", ORIGIN, CLOSE), 200),
        (post({"prompt": "x", "temperature": "hot"} | {"model": 1}, ORIGIN, CLOSE), 400),
        (post(WHOLE | {"model": "other"}, ORIGIN, CLOSE), 404),
        (get("/unknown", ORIGIN, CLOSE), 404),
        (get("/v1/completions", ORIGIN, CLOSE), 405),
        (post(WHOLE | {"prompt": "x" * 2000}, ORIGIN, CLOSE), 413),
        (get("/v1/models", ORIGIN, "X: " + "x" * 9000), 431),
        (get("/" + "x" * 9000, ORIGIN), 431),  # refused before the proxy could see where it comes from
        (post(WHOLE, ORIGIN, CLOSE, path="/tokenize"), 500),
    ],
)
async def test_every_answer_can_be_read(request_: bytes, status: int, start_stack: StartStack) -> None:
    async def consumer(request: Any) -> Any:
        if request.path == "/tokenize":
            return await error(500, "broken")(request)
        script = (
            streams(token(" city"), DONE) if (await request.json()).get("stream") else replies(200, {"choices": []})
        )
        return await script(request)

    bounds = {"proxy_max_head_bytes": 8192, "proxy_max_body_bytes": 1024}
    stack = await start_stack([prefilled()], [consumer], **bounds)
    line, headers, _ = await answered(stack.proxy, request_)
    assert line.split()[1] == str(status).encode()
    assert headers["access-control-allow-origin"] == "*"
    assert headers["access-control-expose-headers"] == "*"


@pytest.mark.parametrize("sent", [post(WHOLE, ORIGIN, CLOSE), get("/v1/models", ORIGIN, CLOSE)])
async def test_a_missing_key_can_be_read(sent: bytes, start_stack: StartStack) -> None:
    stack = await start_stack([prefilled()], [prefilled()], **KEYS)
    line, headers, _ = await answered(stack.proxy, sent)
    assert line.startswith(b"HTTP/1.1 401")
    assert headers["access-control-allow-origin"] == "*"


async def test_who_is_no_page_is_told_nothing(start_stack: StartStack) -> None:
    stack = await start_stack([prefilled()], [prefilled()])
    _, headers, _ = await answered(stack.proxy, get("/v1/models", CLOSE))
    assert [name for name in headers if name.startswith("access-control")] == []


ASKED = {"access-control-request-method": "POST"}


@pytest.mark.parametrize(
    ("configured", "origin", "allowed"),
    [
        ("*", PAGE, True),
        ("*", "null", True),
        ("none", PAGE, False),
        (PAGE, PAGE, True),
        (f"https://a.example, {PAGE}", PAGE, True),
        ("HTTP://LOCALHOST:3000", PAGE, True),
        (PAGE, "http://localhost:3001", False),
        (PAGE, "https://localhost:3000", False),
        (PAGE, "null", False),
    ],
)
def test_who_is_allowed(configured: str, origin: str, allowed: bool) -> None:
    cors = Cors(configured)
    found = dict(cors.headers(origin.encode())).get(b"access-control-allow-origin")
    assert found == ((b"*" if configured == "*" else origin.encode()) if allowed else None)
    asked = cors.preflight({"origin": origin, **ASKED})
    assert asked is not None
    assert (asked.status, asked.body) == ((200, b"OK") if allowed else (400, b"Disallowed CORS origin"))
    assert "Access-Control-Allow-Headers" not in asked.headers


def test_a_preflight_from_the_internet_to_a_private_network_is_refused() -> None:
    asked = Cors("*").preflight({"origin": PAGE, **ASKED, "access-control-request-private-network": "true"})
    assert asked is not None
    assert (asked.status, asked.body) == (400, b"Disallowed CORS private-network")


@pytest.mark.parametrize(
    "headers", [{}, {"origin": PAGE}, ASKED, {"origin": PAGE, "access-control-request-headers": "x"}]
)
def test_what_is_no_preflight(headers: dict[str, str]) -> None:
    assert Cors("*").preflight(headers) is None


@pytest.mark.parametrize("sent", [(CLOSE,), (CLOSE, ORIGIN), (CLOSE, "Origin: http://other.example")])
async def test_a_cache_keeps_pages_apart(sent: tuple[str, ...], start_stack: StartStack) -> None:
    stack = await start_stack([prefilled()], [prefilled()], proxy_cors_origins=PAGE)
    _, headers, _ = await answered(stack.proxy, get("/v1/models", *sent))
    assert headers["vary"] == "Origin"
    assert headers.get("access-control-allow-origin") == (PAGE if ORIGIN in sent else None)


@pytest.mark.parametrize(
    "value", ["localhost", "https://a.example/", "https://a.example https://b.example", "*,*", ","]
)
def test_what_is_no_origin_is_one_line(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROXY_CORS_ORIGINS", value)
    with pytest.raises(ConfigError) as refusal:
        load(ProxySettings)
    [line] = refusal.value.lines
    assert line.startswith(f"PROXY_CORS_ORIGINS={value!r}: ")
    assert "expected *, none, or origins like https://chat.example.org" in line
