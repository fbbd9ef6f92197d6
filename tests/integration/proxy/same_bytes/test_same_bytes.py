"""The same bytes get the same answer from the proxy and from plain vLLM; where not, the table has the right one."""

import re
from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.integration.proxy.answers import differences
from tests.integration.proxy.same_bytes import bodies, heads
from tests.integration.proxy.same_bytes.raw_http import RawAnswer, send
from tests.integration.proxy.same_bytes.rows import Row
from tests.real_stack import PlainVllm, RealStack

ROWS = [*bodies.ROWS, *heads.ROWS]


@pytest.fixture(scope="module")
def two_clients() -> Iterator[Executor]:
    with ThreadPoolExecutor(2) as clients:
        yield clients


def test_every_row_has_a_name_of_its_own() -> None:
    assert len({row.name for row in ROWS}) == len(ROWS)


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_same_bytes(row: Row, stack: RealStack, plain: PlainVllm, two_clients: Executor) -> None:
    found, expected = two_clients.map(send, (stack.api_url, plain.url), (row.data, row.data))
    if row.instead is not None:
        assert (found.status, expected.status) == (row.instead, row.status), row.why
        return
    assert found.status == expected.status == row.status, (found, expected)
    if row.own_words:
        assert found.status >= 400
        return
    assert found.content_type == expected.content_type
    assert path_of(found.headers.get("location", "")) == path_of(expected.headers.get("location", ""))
    assert differences(content(found), in_the_form_of(content(found), content(expected))) == []
    if row.ids:
        assert ids(found.content) == ids(expected.content)


def content(answer: RawAnswer) -> Any:
    """When vLLM quotes the body it says how many members that has, and a leg's has more than the client's."""
    return replace(answer, body=re.sub(rb"<dict of \d+ items>", b"<dict>", answer.body)).content


def in_the_form_of(found: Any, expected: Any) -> Any:
    """vLLM has OpenAI's form on Anthropic's paths for what it could not validate, the proxy Anthropic's for all."""
    if isinstance(found, dict) and found.get("type") == "error" and "type" not in expected:
        error = expected["error"]
        return {"type": "error", "error": {"type": error["type"], "message": error["message"]}}
    return expected


def path_of(url: str) -> str:
    """vLLM redirects to a whole URL, which is wrong behind whoever ends TLS; the proxy to a path."""
    return urlsplit(url)._replace(scheme="", netloc="").geturl()


def ids(answer: Any) -> Any:
    """Of the answer itself, or of its events; those of what is in it are always new."""
    return (
        [event.get("id") for event in answer if isinstance(event, dict)] if isinstance(answer, list) else answer["id"]
    )
