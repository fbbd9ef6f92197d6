"""A row of the table, and the requests that rows are variants of: one of a few tokens for each path."""

import json
from dataclasses import dataclass
from typing import Any

from tests.real_stack import MODEL

COMPLETIONS, CHAT, RESPONSES, MESSAGES = "/v1/completions", "/v1/chat/completions", "/v1/responses", "/v1/messages"
COUNT_TOKENS, TOKENIZE, DETOKENIZE = "/v1/messages/count_tokens", "/tokenize", "/detokenize"

USER = [{"role": "user", "content": "Name a city."}]
BODIES: dict[str, dict[str, Any]] = {
    COMPLETIONS: {"model": MODEL, "prompt": "San Francisco is a", "max_tokens": 1, "temperature": 0},
    CHAT: {"model": MODEL, "messages": USER, "max_tokens": 1, "temperature": 0},
    RESPONSES: {"model": MODEL, "input": "Name a city.", "max_output_tokens": 1, "temperature": 0},
    MESSAGES: {"model": MODEL, "messages": USER, "max_tokens": 1, "temperature": 0},
    COUNT_TOKENS: {"model": MODEL, "messages": USER},
    TOKENIZE: {"model": MODEL, "prompt": "San Francisco is a"},
    DETOKENIZE: {"model": MODEL, "tokens": [504, 6092, 5646]},
}


@dataclass(frozen=True)
class Row:
    """name: what is special about `data`. status: vLLM's, and the proxy's too unless it has an `instead`, for a `why`.

    ids: the answers' ids are the client's own and have to be equal too. own_words: the proxy refuses it before any
    instance sees it, in words of its own.
    """

    name: str
    data: bytes
    status: int = 200
    ids: bool = False
    own_words: bool = False
    instead: int | None = None
    why: str = ""

    def __str__(self) -> str:
        return self.name


def refused(name: str, data: bytes, status: int = 400) -> Row:
    return Row(name, data, status, own_words=True)


def body(path: str = COMPLETIONS, **given: Any) -> bytes:
    """`...` leaves a field out."""
    return json.dumps({name: value for name, value in (BODIES[path] | given).items() if value is not ...}).encode()


def raw_member(member: str, path: str = COMPLETIONS) -> bytes:
    """One more member, as it is written."""
    return body(path)[:-1] + b", " + member.encode("utf-8", "surrogatepass") + b"}"
