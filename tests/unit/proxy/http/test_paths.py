"""Paths with slashes too many, and methods that a path does not have."""

import pytest
from yarl import URL

from tests.unit.proxy.conftest import StartStack
from tests.unit.proxy.scripted import prefilled


@pytest.mark.parametrize(
    ("method", "target", "location"),
    [
        ("POST", "/v1/chat/completions/", "/v1/chat/completions"),
        ("POST", "/v1/completions//", "/v1/completions"),
        ("POST", "/tokenize/?a=1&b", "/tokenize?a=1&b"),
        ("GET", "/v1/models/", "/v1/models"),
        ("HEAD", "/health/", "/health"),
        ("DELETE", "/v1/models/", "/v1/models"),
    ],
)
async def test_slashes_at_the_end_are_redirected(
    method: str, target: str, location: str, start_stack: StartStack
) -> None:
    stack = await start_stack([prefilled()], [prefilled()])
    async with stack.proxy.client.request(
        method, stack.proxy.url + target, json={"prompt": "x"} if method == "POST" else None, allow_redirects=False
    ) as answer:
        assert (answer.status, answer.headers["Location"]) == (307, location)
        assert await answer.read() == b""


@pytest.mark.parametrize(
    "target",
    [
        "//v1/models",
        "//v1/models/",
        "/v1//models",
        "//v1/completions",
        "//v1/completions/",
        "/v1/nothing/",
        "//",
        "//evil.test/",
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_other_slashes_are_not_found(method: str, target: str, start_stack: StartStack) -> None:
    stack = await start_stack([prefilled()], [prefilled()])
    url = URL(stack.proxy.url + target, encoded=True)
    async with stack.proxy.client.request(method, url, allow_redirects=False) as answer:
        assert (answer.status, (await answer.json())["error"]["code"]) == (404, "not_found")
        assert "Location" not in answer.headers


async def test_a_client_that_follows_gets_its_answer(start_stack: StartStack) -> None:
    stack = await start_stack([prefilled()], [prefilled()])
    assert await stack.proxy.status("/v1/completions/", json={"prompt": "x"}) == 200
    assert [received.path for received in stack.consumers[0].received] == ["/v1/completions"]


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [("GET", "/v1/completions", "POST"), ("PUT", "/tokenize", "POST"), ("POST", "/v1/models", "GET, HEAD")],
)
async def test_other_methods_are_told_the_right_ones(
    method: str, path: str, allowed: str, start_stack: StartStack
) -> None:
    stack = await start_stack([prefilled()], [prefilled()])
    async with stack.proxy.client.request(method, stack.proxy.url + path) as answer:
        assert (answer.status, answer.headers["Allow"]) == (405, allowed)
