"""What the stack's proxy says of a request, as fields of its record; other servers say nothing and give no fields.

The headers of a stream are sent before everything is known; a comment at its end, `: pd {...}`, has the rest
(docs/proxy.md).
"""

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from loadtest.errors import UnexpectedAnswer

_FIELDS: Mapping[str, Callable[[Any], Any]] = {
    "path": str,
    "reason": str,
    "producer": str,
    "consumer": str,
    "transport": str,
    "kv_bytes": int,
    "kv_tokens": int,
    "store_tokens": int,
    "first_token": str,
}
# Milliseconds. `answer`, which a whole answer has in place of `first_step`, is no phase of a time to first token.
_TIMING = re.compile(r"\b(queue|prefill|transfer|first_step);dur=([0-9.]+)")
_PHASE = re.compile(r"(queue|prefill|transfer|first_step)_ms")
_COMMENT = "pd "


def of_answer(headers: Mapping[str, str], comment: str | None) -> dict[str, Any]:
    """Args: headers: by lower-case names. Returns: arguments of RequestRecord. Raises: UnexpectedAnswer."""
    try:
        return _facts(headers, comment)
    except (ValueError, TypeError, AttributeError) as error:
        raise UnexpectedAnswer(f"what the proxy says of the request cannot be read: {error}") from error


def _facts(headers: Mapping[str, str], comment: str | None) -> dict[str, Any]:
    facts: dict[str, Any] = {}
    if (request_id := headers.get("x-request-id")) is not None:
        facts["request_id"] = request_id
    facts |= _fields({name: headers.get(f"x-pd-{name.replace('_', '-')}") for name in _FIELDS})
    phases = {name: float(ms) / 1000 for name, ms in _TIMING.findall(headers.get("server-timing", ""))}
    if comment is not None and comment.startswith(_COMMENT):
        said = json.loads(comment.removeprefix(_COMMENT))
        facts |= _fields(said)
        if (gap_ms := said.get("second_token_ms")) is not None:
            facts["second_token"] = gap_ms / 1000
        phases |= {matched[1]: ms / 1000 for name, ms in said.items() if (matched := _PHASE.fullmatch(name))}
    return facts | {"phases": phases} if phases else facts


def _fields(said: Mapping[str, Any]) -> dict[str, Any]:
    return {name: read(said[name]) for name, read in _FIELDS.items() if said.get(name) is not None}
