"""One request sent to two servers, and what of their answers has to be the same.

A stream is folded into one document, because how many tokens share an event depends on how fast its reader is.
"""

import asyncio
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import aiohttp

# New for every answer, or about the server and not about the answer.
VOLATILE = frozenset(
    {
        *("id", "created", "created_at", "call_id", "item_id", "sequence_number"),
        *("system_fingerprint", "kv_transfer_params"),
    }
)
LOGPROB_TOLERANCE = 0.01  # float32, in batches of different sizes
TIMEOUT = aiohttp.ClientTimeout(total=120)


@dataclass(frozen=True)
class Reply:
    """`content`: the parsed body, or the folded events of a stream."""

    status: int
    headers: Mapping[str, str]
    text: str

    @cached_property
    def content(self) -> Any:
        streamed = self.headers["Content-Type"].startswith("text/event-stream")
        return folded(events(self.text)) if streamed else json.loads(self.text)

    @property
    def moved(self) -> int:
        """Tokens whose KV cache came from a producer; a stream may begin before that is known."""
        at_the_end = re.search(r'"kv_transfer_params":{[^{}]*"tokens":(\d+)|^: pd .*"kv_tokens":(\d+)', self.text, re.M)
        return int(self.headers.get("X-PD-KV-Tokens") or (at_the_end[1] or at_the_end[2] if at_the_end else 0))

    @property
    def first_token(self) -> str:
        """Who computed it: producer or consumer; empty where only one instance could have."""
        at_the_end = re.search(r'^: pd .*"first_token":"(\w+)"', self.text, re.MULTILINE)
        return self.headers.get("X-PD-First-Token") or (at_the_end[1] if at_the_end else "")

    @property
    def refusal(self) -> tuple[int, str]:
        """The status and the message of an error, also of one inside a stream that had begun with 200.

        When vLLM quotes the body it says how many members that has, and a leg's has more than the client's.
        """
        content = self.content[0] if isinstance(self.content, list) else self.content
        status = content["error"].get("code", 400) if self.status == 200 else self.status
        return status, re.sub(r"<dict of \d+ items>", "<dict>", content["error"]["message"])


async def ask_both(first: str, second: str, path: str, body: Mapping[str, Any]) -> tuple[Reply, Reply]:
    """The same request to two servers at once."""
    async with aiohttp.ClientSession(timeout=TIMEOUT) as session:
        replies = await asyncio.gather(_ask(session, first + path, body), _ask(session, second + path, body))
    return replies[0], replies[1]


async def _ask(session: aiohttp.ClientSession, url: str, body: Mapping[str, Any]) -> Reply:
    async with session.post(url, json=body) as response:
        return Reply(response.status, response.headers, await response.text())


def events(text: str) -> list[Any]:
    """The data of each event, parsed; what is not JSON, such as [DONE], as it is. Comments are left out."""
    found: list[Any] = []
    for event in text.split("\n\n"):
        data = [line.removeprefix("data:").strip() for line in event.split("\n") if line.startswith("data:")]
        if data:
            found.append(json.loads(data[0]) if data[0].startswith("{") else data[0])
    return found


def shapes(stream: list[Any]) -> list[str]:
    """The kinds of events in their order: what is in them and not how many tokens share one."""
    found: list[str] = []
    for event in stream:
        shape = json.dumps(_shape(event), sort_keys=True)
        if not found or found[-1] != shape:
            found.append(shape)
    return found


def _shape(value: Any, name: str = "") -> Any:
    if isinstance(value, dict):
        return {key: _shape(each, key) for key, each in value.items() if key not in VOLATILE}
    if isinstance(value, list):
        return [_shape(each, name) for each in value]
    return value if name in ("type", "role", "finish_reason", "stop_reason", "status") else type(value).__name__


def folded(stream: list[Any]) -> list[Any]:
    """Events of the same kind and place put together: texts and lists in a row, of all else the last value."""
    if any("choices" in event for event in stream):  # which come in any order
        choices: dict[tuple[Any, ...], Any] = {}
        for event in stream:
            choices[_place(event)] = _joined(choices.get(_place(event)), event)
        return [choices[place] for place in sorted(choices, key=str)]
    document: list[Any] = []
    for event in stream:
        if document and _place(document[-1]) == _place(event):
            document[-1] = _joined(document[-1], event)
        else:
            document.append(event)
    return document


def _place(event: Any) -> tuple[Any, ...]:
    if not isinstance(event, dict):
        return (event,)
    if "choices" in event:
        return "choices", *(choice["index"] for choice in event["choices"])
    return event.get("type"), event.get("index"), event.get("output_index"), event.get("content_index")


def _joined(before: Any, after: Any, name: str = "") -> Any:
    if isinstance(before, dict) and isinstance(after, dict):
        return before | {key: _joined(before.get(key), value, key) for key, value in after.items()}
    if isinstance(before, str) and isinstance(after, str) and name in ("text", "content", "delta", "arguments"):
        return before + after
    if isinstance(before, list) and isinstance(after, list):
        if name in ("choices", "tool_calls"):
            return [_joined(old, new) for old, new in zip(before, after, strict=True)]
        return before + after
    return before if after is None else after


def differences(found: Any, expected: Any, place: str = "answer") -> list[str]:
    """Where two answers differ in more than VOLATILE fields; log probabilities may do so a little."""
    if isinstance(found, dict) and isinstance(expected, dict):
        return [
            difference
            for name in sorted((found.keys() | expected.keys()) - VOLATILE)
            for difference in differences(found.get(name), expected.get(name), f"{place}.{name}")
        ]
    if isinstance(found, list) and isinstance(expected, list) and len(found) == len(expected):
        return [
            difference
            for index, (one, other) in enumerate(zip(found, expected, strict=True))
            for difference in differences(one, other, f"{place}[{index}]")
        ]
    if isinstance(found, float) and isinstance(expected, float):
        return [] if math.isclose(found, expected, abs_tol=LOGPROB_TOLERANCE) else [_said(place, found, expected)]
    return [] if found == expected else [_said(place, found, expected)]


def _said(place: str, found: Any, expected: Any) -> str:
    return f"{place}: {found!r} instead of {expected!r}"
